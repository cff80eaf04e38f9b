/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/prefill.h"

#include "cuda/prefill.cuh"
#include "cuda/status.h"

#include <errno.h>

typedef void (*Kernel)(const CudaAttentionArgs, const CudaPrefillMemory);

bool cuda_prefill_has(uint32_t head_dim) {
    return head_dim <= CUDA_PREFILL_HEAD_DIM_MAX && head_dim % 8 == 0;
}

static uint32_t padded_dim(uint32_t head_dim) {
    return head_dim <= 64 ? 64 : head_dim <= 96 ? 96 : head_dim <= 128 ? 128 : 256;
}

static Kernel find_kernel(uint32_t head_dim, bool is_bf16) {
    switch (padded_dim(head_dim)) {
    case 64:
        return is_bf16 ? prefill_kernel<64, true> : prefill_kernel<64, false>;
    case 96:
        return is_bf16 ? prefill_kernel<96, true> : prefill_kernel<96, false>;
    case 128:
        return is_bf16 ? prefill_kernel<128, true> : prefill_kernel<128, false>;
    default:
        return is_bf16 ? prefill_kernel<256, true> : prefill_kernel<256, false>;
    }
}

int cuda_prefill_prepare(uint32_t head_dim) {
    CudaKvFormat formats[] = { cuda_kv_format(KV_FORMAT_8, KV_SIDE_K, head_dim),
                               cuda_kv_format(KV_FORMAT_8, KV_SIDE_V, head_dim) };
    uint32_t n_bytes = prefill_memory(formats, head_dim, padded_dim(head_dim)).total;
    int r = 0;

    for (int is_bf16 = 0; !r && is_bf16 < 2; is_bf16++)
        r = cuda_allow_shared((const void *)find_kernel(head_dim, is_bf16), n_bytes);
    return r;
}

int cuda_prefill(cudaStream_t stream, const CudaAttentionArgs *args) {
    uint32_t dim = padded_dim(args->layer.head_dim);
    CudaPrefillMemory m = prefill_memory(args->formats, args->layer.head_dim, dim);
    bool is_bf16 = args->formats[KV_SIDE_K].format == KV_FORMAT_BF16;

    if (is_bf16 != (args->formats[KV_SIDE_V].format == KV_FORMAT_BF16))
        return -ENOTSUP;
    if (!args->n_tiles)
        return 0;
    find_kernel(
        args->layer.head_dim,
        is_bf16)<<<dim3(args->n_tiles, args->layer.n_kv_heads), PREFILL_THREADS, m.total, stream>>>(
        *args, m);
    return cuda_launch_status();
}
