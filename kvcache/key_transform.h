/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What keys go through, after rotary embedding, on their way to a quantized side, and what the
 * queries that meet them go through: k' = T k and q' = T^-T q, so that every score q'^T k' is q^T
 * k.
 *
 *     T = c H S^(-a/2),   T^-T = (1/c) H S^(a/2)
 *
 * S is the covariance of a KV head's keys within a page (the mean over the page's 64 tokens taken
 * off), a between 0 and 1, H the Hadamard transform (kvcache/hadamard.h). Rounding a channel in b
 * bits makes an error in the scores that grows with the channel's spread and with the queries'
 * energy there, so over all channels the error is the arithmetic mean of those products, where with
 * the best transform it would be their geometric mean: the gain of transform coding (Jayant and
 * Noll, Digital Coding of Waveforms, 1984, section 12.1). S^(-a/2) evens out the spreads, and H
 * what is left.
 *
 * c leaves the mean energy of keys within a page as it is, so that 16-bit tails and sinks hold
 * transformed keys as well as bare ones.
 */

#include <stddef.h>
#include <stdint.h>

/* One KV head's: the struct with its matrices behind it, in one piece that can be copied to a
 * device. */
typedef struct KeyTransform {
    uint32_t n_channels;
    uint32_t is_plain; /* both matrices are H; hadamard_apply does the same in fewer operations */
    uint32_t zeros[14];
    /* then T and T^-T, each float [n_channels of input][n_channels of output] */
} KeyTransform;

size_t key_transform_bytes(uint32_t n_channels);

static inline const float *key_transform_of_keys(const KeyTransform *t) {
    return (const float *)(const void *)(t + 1);
}

static inline const float *key_transform_of_queries(const KeyTransform *t) {
    return key_transform_of_keys(t) + (size_t)t->n_channels * t->n_channels;
}

/* T = H. */
void key_transform_init_plain(KeyTransform *out, uint32_t n_channels);
/* Fills `out` (key_transform_bytes) from a covariance [n][n] (symmetric; only its shape matters,
 * not its scale) and the exponent a. Directions with next to no spread count as having a little. A
 * covariance that is zero or not finite gives T = H. -ENOMEM. */
int key_transform_init(KeyTransform *out, const float *covariance, uint32_t n_channels,
                       double exponent);

/* y [n_channels] = matrix x: the definition that fast versions are compared with. */
void key_transform_apply(double *y, const float *x, const float *matrix, uint32_t n_channels);
/* m [n][n], a second moment of queries, becomes that of transformed queries. -ENOMEM. */
int key_transform_moment(const KeyTransform *t, float *m);
