/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Products of few tokens, which the weights' bytes decide; and those that no library takes.
 */

#include "cuda/weight.h"

#define CUDA_PRODUCT_PARTS_MAX 4
#define CUDA_PRODUCT_TOKENS_MAX 16 /* of cuda_product_few */
#define CUDA_PRODUCT_TOKENS 8      /* up to which it is faster than the library */
#define CUDA_PRODUCT_COLS 8        /* which rows are to be multiples of there */

/* One part of a MatmulArgs, as kernels take it. */
typedef struct CudaPart {
    const void *weight; /* bf16 [n_out, n_in] */
    const float *bias;  /* [n_out] or NULL */
    void *out;          /* [n_tokens, n_out]: f32 where is_f32, else bf16 */
    uint32_t n_out;
    bool is_f32, accumulate;
} CudaPart;

typedef struct CudaProduct {
    const void *in; /* bf16 [n_tokens, n_in] */
    uint32_t n_tokens, n_in, n_parts;
    CudaPart parts[CUDA_PRODUCT_PARTS_MAX];
} CudaProduct;

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a block has too little shared memory to read as far ahead as others do. */
bool cuda_product_is_small(size_t block_shared_bytes);
/* Asks for the shared memory that cuda_product_few needs. */
int cuda_product_prepare(bool is_small);
/* n_tokens at most CUDA_PRODUCT_TOKENS_MAX, n_in a multiple of CUDA_PRODUCT_COLS. */
int cuda_product_few(cudaStream_t stream, const CudaProduct *product, uint32_t n_sm, bool is_small);
/* Any shape, slowly: no real model has rows that are not multiples of 8. */
int cuda_product_odd(cudaStream_t stream, const CudaProduct *product);
/* out += bias, where a library has made the product. */
int cuda_product_bias(cudaStream_t stream, const CudaPart *part, uint32_t n_tokens);

#ifdef __cplusplus
}
#endif
