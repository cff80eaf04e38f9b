/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Compensated rounding: how the error of one channel is pushed onto the channels still to come.
 *
 * Rounding a key k to q costs (k - q)^T C (k - q), where C is the second moment of the queries,
 * both transformed as kvcache/key_transform.h says. As in GPTQ (arXiv 2210.17323, section 3)
 * channels are rounded one by one, in order of falling diagonal, and after channel i the rest moves
 * by k_j -= (k_i - q_i) * feed[i][j],   feed[i][j] = U_ij / U_ii,   inverse(C + damping) = U^T U.
 *
 * The whole cost of a key is then the sum of weights[i] (k_i - q_i)^2, weights[i] = U_ii^-2, with
 * k_i as it was when its turn came. Taking the nearest q_i each time is not the best that can be
 * had: the search for the best is that for a nearest point of a lattice, and as there (J. B.
 * Anderson, S. Mohan, "Sequential coding algorithms", 1984: the M-algorithm) the best n_paths
 * partial roundings are kept from channel to channel, where each may go on by the step nearest to
 * k_i and by the next one on the side of k_i. Costs are f32, each term added by a fused multiply
 * and add. Where they are compared the 3 lowest bits are the number of the way on: p for the
 * nearest step after the partial roundings' number p (by rising cost), p + 4 for the other one; and
 * those bits are 0 in what is kept.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ROUNDING_PATHS_MAX 4

/* Bytes of a Rounding for that many channels: the struct with its arrays behind it, in one piece
 * that can be copied to a device. */
typedef struct Rounding {
    uint32_t n_channels;
    uint32_t is_plain; /* feed is all zeros, and one path is enough */
    uint32_t n_paths;  /* partial roundings kept: 1 or ROUNDING_PATHS_MAX */
    /* then, in rounding order: uint32_t order[n_channels]; float feed[n_channels][n_channels];
     * float weights[n_channels] */
} Rounding;

size_t rounding_bytes(uint32_t n_channels);

/* Channel `i` of the rounding order, and row i of feed (entries j > i matter), in that order. */
static inline const uint32_t *rounding_order(const Rounding *r) {
    return (const uint32_t *)(const void *)(r + 1);
}

static inline const float *rounding_feed(const Rounding *r, uint32_t i) {
    return (const float *)(const void *)(rounding_order(r) + r->n_channels) +
           (size_t)i * r->n_channels;
}

static inline const float *rounding_weights(const Rounding *r) {
    return rounding_feed(r, r->n_channels);
}

/* Fills `out` (rounding_bytes) from a second moment [n][n] (symmetric; only its shape matters, not
 * its scale); `damping` is a share of the mean diagonal. A moment that is zero, not finite or
 * not positive after damping gives plain rounding, in channel order. -ENOMEM. */
int rounding_init(Rounding *out, const float *moment, uint32_t n_channels, double damping,
                  uint32_t n_paths);
/* Plain rounding. */
void rounding_init_plain(Rounding *out, uint32_t n_channels);
