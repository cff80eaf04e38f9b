/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A block makes 16 outputs of up to 8 * TILES tokens. Its warps share the columns, 128 at a time:
 * each thread reads 16 bytes of two rows of weights, four times over, before it uses the first, so
 * that enough is on its way to keep memory busy. Tensor cores add up in f32; the order of columns
 * within a fragment is the one in which 16-byte loads give them, for weights and activations alike.
 */

#include "cuda/device.cuh"
#include "cuda/product.h"

#define PRODUCT_WARPS 8
#define PRODUCT_ROWS 16  /* of a block */
#define PRODUCT_STEP 128 /* columns that a warp takes at a time */
#define PRODUCT_LOADS 4  /* of 32 columns each */

/* c += a b for a [16, 16] and b [16, 8] of bf16 */
static __device__ inline void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Weights are read once: they need not displace what others read again. */
static __device__ inline uint4 load_once(const uint4 *p) {
    uint4 x;

    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p));
    return x;
}

static __device__ inline void store_output(const CudaPart &part, uint32_t token, uint32_t row,
                                           float x) {
    size_t i = (size_t)token * part.n_out + row;

    if (part.bias)
        x += part.bias[row];
    if (part.is_f32) {
        float *out = (float *)part.out;

        out[i] = part.accumulate ? out[i] + x : x;
    } else {
        __nv_bfloat16 *out = (__nv_bfloat16 *)part.out;

        out[i] = __float2bfloat16_rn(part.accumulate ? (float)out[i] + x : x);
    }
}

/* The part of a block, and its first row there. */
static __device__ inline uint32_t find_part(const CudaProduct &product, uint32_t *rowp) {
    uint32_t i_block = blockIdx.x, i = 0;

    while (i + 1 < product.n_parts && i_block >= divide_up(product.parts[i].n_out, PRODUCT_ROWS))
        i_block -= divide_up(product.parts[i++].n_out, PRODUCT_ROWS);
    *rowp = i_block * PRODUCT_ROWS;
    return i;
}

template <int TILES>
static __global__ void __launch_bounds__(PRODUCT_WARPS *CUDA_WARP)
    product_few_kernel(CudaProduct product) {
    __shared__ float sums[PRODUCT_WARPS][TILES][PRODUCT_ROWS][9];
    uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, first_row;
    const CudaPart &part = product.parts[find_part(product, &first_row)];
    uint32_t n_in = product.n_in, column = lane % 4 * 8, g = lane / 4;
    uint32_t last = part.n_out - 1, row = first_row + g;
    const __nv_bfloat16 *w0 =
        (const __nv_bfloat16 *)part.weight + (size_t)(row < last ? row : last) * n_in;
    const __nv_bfloat16 *w1 =
        (const __nv_bfloat16 *)part.weight + (size_t)(row + 8 < last ? row + 8 : last) * n_in;
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)product.in;
    float c[TILES][4] = {};

    for (uint32_t k = warp * PRODUCT_STEP; k < n_in; k += PRODUCT_WARPS * PRODUCT_STEP) {
        uint4 a0[PRODUCT_LOADS], a1[PRODUCT_LOADS];

#pragma unroll
        for (int i = 0; i < PRODUCT_LOADS; i++) {
            uint32_t at = k + 32 * i + column;

            a0[i] = a1[i] = make_uint4(0, 0, 0, 0);
            if (at < n_in) {
                a0[i] = load_once((const uint4 *)(w0 + at));
                a1[i] = load_once((const uint4 *)(w1 + at));
            }
        }
#pragma unroll
        for (int i = 0; i < PRODUCT_LOADS; i++) {
            uint32_t at = k + 32 * i + column;

#pragma unroll
            for (int t = 0; t < TILES; t++) {
                uint32_t token = 8 * t + g;
                uint4 b = make_uint4(0, 0, 0, 0);

                if (token < product.n_tokens && at < n_in)
                    b = *(const uint4 *)(x + (size_t)token * n_in + at);
                mma_bf16(c[t], (const uint32_t[]){ a0[i].x, a1[i].x, a0[i].y, a1[i].y }, &b.x);
                mma_bf16(c[t], (const uint32_t[]){ a0[i].z, a1[i].z, a0[i].w, a1[i].w }, &b.z);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            sums[warp][t][g + j / 2 * 8][lane % 4 * 2 + j % 2] = c[t][j];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < TILES * 8 * PRODUCT_ROWS; i += blockDim.x) {
        uint32_t r = i % PRODUCT_ROWS, token = i / PRODUCT_ROWS;
        float sum = 0;

        for (uint32_t w = 0; w < PRODUCT_WARPS; w++)
            sum += sums[w][token / 8][r][token % 8];
        if (token < product.n_tokens && first_row + r < part.n_out)
            store_output(part, token, first_row + r, sum);
    }
}

/* A warp an output. */
static __global__ void product_odd_kernel(CudaProduct product, uint32_t i_part) {
    const CudaPart &part = product.parts[i_part];
    uint32_t row = blockIdx.x,
             token = blockIdx.y * (blockDim.x / CUDA_WARP) + threadIdx.x / CUDA_WARP;
    const __nv_bfloat16 *w = (const __nv_bfloat16 *)part.weight + (size_t)row * product.n_in;
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)product.in + (size_t)token * product.n_in;
    float sum = 0;

    if (token >= product.n_tokens)
        return;
    for (uint32_t k = threadIdx.x % CUDA_WARP; k < product.n_in; k += CUDA_WARP)
        sum += (float)w[k] * (float)x[k];
    sum = warp_sum(sum);
    if (threadIdx.x % CUDA_WARP == 0)
        store_output(part, token, row, sum);
}

static __global__ void product_bias_kernel(CudaPart part, uint32_t n_tokens) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= (size_t)n_tokens * part.n_out)
        return;
    if (part.is_f32)
        ((float *)part.out)[i] += part.bias[i % part.n_out];
    else
        ((__nv_bfloat16 *)part.out)[i] =
            __float2bfloat16_rn((float)((__nv_bfloat16 *)part.out)[i] + part.bias[i % part.n_out]);
}
