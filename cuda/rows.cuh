/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Kernels of the ops that treat each row alone. Memory decides their time; a row is a block.
 */

#include "cuda/device.cuh"
#include "cuda/rows.h"

/* The sequence of a row: sequences are in the order of their rows. */
static __device__ inline uint32_t sequence_of_row(const CudaStepView &step, uint32_t row) {
    uint32_t low = 0, high = step.n_sequences;

    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;

        if (step.sequences[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* out f32 [n_rows, dim] = table bf16 [n_vocab, dim] at the rows' tokens, times scale */
static __global__ void embed_kernel(CudaStepView step, const uint32_t *drawn, float *out,
                                    const __nv_bfloat16 *table, uint32_t dim, float scale) {
    uint32_t token = step.tokens[blockIdx.x];

    if (token & STEP_TOKEN_DRAWN)
        token = drawn[token & ~STEP_TOKEN_DRAWN];
    for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x)
        out[(size_t)blockIdx.x * dim + c] =
            __bfloat162float(table[(size_t)token * dim + c]) * scale;
}

static __device__ inline void put_normed(__nv_bfloat16 *out, float x) {
    *out = __float2bfloat16_rn(x);
}

/* The residual stream is added to. */
static __device__ inline void put_normed(float *out, float x) {
    *out += x;
}

/* out: bf16, or f32 that is added to, [n_rows, dim]; in: T [n_rows, dim]. Squares of floats of 1e15
 * and more do not fit an f32, nor, where epsilon does not cover them, those of tiny ones: such a
 * row takes its time. */
template <class Out, class T>
static __global__ void rmsnorm_kernel(Out *out, const T *in, const float *weight, uint32_t dim,
                                      float epsilon) {
    __shared__ float scratch[CUDA_WARP];
    size_t row = (size_t)blockIdx.x * dim;
    float squares = 0, factor;

    for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x) {
        float x = (float)in[row + c];

        squares += x * x;
    }
    squares = block_sum(squares, scratch);
    if (squares < 1e37f && (squares > 1e-20f || epsilon > 1e-12f)) {
        factor = rsqrtf(squares / (float)dim + epsilon);
    } else {
        double sum = 0;

        for (uint32_t c = 0; c < dim; c++) {
            double x = (double)(float)in[row + c];

            sum += x * x;
        }
        factor = (float)(1 / sqrt(sum / dim + (double)epsilon));
    }
    for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x)
        put_normed(out + row + c, (float)in[row + c] * factor * weight[c]);
}

static __device__ inline float activate(Activation activation, float x) {
    if (activation == ACTIVATION_SILU)
        return x / (1 + expf(-x));
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* out = activation(gate) * up, bf16 [n]; `out` may be `gate` */
static __global__ void gated_kernel(__nv_bfloat16 *out, const __nv_bfloat16 *gate,
                                    const __nv_bfloat16 *up, size_t n, Activation activation) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (; i < n; i += (size_t)gridDim.x * blockDim.x) {
        out[i] = __float2bfloat16_rn(activate(activation, (float)gate[i]) * (float)up[i]);
    }
}

/* The same, eight numbers a thread, where rows allow it. */
static __global__ void gated_wide_kernel(uint4 *out, const uint4 *gate, const uint4 *up, size_t n,
                                         Activation activation) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint4 g = gate[i], u = up[i], o;
        const uint32_t *gs = &g.x, *us = &u.x;

#pragma unroll
        for (int k = 0; k < 4; k++) {
            float2 a = bf16_pair(gs[k]), b = bf16_pair(us[k]);

            (&o.x)[k] = bf16_pack(activate(activation, a.x) * b.x, activate(activation, a.y) * b.y);
        }
        out[i] = o;
    }
}

static __global__ void gather_kernel(CudaStepView step, float *out, const float *in, uint32_t first,
                                     uint32_t dim) {
    uint32_t row = step.logit_rows[first + blockIdx.x].row;

    for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x)
        out[(size_t)blockIdx.x * dim + c] = in[(size_t)row * dim + c];
}

/* out f32 [n_rows, 2, n_freqs] */
static __global__ void rope_table_kernel(CudaStepView step, float *out, const float *inv_freq,
                                         uint32_t n_freqs, float scale) {
    uint32_t row = blockIdx.x, s = sequence_of_row(step, row);
    uint32_t position = step.sequences[s].n_past + row - step.sequences[s].first_row;
    float *to = out + (size_t)row * 2 * n_freqs;

    for (uint32_t c = threadIdx.x; c < n_freqs; c += blockDim.x) {
        float angle = __fmul_rn((float)position, inv_freq[c]), sine, cosine;

        sincosf(angle, &sine, &cosine);
        to[c] = cosine * scale;
        to[n_freqs + c] = sine * scale;
    }
}

/* profiles */

#define MOMENTS_TILE 16

/* out[h][i][j] += sum over rows and query heads of q_i q_j; a block is a tile of (i, j) */
static __global__ void moments_kernel(MomentsArgs args) {
    __shared__ float a[MOMENTS_TILE][MOMENTS_TILE + 1], b[MOMENTS_TILE][MOMENTS_TILE + 1];
    const __nv_bfloat16 *q = at<const __nv_bfloat16>(args.q);
    uint32_t n = args.head_dim, group = args.n_heads / args.n_kv_heads, head = blockIdx.z;
    uint32_t x = threadIdx.x % MOMENTS_TILE, y = threadIdx.x / MOMENTS_TILE;
    uint32_t i = blockIdx.y * MOMENTS_TILE, j = blockIdx.x * MOMENTS_TILE;
    uint32_t n_vectors = args.n_tokens * group;
    float sum = 0;

    for (uint32_t first = 0; first < n_vectors; first += MOMENTS_TILE) {
        uint32_t v = first + y;
        const __nv_bfloat16 *from =
            q + ((size_t)(v / group) * args.n_heads + head * group + v % group) * n;

        a[y][x] = v < n_vectors && i + x < n ? (float)from[i + x] : 0;
        b[y][x] = v < n_vectors && j + x < n ? (float)from[j + x] : 0;
        __syncthreads();
        for (uint32_t k = 0; k < MOMENTS_TILE; k++)
            sum += a[k][y] * b[k][x];
        __syncthreads();
    }
    if (i + y < n && j + x < n)
        at<float>(args.out)[((size_t)head * n + i + y) * n + j + x] += sum;
}

static __device__ inline float exact_value(KvFormat format, uint16_t bits) {
    return format == KV_FORMAT_F16 ? __half2float(__ushort_as_half(bits))
                                   : __uint_as_float((uint32_t)bits << 16);
}

/* The same of keys, with each page's mean taken off; only whole pages. */
static __global__ void covariances_kernel(CovariancesArgs args) {
    __shared__ float a[KV_PAGE_TOKENS][MOMENTS_TILE + 1], b[KV_PAGE_TOKENS][MOMENTS_TILE + 1];
    const uint16_t *keys = at<const uint16_t>(args.k);
    uint32_t n = args.head_dim, head = blockIdx.z;
    uint32_t x = threadIdx.x % MOMENTS_TILE, y = threadIdx.x / MOMENTS_TILE;
    uint32_t i = blockIdx.y * MOMENTS_TILE, j = blockIdx.x * MOMENTS_TILE;
    float total = 0;

    for (uint32_t first = 0; first + KV_PAGE_TOKENS <= args.n_tokens; first += KV_PAGE_TOKENS) {
        float a_mean = 0, b_mean = 0, sum = 0;

        for (uint32_t t = y; t < KV_PAGE_TOKENS; t += MOMENTS_TILE) {
            const uint16_t *key = keys + ((size_t)(first + t) * args.n_kv_heads + head) * n;

            a[t][x] = i + x < n ? exact_value(args.format, key[i + x]) : 0;
            b[t][x] = j + x < n ? exact_value(args.format, key[j + x]) : 0;
        }
        __syncthreads();
        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++) {
            a_mean += a[t][y] / KV_PAGE_TOKENS;
            b_mean += b[t][x] / KV_PAGE_TOKENS;
        }
        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
            sum += (a[t][y] - a_mean) * (b[t][x] - b_mean);
        total += sum;
        __syncthreads();
    }
    if (i + y < n && j + x < n)
        at<float>(args.out)[((size_t)head * n + i + y) * n + j + x] += total;
}
