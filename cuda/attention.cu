/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel is made for a padded head size and for what tiles are (bf16, or halves for all else):
 * formats are told apart at run time, once every sixteen tokens, so that all pairs of formats share
 * it. bf16 goes with itself alone, as options have it.
 */
#include "cuda/attention.h"

#include "cuda/attention.cuh"
#include "cuda/status.h"

#include <errno.h>

int cuda_attention_scratch_init(CudaAttentionScratch *scratch, const CudaStep *step,
                                size_t *bytesp) {
    size_t n = (size_t)step->max_partials * step->reserve.geometry.n_kv_heads;
    size_t partials_bytes = n * CUDA_TILE_QUERIES * step->reserve.geometry.head_dim * 4;
    size_t sums_bytes = n * CUDA_TILE_QUERIES * 2 * 4, counters_bytes = n * 4;
    int r;

    *scratch = CudaAttentionScratch{};
    scratch->memory = step->memory;
    r = cuda_memory_take(step->memory, (void **)&scratch->partials, partials_bytes);
    if (!r)
        r = cuda_memory_take(step->memory, (void **)&scratch->sums, sums_bytes);
    if (!r)
        r = cuda_memory_take(step->memory, (void **)&scratch->counters, counters_bytes);
    if (!r)
        r = cuda_status(cudaMemset(scratch->counters, 0, counters_bytes));
    if (r) {
        cuda_attention_scratch_deinit(scratch);
        return r;
    }
    *bytesp += partials_bytes + sums_bytes + counters_bytes;
    return 0;
}

void cuda_attention_scratch_deinit(CudaAttentionScratch *scratch) {
    cuda_memory_give(scratch->memory, scratch->partials);
    cuda_memory_give(scratch->memory, scratch->sums);
    cuda_memory_give(scratch->memory, scratch->counters);
    *scratch = CudaAttentionScratch{};
}

/* Head sizes that kernels are made for. */
static uint32_t padded_dim(uint32_t head_dim) {
    return head_dim <= 64    ? 64
           : head_dim <= 96  ? 96
           : head_dim <= 128 ? 128
           : head_dim <= 256 ? 256
                             : 512;
}

typedef void (*Kernel)(const CudaAttentionArgs, CudaAttentionMemory);

template <int DIM> static Kernel kernel_of(uint32_t head_dim, bool is_bf16) {
    if (head_dim == DIM)
        return is_bf16 ? attention_kernel<DIM, true, true> : attention_kernel<DIM, false, true>;
    return is_bf16 ? attention_kernel<DIM, true, false> : attention_kernel<DIM, false, false>;
}

static Kernel find_kernel(uint32_t head_dim, bool is_bf16) {
    switch (padded_dim(head_dim)) {
    case 64:
        return kernel_of<64>(head_dim, is_bf16);
    case 96:
        return kernel_of<96>(head_dim, is_bf16);
    case 128:
        return kernel_of<128>(head_dim, is_bf16);
    case 256:
        return kernel_of<256>(head_dim, is_bf16);
    default:
        return is_bf16 ? attention_kernel<512, true, false> : attention_kernel<512, false, false>;
    }
}

/* The most that any pair of formats takes. */
static uint32_t most_memory(uint32_t head_dim) {
    uint32_t most = 0;

    for (int k = 0; k < KV_FORMATS; k++)
        for (int v = 0; v < KV_FORMATS; v++) {
            CudaKvFormat formats[] = { cuda_kv_format((KvFormat)k, KV_SIDE_K, head_dim),
                                       cuda_kv_format((KvFormat)v, KV_SIDE_V, head_dim) };
            uint32_t n = attention_memory_bytes(
                attention_memory(formats, head_dim, padded_dim(head_dim)), padded_dim(head_dim));

            most = n > most ? n : most;
            if (head_dim % 8) /* nothing is quantized then */
                return attention_memory_bytes(
                    attention_memory(formats, head_dim, padded_dim(head_dim)),
                    padded_dim(head_dim));
        }
    return most;
}

int cuda_attention_prepare(uint32_t head_dim) {
    uint32_t n_bytes = most_memory(head_dim);
    int r = 0;

    for (int is_bf16 = 0; !r && is_bf16 < 2; is_bf16++)
        r = cuda_allow_shared((const void *)find_kernel(head_dim, is_bf16), n_bytes);
    return r;
}

int cuda_attention(cudaStream_t stream, const CudaAttentionArgs *args) {
    uint32_t dim = padded_dim(args->layer.head_dim);
    CudaAttentionMemory m = attention_memory(args->formats, args->layer.head_dim, dim);
    bool k_bf16 = args->formats[KV_SIDE_K].format == KV_FORMAT_BF16;
    bool v_bf16 = args->formats[KV_SIDE_V].format == KV_FORMAT_BF16;
    Kernel kernel = find_kernel(args->layer.head_dim, k_bf16);

    if (k_bf16 != v_bf16)
        return -ENOTSUP;
    if (!args->n_items)
        return 0;
    kernel<<<dim3(args->n_items, args->layer.n_kv_heads), ATTENTION_THREADS,
             attention_memory_bytes(m, dim), stream>>>(*args, m);
    return cuda_launch_status();
}
