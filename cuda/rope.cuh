/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A block takes some vectors of one kind (queries, keys or values) and one KV head into shared
 * memory, rotates and transforms them there in f32, and rounds once, on the way out. The vectors
 * of a block share each read of the transform's matrix.
 */

#include "cuda/device.cuh"
#include "cuda/rope.h"
#include "kvcache/kv_layer.h"

#define ROPE_THREADS 128
#define ROPE_BATCH 8 /* vectors whose sums a thread keeps at once */

enum { ROPE_QUERIES, ROPE_KEYS, ROPE_VALUES, ROPE_KINDS };

/* y = matrix x for every vector; matrix [n of input][n of output] */
static __device__ inline void transform_vectors(float *y, const float *x, const float *matrix,
                                                uint32_t n_vectors, uint32_t n) {
    for (uint32_t first = 0; first < n_vectors; first += ROPE_BATCH)
        for (uint32_t c = threadIdx.x; c < n; c += blockDim.x) {
            float sums[ROPE_BATCH] = {};

            for (uint32_t j = 0; j < n; j++) {
                float m = __ldg(matrix + (size_t)j * n + c);

#pragma unroll
                for (uint32_t v = 0; v < ROPE_BATCH; v++)
                    sums[v] += x[(size_t)(first + v) * n + j] * m;
            }
#pragma unroll
            for (uint32_t v = 0; v < ROPE_BATCH; v++)
                y[(size_t)(first + v) * n + c] = sums[v];
        }
    __syncthreads();
}

static __device__ inline void store_exact(KvFormat format, uint16_t *out, float x) {
    if (format == KV_FORMAT_F16)
        *out = __half_as_ushort(half_held(x));
    else
        *out = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

static __device__ inline void rotate_vectors(float *x, const RopeArgs &args, uint32_t first,
                                             uint32_t n_vectors, uint32_t per_token) {
    uint32_t n = args.head_dim, n_freqs = args.n_freqs;

    for (uint32_t i = threadIdx.x; i < n_vectors * n_freqs; i += blockDim.x) {
        uint32_t v = i / n_freqs, c = i % n_freqs;
        const float *row =
            at<const float>(args.table) + (size_t)((first + v) / per_token) * 2 * n_freqs;
        float a = x[(size_t)v * n + c], b = x[(size_t)v * n + c + n_freqs];

        x[(size_t)v * n + c] = a * row[c] - b * row[n_freqs + c];
        x[(size_t)v * n + c + n_freqs] = b * row[c] + a * row[n_freqs + c];
    }
    __syncthreads();
}

/* Shared memory: two arrays f32 [vectors, head_dim]. */
static __global__ void __launch_bounds__(ROPE_THREADS)
    rope_kernel(RopeArgs args, KvLayer layer, uint32_t block_vectors) {
    extern __shared__ float vectors[];
    uint32_t n = args.head_dim, head = blockIdx.y, kind = blockIdx.z;
    uint32_t group = args.n_heads / args.n_kv_heads, per_token = kind == ROPE_QUERIES ? group : 1;
    uint32_t heads = kind == ROPE_QUERIES ? args.n_heads : args.n_kv_heads;
    uint32_t total = args.n_tokens * per_token, first = blockIdx.x * block_vectors;
    uint32_t n_vectors = first < total ? min(block_vectors, total - first) : 0;
    KvSide side = kind == ROPE_VALUES ? KV_SIDE_V : KV_SIDE_K;
    DevAddr from = kind == ROPE_QUERIES ? args.q : kind == ROPE_KEYS ? args.k : args.v;
    DevAddr to = kind == ROPE_KEYS ? args.k_out : args.v_out;
    float *x = vectors, *y = vectors + (size_t)block_vectors * n;

    if (!n_vectors)
        return;
    for (uint32_t i = threadIdx.x; i < block_vectors * n; i += blockDim.x) {
        uint32_t v = first + i / n, c = i % n;
        size_t at_head = (size_t)(v / per_token) * heads + head * per_token + v % per_token;

        x[i] = i / n < n_vectors ? (float)at<const __nv_bfloat16>(from)[at_head * n + c] : 0;
    }
    __syncthreads();
    if (kind != ROPE_VALUES)
        rotate_vectors(x, args, first, n_vectors, per_token);
    if (kv_layer_rotates(&layer, side)) {
        const uint32_t *transform = at<const uint32_t>(kv_layer_transform(&layer, head));

        if (kind == ROPE_VALUES || transform[1]) { /* is_plain */
            hadamard_vectors(x, n_vectors, n);
        } else { /* the keys' matrix is behind 16 words, the queries' behind that */
            transform_vectors(
                y, x, (const float *)(transform + 16) + (kind == ROPE_QUERIES ? (size_t)n * n : 0),
                divide_up(n_vectors, ROPE_BATCH) * ROPE_BATCH, n);
            x = y;
        }
    }
    for (uint32_t i = threadIdx.x; i < n_vectors * n; i += blockDim.x) {
        uint32_t v = first + i / n, c = i % n;
        size_t at_head = (size_t)(v / per_token) * heads + head * per_token + v % per_token;

        if (kind == ROPE_QUERIES)
            at<__nv_bfloat16>(from)[at_head * n + c] = __float2bfloat16_rn(x[i]);
        else
            store_exact(kv_layer_tail_format(&layer, side), at<uint16_t>(to) + at_head * n + c,
                        x[i]);
    }
}
