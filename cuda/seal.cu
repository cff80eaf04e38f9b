/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/seal.h"

#include "cuda/seal.cuh"
#include "cuda/status.h"

int cuda_hold_prepare(uint32_t head_dim) {
    return cuda_allow_shared((const void *)seal_kernel, seal_memory_bytes(head_dim));
}

int cuda_hold(cudaStream_t stream, const CudaHoldArgs *args) {
    uint32_t n_pages = args->n_seals;
    int r = 0;

    if (n_pages) {
        seal_kernel<<<dim3(n_pages, args->layer.n_kv_heads, KV_SIDES), SEAL_THREADS,
                      seal_memory_bytes(args->layer.head_dim), stream>>>(*args);
        r = cuda_launch_status();
    }
    if (r)
        return r;
    tail_kernel<<<args->step.n_rows, 256, 0, stream>>>(*args);
    return cuda_launch_status();
}
