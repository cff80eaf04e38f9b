/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Trellis-coded values: what the V formats of 2 and 3 bits are (M. W. Marcellin, T. R. Fischer,
 * "Trellis coded quantization of memoryless and Gauss-Markov sources", 1990).
 *
 * A code of b bits chooses among 2^b of 2^(b+1) levels, every other one, and which every other
 * depends on the codes before it. So a token's vector has as many codewords as with a plain
 * quantizer, but they lie where a search over all channels at once can use twice the levels: at the
 * same bytes the error is 0.73 of that of the best plain levels at 2 bits, and 0.70 at 3.
 *
 * Levels are numbered as they rise; level i is of *subset* i mod 4. The lowest bit of a code, its
 * *coded bit* x[j], goes through a convolution (G. Ungerboeck, "Channel coding with
 * multilevel/phase signals", 1982, table I, 8 states), which gives the subset s of channel j; the
 * other bits h choose in it:
 *
 *   s = 2 (x[j] ^ x[j-1] ^ x[j-3]) + x[j-2]        level = 4 h + s        code = 2 h + x[j]
 *
 * Coded bits before channel 0 are 0, and again before every 64th channel: each run of 64 channels
 * is a trellis of its own. There is no feedback, so that codes are read side by side: a shift and
 * an exclusive or on a word of codes give the subsets of all of them.
 *
 * What a reader spends, beyond a plain quantizer of as many bits: on a CPU some 20 operations on
 * whole vectors for each run of 64. On a GPU, for each 32-bit word of codes, 8 shifts and logical
 * operations; then 8 levels are the two registers that one byte permute chooses from, four codes at
 * a time, and 16 levels two such permutes and a select. No shared memory is read.
 *
 * The levels are trained by tests/tools/train_value_levels.py.
 */

#include "kvcache/kv_layout.h"
#include "util/device_fn.h"

#include <stddef.h>
#include <stdint.h>

#define KV_TRELLIS_RUN 64   /* channels */
#define KV_TRELLIS_STATES 8 /* x[j-1] + 2 x[j-2] + 4 x[j-3] */
#define KV_TRELLIS_SUBSETS 4

DEVICE_FN uint32_t kv_trellis_subset(uint32_t state, uint32_t coded_bit) {
    return (coded_bit ^ (state & 1) ^ state >> 2) << 1 | (state >> 1 & 1);
}

DEVICE_FN uint32_t kv_trellis_next(uint32_t state, uint32_t coded_bit) {
    return (state << 1 | coded_bit) & (KV_TRELLIS_STATES - 1);
}

/* The readable reference: `n` codes of a token to the levels they choose, in place if wanted. */
void kv_trellis_levels(const uint8_t *codes, uint32_t n, uint8_t *levels);
