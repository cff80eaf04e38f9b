/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/damage_estimate.h"

#include "kvcache/kv_format.h"

#include <stdbool.h>
#include <string.h>

/* Standard deviation of damage / distortion from width to width of one layer and side, as a share
 * of it, beyond what the errors explain: 0.2 between 4 and 2 bits of the default model. */
#define SCATTER 0.25
#define ROUNDS 8 /* of weights that depend on the mean they make */

/* What the measured widths of one layer and side say. */
typedef struct Side {
    double ratios[KV_FORMATS];    /* damage / distortion */
    double variances[KV_FORMATS]; /* of the ratio, by the damage's error */
    bool is_known[KV_FORMATS];
} Side;

static Side side_of(const Profile *profile, uint32_t layer, KvSide side) {
    Side s = { .is_known = { false } };

    for (int f = 0; f < KV_FORMATS; f++) {
        double distortion = profile->distortions[layer][side][f];
        double error = profile->damage_errors[layer][side][f] / distortion;

        if (!profile->damages_direct[f] || !(distortion > 0))
            continue;
        s.is_known[f] = true;
        s.ratios[f] = profile->damages[layer][side][f] / distortion;
        s.variances[f] = error * error;
    }
    return s;
}

/* The mean ratio of all widths but `left_out`, and the variance of one more width about it; false:
 * there are none. */
static bool mean_ratio(const Side *s, int left_out, double *meanp, double *variancep) {
    double mean = 0, weights = 0;

    for (int round = 0; round < ROUNDS; round++) {
        double scatter = SCATTER * SCATTER * mean * mean, sum = 0;

        weights = 0;
        for (int f = 0; f < KV_FORMATS; f++) {
            /* the first round takes all widths as equally sure */
            double weight = round ? 1 / (s->variances[f] + scatter) : 1;

            if (!s->is_known[f] || f == left_out)
                continue;
            sum += weight * s->ratios[f];
            weights += weight;
        }
        if (!(weights > 0) || !(sum > 0))
            return false;
        mean = sum / weights;
    }
    *meanp = mean;
    *variancep = 1 / weights + SCATTER * SCATTER * mean * mean;
    return true;
}

static double estimate(const Side *s, double damage, double distortion, int f) {
    double mean, variance, share;

    if (!mean_ratio(s, s->is_known[f] ? f : KV_FORMATS, &mean, &variance))
        return damage;
    if (!s->is_known[f])
        return mean * distortion;
    share = variance / (variance + s->variances[f]); /* of the measured one */
    return distortion * (share * s->ratios[f] + (1 - share) * mean);
}

void damage_estimate(const Profile *profile, ProfileTable out) {
    memset(out, 0, profile->geometry.n_layers * sizeof(*out));
    for (uint32_t l = 0; l < profile->geometry.n_layers; l++)
        for (int side = 0; side < KV_SIDES; side++) {
            Side s = side_of(profile, l, (KvSide)side);

            for (int f = 0; f < KV_FORMATS; f++)
                if (kv_format_quantizes((KvFormat)f))
                    out[l][side][f] = estimate(&s, profile->damages[l][side][f],
                                               profile->distortions[l][side][f], f);
        }
}
