/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Values: a scale a token. Threads are tokens, and shares of a token's channels where those do not
 * depend on each other: plain rounding, and runs of a trellis (kvcache/value_trellis.h). Sums over
 * a token are one thread's, in the order of channels.
 */

#include "cuda/seal_pack.cuh"
#include "kvcache/value_trellis.h"

#define SEAL_VALUE_THREADS 128

/* In shared memory. */
typedef struct CudaSealValues {
    float *x;                /* [n] channels of n_tokens, see value_at */
    float *inverse, *center; /* [n_tokens]; `inverse` brings a token to units of levels */
    float *table;            /* kv_scales */
    float *levels;           /* [KV_LEVELS_MAX] */
    float *thresholds;       /* [KV_LEVELS_MAX] from where on a subset's next one is nearer */
    uint8_t *codes;          /* seal_codes_bytes */
} CudaSealValues;

/* Tokens of a block: as many threads a token as there are runs of a trellis. */
static __host__ __device__ inline uint32_t seal_value_tokens(uint32_t n) {
    return n <= 128 ? 64 : n <= 256 ? 32 : 16;
}

/* Two more floats behind every eight channels: threads that write eight channels each meet in no
 * bank. */
static __device__ inline uint32_t value_at(uint32_t n_tokens, uint32_t channel, uint32_t token) {
    return channel * n_tokens + channel / SEAL_OCTET * 2 + token;
}

static __host__ __device__ inline size_t seal_values_floats(uint32_t n) {
    return (size_t)n * seal_value_tokens(n) + n / SEAL_OCTET * 2;
}

static __host__ __device__ inline size_t seal_values_bytes(uint32_t n) {
    uint32_t n_tokens = seal_value_tokens(n);

    return (seal_values_floats(n) + 2 * n_tokens + KV_SCALES + 2 * KV_LEVELS_MAX) * sizeof(float) +
           seal_codes_bytes(n, n_tokens);
}

static __device__ inline CudaSealValues seal_values_memory(uint8_t *base, uint32_t n) {
    uint32_t n_tokens = seal_value_tokens(n);
    CudaSealValues m;

    m.x = (float *)base;
    m.inverse = m.x + seal_values_floats(n);
    m.center = m.inverse + n_tokens;
    m.table = m.center + n_tokens;
    m.levels = m.table + KV_SCALES;
    m.thresholds = m.levels + KV_LEVELS_MAX;
    m.codes = (uint8_t *)(m.thresholds + KV_LEVELS_MAX);
    return m;
}

static __device__ inline void load_values(const CudaHoldArgs &a, const CudaSealPage &page,
                                          const CudaSealValues &m) {
    const CudaKvFormat &f = a.formats[KV_SIDE_V];
    uint32_t n_octets = a.layer.head_dim / SEAL_OCTET, i = threadIdx.x;

    load_scales(a, m.table);
    if (i < KV_LEVELS_MAX) {
        m.levels[i] = f.levels[i];
        if (i + KV_TRELLIS_SUBSETS < KV_LEVELS_MAX)
            m.thresholds[i] = 0.5f * (f.levels[i] + f.levels[i + KV_TRELLIS_SUBSETS]);
    }
    for (; i < page.n_tokens * n_octets; i += blockDim.x) {
        uint32_t t = i / n_octets, octet = i % n_octets;
        float x[SEAL_OCTET];

        seal_inputs(seal_octet(a, page, page.first_token + t, octet), x);
#pragma unroll
        for (uint32_t c = 0; c < SEAL_OCTET; c++)
            m.x[value_at(page.n_tokens, octet * SEAL_OCTET + c, t)] = x[c];
    }
    __syncthreads();
}

/* uniform steps */

static __device__ inline void fit_token(const CudaHoldArgs &a, const CudaSealPage &page,
                                        const CudaSealValues &m, uint32_t t) {
    const CudaKvFormat &f = a.formats[KV_SIDE_V];
    float low = m.x[t], high = m.x[t], cut;
    CudaSealSteps s;

    for (uint32_t c = 1; c < a.layer.head_dim; c++) {
        float x = m.x[value_at(page.n_tokens, c, t)];

        low = fminf(low, x);
        high = fmaxf(high, x);
    }
    cut = __fmul_rn(__fmul_rn(__fsub_rn(high, low), 0.5f), __fsub_rn(1, kv_value_range(f.format)));
    s = fit_uniform(f, m.table, __fadd_rn(low, cut), __fsub_rn(high, cut));
    keep_steps(f, page.block, page.first_token + t, s);
    m.inverse[t] = s.inverse;
    m.center[t] = s.center;
}

static __device__ inline void seal_values_uniform(const CudaHoldArgs &a, const CudaSealPage &page,
                                                  const CudaSealValues &m) {
    if (threadIdx.x < page.n_tokens)
        fit_token(a, page, m, threadIdx.x);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < page.n_tokens * a.layer.head_dim; i += blockDim.x) {
        uint32_t t = i % page.n_tokens, c = i / page.n_tokens;

        m.codes[seal_code_at(page.n_tokens, c, t)] =
            (uint8_t)round_uniform(a.formats[KV_SIDE_V].bits, m.inverse[t], m.center[t],
                                   m.x[value_at(page.n_tokens, c, t)]);
    }
}

/* levels */

/* The nearest level; n_levels of them. */
static __device__ inline uint32_t nearest_level(const CudaKvFormat &f, float u) {
    uint32_t code = 0;

#pragma unroll
    for (uint32_t i = 1; i < KV_LEVELS_MAX; i++)
        code += i < 1u << f.bits && u >= 0.5f * (f.levels[i - 1] + f.levels[i]);
    return code;
}

/* A trellis's subsets and levels, for codes of BITS. */
template <uint32_t BITS> struct CudaTrellis {
    static constexpr uint32_t n_levels = 2u << BITS, n_thresholds = n_levels - KV_TRELLIS_SUBSETS;
};

/* How far u is from the nearest level of each subset. */
template <uint32_t BITS>
static __device__ inline void subset_errors(const CudaKvFormat &f, const float *thresholds, float u,
                                            float *errors) {
#pragma unroll
    for (uint32_t s = 0; s < KV_TRELLIS_SUBSETS; s++) {
        float level = f.levels[s];

#pragma unroll
        for (uint32_t i = s; i < CudaTrellis<BITS>::n_thresholds; i += KV_TRELLIS_SUBSETS)
            level = u >= thresholds[i] ? f.levels[i + KV_TRELLIS_SUBSETS] : level;
        errors[s] = __fsub_rn(u, level);
    }
}

/* `costs` of the best paths into each state, by one channel further. Returns for each state, a bit
 * each, whether its path comes from the higher one of two. */
static __device__ inline uint32_t trellis_step(const float *errors, float *costs) {
    float next[KV_TRELLIS_STATES];
    uint32_t ways = 0;

#pragma unroll
    for (uint32_t to = KV_TRELLIS_STATES; to-- > 0;) {
        uint32_t from = to >> 1, higher = from | KV_TRELLIS_STATES / 2;
        float low_error = errors[kv_trellis_subset(from, to & 1)];
        float high_error = errors[kv_trellis_subset(higher, to & 1)];
        float low = __fmaf_rn(low_error, low_error, costs[from]);
        float high = __fmaf_rn(high_error, high_error, costs[higher]);

        /* No cost is below 0: as whole numbers they compare alike, and a sign tells. */
        ways = __funnelshift_l(__float_as_uint(high) - __float_as_uint(low), ways, 1);
        next[to] = fminf(high, low);
    }
#pragma unroll
    for (uint32_t i = 0; i < KV_TRELLIS_STATES; i++)
        costs[i] = next[i];
    return ways;
}

static __device__ inline uint32_t least_cost(const float *costs) {
    float best = costs[0];
    uint32_t state = 0;

#pragma unroll
    for (uint32_t i = 1; i < KV_TRELLIS_STATES; i++) {
        state = costs[i] < best ? i : state;
        best = fminf(best, costs[i]);
    }
    return state;
}

/* The way back from a run's end: `codes` were the ways into each state. */
template <uint32_t BITS>
static __device__ inline void trace_trellis(const CudaSealValues &m, uint32_t n_tokens,
                                            uint32_t first, uint32_t end, uint32_t t,
                                            uint32_t state) {
    float units = m.inverse[t];

#pragma unroll 4
    for (uint32_t c = end; c-- > first;) {
        uint8_t *code = m.codes + seal_code_at(n_tokens, c, t);
        uint32_t bit = state & 1, before = state >> 1 | (*code >> state & 1) * 4;
        uint32_t level = kv_trellis_subset(before, bit), subset = level;
        float u = __fmul_rn(m.x[value_at(n_tokens, c, t)], units);

#pragma unroll
        for (uint32_t i = 0; i < CudaTrellis<BITS>::n_thresholds; i += KV_TRELLIS_SUBSETS)
            level += u >= m.thresholds[i + subset] ? KV_TRELLIS_SUBSETS : 0;
        *code = (uint8_t)(level | bit * TRELLIS_CODED_BIT);
        state = before;
    }
}

/* Channels first .. end - 1 of a token, one run, to the levels of the best path. */
template <uint32_t BITS>
static __device__ inline void search_trellis(const CudaKvFormat &f, const CudaSealValues &m,
                                             uint32_t n_tokens, uint32_t first, uint32_t end,
                                             uint32_t t) {
    float costs[KV_TRELLIS_STATES], errors[KV_TRELLIS_SUBSETS], units = m.inverse[t];
    float thresholds[CudaTrellis<BITS>::n_thresholds];

#pragma unroll
    for (uint32_t i = 0; i < CudaTrellis<BITS>::n_thresholds; i++)
        thresholds[i] = m.thresholds[i];
#pragma unroll
    for (uint32_t i = 0; i < KV_TRELLIS_STATES; i++)
        costs[i] = i ? INFINITY : 0;
#pragma unroll 4
    for (uint32_t c = first; c < end; c++) {
        subset_errors<BITS>(f, thresholds, __fmul_rn(m.x[value_at(n_tokens, c, t)], units), errors);
        m.codes[seal_code_at(n_tokens, c, t)] = (uint8_t)trellis_step(errors, costs);
    }
    trace_trellis<BITS>(m, n_tokens, first, end, t, least_cost(costs));
}

/* Codes, or numbers of levels, of all tokens. */
static __device__ inline void choose_levels(const CudaKvFormat &f, const CudaSealValues &m,
                                            uint32_t n, uint32_t n_tokens) {
    uint32_t t = threadIdx.x % n_tokens, share = threadIdx.x / n_tokens;
    uint32_t n_shares = SEAL_VALUE_THREADS / n_tokens;

    if (f.has_trellis) {
        for (uint32_t c = share * KV_TRELLIS_RUN; c < n; c += n_shares * KV_TRELLIS_RUN)
            if (f.bits == 2)
                search_trellis<2>(f, m, n_tokens, c, min(n, c + KV_TRELLIS_RUN), t);
            else
                search_trellis<3>(f, m, n_tokens, c, min(n, c + KV_TRELLIS_RUN), t);
        return;
    }
    for (uint32_t c = share; c < n; c += n_shares)
        m.codes[seal_code_at(n_tokens, c, t)] =
            (uint8_t)nearest_level(f, __fmul_rn(m.x[value_at(n_tokens, c, t)], m.inverse[t]));
}

static __device__ inline void seal_values_levels(const CudaHoldArgs &a, const CudaSealPage &page,
                                                 const CudaSealValues &m) {
    const CudaKvFormat &f = a.formats[KV_SIDE_V];
    uint32_t n = a.layer.head_dim, n_tokens = page.n_tokens, t = threadIdx.x;
    float squares = 0, products = 0;

    if (t < n_tokens) {
        float deviation;

#pragma unroll 8
        for (uint32_t c = 0; c < n; c++) {
            float x = m.x[value_at(n_tokens, c, t)];

            squares = __fmaf_rn(x, x, squares);
        }
        deviation = __fsqrt_rn(__fdiv_rn(squares, (float)n));
        m.inverse[t] = __fmul_rn(f.levels_per_sigma, deviation > 0 ? __fdiv_rn(1, deviation) : 0);
    }
    __syncthreads();
    choose_levels(f, m, n, n_tokens);
    __syncthreads();
    if (t < n_tokens) {
#pragma unroll 8
        for (uint32_t c = 0; c < n; c++)
            products = __fmaf_rn(
                m.x[value_at(n_tokens, c, t)],
                m.levels[m.codes[seal_code_at(n_tokens, c, t)] % TRELLIS_CODED_BIT], products);
        page.block[f.scales_offset + page.first_token + t] =
            products > 0 ? (uint8_t)scale_nearest(m.table, __fdiv_rn(squares, products)) : 0;
    }
}

/* Some tokens of a page. */
static __device__ inline void seal_values(const CudaHoldArgs &a, const CudaSealPage &page,
                                          uint8_t *memory) {
    const CudaKvFormat &f = a.formats[KV_SIDE_V];
    CudaSealValues m = seal_values_memory(memory, a.layer.head_dim);

    load_values(a, page, m);
    if (f.has_centers)
        seal_values_uniform(a, page, m);
    else
        seal_values_levels(a, page, m);
    __syncthreads();
    pack_page(f, page, m.codes, a.layer.head_dim);
}
