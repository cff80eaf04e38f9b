/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The first half of the op attention: reading the cache and the step's own keys and values.
 */

#include "cuda/kv_block.h"
#include "cuda/step.h"
#include "kvcache/kv_layer.h"

/* Head sizes up to which there are kernels; others are padded in registers, not in memory. */
#define CUDA_HEAD_DIM_MAX KV_HEAD_DIM_MAX

typedef struct CudaAttentionScratch {
    CudaMemory *memory; /* borrowed */
    float *partials;    /* [max_partials, n_kv_heads, CUDA_TILE_QUERIES, head_dim] */
    float *sums;        /* [max_partials, n_kv_heads, CUDA_TILE_QUERIES, 2]: maximum, sum */
    uint32_t *counters; /* [max_partials, n_kv_heads], zeros between ops */
} CudaAttentionScratch;

typedef struct CudaAttentionArgs {
    CudaStepView step;
    KvLayer layer;
    CudaKvFormat formats[KV_SIDES];
    const CudaAttentionItem *items;
    uint32_t n_items, n_tiles;
    void *out;                     /* bf16 [n_tokens, n_heads, head_dim] */
    const void *q;                 /* the same */
    const uint16_t *own[KV_SIDES]; /* [n_tokens, n_kv_heads, head_dim] as the tails are */
    const float *scales;           /* device, kv_scales */
    uint32_t n_heads, group, window;
    float scale; /* of scores */
    CudaAttentionScratch scratch;
} CudaAttentionArgs;

#ifdef __cplusplus
extern "C" {
#endif

int cuda_attention_scratch_init(CudaAttentionScratch *scratch, const CudaStep *step,
                                size_t *bytesp);
void cuda_attention_scratch_deinit(CudaAttentionScratch *scratch);
/* Asks for the shared memory that kernels of this head size need. */
int cuda_attention_prepare(uint32_t head_dim);
int cuda_attention(cudaStream_t stream, const CudaAttentionArgs *args);

#ifdef __cplusplus
}
#endif
