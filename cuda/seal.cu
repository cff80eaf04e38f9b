/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/seal.h"

#include "cuda/seal.cuh"
#include "cuda/status.h"

int cuda_hold_prepare(uint32_t head_dim) {
    int r = cuda_allow_shared((const void *)seal_keys_kernel, seal_keys_bytes(head_dim));

    return r ? r : cuda_allow_shared((const void *)seal_values_kernel, seal_values_bytes(head_dim));
}

/* Whether rows of head_dim numbers are whole words of 16 bytes, and not of 4. */
static bool has_wide_rows(const CudaHoldArgs *args) {
    return args->layer.head_dim % 8 == 0;
}

static dim3 grid_of(const CudaHoldArgs *args, uint32_t n_tokens) {
    return dim3(args->n_seals, args->layer.n_kv_heads, KV_PAGE_TOKENS / n_tokens);
}

static void seal(cudaStream_t stream, const CudaHoldArgs *args, KvSide side) {
    uint32_t n = args->layer.head_dim;

    if (args->formats[side].bits == 16 && has_wide_rows(args))
        keep_page_kernel<uint4>
            <<<grid_of(args, KV_PAGE_TOKENS), COPY_THREADS, 0, stream>>>(*args, side);
    else if (args->formats[side].bits == 16)
        keep_page_kernel<uint32_t>
            <<<grid_of(args, KV_PAGE_TOKENS), COPY_THREADS, 0, stream>>>(*args, side);
    else if (side == KV_SIDE_K)
        seal_keys_kernel<<<grid_of(args, seal_key_tokens(n)), seal_key_tokens(n) * KEY_PATHS,
                           seal_keys_bytes(n), stream>>>(*args);
    else
        seal_values_kernel<<<grid_of(args, seal_value_tokens(n)), SEAL_VALUE_THREADS,
                             seal_values_bytes(n), stream>>>(*args);
}

static void keep_tails(cudaStream_t stream, const CudaHoldArgs *args) {
    uint32_t n_most = args->step.n_rows - args->step.n_sequences + 1; /* rows of a sequence */
    dim3 grid(args->step.n_sequences, n_most < KV_PAGE_TOKENS ? n_most : KV_PAGE_TOKENS);

    if (has_wide_rows(args))
        tail_kernel<uint4><<<grid, COPY_THREADS, 0, stream>>>(*args);
    else
        tail_kernel<uint32_t><<<grid, COPY_THREADS, 0, stream>>>(*args);
}

int cuda_hold(cudaStream_t stream, const CudaHoldArgs *args) {
    for (KvSide side = KV_SIDE_K; args->n_seals && side < KV_SIDES; side = (KvSide)(side + 1)) {
        int r;

        seal(stream, args, side);
        r = cuda_launch_status();
        if (r)
            return r;
    }
    keep_tails(stream, args);
    return cuda_launch_status();
}
