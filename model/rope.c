/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Computed in double and rounded once: at position 100,000 an error of one part in 2^24 in a
 * frequency is already half a hundredth of a radian.
 */
#include "model/rope.h"

#include <math.h>

static double wavelength(double frequency) {
    return 2 * M_PI / frequency;
}

/* Long waves are divided by the factor, short ones kept, those between blended. */
static double scale_llama3(const RopeConfig *rope, double frequency) {
    double original = rope->original_max_position;
    double wave = wavelength(frequency);
    double smooth;

    if (wave < original / rope->high_freq_factor)
        return frequency;
    if (wave > original / rope->low_freq_factor)
        return frequency / rope->factor;
    smooth = (original / wave - rope->low_freq_factor) /
             (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

/* The (fractional) pair of channels that turns `n_rotations` times over the original length. */
static double yarn_pair(const RopeConfig *rope, uint32_t head_dim, double n_rotations) {
    return head_dim * log(rope->original_max_position / (n_rotations * 2 * M_PI)) /
           (2 * log(rope->theta));
}

static double scale_yarn(const RopeConfig *rope, uint32_t head_dim, uint32_t i, double frequency) {
    double low = yarn_pair(rope, head_dim, rope->beta_fast);
    double high = yarn_pair(rope, head_dim, rope->beta_slow);
    double ramp;

    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1.0);
    if (low == high)
        high += 0.001;
    ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return frequency / rope->factor * ramp + frequency * (1 - ramp);
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_attention_factor(const RopeConfig *rope) {
    if (rope->attention_factor > 0)
        return rope->attention_factor;
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_mscale(rope->factor, rope->mscale) /
               yarn_mscale(rope->factor, rope->mscale_all_dim);
    return yarn_mscale(rope->factor, 1);
}

float rope_frequencies(const RopeConfig *rope, uint32_t head_dim, float *inv_freq) {
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        double frequency = pow(rope->theta, -2.0 * i / head_dim);

        if (rope->freq_factors)
            frequency /= rope->freq_factors[i];
        switch (rope->scaling) {
        case ROPE_DEFAULT:
            break;
        case ROPE_LINEAR:
            frequency /= rope->factor;
            break;
        case ROPE_LLAMA3:
            frequency = scale_llama3(rope, frequency);
            break;
        case ROPE_YARN:
            frequency = scale_yarn(rope, head_dim, i, frequency);
            break;
        }
        inv_freq[i] = (float)frequency;
    }
    return rope->scaling == ROPE_YARN ? (float)yarn_attention_factor(rope) : 1;
}
