/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sealing: a block a (page, KV head, side). Where a number decides which code is taken, it is made
 * by the same chain of IEEE operations as on the CPU (cpu/kv_seal.c), so that pages are the same:
 * tokens do not depend on each other once the scales are known, and a token's own chain is kept in
 * order. Four threads share a token's channels to come when the error of one moves them.
 */

#include "cuda/device.cuh"
#include "cuda/seal.h"
#include "kvcache/value_trellis.h"

#define SEAL_THREADS 256
#define SEAL_PITCH (KV_PAGE_TOKENS + 1) /* of a channel: neither direction meets in a bank */
#define SEAL_SHARES (SEAL_THREADS / KV_PAGE_TOKENS)

/* In shared memory, with arrays behind it. */
typedef struct CudaSealMemory {
    float *x;                        /* [head_dim][SEAL_PITCH] */
    uint8_t *codes;                  /* [head_dim][64] */
    float *scale, *inverse, *center; /* [vectors] */
    float *table;                    /* kv_scales */
} CudaSealMemory;

static __host__ __device__ inline size_t seal_memory_bytes(uint32_t n) {
    uint32_t n_vectors = n > KV_PAGE_TOKENS ? n : KV_PAGE_TOKENS;

    return (size_t)n * SEAL_PITCH * 4 + (size_t)n * KV_PAGE_TOKENS + 3 * (size_t)n_vectors * 4 +
           KV_SCALES * 4;
}

static __device__ inline CudaSealMemory seal_memory(uint8_t *base, uint32_t n) {
    uint32_t n_vectors = n > KV_PAGE_TOKENS ? n : KV_PAGE_TOKENS;
    CudaSealMemory m;

    m.x = (float *)base;
    m.codes = base + (size_t)n * SEAL_PITCH * 4;
    m.scale = (float *)(m.codes + (size_t)n * KV_PAGE_TOKENS);
    m.inverse = m.scale + n_vectors;
    m.center = m.inverse + n_vectors;
    m.table = m.center + n_vectors;
    return m;
}

/* Where the token of a page lies that a step fills: in its sequence's tail, or among its own. */
static __device__ inline const uint16_t *token_at(const CudaHoldArgs &a, const StepSequence &s,
                                                  KvSide side, uint32_t head, uint32_t position) {
    uint32_t n = a.layer.head_dim;

    if (position < s.n_past)
        return at<const uint16_t>(kv_layer_tail(&a.layer, side, s.slot, head)) +
               (size_t)(position % KV_PAGE_TOKENS) * n;
    return a.own[side] +
           ((size_t)(s.first_row + position - s.n_past) * a.layer.n_kv_heads + head) * n;
}

static __device__ inline float seal_input(uint16_t half) {
    float x = __half2float(__ushort_as_half(half));

    return x != x ? 0 : fmaxf(fminf(x, 65504.0f), -65504.0f);
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

/* Scale and center of vector i, whose values span low .. high, into the block and into memory. */
static __device__ inline void fit_uniform(const CudaKvFormat &f, const CudaSealMemory &m,
                                          uint8_t *block, uint32_t i, float low, float high) {
    float steps = (float)((1u << f.bits) - 1);
    float middle = __fadd_rn(low, __fmul_rn(__fsub_rn(high, low), 0.5f)), scale, center;

    if (f.meta_bytes == 1) {
        float least = __fdiv_rn(fabsf(middle), 63), step = __fdiv_rn(__fsub_rn(high, low), steps);
        uint32_t code = scale_ceil(m.table, step > least ? step : least);
        float half_step;
        int half_steps;

        scale = m.table[code];
        half_step = __fmul_rn(scale, 0.5f);
        half_steps = scale > 0 ? (int)rintf(__fdiv_rn(middle, half_step)) : 0;
        center = __fmul_rn((float)half_steps, half_step);
        block[f.scales_offset + i] = (uint8_t)code;
        block[f.centers_offset + i] = (uint8_t)half_steps;
    } else {
        __half half = half_held(middle), step;
        float above, below;

        center = __half2float(half);
        above = __fsub_rn(high, center);
        below = __fsub_rn(center, low);
        step = __float2half_ru(__fdiv_rn(__fmul_rn(above > below ? above : below, 2), steps));
        scale = __half2float(step);
        ((__half *)(block + f.scales_offset))[i] = step;
        ((__half *)(block + f.centers_offset))[i] = half;
    }
    m.scale[i] = scale;
    m.inverse[i] = scale > 0 ? __fdiv_rn(1, scale) : 0;
    m.center[i] = center;
}

/* The code of x, and what it stands for. */
static __device__ inline uint32_t round_uniform(const CudaKvFormat &f, const CudaSealMemory &m,
                                                uint32_t i, float x, float *valuep) {
    const float middle = (float)(1u << (f.bits - 1)) - 0.5f, top = (float)((1u << f.bits) - 1);
    const float magic = 12582912.0f; /* 1.5 * 2^23 leaves no fraction bits */
    float u = __fmaf_rn(__fsub_rn(x, m.center[i]), m.inverse[i], middle);

    u = __fadd_rn(fminf(fmaxf(u, 0), top), magic);
    *valuep = __fmaf_rn(m.scale[i], __fsub_rn(__fsub_rn(u, magic), middle), m.center[i]);
    return __float_as_uint(u) - __float_as_uint(magic);
}

/* keys */

static __device__ inline void fit_channels(const CudaKvFormat &f, const CudaSealMemory &m,
                                           uint8_t *block, uint32_t n, bool is_plain) {
    float kept = kv_key_range(f.format, !is_plain);

    for (uint32_t c = threadIdx.x; c < n; c += blockDim.x) {
        const float *x = m.x + (size_t)c * SEAL_PITCH;
        float low = x[0], high = x[0], cut;

        for (uint32_t t = 1; t < KV_PAGE_TOKENS; t++) {
            low = fminf(low, x[t]);
            high = fmaxf(high, x[t]);
        }
        cut = __fmul_rn(__fmul_rn(__fsub_rn(high, low), 0.5f), __fsub_rn(1, kept));
        fit_uniform(f, m, block, c, __fadd_rn(low, cut), __fsub_rn(high, cut));
    }
    __syncthreads();
}

/* `rounding`: a Rounding (kvcache/rounding.h), as words. */
static __device__ inline void seal_keys(const CudaKvFormat &f, const CudaSealMemory &m,
                                        uint8_t *block, uint32_t n, const uint32_t *rounding) {
    bool is_plain = rounding[1];
    const uint32_t *order = rounding + 3;
    const float *feed = (const float *)(order + n);
    uint32_t t = threadIdx.x % KV_PAGE_TOKENS, share = threadIdx.x / KV_PAGE_TOKENS;
    float value;

    fit_channels(f, m, block, n, is_plain);
    if (is_plain) {
        for (uint32_t c = share; c < n; c += SEAL_SHARES)
            m.codes[c * KV_PAGE_TOKENS + t] =
                (uint8_t)round_uniform(f, m, c, m.x[c * SEAL_PITCH + t], &value);
        __syncthreads();
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t c = order[i], code;
        float x = m.x[c * SEAL_PITCH + t], error;

        code = round_uniform(f, m, c, x, &value);
        error = __fsub_rn(x, value);
        if (share == 0)
            m.codes[c * KV_PAGE_TOKENS + t] = (uint8_t)code;
        for (uint32_t j = i + 1 + share; j < n; j += SEAL_SHARES) {
            float *to = m.x + order[j] * SEAL_PITCH + t;

            *to = __fmaf_rn(error, -feed[(size_t)i * n + j], *to);
        }
        __syncthreads();
    }
}

/* values */

static __device__ inline void seal_values_uniform(const CudaKvFormat &f, const CudaSealMemory &m,
                                                  uint8_t *block, uint32_t n) {
    uint32_t t = threadIdx.x % KV_PAGE_TOKENS, share = threadIdx.x / KV_PAGE_TOKENS;
    float value;

    if (share == 0) {
        float low = m.x[t], high = m.x[t], cut;

        for (uint32_t c = 1; c < n; c++) {
            low = fminf(low, m.x[c * SEAL_PITCH + t]);
            high = fmaxf(high, m.x[c * SEAL_PITCH + t]);
        }
        cut = __fmul_rn(__fmul_rn(__fsub_rn(high, low), 0.5f),
                        __fsub_rn(1, kv_value_range(f.format)));
        fit_uniform(f, m, block, t, __fadd_rn(low, cut), __fsub_rn(high, cut));
    }
    __syncthreads();
    for (uint32_t c = share; c < n; c += SEAL_SHARES)
        m.codes[c * KV_PAGE_TOKENS + t] =
            (uint8_t)round_uniform(f, m, t, m.x[c * SEAL_PITCH + t], &value);
    __syncthreads();
}

static __device__ inline uint32_t nearest_level(const CudaKvFormat &f, float u) {
    uint32_t code = 0;

    for (uint32_t i = 1; i < 1u << f.bits; i++)
        code += u >= 0.5f * (f.levels[i - 1] + f.levels[i]);
    return code;
}

/* The level that a subset has nearest to u, by its number. */
static __device__ inline uint32_t nearest_of_subset(const CudaKvFormat &f, uint32_t subset,
                                                    float u) {
    uint32_t i = subset, n_levels = 2u << f.bits;

    while (i + KV_TRELLIS_SUBSETS < n_levels &&
           u >= 0.5f * (f.levels[i] + f.levels[i + KV_TRELLIS_SUBSETS]))
        i += KV_TRELLIS_SUBSETS;
    return i;
}

#define TRELLIS_CODED_BIT 16 /* in `codes`, beside the level's number */

/* Channels first .. first + n - 1 of a token to the levels of the best path; `codes` keeps which of
 * two paths each state came by, until the way back replaces it. */
static __device__ inline void search_trellis(const CudaKvFormat &f, const float *x, uint8_t *codes,
                                             uint32_t n, float units) {
    float costs[KV_TRELLIS_STATES];
    uint32_t state = 0;

#pragma unroll
    for (uint32_t i = 0; i < KV_TRELLIS_STATES; i++)
        costs[i] = i ? INFINITY : 0;
    for (uint32_t c = 0; c < n; c++) {
        float u = __fmul_rn(x[c * SEAL_PITCH], units), errors[KV_TRELLIS_SUBSETS];
        float next[KV_TRELLIS_STATES];
        uint32_t upper = 0;

#pragma unroll
        for (uint32_t i = 0; i < KV_TRELLIS_SUBSETS; i++)
            errors[i] = __fsub_rn(u, f.levels[nearest_of_subset(f, i, u)]);
#pragma unroll
        for (uint32_t to = 0; to < KV_TRELLIS_STATES; to++) {
            float error_low = errors[kv_trellis_subset(to >> 1, to & 1)];
            float error_high = errors[kv_trellis_subset(to >> 1 | 4, to & 1)];
            float low = __fmaf_rn(error_low, error_low, costs[to >> 1]);
            float high = __fmaf_rn(error_high, error_high, costs[to >> 1 | 4]);

            next[to] = high < low ? high : low;
            upper |= (high < low) << to;
        }
#pragma unroll
        for (uint32_t i = 0; i < KV_TRELLIS_STATES; i++)
            costs[i] = next[i];
        codes[c * KV_PAGE_TOKENS] = (uint8_t)upper;
    }
#pragma unroll
    for (uint32_t i = 1; i < KV_TRELLIS_STATES; i++) {
        float best = costs[0];

#pragma unroll
        for (uint32_t k = 1; k < i; k++)
            best = fminf(best, costs[k]);
        state = costs[i] < best ? i : state;
    }
    for (uint32_t c = n; c-- > 0;) {
        uint32_t bit = state & 1,
                 before = state >> 1 | (codes[c * KV_PAGE_TOKENS] >> state & 1) * 4;
        float u = __fmul_rn(x[c * SEAL_PITCH], units);

        codes[c * KV_PAGE_TOKENS] =
            (uint8_t)(nearest_of_subset(f, kv_trellis_subset(before, bit), u) |
                      bit * TRELLIS_CODED_BIT);
        state = before;
    }
}

/* Codes, or numbers of levels, of all tokens; m.inverse is what brings them to units of levels. */
static __device__ inline void choose_levels(const CudaKvFormat &f, const CudaSealMemory &m,
                                            uint32_t n) {
    uint32_t t = threadIdx.x % KV_PAGE_TOKENS, share = threadIdx.x / KV_PAGE_TOKENS;

    if (f.has_trellis) {
        for (uint32_t c = share * KV_TRELLIS_RUN; c < n; c += SEAL_SHARES * KV_TRELLIS_RUN)
            search_trellis(f, m.x + c * SEAL_PITCH + t, m.codes + c * KV_PAGE_TOKENS + t,
                           min(n - c, KV_TRELLIS_RUN), m.inverse[t]);
        return;
    }
    for (uint32_t c = share; c < n; c += SEAL_SHARES)
        m.codes[c * KV_PAGE_TOKENS + t] =
            (uint8_t)nearest_level(f, __fmul_rn(m.x[c * SEAL_PITCH + t], m.inverse[t]));
}

static __device__ inline void seal_values_levels(const CudaKvFormat &f, const CudaSealMemory &m,
                                                 uint8_t *block, uint32_t n) {
    uint32_t t = threadIdx.x % KV_PAGE_TOKENS, share = threadIdx.x / KV_PAGE_TOKENS;
    float squares = 0, products = 0;

    if (share == 0) {
        float deviation;

        for (uint32_t c = 0; c < n; c++) {
            float x = m.x[c * SEAL_PITCH + t];

            squares = __fmaf_rn(x, x, squares);
        }
        deviation = __fsqrt_rn(__fdiv_rn(squares, (float)n));
        m.inverse[t] = __fmul_rn(f.levels_per_sigma, deviation > 0 ? __fdiv_rn(1, deviation) : 0);
    }
    __syncthreads();
    choose_levels(f, m, n);
    __syncthreads();
    if (share == 0) {
        for (uint32_t c = 0; c < n; c++)
            products =
                __fmaf_rn(m.x[c * SEAL_PITCH + t],
                          f.levels[m.codes[c * KV_PAGE_TOKENS + t] % TRELLIS_CODED_BIT], products);
        block[f.scales_offset + t] =
            products > 0 ? (uint8_t)scale_nearest(m.table, __fdiv_rn(squares, products)) : 0;
    }
    __syncthreads();
}

/* codes to planes, as cuda/kv_block.h places them */

/* One token's eight codes of a plane of p bits, as the word it lies in has them. */
static __device__ inline uint32_t pack_codes(const uint32_t *codes, uint32_t from_bit, uint32_t p,
                                             uint32_t token) {
    uint32_t mask = (1u << p) - 1, per_word = 4 / p, word = 0;

    for (uint32_t i = 0; i < CUDA_KV_UNIT; i++) {
        uint32_t pair = i / 2 + token % per_word * 4;

        word |= ((codes[i] >> from_bit) & mask) << (pair * p + i % 2 * 16);
    }
    return word;
}

/* Levels of 4 bits. */
static __device__ inline uint32_t pack_levels(const uint32_t *codes) {
    uint32_t word = 0;

    for (uint32_t i = 0; i < CUDA_KV_UNIT; i++)
        word |= (codes[i] & 7) << 4 * i | codes[i] >> 3 << (i < 4 ? 8 * i + 7 : 8 * i - 29);
    return word;
}

/* A token's eight numbers of levels of a trellis, and their coded bits, into a unit's words of a
 * plane: bit by bit. */
static __device__ inline void pack_trellis(const uint32_t *codes, uint32_t p, uint32_t token,
                                           uint32_t *words) {
    for (uint32_t i = 0; i < CUDA_KV_UNIT; i++) {
        uint32_t at_bit = 4 * i + token % 4, chosen = codes[i] % TRELLIS_CODED_BIT / 4;

        if (p == 2) {
            words[token / 4] |= codes[i] / TRELLIS_CODED_BIT << at_bit;
            words[2 + token / 4] |= (chosen & 1) << at_bit;
        } else {
            words[token / 4] |= chosen >> 1 << at_bit;
        }
    }
}

/* A unit's words [2 p] of a plane. */
static __device__ inline void pack_words(const CudaKvFormat &f, const CudaSealMemory &m,
                                         uint32_t first_token, uint32_t first_channel,
                                         uint32_t from_bit, uint32_t p, uint32_t *words) {
    uint32_t codes[CUDA_KV_UNIT];

    for (uint32_t i = 0; i < 2 * p; i++)
        words[i] = 0;
    for (uint32_t t = 0; t < CUDA_KV_UNIT; t++) {
        for (uint32_t i = 0; i < CUDA_KV_UNIT; i++)
            codes[i] = m.codes[(first_channel + i) * KV_PAGE_TOKENS + first_token + t];
        if (p == 8) {
            words[2 * t] = codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24;
            words[2 * t + 1] = codes[4] | codes[5] << 8 | codes[6] << 16 | codes[7] << 24;
        } else if (f.has_trellis) {
            pack_trellis(codes, p, t, words);
        } else if (f.bits == 4 && !f.has_centers) {
            words[t] = pack_levels(codes);
        } else {
            words[t * p / 4] |= pack_codes(codes, from_bit, p, t);
        }
    }
}

static __device__ inline void pack_unit(const CudaKvFormat &f, const CudaSealMemory &m,
                                        uint8_t *block, uint32_t n, uint32_t unit) {
    uint32_t n_units = n / CUDA_KV_UNIT * 2, piece = unit / n_units, words[16];
    uint32_t first_token = unit / (n / CUDA_KV_UNIT) * CUDA_KV_UNIT;
    uint32_t first_channel = unit % (n / CUDA_KV_UNIT) * CUDA_KV_UNIT;

    for (uint32_t plane = 0, from_bit = 0; plane < 2 && f.planes[plane];
         from_bit += f.planes[plane++]) {
        uint32_t p = f.planes[plane], n_words = p == 1 ? 2 : 4;
        uint32_t *to =
            (uint32_t *)(block + (plane ? f.plane1_offset : 0) + (size_t)piece * 16 * n * p / 8);

        pack_words(f, m, first_token, first_channel, from_bit, p, words);
        for (uint32_t i = 0; i < 2 * p; i++)
            to[(i / n_words * n_units + unit % n_units) * n_words + i % n_words] = words[i];
    }
}

/* kernels */

static __device__ inline void copy_page(const CudaHoldArgs &a, const StepSequence &s, KvSide side,
                                        uint32_t head, uint32_t page, uint16_t *to) {
    uint32_t n = a.layer.head_dim;

    for (uint32_t i = threadIdx.x; i < KV_PAGE_TOKENS * n; i += blockDim.x)
        to[i] = token_at(a, s, side, head, page * KV_PAGE_TOKENS + i / n)[i % n];
}

static __device__ inline void keep_sinks(const CudaHoldArgs &a, const StepSequence &s, KvSide side,
                                         uint32_t head) {
    uint32_t n = a.layer.head_dim;
    uint16_t *to = at<uint16_t>(kv_layer_sink(&a.layer, side, s.sink, head));

    for (uint32_t i = threadIdx.x; i < KV_SINK_TOKENS * n; i += blockDim.x)
        to[i] = token_at(a, s, side, head, i / n)[i % n];
}

static __global__ void __launch_bounds__(SEAL_THREADS) seal_kernel(CudaHoldArgs a) {
    extern __shared__ __align__(16) uint8_t memory[];
    const StepSequence s = a.step.sequences[a.step.seals[2 * blockIdx.x]];
    uint32_t page = a.step.seals[2 * blockIdx.x + 1], head = blockIdx.y, n = a.layer.head_dim;
    KvSide side = (KvSide)blockIdx.z;
    const CudaKvFormat &f = a.formats[side];
    uint32_t i_page = a.step.page_indices[a.step.page_indptr[a.step.seals[2 * blockIdx.x]] + page];
    uint8_t *block = at<uint8_t>(kv_layer_block(&a.layer, side, i_page, head));
    CudaSealMemory m = seal_memory(memory, n);

    if (f.bits == 16) {
        copy_page(a, s, side, head, page, (uint16_t *)block);
        return;
    }
    if (page == 0 && a.layer.n_sinks && s.sink != KV_NO_SINK)
        keep_sinks(a, s, side, head);
    for (uint32_t i = threadIdx.x; i < KV_SCALES; i += blockDim.x)
        m.table[i] = a.scales[i];
    for (uint32_t i = threadIdx.x; i < KV_PAGE_TOKENS * n; i += blockDim.x)
        m.x[(i % n) * SEAL_PITCH + i / n] =
            seal_input(token_at(a, s, side, head, page * KV_PAGE_TOKENS + i / n)[i % n]);
    __syncthreads();
    if (side == KV_SIDE_K)
        seal_keys(f, m, block, n, at<const uint32_t>(kv_layer_rounding(&a.layer, head)));
    else if (f.has_centers)
        seal_values_uniform(f, m, block, n);
    else
        seal_values_levels(f, m, block, n);
    for (uint32_t unit = threadIdx.x; unit < n; unit += blockDim.x) /* 8 * n / 8 of them */
        pack_unit(f, m, block, n, unit);
}

/* A block a row: what is of its sequence's last page, which is not full, goes into the tail. */
static __global__ void tail_kernel(CudaHoldArgs a) {
    uint32_t row = blockIdx.x, low = 0, high = a.step.n_sequences, position;
    uint32_t n = a.layer.head_dim;

    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;

        if (a.step.sequences[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    const StepSequence s = a.step.sequences[low];
    position = s.n_past + row - s.first_row;
    if (position / KV_PAGE_TOKENS != (s.n_past + s.n_rows) / KV_PAGE_TOKENS)
        return;
    for (uint32_t i = threadIdx.x; i < a.layer.n_kv_heads * n * KV_SIDES; i += blockDim.x) {
        KvSide side = (KvSide)(i / (a.layer.n_kv_heads * n));
        uint32_t head = i / n % a.layer.n_kv_heads, c = i % n;

        at<uint16_t>(kv_layer_tail(&a.layer, side, s.slot,
                                   head))[(size_t)(position % KV_PAGE_TOKENS) * n + c] =
            a.own[side][((size_t)row * a.layer.n_kv_heads + head) * n + c];
    }
}
