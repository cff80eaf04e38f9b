/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sealing blocks into their format, and attention over sealed blocks: one source (kv_kernels.c),
 * compiled per instruction set like the vector kernels. Sealing gives the same bytes on all of
 * them: every lane is the same chain of IEEE operations.
 */

#include "kvcache/kv_format.h"
#include "kvcache/rounding.h"

#define KV_LANES_MAX 16   /* floats in the widest vectors */
#define KV_QUERIES_TILE 4 /* with the widest vectors they fill the registers */

/* Scratch of the calls below, one per thread, 64-byte aligned. */
typedef struct CpuKvScratch {
    float x[KV_HEAD_DIM_MAX][KV_PAGE_TOKENS]; /* the block, channel-major, as it is rounded */
    uint8_t codes[KV_HEAD_DIM_MAX * KV_PAGE_TOKENS];
    float scales[KV_HEAD_DIM_MAX], offsets[KV_HEAD_DIM_MAX]; /* of the block's vectors */
    float folded[KV_QUERIES_TILE * KV_HEAD_DIM_MAX];         /* queries times scales */
    /* [channel][path][lane] of the search for a key's codes (cpu/kv_key_paths.h) */
    float paths[KV_HEAD_DIM_MAX][ROUNDING_PATHS_MAX][KV_LANES_MAX];
    int32_t taken[KV_HEAD_DIM_MAX][ROUNDING_PATHS_MAX][KV_LANES_MAX];
} CpuKvScratch;

typedef struct CpuKvKernels {
    /* Quantizes a full tail block (f16, K [head_dim][64] or V [64][head_dim]) into `block`
     * (kv_block_layout; format not 16-bit). `rounding`, of head_dim channels, is for K. */
    void (*seal)(KvFormat format, KvSide side, uint32_t head_dim, const uint16_t *tail,
                 const Rounding *rounding, void *block, CpuKvScratch *scratch);
    /* scores[i][j] = sum_c queries[i][c] * key[c][j] over a sealed block of K. Meanwhile the block
     * of the same format at `next`, if not NULL, is brought into the processor's cache. */
    void (*scores)(KvFormat format, float *scores, const float *queries, const void *block,
                   const void *next, uint32_t n_queries, uint32_t head_dim, CpuKvScratch *scratch);
    /* out[i][c] += sum_{low <= j < high} weights[i][j] * value[j][c] over a sealed block of V;
     * weights outside of low .. high - 1 are 0, and all are destroyed; `next` as for scores */
    void (*values)(KvFormat format, float *out, float *weights, const void *block, const void *next,
                   uint32_t n_queries, uint32_t head_dim, uint32_t low, uint32_t high,
                   CpuKvScratch *scratch);
} CpuKvKernels;

extern const CpuKvKernels cpu_kv_kernels_baseline;
#if defined(__x86_64__)
extern const CpuKvKernels cpu_kv_kernels_avx2;
extern const CpuKvKernels cpu_kv_kernels_avx512;
#endif
