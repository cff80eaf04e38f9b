/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/weight_moments.h"

#include "model/decoder.h"
#include "model/identity.h"
#include "model/rope.h"

#include <complex.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Row r of a matrix, times the norm's weights. */
static void scaled_row(const TensorView *t, const TensorView *norm, uint32_t r, float *row,
                       float *weights) {
    uint32_t n = t->shape[1];

    weight_to_f32(t->format, (const char *)t->data + r * weight_row_bytes(t->format, n), row, n);
    weight_to_f32(norm->format, norm->data, weights, n);
    for (uint32_t i = 0; i < n; i++)
        row[i] *= weights[i];
}

/* Where this tree's channel c of a head lies among the stored rows. */
static uint32_t stored_channel(const ModelConfig *config, uint32_t c) {
    uint32_t half = config->head_dim / 2;

    return config->rope_interleaved_rows ? (c < half ? 2 * c : 2 * (c - half) + 1) : c;
}

/* moment += W W^T + b b^T of one query head, before rotation; QK norm is left out: it only scales.
 */
static int add_head(const Checkpoint *checkpoint, uint32_t layer, uint32_t head, float *moment) {
    const ModelConfig *config = checkpoint_config(checkpoint);
    const TensorView *q = checkpoint_tensor(checkpoint, TENSOR_Q, layer);
    const TensorView *norm = checkpoint_tensor(checkpoint, TENSOR_ATTENTION_NORM, layer);
    const TensorView *bias = checkpoint_tensor(checkpoint, TENSOR_Q_BIAS, layer);
    uint32_t d = config->head_dim, n = q->shape[1];
    CLEANUP(free) float *rows = malloc((size_t)d * n * sizeof(*rows));
    CLEANUP(free) float *weights = malloc(n * sizeof(*weights));
    CLEANUP(free) float *biases = calloc(q->shape[0], sizeof(*biases));

    if (!rows || !weights || !biases)
        return -ENOMEM;
    if (bias)
        weight_to_f32(bias->format, bias->data, biases, q->shape[0]);
    for (uint32_t c = 0; c < d; c++)
        scaled_row(q, norm, head * d + stored_channel(config, c), rows + (size_t)c * n, weights);
    for (uint32_t a = 0; a < d; a++)
        for (uint32_t b = 0; b < d; b++) {
            float sum = biases[head * d + stored_channel(config, a)] *
                        biases[head * d + stored_channel(config, b)];

            for (uint32_t i = 0; i < n; i++)
                sum += rows[(size_t)a * n + i] * rows[(size_t)b * n + i];
            moment[(size_t)a * d + b] += sum;
        }
    return 0;
}

/* A norm of queries divides all channels by one number, which is left out, and has weights. */
static int weigh_channels(const TensorView *norm, float *moment, uint32_t d) {
    CLEANUP(free) float *weights = malloc(d * sizeof(*weights));

    if (!weights)
        return -ENOMEM;
    weight_to_f32(norm->format, norm->data, weights, d);
    for (uint32_t a = 0; a < d; a++)
        for (uint32_t b = 0; b < d; b++)
            moment[(size_t)a * d + b] *= weights[a] * weights[b];
    return 0;
}

/* The mean of e^(i p angle) over positions p of a window. */
static double complex mean_turn(double angle, uint32_t window) {
    double complex step = cexp(I * angle);

    return cabs(1 - step) < 1e-12 ? 1 : (1 - cexp(I * angle * window)) / (1 - step) / window;
}

/*
 * moment = mean over p of R_p moment R_p^T. Channels c and c + half are one complex number z_c,
 * which R_p turns by p freq_c, so the means of z_a conj(z_b) and z_a z_b turn with the difference
 * and the sum of their frequencies.
 */
static void average_rotations(float *moment, uint32_t d, const float *freqs, uint32_t window) {
    uint32_t half = d / 2;

    for (uint32_t a = 0; a < half; a++)
        for (uint32_t b = 0; b < half; b++) {
            float *xx = &moment[(size_t)a * d + b], *xy = xx + half;
            float *yx = &moment[(size_t)(a + half) * d + b], *yy = yx + half;
            double complex conjugate = (*xx + *yy) + I * (*yx - *xy);
            double complex plain = (*xx - *yy) + I * (*yx + *xy);

            conjugate *= mean_turn((double)freqs[a] - freqs[b], window);
            plain *= mean_turn((double)freqs[a] + freqs[b], window);
            *xx = (float)(creal(conjugate) + creal(plain)) / 2;
            *yy = (float)(creal(conjugate) - creal(plain)) / 2;
            *yx = (float)(cimag(plain) + cimag(conjugate)) / 2;
            *xy = (float)(cimag(plain) - cimag(conjugate)) / 2;
        }
}

int weight_moments(Profile **outp, const Checkpoint *checkpoint, uint32_t window, Reason *why) {
    const ModelConfig *config = checkpoint_config(checkpoint);
    KvGeometry geometry = decoder_kv_geometry(config);
    uint32_t d = config->head_dim, group = config->n_heads / config->n_kv_heads;
    CLEANUP(free) float *freqs = calloc(d, sizeof(*freqs));
    CLEANUP(profile_free) Profile *profile = NULL;
    int r = freqs ? profile_new(&profile, &geometry) : -ENOMEM;

    if (r)
        return reason_set(why, r, "no profile can be made of this shape of model");
    model_identity(checkpoint, profile->identity);
    rope_frequencies(&config->rope, d, freqs);
    for (uint32_t i = 0; i < geometry.n_layers * geometry.n_kv_heads; i++) {
        uint32_t layer = i / geometry.n_kv_heads, first = i % geometry.n_kv_heads * group;
        const TensorView *norm = checkpoint_tensor(checkpoint, TENSOR_Q_NORM, layer);
        float *moment = profile->q_moments + (size_t)i * d * d;

        for (uint32_t head = first; !r && head < first + group; head++)
            r = add_head(checkpoint, layer, head, moment);
        if (!r && norm)
            r = weigh_channels(norm, moment, d);
        if (r)
            return reason_set(why, r, "out of memory");
        average_rotations(moment, d, freqs, window);
    }
    *outp = TAKE(profile);
    return 0;
}
