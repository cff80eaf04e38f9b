/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Products of few tokens: memory that gives weights decides, so it is never let idle. As many
 * blocks as fit stay to the end, and go through groups of 16 outputs; the warps of a block share a
 * group's columns, 128 at a time, and add up in shared memory.
 *
 * What a thread will use it asks for itself, ahead, into places of its own in shared memory
 * (cp.async): so no thread waits for another, and what is ahead may be of the next group. Tensor
 * cores add up in f32; the order of columns within a fragment is the one in which 16-byte loads
 * give them, for weights and activations alike.
 */

#include "cuda/device.cuh"
#include "cuda/product.h"

#define PRODUCT_WARPS 8
#define PRODUCT_THREADS (PRODUCT_WARPS * CUDA_WARP)
#define PRODUCT_ROWS 16       /* of a group */
#define PRODUCT_STEP 128      /* columns that a warp takes at a time */
#define PRODUCT_LOADS 4       /* of 32 columns each, and of rows 8 apart */
#define PRODUCT_AHEAD 3       /* steps, where a block may have the shared memory */
#define PRODUCT_AHEAD_SMALL 1 /* and where not */

/* c += a b for a [16, 16] and b [16, 8] of bf16 */
static __device__ inline void mma_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 16 bytes to shared memory, later; zeros if not `valid`. */
static __device__ inline void weights_later(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;\n" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(valid ? 16 : 0));
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

static __host__ __device__ inline uint32_t product_groups(const CudaProduct &product) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < product.n_parts; i++)
        n += divide_up(product.parts[i].n_out, PRODUCT_ROWS);
    return n;
}

/* The part of a group, and its first row there. */
static __device__ inline uint32_t find_part(const CudaProduct &product, uint32_t group,
                                            uint32_t *rowp) {
    uint32_t i = 0;

    while (i + 1 < product.n_parts && group >= divide_up(product.parts[i].n_out, PRODUCT_ROWS))
        group -= divide_up(product.parts[i++].n_out, PRODUCT_ROWS);
    *rowp = group * PRODUCT_ROWS;
    return i;
}

/* Which columns of which group a warp is at. */
struct CudaProductPlace {
    uint32_t group, step;
    const uint4 *rows[2]; /* a thread's, at column 0 */

    __device__ void begin_group(const CudaProduct &product) {
        uint32_t lane = threadIdx.x % CUDA_WARP, first_row;
        const CudaPart &part = product.parts[find_part(product, group, &first_row)];

        for (uint32_t i = 0; i < 2; i++) {
            uint32_t row = min(first_row + lane / 4 + i * 8, part.n_out - 1);

            rows[i] =
                (const uint4 *)((const __nv_bfloat16 *)part.weight + (size_t)row * product.n_in);
        }
    }
};

/* Asks for a step's weights of the thread; nothing once the groups are done. */
static __device__ inline void ask_weights(const CudaProduct &product, CudaProductPlace &p,
                                          uint32_t n_groups, uint32_t n_steps, uint4 *stage) {
    uint32_t k =
        (p.step * PRODUCT_WARPS + threadIdx.x / CUDA_WARP) * PRODUCT_STEP + threadIdx.x % 4 * 8;

    if (p.group < n_groups) {
#pragma unroll
        for (uint32_t i = 0; i < PRODUCT_LOADS; i++) {
            uint32_t at_column = k + 32 * i;
            bool is_there = at_column < product.n_in;

#pragma unroll
            for (uint32_t j = 0; j < 2; j++)
                weights_later(stage + (2 * i + j) * PRODUCT_THREADS + threadIdx.x,
                              p.rows[j] + (is_there ? at_column / 8 : 0), is_there);
        }
        if (++p.step == n_steps) {
            p.step = 0;
            p.group += gridDim.x;
            if (p.group < n_groups)
                p.begin_group(product);
        }
    }
    asm volatile("cp.async.commit_group;\n");
}

/* A step's activations of the thread, for its token of every tile. */
template <int TILES>
static __device__ inline void load_tokens(const CudaProduct &product, uint32_t step,
                                          uint4 (*b)[PRODUCT_LOADS]) {
    uint32_t k =
        (step * PRODUCT_WARPS + threadIdx.x / CUDA_WARP) * PRODUCT_STEP + threadIdx.x % 4 * 8;
    uint32_t g = threadIdx.x % CUDA_WARP / 4;

#pragma unroll
    for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
        for (uint32_t i = 0; i < PRODUCT_LOADS; i++) {
            uint32_t token = 8 * t + g, at_column = k + 32 * i;

            b[t][i] = make_uint4(0, 0, 0, 0);
            if (token < product.n_tokens && at_column < product.n_in)
                b[t][i] = *(const uint4 *)((const __nv_bfloat16 *)product.in +
                                           (size_t)token * product.n_in + at_column);
        }
}

/* The warps' sums of a group, added up and stored. */
template <int TILES>
static __device__ inline void finish_group(const CudaProduct &product, uint32_t group,
                                           float (*sums)[TILES][PRODUCT_ROWS][9], float (*c)[4]) {
    uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, first_row;
    const CudaPart &part = product.parts[find_part(product, group, &first_row)];

#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            sums[warp][t][lane / 4 + j / 2 * 8][lane % 4 * 2 + j % 2] = c[t][j];
            c[t][j] = 0;
        }
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

template <int TILES, int AHEAD> struct CudaProductMemory {
    uint4 stages[AHEAD + 1][2 * PRODUCT_LOADS * PRODUCT_THREADS];
    float sums[2][PRODUCT_WARPS][TILES][PRODUCT_ROWS][9]; /* of groups in turn */
};

template <int TILES, int AHEAD>
static __global__ void __launch_bounds__(PRODUCT_THREADS)
    product_few_kernel(const __grid_constant__ CudaProduct product) {
    extern __shared__ __align__(16) uint8_t memory[];
    auto &m = *(CudaProductMemory<TILES, AHEAD> *)memory;
    uint32_t n_groups = product_groups(product), i_stage = 0, turn = 0;
    uint32_t n_steps = divide_up(product.n_in, PRODUCT_WARPS * PRODUCT_STEP);
    CudaProductPlace ahead = { blockIdx.x, 0 };
    float c[TILES][4] = {};

    ahead.begin_group(product);
    for (uint32_t i = 0; i < AHEAD; i++)
        ask_weights(product, ahead, n_groups, n_steps, m.stages[i]);
    for (uint32_t group = blockIdx.x; group < n_groups; group += gridDim.x, turn ^= 1) {
        for (uint32_t step = 0; step < n_steps; step++) {
            uint4 b[TILES][PRODUCT_LOADS];
            const uint4 *stage = m.stages[i_stage];

            load_tokens<TILES>(product, step, b);
            ask_weights(product, ahead, n_groups, n_steps,
                        m.stages[(i_stage + AHEAD) % (AHEAD + 1)]);
            asm volatile("cp.async.wait_group %0;\n" ::"n"(AHEAD));
#pragma unroll
            for (uint32_t i = 0; i < PRODUCT_LOADS; i++) {
                uint4 a0 = stage[2 * i * PRODUCT_THREADS + threadIdx.x];
                uint4 a1 = stage[(2 * i + 1) * PRODUCT_THREADS + threadIdx.x];

#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    mma_bf16(c[t], (const uint32_t[]){ a0.x, a1.x, a0.y, a1.y }, &b[t][i].x);
                    mma_bf16(c[t], (const uint32_t[]){ a0.z, a1.z, a0.w, a1.w }, &b[t][i].z);
                }
            }
            i_stage = (i_stage + 1) % (AHEAD + 1);
        }
        finish_group<TILES>(product, group, m.sums[turn], c);
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
