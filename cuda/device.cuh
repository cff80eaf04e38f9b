/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What all kernels use: 16-bit numbers, and sums over warps and blocks in a fixed order.
 */

#include "util/dev_addr.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define CUDA_WARP 32
#define CUDA_FULL 0xffffffffu

template <class T> static __host__ __device__ inline T *at(DevAddr address) {
    return (T *)(uintptr_t)address;
}

static __host__ __device__ inline uint32_t divide_up(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

/* The two bf16 of a word, the low one first. */
static __device__ inline float2 bf16_pair(uint32_t word) {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

static __device__ inline uint32_t bf16_pack(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);

    return *(uint32_t *)&pair;
}

/* The half nearest to x, at most 65504 in size; NaN stays. */
static __device__ inline __half half_held(float x) {
    return __float2half_rn(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

static __device__ inline float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i; i /= 2)
        x += __shfl_xor_sync(CUDA_FULL, x, i);
    return x;
}

static __device__ inline float warp_max(float x) {
#pragma unroll
    for (int i = 16; i; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(CUDA_FULL, x, i));
    return x;
}

/* The sum over a block of whole warps, in every thread; `scratch` [32]. */
static __device__ inline float block_sum(float x, float *scratch) {
    uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;

    x = warp_sum(x);
    __syncthreads();
    if (lane == 0)
        scratch[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / CUDA_WARP ? scratch[lane] : 0);
}

/* x = H x for n_vectors vectors [n], in shared memory; every thread of the block calls. The chain
 * of operations is that of kvcache/hadamard.c. */
static __device__ inline void hadamard_vectors(float *x, uint32_t n_vectors, uint32_t n) {
    uint32_t block = n & (0 - n);
    float scale = (float)(1 / sqrt((double)block));

    for (uint32_t half = 1; half < block; half *= 2) {
        for (uint32_t i = threadIdx.x; i < n_vectors * (n / 2); i += blockDim.x) {
            uint32_t pair = i % (n / 2), low = pair / half * 2 * half + pair % half;
            float *v = x + (size_t)(i / (n / 2)) * n, a = v[low], b = v[low + half];

            v[low] = a + b;
            v[low + half] = a - b;
        }
        __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < n_vectors * n; i += blockDim.x)
        x[i] *= scale;
    __syncthreads();
}
