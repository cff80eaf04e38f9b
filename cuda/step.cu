/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads pinned memory over the bus, once, and writes every array of the step to its place.
 */
#include "cuda/step.h"

#include "cuda/device.cuh"
#include "cuda/status.h"

static __global__ void scatter_kernel(CudaPieces pieces) {
    for (uint32_t p = blockIdx.y; p < pieces.n; p += gridDim.y)
        for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < pieces.pieces[p].n_words;
             i += gridDim.x * blockDim.x)
            pieces.pieces[p].to[i] = pieces.pieces[p].from[i];
}

int cuda_step_scatter(cudaStream_t stream, const CudaPieces *pieces) {
    scatter_kernel<<<dim3(8, pieces->n), 256, 0, stream>>>(*pieces);
    return cuda_launch_status();
}
