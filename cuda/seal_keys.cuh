/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Keys: compensated rounding that looks ahead (kvcache/rounding.h). A warp takes eight tokens and
 * meets no other: a lane is one of the four partial roundings, the paths, of a token.
 *
 * All that a path's errors do to channels to come would be n^2 / 2 exchanges between lanes, since
 * paths change parents at every channel. So channels go in blocks of 16. Within a block a lane has
 * its path's channels in registers, and takes its parent's with each step. Behind the block every
 * path has one origin, a path at the block's beginning, and 16 errors, which then move all channels
 * to come at once: there a lane is a channel, and the origin a row of shared memory to read. Each
 * number still gets its terms one by one, in the order of channels, by fused multiply-adds, which
 * is the CPU's chain (cpu/kv_key_paths.h).
 *
 * Of a block's channels a row has at first the values, then what errors of the block's own feed
 * each other, then the path's errors, and at last its codes and parents, by which the way back
 * goes.
 */

#include "cuda/seal_pack.cuh"
#include "kvcache/rounding.h"

#define KEY_PATHS ROUNDING_PATHS_MAX
#define KEY_WAY_MASK \
    (2 * KEY_PATHS - 1) /* way p is path p's near step, p + KEY_PATHS its far one */
#define KEY_BLOCK 16    /* channels; the last one of a head can be half as long */
#define KEY_TOKENS (CUDA_WARP / KEY_PATHS) /* of a warp */
#define KEY_WIDTH_MAX 4                    /* channels to come of a lane at a time */

static_assert(KEY_PATHS == 4, "the exchanges below are for 4");

/* In shared memory. Channels are in rounding order, but for codes. */
typedef struct CudaSealKeys {
    float *x;        /* [n_tokens, KEY_PATHS] rows of `pitch`; at first only those of path 0 */
    float4 *steps;   /* [n] scale, inverse, center, and what its squared error weighs */
    float *table;    /* kv_scales */
    uint16_t *order; /* [n] */
    uint8_t *codes;  /* seal_codes_bytes */
    uint32_t pitch;
} CudaSealKeys;

/* Four more floats a row: threads that read 16 bytes of neighbouring rows meet in no bank. */
static __host__ __device__ inline uint32_t seal_key_pitch(uint32_t n) {
    return n + 4;
}

/* Tokens of a block of threads, each of which has KEY_PATHS of them. */
static __host__ __device__ inline uint32_t seal_key_tokens(uint32_t n) {
    return n <= 128 ? 32 : n <= 256 ? 16 : 8;
}

static __host__ __device__ inline size_t seal_keys_bytes(uint32_t n) {
    uint32_t n_tokens = seal_key_tokens(n);

    return (size_t)n_tokens * KEY_PATHS * seal_key_pitch(n) * sizeof(float) + n * sizeof(float4) +
           KV_SCALES * sizeof(float) + n * sizeof(uint16_t) + seal_codes_bytes(n, n_tokens);
}

static __device__ inline CudaSealKeys seal_keys_memory(uint8_t *base, uint32_t n) {
    CudaSealKeys m;

    m.pitch = seal_key_pitch(n);
    m.x = (float *)base;
    m.steps = (float4 *)(m.x + seal_key_tokens(n) * KEY_PATHS * m.pitch);
    m.table = (float *)(m.steps + n);
    m.order = (uint16_t *)(m.table + KV_SCALES);
    m.codes = (uint8_t *)(m.order + n);
    return m;
}

/* A Rounding, as it lies. */
typedef struct CudaRounding {
    bool is_plain, looks_ahead;
    const uint32_t *order; /* [n] */
    const float *feed;     /* [n, n] */
    const float *weights;  /* [n] */
} CudaRounding;

static __device__ inline CudaRounding seal_rounding(const CudaHoldArgs &a, uint32_t head) {
    const uint32_t *words = at<const uint32_t>(kv_layer_rounding(&a.layer, head));
    uint32_t n = a.layer.head_dim;
    CudaRounding r;

    r.is_plain = words[1];
    r.looks_ahead = words[2] > 1;
    r.order = words + sizeof(Rounding) / 4;
    r.feed = (const float *)(r.order + n);
    r.weights = r.feed + (size_t)n * n;
    return r;
}

/* scales */

/* The least and the largest of each channel over some of the page's 64 tokens, to `lows` and
 * `highs` [n_groups, n]. */
static __device__ inline void find_ranges(const CudaHoldArgs &a, const CudaSealPage &page,
                                          uint32_t n_groups, float *lows, float *highs) {
    uint32_t n = a.layer.head_dim, n_octets = n / SEAL_OCTET;

    for (uint32_t i = threadIdx.x; i < n_octets * n_groups; i += blockDim.x) {
        uint32_t octet = i % n_octets, group = i / n_octets;
        float low[SEAL_OCTET], high[SEAL_OCTET], x[SEAL_OCTET];

        seal_inputs(seal_octet(a, page, group, octet), low);
        seal_inputs(seal_octet(a, page, group, octet), high);
        for (uint32_t t = group + n_groups; t < KV_PAGE_TOKENS; t += n_groups) {
            seal_inputs(seal_octet(a, page, t, octet), x);
#pragma unroll
            for (uint32_t c = 0; c < SEAL_OCTET; c++) {
                low[c] = fminf(low[c], x[c]);
                high[c] = fmaxf(high[c], x[c]);
            }
        }
#pragma unroll
        for (uint32_t c = 0; c < SEAL_OCTET; c++) {
            lows[group * n + octet * SEAL_OCTET + c] = low[c];
            highs[group * n + octet * SEAL_OCTET + c] = high[c];
        }
    }
}

/* Channels' steps; those of the page's first tokens' block go into the page. Uses m.x. */
static __device__ inline void fit_channels(const CudaHoldArgs &a, const CudaSealPage &page,
                                           const CudaSealKeys &m, const CudaRounding &r) {
    const CudaKvFormat &f = a.formats[KV_SIDE_K];
    uint32_t n = a.layer.head_dim;
    uint32_t n_groups = min(max(blockDim.x / (n / SEAL_OCTET), 1), KV_PAGE_TOKENS);
    float *lows = m.x, *highs = m.x + n_groups * n;
    float kept = kv_key_range(f.format, !r.is_plain);

    find_ranges(a, page, n_groups, lows, highs);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        uint32_t c = r.order[i];
        float low = lows[c], high = highs[c], cut;
        CudaSealSteps s;

        for (uint32_t group = 1; group < n_groups; group++) {
            low = fminf(low, lows[group * n + c]);
            high = fmaxf(high, highs[group * n + c]);
        }
        cut = __fmul_rn(__fmul_rn(__fsub_rn(high, low), 0.5f), __fsub_rn(1, kept));
        s = fit_uniform(f, m.table, __fadd_rn(low, cut), __fsub_rn(high, cut));
        if (page.first_token == 0)
            keep_steps(f, page.block, c, s);
        m.steps[i] = make_float4(s.scale, s.inverse, s.center, r.weights[i]);
        m.order[i] = (uint16_t)c;
    }
    __syncthreads();
}

/* Tokens into the rows of their path 0; where a channel is in rounding order is known to m.codes
 * for that long. */
static __device__ inline void load_keys(const CudaHoldArgs &a, const CudaSealPage &page,
                                        const CudaSealKeys &m) {
    uint16_t *places = (uint16_t *)m.codes;
    uint32_t n = a.layer.head_dim, n_octets = n / SEAL_OCTET;

    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        places[m.order[i]] = (uint16_t)i;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < page.n_tokens * n_octets; i += blockDim.x) {
        uint32_t t = i / n_octets, octet = i % n_octets;
        float x[SEAL_OCTET];

        seal_inputs(seal_octet(a, page, page.first_token + t, octet), x);
#pragma unroll
        for (uint32_t c = 0; c < SEAL_OCTET; c++)
            m.x[t * KEY_PATHS * m.pitch + places[octet * SEAL_OCTET + c]] = x[c];
    }
    __syncthreads();
}

/* a step */

/* A path's channels of a block, and how it has come through it. */
typedef struct CudaKeyBlock {
    float x[KEY_BLOCK];
    float errors[KEY_BLOCK];       /* of the paths that were here, what codes stand for less x */
    uint32_t codes[KEY_BLOCK / 4]; /* theirs, a byte each */
    uint32_t parents;              /* of this path: before channel i it was parents >> 2 i & 3 */
} CudaKeyBlock;

/* The keys that order a path's two ways on: costs as bits, but for the way's number. */
typedef struct CudaKeyWays {
    uint32_t near, far;
    uint32_t codes; /* of the near way, and above 16 bits of the far one */
} CudaKeyWays;

static __device__ inline uint32_t key_of(float cost, uint32_t way) {
    return (__float_as_uint(cost) & ~(uint32_t)KEY_WAY_MASK) | way;
}

/* By how much what a code stands for exceeds x. */
static __device__ inline float key_error(const float4 &s, float middle, float code, float x) {
    return __fsub_rn(__fmaf_rn(s.x, __fsub_rn(code, middle), s.z), x);
}

static __device__ inline CudaKeyWays key_ways(const float4 &s, uint32_t bits, bool looks_ahead,
                                              float cost, float x) {
    const float middle = code_middle(bits), top = code_top(bits);
    float steps = steps_up(s.y, s.z, middle, top, x);
    float near_magic = __fadd_rn(steps, SEAL_MAGIC), near = __fsub_rn(near_magic, SEAL_MAGIC);
    float far = __fadd_rn(near, steps >= near ? 1 : -1), near_error, far_error, far_cost;
    bool has_far = far >= 0 && far <= top;
    uint32_t path = threadIdx.x % KEY_PATHS;
    CudaKeyWays ways;

    far = has_far ? far : near;
    near_error = key_error(s, middle, near, x);
    far_error = key_error(s, middle, far, x);
    far_cost = __fmaf_rn(__fmul_rn(far_error, far_error), s.w, cost);
    ways.near = key_of(__fmaf_rn(__fmul_rn(near_error, near_error), s.w, cost), path);
    ways.far = key_of(has_far && looks_ahead ? far_cost : INFINITY, path + KEY_PATHS);
    ways.codes = __byte_perm(__float_as_uint(near_magic),
                             __float_as_uint(__fadd_rn(far, SEAL_MAGIC)), 0x5410);
    return ways;
}

/* Of the ways of a token's four lanes the one that comes as the lane's path in rising order. */
static __device__ inline uint32_t best_way(const CudaKeyWays &ways) {
    uint32_t low = min(ways.near, ways.far), high = max(ways.near, ways.far);
    uint32_t low2 = __shfl_xor_sync(CUDA_FULL, low, 1), high2 = __shfl_xor_sync(CUDA_FULL, high, 1);
    uint32_t middle1 = max(low, low2), middle2 = min(high, high2), k[KEY_PATHS], a, b;

    k[0] = min(low, low2); /* two lanes' ways, rising */
    k[1] = min(middle1, middle2);
    k[2] = max(middle1, middle2);
    k[3] = max(high, high2);
    low = min(k[0], __shfl_xor_sync(CUDA_FULL, k[3], 2)); /* the least four, in no order */
    high = min(k[1], __shfl_xor_sync(CUDA_FULL, k[2], 2));
    low2 = min(k[2], __shfl_xor_sync(CUDA_FULL, k[1], 2));
    high2 = min(k[3], __shfl_xor_sync(CUDA_FULL, k[0], 2));
    a = threadIdx.x & 2 ? max(low, low2) : min(low, low2); /* but rising, then falling */
    b = threadIdx.x & 2 ? max(high, high2) : min(high, high2);
    return threadIdx.x & 1 ? max(a, b) : min(a, b);
}

/* Channel i of a block of N. `feed`: what its error feeds the block's channels. */
template <uint32_t N>
static __device__ inline void key_step(uint32_t i, const float4 &s, uint32_t bits, bool looks_ahead,
                                       const float *feed, float *costp, CudaKeyBlock &b) {
    CudaKeyWays ways = key_ways(s, bits, looks_ahead, *costp, b.x[i]);
    uint32_t key = best_way(ways), parent = key % KEY_PATHS;
    uint32_t from = threadIdx.x % CUDA_WARP / KEY_PATHS * KEY_PATHS + parent, code;
    float x = __shfl_sync(CUDA_FULL, b.x[i], from), error;

    *costp = __uint_as_float(key & ~(uint32_t)KEY_WAY_MASK);
    code = __shfl_sync(CUDA_FULL, ways.codes, from) >> (key & KEY_PATHS) * 4 & 0xff;
    error =
        key_error(s, code_middle(bits),
                  __fsub_rn(__uint_as_float(__float_as_uint(SEAL_MAGIC) | code), SEAL_MAGIC), x);
    b.errors[i] = error;
    b.codes[i / 4] = (i % 4 ? b.codes[i / 4] : 0) | code << i % 4 * 8;
    b.parents = (i ? __shfl_sync(CUDA_FULL, b.parents, from) : 0) | parent << 2 * i;
#pragma unroll
    for (uint32_t four = 0; four < N; four += 4) {
        if (four + 3 <= i)
            continue;
        const float4 f = *(const float4 *)(feed + four);
        const float factors[4] = { f.x, f.y, f.z, f.w };

#pragma unroll
        for (uint32_t j = 0; j < 4; j++)
            if (four + j > i)
                b.x[four + j] =
                    __fmaf_rn(error, factors[j], __shfl_sync(CUDA_FULL, b.x[four + j], from));
    }
}

/* blocks */

#define KEY_FEED_LANE (KEY_BLOCK * KEY_BLOCK / CUDA_WARP)

/* What channels first .. of a block feed each other, a lane's share, from memory. */
static __device__ inline void fetch_feed(const float *feed, uint32_t n, uint32_t first,
                                         float *fetched) {
    uint32_t lane = threadIdx.x % CUDA_WARP;

#pragma unroll
    for (uint32_t k = 0; k < KEY_FEED_LANE; k++) {
        uint32_t i = first + (k * CUDA_WARP + lane) / KEY_BLOCK, j = first + lane % KEY_BLOCK;

        fetched[k] = i < n && j < n ? feed[(size_t)i * n + j] : 0;
    }
}

/* The same into the first rows of the warp. `rows`: those, from the block's channels on. */
static __device__ inline void keep_feed(float *rows, uint32_t pitch, uint32_t n_here,
                                        const float *fetched) {
    uint32_t lane = threadIdx.x % CUDA_WARP;

#pragma unroll
    for (uint32_t k = 0; k < KEY_FEED_LANE; k++)
        if (lane % KEY_BLOCK < n_here)
            rows[(k * CUDA_WARP + lane) / KEY_BLOCK * pitch + lane % KEY_BLOCK] = fetched[k];
}

/* The errors of the lane's path, from the lanes that it came through, into its row. */
static __device__ inline void keep_errors(const CudaKeyBlock &b, float *row) {
    uint32_t quad = threadIdx.x % CUDA_WARP / KEY_PATHS * KEY_PATHS;
    float errors[KEY_BLOCK];

#pragma unroll
    for (uint32_t i = 0; i < KEY_BLOCK - 1; i++)
        errors[i] = __shfl_sync(CUDA_FULL, b.errors[i],
                                quad | (b.parents >> 2 * (i + 1) & (KEY_PATHS - 1)));
    errors[KEY_BLOCK - 1] = b.errors[KEY_BLOCK - 1];
#pragma unroll
    for (uint32_t i = 0; i < KEY_BLOCK; i += 4)
        *(float4 *)(row + i) = make_float4(errors[i], errors[i + 1], errors[i + 2], errors[i + 3]);
}

/* The errors of a block's channels move WIDTH channels to come of each lane, `first` on, by 32s.
 * `feed`: rows of the block's channels. `origins`: of the lane's token, 2 bits a path. `rows`: the
 * warp's, with errors from channel `behind` on. */
template <uint32_t WIDTH>
static __device__ inline void feed_channels(const float *feed, uint32_t n, uint32_t first,
                                            uint32_t origins, float *rows, uint32_t pitch,
                                            uint32_t behind) {
    uint32_t channel = first + threadIdx.x % CUDA_WARP;
    float factors[WIDTH][KEY_BLOCK];

#pragma unroll
    for (uint32_t k = 0; k < WIDTH; k++)
#pragma unroll
        for (uint32_t i = 0; i < KEY_BLOCK; i++)
            factors[k][i] =
                channel + k * CUDA_WARP < n ? feed[(size_t)i * n + channel + k * CUDA_WARP] : 0;
#pragma unroll 1
    for (uint32_t t = 0; t < KEY_TOKENS; t++, rows += KEY_PATHS * pitch) {
        uint32_t from = __shfl_sync(CUDA_FULL, origins, t * KEY_PATHS);
        float x[KEY_PATHS][WIDTH];

#pragma unroll
        for (uint32_t p = 0; p < KEY_PATHS; p++)
#pragma unroll
            for (uint32_t k = 0; k < WIDTH; k++)
                x[p][k] =
                    channel + k * CUDA_WARP < n
                        ? rows[(from >> 2 * p & (KEY_PATHS - 1)) * pitch + channel + k * CUDA_WARP]
                        : 0;
#pragma unroll
        for (uint32_t p = 0; p < KEY_PATHS; p++)
#pragma unroll
            for (uint32_t i = 0; i < KEY_BLOCK; i += 4) {
                const float4 errors = *(const float4 *)(rows + p * pitch + behind + i);

#pragma unroll
                for (uint32_t k = 0; k < WIDTH; k++) {
                    x[p][k] = __fmaf_rn(errors.x, factors[k][i], x[p][k]);
                    x[p][k] = __fmaf_rn(errors.y, factors[k][i + 1], x[p][k]);
                    x[p][k] = __fmaf_rn(errors.z, factors[k][i + 2], x[p][k]);
                    x[p][k] = __fmaf_rn(errors.w, factors[k][i + 3], x[p][k]);
                }
            }
#pragma unroll
        for (uint32_t p = 0; p < KEY_PATHS; p++)
#pragma unroll
            for (uint32_t k = 0; k < WIDTH; k++)
                if (channel + k * CUDA_WARP < n)
                    rows[p * pitch + channel + k * CUDA_WARP] = x[p][k];
    }
}

/* The same for all channels to come. */
static __device__ inline void feed_to_come(const float *feed, uint32_t n, uint32_t behind,
                                           uint32_t origins, float *rows, uint32_t pitch) {
    const float *from = feed + (size_t)behind * n;

    for (uint32_t first = behind + KEY_BLOCK; first < n; first += KEY_WIDTH_MAX * CUDA_WARP)
        switch (min(divide_up(n - first, CUDA_WARP), KEY_WIDTH_MAX)) {
        case 1:
            feed_channels<1>(from, n, first, origins, rows, pitch, behind);
            break;
        case 2:
            feed_channels<2>(from, n, first, origins, rows, pitch, behind);
            break;
        case 3:
            feed_channels<3>(from, n, first, origins, rows, pitch, behind);
            break;
        default:
            feed_channels<4>(from, n, first, origins, rows, pitch, behind);
            break;
        }
}

/* Where the paths of the lane's token were at the block's beginning, 2 bits each. At the first one
 * all are row 0. */
static __device__ inline uint32_t key_origins(const CudaKeyBlock &b, bool is_first) {
    uint32_t origins = b.parents % KEY_PATHS << threadIdx.x % KEY_PATHS * 2;

    origins |= __shfl_xor_sync(CUDA_FULL, origins, 1);
    origins |= __shfl_xor_sync(CUDA_FULL, origins, 2);
    return is_first ? 0 : origins;
}

/* The N channels of a block in turn. `row`: where the path's values are; `steps`: theirs. */
template <uint32_t N>
static __device__ inline void key_steps(const float4 *steps, uint32_t bits, bool looks_ahead,
                                        const float *row, float *rows, uint32_t pitch,
                                        const float *fetched, float *costp, CudaKeyBlock &b) {
#pragma unroll
    for (uint32_t i = 0; i < N; i += 4) {
        const float4 four = *(const float4 *)(row + i);

        b.x[i] = four.x;
        b.x[i + 1] = four.y;
        b.x[i + 2] = four.z;
        b.x[i + 3] = four.w;
    }
    __syncwarp();
    keep_feed(rows, pitch, N, fetched);
    __syncwarp();
#pragma unroll
    for (uint32_t i = 0; i < N; i++)
        key_step<N>(i, steps[i], bits, looks_ahead, rows + i * pitch, costp, b);
    __syncwarp();
}

/* A block's codes and parents stay in the row, as words. */
static __device__ inline void keep_ways(const CudaKeyBlock &b, float *row) {
    *(uint4 *)row = make_uint4(b.codes[0], b.codes[1], b.codes[2], b.codes[3]);
    ((uint32_t *)row)[4] = b.parents;
}

static __device__ inline void seal_paths(const CudaSealKeys &m, uint32_t n, uint32_t bits,
                                         const CudaRounding &r) {
    float *rows = m.x + threadIdx.x / CUDA_WARP * CUDA_WARP * m.pitch; /* the warp's */
    float *row = m.x + threadIdx.x * m.pitch;                          /* the lane's */
    float cost = threadIdx.x % KEY_PATHS ? INFINITY : 0, fetched[KEY_FEED_LANE];
    CudaKeyBlock b;

    fetch_feed(r.feed, n, 0, fetched);
    for (uint32_t first = 0; first < n; first += KEY_BLOCK) {
        const float *from = first ? row : row - threadIdx.x % KEY_PATHS * m.pitch;

        if (n - first >= KEY_BLOCK)
            key_steps<KEY_BLOCK>(m.steps + first, bits, r.looks_ahead, from + first, rows + first,
                                 m.pitch, fetched, &cost, b);
        else
            key_steps<KEY_BLOCK / 2>(m.steps + first, bits, r.looks_ahead, from + first,
                                     rows + first, m.pitch, fetched, &cost, b);
        if (first + KEY_BLOCK < n) {
            fetch_feed(r.feed, n, first + KEY_BLOCK, fetched);
            keep_errors(b, row + first);
            __syncwarp();
            feed_to_come(r.feed, n, first, key_origins(b, first == 0), rows, m.pitch);
            __syncwarp();
        }
        keep_ways(b, row + first);
    }
    __syncwarp();
}

/* The codes of the best path, from its end back; a token's lanes take four channels of a block
 * each. */
static __device__ inline void trace_paths(const CudaSealKeys &m, uint32_t n, uint32_t n_tokens) {
    uint32_t token = threadIdx.x / KEY_PATHS, quarter = threadIdx.x % KEY_PATHS, path = 0;
    const uint32_t *rows = (const uint32_t *)m.x + token * KEY_PATHS * m.pitch;

    for (uint32_t first = (n - 1) / KEY_BLOCK * KEY_BLOCK;; first -= KEY_BLOCK) {
        uint32_t n_here = min(n - first, KEY_BLOCK);
        uint32_t parents = rows[path * m.pitch + first + 4];

        for (uint32_t i = 4 * quarter; i < min(4 * quarter + 4, n_here); i++) {
            uint32_t p = i + 1 < n_here ? parents >> 2 * (i + 1) & (KEY_PATHS - 1) : path;

            m.codes[seal_code_at(n_tokens, m.order[first + i], token)] =
                (uint8_t)(rows[p * m.pitch + first + quarter] >> i % 4 * 8);
        }
        if (first == 0)
            break;
        path = parents & (KEY_PATHS - 1);
    }
}

static __device__ inline void seal_keys_plainly(const CudaSealKeys &m, uint32_t n, uint32_t bits,
                                                uint32_t n_tokens) {
    for (uint32_t i = threadIdx.x; i < n * n_tokens; i += blockDim.x) {
        uint32_t t = i % n_tokens, c = i / n_tokens;
        const float4 s = m.steps[c];

        m.codes[seal_code_at(n_tokens, m.order[c], t)] =
            (uint8_t)round_uniform(bits, s.y, s.z, m.x[t * KEY_PATHS * m.pitch + c]);
    }
}

/* Some tokens of a page, each by KEY_PATHS threads of the block. */
static __device__ inline void seal_keys(const CudaHoldArgs &a, const CudaSealPage &page,
                                        uint8_t *memory) {
    const CudaKvFormat &f = a.formats[KV_SIDE_K];
    uint32_t n = a.layer.head_dim;
    CudaSealKeys m = seal_keys_memory(memory, n);
    CudaRounding r = seal_rounding(a, page.head);

    load_scales(a, m.table);
    fit_channels(a, page, m, r);
    load_keys(a, page, m);
    if (r.is_plain) {
        seal_keys_plainly(m, n, f.bits, page.n_tokens);
    } else {
        seal_paths(m, n, f.bits, r);
        trace_paths(m, n, page.n_tokens);
    }
    __syncthreads();
    pack_page(f, page, m.codes, n);
}
