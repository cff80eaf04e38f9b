/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sealing blocks into their format, and attention over sealed blocks: one source (kv_kernels.c),
 * compiled per instruction set like the vector kernels. Sealing gives the same bytes on all of
 * them: every lane is the same chain of IEEE operations.
 */

#include "kvcache/kv_format.h"
#include "kvcache/rounding.h"

/* Scratch of the calls below, one per thread. */
typedef struct KvScratch {
    float x[KV_HEAD_DIM_MAX][KV_PAGE_TOKENS]; /* the block, channel-major, as it is rounded */
    uint8_t codes[KV_HEAD_DIM_MAX * KV_PAGE_TOKENS];
    int8_t opened[KV_HEAD_DIM_MAX * KV_PAGE_TOKENS];
    float scales[KV_HEAD_DIM_MAX], offsets[KV_HEAD_DIM_MAX];
} KvScratch;

typedef struct KvKernels {
    /* Quantizes a full tail block (bf16, K [head_dim][64] or V [64][head_dim]) into `block`
     * (kv_block_layout; format not bf16). `rounding`, of head_dim channels, is for K. */
    void (*seal)(KvFormat format, KvSide side, uint32_t head_dim, const uint16_t *tail,
                 const Rounding *rounding, void *block, KvScratch *scratch);
    /* Opens a block into scratch->opened (same arrangement, signed bytes), scales and offsets per
     * vector: value = scales[i] * opened + offsets[i]. */
    void (*open)(KvFormat format, KvSide side, uint32_t head_dim, const void *block,
                 KvScratch *scratch);
    /* scores[i][j] = sum_c queries[i][c] * key[c][j] over the opened block; `folded` is scratch of
     * [n_queries][head_dim] floats */
    void (*scores)(float *scores, const float *queries, float *folded, const KvScratch *keys,
                   uint32_t n_queries, uint32_t head_dim);
    /* out[i][c] += sum_{low <= j < high} weights[i][j] * value[j][c] over the opened block;
     * destroys weights */
    void (*values)(float *out, float *weights, const KvScratch *values, uint32_t n_queries,
                   uint32_t head_dim, uint32_t low, uint32_t high);
} KvKernels;

extern const KvKernels kv_kernels_baseline;
#if defined(__x86_64__)
extern const KvKernels kv_kernels_avx2;
extern const KvKernels kv_kernels_avx512;
#endif
