/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/damage_table.h"

#include "kvcache/damage_estimate.h"

#include <math.h>
#include <string.h>

/* KLD of one side alone, in all layers of SmolLM2-135M-Instruct, over wiki.test.raw
 * (docs/quality.md has the figures for 5 to 2 bits; others are halves of what the pair does).
 */
static const double typical[KV_SIDES][KV_FORMATS] = {
    [KV_SIDE_K] = { [KV_FORMAT_BF16] = .000018,
                    [KV_FORMAT_8] = .000004,
                    [KV_FORMAT_6] = .00006,
                    [KV_FORMAT_5] = .00025,
                    [KV_FORMAT_4] = .00099,
                    [KV_FORMAT_3] = .0047,
                    [KV_FORMAT_2] = .0238 },
    [KV_SIDE_V] = { [KV_FORMAT_BF16] = .000018,
                    [KV_FORMAT_8] = .000003,
                    [KV_FORMAT_6] = .00005,
                    [KV_FORMAT_5] = .00015,
                    [KV_FORMAT_4] = .00084,
                    [KV_FORMAT_3] = .0025,
                    [KV_FORMAT_2] = .0110 },
};

static const char *const names[DAMAGE_SOURCES] = {
    [DAMAGE_MEASURED] = "measured damage of each layer and side",
    [DAMAGE_DISTORTIONS] = "weighted distortion of each layer and side",
    [DAMAGE_SPECTRAL_NORMS] = "spectral norms of the weights",
    [DAMAGE_FROBENIUS_NORMS] = "Frobenius norms of the weights",
    [DAMAGE_TYPICAL] = "what formats typically do, as there is no profile of this model",
};

const char *damage_source_name(DamageSource source) {
    return names[source];
}

static bool any_positive(const double *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (values[i] > 0)
            return true;
    return false;
}

static bool has_source(const Profile *p, uint32_t n_layers, DamageSource source) {
    switch (source) {
    case DAMAGE_MEASURED:
        return p && p->has_damages;
    case DAMAGE_DISTORTIONS:
        return p && p->has_distortions;
    case DAMAGE_SPECTRAL_NORMS:
        return p && p->has_spectral_norms && any_positive(p->k_spectral_norms, n_layers) &&
               any_positive(p->v_spectral_norms, n_layers);
    case DAMAGE_FROBENIUS_NORMS:
        return p && any_positive(p->k_norms, n_layers) && any_positive(p->v_norms, n_layers);
    default:
        return true;
    }
}

static void fill_typical(DamageTable *t) {
    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            for (KvFormat f = 0; f < KV_FORMATS; f++)
                t->damages[layer][side][f] = typical[side][f] / t->n_layers;
}

/* The layers of a side share its typical damage as their squared norms are. */
static void share_by_norms(DamageTable *t, KvSide side, const double *norms) {
    double sum = 0;

    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        sum += norms[layer] * norms[layer];
    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        for (KvFormat f = 0; f < KV_FORMATS; f++)
            t->damages[layer][side][f] = typical[side][f] * norms[layer] * norms[layer] / sum;
}

static double sum_of_layers(const double (*table)[KV_SIDES][KV_FORMATS], uint32_t n_layers,
                            KvSide side, KvFormat format) {
    double sum = 0;

    for (uint32_t layer = 0; layer < n_layers; layer++)
        sum += table[layer][side][format];
    return sum;
}

/* Distortions of both sides have one unit. They are multiplied by the one factor by which, over
 * sides and formats, the geometric mean is the typical one. */
static void scale_distortions(DamageTable *t, const Profile *profile) {
    double logs = 0, scale;
    uint32_t n = 0;

    for (KvSide side = 0; side < KV_SIDES; side++)
        for (KvFormat f = 0; f < KV_FORMATS; f++) {
            double sum = sum_of_layers(profile->distortions, t->n_layers, side, f);

            if (sum > 0 && typical[side][f] > 0) {
                logs += log(typical[side][f] / sum);
                n++;
            }
        }
    scale = n ? exp(logs / n) : 0;
    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            for (KvFormat f = 0; f < KV_FORMATS; f++)
                t->damages[layer][side][f] = scale * profile->distortions[layer][side][f];
}

/* No profile has bf16: it is not what plans choose. */
static void fill_bf16(DamageTable *t) {
    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            t->damages[layer][side][KV_FORMAT_BF16] = typical[side][KV_FORMAT_BF16] / t->n_layers;
}

/* The mean logarithm of damage / distortion of one layer and side over its formats; false: there is
 * none. */
static bool log_ratio(const DamageTable *t, const Profile *profile, uint32_t layer, KvSide side,
                      double *out) {
    double logs = 0;
    uint32_t n = 0;

    for (KvFormat f = 0; f < KV_FORMATS; f++) {
        double damage = t->damages[layer][side][f];

        if (damage > 0 && profile->distortions[layer][side][f] > 0) {
            logs += log(damage / profile->distortions[layer][side][f]);
            n++;
        }
    }
    *out = n ? logs / n : 0;
    return n;
}

/* How much damage one layer's distortion does is partly a matter of the text: on another text it is
 * nearer to what is usual for the side. So each layer and side is drawn to the geometric mean over
 * layers. KLD of plans from the default model's profile of the built-in text, over 6,144 tokens of
 * wiki.test.raw (standard errors 3 to 4%):
 *
 *   drawn       not at all   halfway   wholly
 *   2.5 bits    .0174        .0145     .0145
 *   3.0 bits    .0075        .0068     .0065
 */
#define DRAWN 0.5

static void draw_to_side(DamageTable *t, const Profile *profile, KvSide side) {
    double sum = 0, own;
    uint32_t n = 0;

    for (uint32_t layer = 0; layer < t->n_layers; layer++)
        if (log_ratio(t, profile, layer, side, &own)) {
            sum += own;
            n++;
        }
    for (uint32_t layer = 0; layer < t->n_layers; layer++) {
        double factor = log_ratio(t, profile, layer, side, &own) ? exp(DRAWN * (sum / n - own)) : 1;

        for (KvFormat f = 0; f < KV_FORMATS; f++) {
            t->damages[layer][side][f] *= factor;
            t->errors[layer][side][f] *= factor;
        }
    }
}

/* Single figures may hang on few tokens: distortions say which of them to doubt. */
static void fill_measured(DamageTable *t, const Profile *profile) {
    memcpy(t->errors, profile->damage_errors, t->n_layers * sizeof(*t->errors));
    if (!profile->has_distortions) {
        memcpy(t->damages, profile->damages, t->n_layers * sizeof(*t->damages));
        return;
    }
    damage_estimate(profile, t->damages);
    for (KvSide side = 0; side < KV_SIDES; side++)
        draw_to_side(t, profile, side);
}

void damage_table_fill(DamageTable *out, const Profile *profile, uint32_t n_layers,
                       DamageSource best) {
    memset(out, 0, sizeof(*out));
    out->n_layers = n_layers;
    out->source = best;
    while (!has_source(profile, n_layers, out->source))
        out->source++;
    switch (out->source) {
    case DAMAGE_MEASURED:
        fill_measured(out, profile);
        break;
    case DAMAGE_DISTORTIONS:
        scale_distortions(out, profile);
        break;
    case DAMAGE_SPECTRAL_NORMS:
        share_by_norms(out, KV_SIDE_K, profile->k_spectral_norms);
        share_by_norms(out, KV_SIDE_V, profile->v_spectral_norms);
        break;
    case DAMAGE_FROBENIUS_NORMS:
        share_by_norms(out, KV_SIDE_K, profile->k_norms);
        share_by_norms(out, KV_SIDE_V, profile->v_norms);
        break;
    default:
        fill_typical(out);
    }
    fill_bf16(out);
}

double damage_table_sum(const DamageTable *table, const KvPlan *plan) {
    double sum = 0;

    for (uint32_t layer = 0; layer < table->n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            sum += table->damages[layer][side][kv_plan_format(plan, layer, side)];
    return sum;
}
