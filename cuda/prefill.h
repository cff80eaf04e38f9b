/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Attention of many rows of a sequence: tiles of CUDA_PREFILL_QUERIES queries.
 */

#include "cuda/attention.h"

#define CUDA_PREFILL_HEAD_DIM_MAX 256 /* beyond it all rows go by cuda_attention's items */

#ifdef __cplusplus
extern "C" {
#endif

/* Whether there is a kernel for this head size. */
bool cuda_prefill_has(uint32_t head_dim);
int cuda_prefill_prepare(uint32_t head_dim);
/* The tiles of the plan, which are behind its items. */
int cuda_prefill(cudaStream_t stream, const CudaAttentionArgs *args);

#ifdef __cplusplus
}
#endif
