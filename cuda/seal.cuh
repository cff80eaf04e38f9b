/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What holds a step's keys and values. Tokens of a page do not depend on each other once a key's
 * scales are known: a page is sealed by several blocks, each with some of its tokens, as many as
 * shared memory has room for.
 */

#include "cuda/seal_keys.cuh"
#include "cuda/seal_values.cuh"

#define COPY_THREADS 256

/* The first tokens of the page, which stay as they are in sinks and are sealed none the less. */
static __device__ inline void keep_sinks(const CudaHoldArgs &a, const CudaSealPage &p) {
    uint32_t n = a.layer.head_dim;
    uint16_t *to;

    if (p.page || p.first_token || !a.layer.n_sinks || p.sequence.sink == KV_NO_SINK)
        return;
    to = at<uint16_t>(kv_layer_sink(&a.layer, p.side, p.sequence.sink, p.head));
    for (uint32_t i = threadIdx.x; i < KV_SINK_TOKENS * n; i += blockDim.x)
        to[i] = token_at(a, p.sequence, p.side, p.head, i / n)[i % n];
}

static __global__ void __launch_bounds__(128, 3) seal_keys_kernel(CudaHoldArgs a) {
    extern __shared__ __align__(16) uint8_t memory[];
    CudaSealPage page = seal_page(a, KV_SIDE_K, seal_key_tokens(a.layer.head_dim));

    keep_sinks(a, page);
    seal_keys(a, page, memory);
}

static __global__ void __launch_bounds__(SEAL_VALUE_THREADS) seal_values_kernel(CudaHoldArgs a) {
    extern __shared__ __align__(16) uint8_t memory[];
    CudaSealPage page = seal_page(a, KV_SIDE_V, seal_value_tokens(a.layer.head_dim));

    keep_sinks(a, page);
    seal_values(a, page, memory);
}

/* A page that is kept in 16 bits: rows of head_dim numbers, of whole words T. */
template <class T>
static __global__ void __launch_bounds__(COPY_THREADS)
    keep_page_kernel(CudaHoldArgs a, KvSide side) {
    CudaSealPage page = seal_page(a, side, KV_PAGE_TOKENS);
    uint32_t n_words = a.layer.head_dim * 2 / sizeof(T);

    for (uint32_t i = threadIdx.x; i < KV_PAGE_TOKENS * n_words; i += blockDim.x)
        ((T *)page.block)[i] =
            ((const T *)token_at(a, page.sequence, side, page.head,
                                 page.page * KV_PAGE_TOKENS + i / n_words))[i % n_words];
}

/* blockIdx: a sequence, and one of its last rows: into the tail if it is of the last page, which is
 * not full. */
template <class T>
static __global__ void __launch_bounds__(COPY_THREADS) tail_kernel(CudaHoldArgs a) {
    const StepSequence s = a.step.sequences[blockIdx.x];
    uint32_t end = s.n_past + s.n_rows, position = end - 1 - blockIdx.y, row;
    uint32_t n_words = a.layer.head_dim * 2 / sizeof(T), n_side = a.layer.n_kv_heads * n_words;

    if (blockIdx.y >= s.n_rows || position / KV_PAGE_TOKENS != end / KV_PAGE_TOKENS)
        return;
    row = s.first_row + position - s.n_past;
    for (uint32_t i = threadIdx.x; i < n_side * KV_SIDES; i += blockDim.x) {
        KvSide side = (KvSide)(i / n_side);
        uint32_t head = i % n_side / n_words, word = i % n_words;

        at<T>(kv_layer_tail(&a.layer, side, s.slot,
                            head))[position % KV_PAGE_TOKENS * n_words + word] =
            ((const T *)a.own[side])[(size_t)row * n_side + head * n_words + word];
    }
}
