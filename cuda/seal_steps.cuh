/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What sealing keys and sealing values share: where a page's tokens lie, the input as numbers, and
 * the scales. Where a number decides which code is taken, it is made by the same chain of IEEE
 * operations as on the CPU (cpu/kv_seal.c), so that pages are the same.
 */

#include "cuda/device.cuh"
#include "cuda/seal.h"

#define SEAL_OCTET 8 /* channels, or tokens, that a thread takes at a time */

/* A page that a step fills, and the tokens first_token .. first_token + n_tokens - 1 of it that are
 * a block's. */
typedef struct CudaSealPage {
    StepSequence sequence;
    uint8_t *block; /* where it goes */
    KvSide side;
    uint32_t page, head;
    uint32_t first_token, n_tokens;
} CudaSealPage;

/* blockIdx: the page, the KV head, and which of its parts. */
static __device__ inline CudaSealPage seal_page(const CudaHoldArgs &a, KvSide side,
                                                uint32_t n_tokens) {
    uint32_t i_sequence = a.step.seals[2 * blockIdx.x];
    CudaSealPage p;

    p.sequence = a.step.sequences[i_sequence];
    p.page = a.step.seals[2 * blockIdx.x + 1];
    p.side = side;
    p.head = blockIdx.y;
    p.first_token = blockIdx.z * n_tokens;
    p.n_tokens = n_tokens;
    p.block = at<uint8_t>(kv_layer_block(
        &a.layer, side, a.step.page_indices[a.step.page_indptr[i_sequence] + p.page], p.head));
    return p;
}

/* Where a token lies: in its sequence's tail, or among the step's own. */
static __device__ inline const uint16_t *token_at(const CudaHoldArgs &a, const StepSequence &s,
                                                  KvSide side, uint32_t head, uint32_t position) {
    uint32_t n = a.layer.head_dim;

    if (position < s.n_past)
        return at<const uint16_t>(kv_layer_tail(&a.layer, side, s.slot, head)) +
               (size_t)(position % KV_PAGE_TOKENS) * n;
    return a.own[side] +
           ((size_t)(s.first_row + position - s.n_past) * a.layer.n_kv_heads + head) * n;
}

/* A token's eight channels from 8 * octet on, as they lie. */
static __device__ inline uint4 seal_octet(const CudaHoldArgs &a, const CudaSealPage &p,
                                          uint32_t token, uint32_t octet) {
    return ((const uint4 *)token_at(a, p.sequence, p.side, p.head,
                                    p.page * KV_PAGE_TOKENS + token))[octet];
}

static __device__ inline float seal_input(uint32_t half) {
    float x = __half2float(__ushort_as_half((uint16_t)half));

    return x != x ? 0 : fmaxf(fminf(x, 65504.0f), -65504.0f);
}

static __device__ inline void seal_inputs(const uint4 &octet, float *x) {
    const uint32_t words[4] = { octet.x, octet.y, octet.z, octet.w };

#pragma unroll
    for (uint32_t i = 0; i < SEAL_OCTET; i++)
        x[i] = seal_input(words[i / 2] >> i % 2 * 16);
}

/* scales */

static __device__ inline uint32_t scale_ceil(const float *table, float x) {
    uint32_t code = 0;

    for (uint32_t bit = KV_SCALES / 2; bit; bit /= 2)
        code += table[code + bit] < x ? bit : 0;
    return code + (table[code] < x && code < KV_SCALES - 1);
}

static __device__ inline uint32_t scale_nearest(const float *table, float x) {
    uint32_t above = scale_ceil(table, x);

    if (above <= 1)
        return above;
    return (double)x * x < (double)table[above] * table[above - 1] ? above - 1 : above;
}

/* A vector's uniform steps, and what of them its block keeps. */
typedef struct CudaSealSteps {
    float scale, inverse, center;
    uint32_t scale_bits, center_bits;
} CudaSealSteps;

/* The steps of a vector whose values span low .. high. `table`: kv_scales. */
static __device__ inline CudaSealSteps fit_uniform(const CudaKvFormat &f, const float *table,
                                                   float low, float high) {
    float n_steps = (float)((1u << f.bits) - 1);
    float middle = __fadd_rn(low, __fmul_rn(__fsub_rn(high, low), 0.5f));
    CudaSealSteps s;

    if (f.meta_bytes == 1) {
        float least = __fdiv_rn(fabsf(middle), 63), step = __fdiv_rn(__fsub_rn(high, low), n_steps);
        float half_step;
        int half_steps;

        s.scale_bits = scale_ceil(table, step > least ? step : least);
        s.scale = table[s.scale_bits];
        half_step = __fmul_rn(s.scale, 0.5f);
        half_steps = s.scale > 0 ? (int)rintf(__fdiv_rn(middle, half_step)) : 0;
        s.center = __fmul_rn((float)half_steps, half_step);
        s.center_bits = (uint32_t)half_steps;
    } else {
        __half half = half_held(middle), step;
        float above, below;

        s.center = __half2float(half);
        above = __fsub_rn(high, s.center);
        below = __fsub_rn(s.center, low);
        step = __float2half_ru(__fdiv_rn(__fmul_rn(above > below ? above : below, 2), n_steps));
        s.scale = __half2float(step);
        s.scale_bits = __half_as_ushort(step);
        s.center_bits = __half_as_ushort(half);
    }
    s.inverse = s.scale > 0 ? __fdiv_rn(1, s.scale) : 0;
    return s;
}

/* The steps of vector i into its block. */
static __device__ inline void keep_steps(const CudaKvFormat &f, uint8_t *block, uint32_t i,
                                         const CudaSealSteps &s) {
    if (f.meta_bytes == 1) {
        block[f.scales_offset + i] = (uint8_t)s.scale_bits;
        block[f.centers_offset + i] = (uint8_t)s.center_bits;
    } else {
        ((uint16_t *)(block + f.scales_offset))[i] = (uint16_t)s.scale_bits;
        ((uint16_t *)(block + f.centers_offset))[i] = (uint16_t)s.center_bits;
    }
}

#define SEAL_MAGIC 12582912.0f /* 1.5 * 2^23: what is added to it has no fraction bits */

/* How many steps x is above the lowest one, within their range. */
static __device__ inline float steps_up(float inverse, float center, float middle, float top,
                                        float x) {
    return fminf(fmaxf(__fmaf_rn(__fsub_rn(x, center), inverse, middle), 0), top);
}

static __device__ inline float code_middle(uint32_t bits) {
    return (float)(1u << (bits - 1)) - 0.5f;
}

static __device__ inline float code_top(uint32_t bits) {
    return (float)((1u << bits) - 1);
}

/* The code nearest to x. */
static __device__ inline uint32_t round_uniform(uint32_t bits, float inverse, float center,
                                                float x) {
    float steps = steps_up(inverse, center, code_middle(bits), code_top(bits), x);

    return __float_as_uint(__fadd_rn(steps, SEAL_MAGIC)) - __float_as_uint(SEAL_MAGIC);
}

/* kv_scales into shared memory; every thread of the block calls. */
static __device__ inline void load_scales(const CudaHoldArgs &a, float *table) {
    for (uint32_t i = threadIdx.x; i < KV_SCALES; i += blockDim.x)
        table[i] = a.scales[i];
}
