/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The second half of the op attention: the cache holds the step's keys and values.
 */

#include "cuda/kv_block.h"
#include "cuda/step.h"
#include "kvcache/kv_layer.h"

typedef struct CudaHoldArgs {
    CudaStepView step;
    KvLayer layer;
    CudaKvFormat formats[KV_SIDES];
    const uint16_t *own[KV_SIDES]; /* [n_tokens, n_kv_heads, head_dim] as the tails are */
    const float *scales;           /* device, kv_scales */
    uint32_t n_seals;              /* pages that the step fills */
} CudaHoldArgs;

#ifdef __cplusplus
extern "C" {
#endif

/* Seals the pages that the step fills, then keeps the rest in tails. */
int cuda_hold(cudaStream_t stream, const CudaHoldArgs *args);
/* Asks for the shared memory that sealing needs. */
int cuda_hold_prepare(uint32_t head_dim);

#ifdef __cplusplus
}
#endif
