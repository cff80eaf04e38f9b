/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Weights on the GPU: bf16 rows, whatever the file has them as. Of a block format that is 2 bytes a
 * value where the file has 0.56 to 1.06, and a relative rounding of 2^-9 at most beside the 2^-4 to
 * 2^-8 that the format itself has; for that, every product is one kind of product.
 */

#include "backend/ops.h"
#include "cuda/memory.h"

#include <cuda_runtime_api.h>

struct Weight {
    void *data; /* bf16 [n_rows, n_cols], device */
    uint32_t n_rows, n_cols;
    CudaMemory *memory; /* borrowed */
};

/* Pinned memory, and as much of the device's, through which data goes in chunks, in turns. */
#define CUDA_STAGING_TURNS 2

typedef struct CudaStaging {
    CudaMemory *memory; /* borrowed */
    uint8_t *pinned[CUDA_STAGING_TURNS];
    uint8_t *device[CUDA_STAGING_TURNS];
    cudaEvent_t used[CUDA_STAGING_TURNS];
    size_t chunk_bytes;
    uint32_t turn;
} CudaStaging;

#ifdef __cplusplus
extern "C" {
#endif

int cuda_staging_init(CudaStaging *staging, CudaMemory *memory, size_t chunk_bytes);
void cuda_staging_deinit(CudaStaging *staging);
/* The next chunk's memory, once the GPU is done with what it held. */
int cuda_staging_take(CudaStaging *staging, uint8_t **pinnedp);
/* Sends the first n_bytes of the chunk taken last; *devicep is where they will be. */
int cuda_staging_send(CudaStaging *staging, cudaStream_t stream, size_t n_bytes, uint8_t **devicep);
/* The chunk taken last is of no more use once the stream comes here. */
int cuda_staging_give(CudaStaging *staging, cudaStream_t stream);

/* *outp is the caller's; its memory is of the staging's. */
int cuda_weight_new(Weight **outp, CudaStaging *staging, cudaStream_t stream,
                    const WeightSource *source, Reason *why);
Weight *cuda_weight_free(Weight *weight);
size_t cuda_weight_bytes(const Weight *weight);

/* Values [n_blocks] of blocks at `from` to bf16 at `to`. */
int cuda_expand(cudaStream_t stream, WeightFormat format, const uint8_t *from, void *to,
                size_t n_blocks);

#ifdef __cplusplus
}
#endif
