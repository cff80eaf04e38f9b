/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Reading blocks: packed codes of 16 tokens, which lie in shared memory, to halves on a tile.
 *
 * Each format has one unpacker, which gives the eight codes of a token's unit as integers in four
 * pairs of halves; scales and centers are for whoever calls. Halves hold what real caches are made
 * of, but neither its ends nor its differences: so a page's scales are first moved, all by the same
 * power of two, to where its largest number is just below 2^14 ("lifted"), and scores or results
 * are moved back in f32.
 */

#include "cuda/device.cuh"
#include "cuda/kv_block.h"
#include "kvcache/value_trellis.h"

#define KV_LIFT_EXPONENT 14

static __device__ inline __half2 half2_of(uint32_t word) {
    return *(__half2 *)&word;
}

static __device__ inline uint32_t word_of(__half2 pair) {
    return *(uint32_t *)&pair;
}

/* The power of two that moves `most` to 2^13 .. 2^14; 1 for nothing to move. */
static __device__ inline float lift_of(float most) {
    uint32_t exponent = __float_as_uint(most) >> 23;

    return exponent < 14 ? 1.0f : __uint_as_float((254 + KV_LIFT_EXPONENT - 1 - exponent) << 23);
}

/* A unit's words of a plane of P bits, from the first parts of all units at `plane`. */
template <int P>
static __device__ inline void load_unit(const uint8_t *plane, uint32_t unit, uint32_t n_units,
                                        uint32_t *words) {
    if constexpr (P == 1) {
        *(uint2 *)words = ((const uint2 *)plane)[unit];
    } else {
#pragma unroll
        for (uint32_t i = 0; i < P / 2; i++)
            ((uint4 *)words)[i] = ((const uint4 *)plane)[i * n_units + unit];
    }
}

/* Pair i of a token's unit in a plane of P bits (not 8), two codes 16 bits apart, moved so that
 * they begin at bit `to` of either half; other bits are others'. */
template <int P>
static __device__ inline uint32_t plane_pair(const uint32_t *words, uint32_t token, uint32_t i,
                                             int to) {
    constexpr uint32_t per_word = 4 / (P < 8 ? P : 4);
    uint32_t word = words[token / per_word];
    int from = (int)(token % per_word * 4 * P + i * P);

    return to >= from ? word << (to - from) : word >> (from - to);
}

/* Codes of uniform steps as halves, without arithmetic: a half of 2^bits to 2^(bits + 1) has the
 * code as the first bits of its mantissa. What is so added, 2^bits + 2^(bits - 1) with the zero of
 * codes, is taken off by `add` (lift_meta), where it costs 2^(bits - 11) of a step at most: too
 * much in 8 bits, which are made whole numbers first. */
template <int BITS> static __device__ inline __half2 uniform_halves(uint32_t pair_shifted) {
    constexpr uint32_t one = 0x3c00 + (BITS << 10), mask = ((1u << BITS) - 1) << (10 - BITS);

    return half2_of((pair_shifted & mask * 0x10001u) | one * 0x10001u);
}

/* code - 128, exactly */
static __device__ inline __half2 byte_steps(uint32_t pair) {
    return __hsub2(half2_of(pair | 0x64006400), half2_of(0x64806480));
}

/* What uniform_halves adds to a code less 2^(bits - 1). */
static __device__ inline float uniform_excess(uint32_t bits) {
    return bits == 8 ? 0 : (float)(3u << (bits - 1));
}

/* Four levels plus 128, a byte each, to halves. */
static __device__ inline void bytes_to_halves(uint32_t bytes, __half2 *out) {
    out[0] = __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4140)), half2_of(0x64806480));
    out[1] = __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4342)), half2_of(0x64806480));
}

/* 0xff for each byte of `word` whose sign is set, else 0. */
static __device__ inline uint32_t byte_signs(uint32_t word) {
    uint32_t signs;

    asm("prmt.b32 %0, %1, 0, 0xba98;" : "=r"(signs) : "r"(word));
    return signs;
}

/* Levels of a token's eight codes of 4 bits: the lower three bits choose in either half of the
 * table, the upper one between those. */
static __device__ inline void many_levels(const CudaKvFormat &f, uint32_t word, __half2 *out) {
    uint32_t low = word & 0x77777777, high = low >> 16;
    uint32_t upper = byte_signs(word);
    uint32_t bytes = (__byte_perm(f.table[2], f.table[3], low) & upper) |
                     (__byte_perm(f.table[0], f.table[1], low) & ~upper);

    bytes_to_halves(bytes, out);
    upper = byte_signs(word << 4);
    bytes = (__byte_perm(f.table[2], f.table[3], high) & upper) |
            (__byte_perm(f.table[0], f.table[1], high) & ~upper);
    bytes_to_halves(bytes, out + 2);
}

/* Levels of a token's eight channels by their numbers, of three bits or four, a nibble each. */
template <int BITS>
static __device__ inline void numbered_levels(const CudaKvFormat &f, uint32_t numbers,
                                              __half2 *out) {
    uint32_t low = numbers & 0x77777777;

#pragma unroll
    for (int i = 0; i < 2; i++) { /* channels 0 to 3, then 4 to 7 */
        uint32_t bytes = __byte_perm(f.table[0], f.table[1], low >> 16 * i), upper;

        if (BITS == 4) {
            if (i == 0)
                asm("prmt.b32 %0, %1, %2, 0xd9c8;" : "=r"(upper) : "r"(numbers << 4), "r"(numbers));
            else
                asm("prmt.b32 %0, %1, %2, 0xfbea;" : "=r"(upper) : "r"(numbers << 4), "r"(numbers));
            bytes = (__byte_perm(f.table[2], f.table[3], low >> 16 * i) & upper) | (bytes & ~upper);
        }
        bytes_to_halves(bytes, out + 2 * i);
    }
}

/* A unit's words of both planes, and a token of it as four pairs of whole numbers. */
template <KvSide SIDE, int BITS, int P0, int P1> struct CudaUnit {
    static constexpr bool has_trellis = SIDE == KV_SIDE_V && BITS < 4;
    uint32_t low[2 * P0], high[P1 ? 2 * P1 : 1];

    /* `is_first`: of a run of channels. A trellis's coded bits become the bits of its subsets. */
    __device__ CudaUnit(const uint8_t *plane0, const uint8_t *plane1, uint32_t unit,
                        uint32_t n_units, bool is_first) {
        load_unit<P0>(plane0, unit, n_units, low);
        if (P1)
            load_unit<P1 ? P1 : 1>(plane1, unit, n_units, high);
        if constexpr (has_trellis) {
            uint2 before =
                is_first ? make_uint2(0, 0) : *(const uint2 *)((const uint4 *)plane0 + unit - 1);

            subsets[0][0] = __funnelshift_l(before.x, low[0], 8);
            subsets[0][1] = __funnelshift_l(before.y, low[1], 8);
            subsets[1][0] = low[0] ^ __funnelshift_l(before.x, low[0], 4) ^
                            __funnelshift_l(before.x, low[0], 12);
            subsets[1][1] = low[1] ^ __funnelshift_l(before.y, low[1], 4) ^
                            __funnelshift_l(before.y, low[1], 12);
        }
    }

    /* Pair i of a token: two codes, `to` bits up in either half. */
    __device__ uint32_t pair(uint32_t i_token, uint32_t i, int to) const {
        constexpr uint32_t mask0 = ((1u << P0) - 1) * 0x10001u;
        constexpr uint32_t mask1 = ((1u << (P1 ? P1 : 1)) - 1) * 0x10001u;
        uint32_t x = plane_pair<P0>(low, i_token, i, to) & mask0 << to;

        if (P1)
            x |= plane_pair < P1 ? P1 : 1 > (high, i_token, i, to + P0) & mask1 << (to + P0);
        return x;
    }

    /* Numbers of levels of a token of a trellis, a nibble each. */
    __device__ uint32_t numbers(uint32_t i_token) const {
        uint32_t i = i_token / 4, shift = i_token % 4;
        uint32_t x = (subsets[0][i] >> shift & 0x11111111) |
                     (subsets[1][i] >> shift & 0x11111111) << 1 |
                     (low[2 + i] >> shift & 0x11111111) << 2;

        return P1 ? x | (high[P1 ? i : 0] >> shift & 0x11111111) << 3 : x;
    }

    __device__ void token(const CudaKvFormat &f, uint32_t i_token, __half2 *out) const {
        if constexpr (has_trellis) {
            numbered_levels<BITS + 1>(f, numbers(i_token), out);
        } else if constexpr (SIDE == KV_SIDE_V && BITS == 4) {
            many_levels(f, low[i_token], out);
        } else if constexpr (BITS == 8) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] =
                    byte_steps(__byte_perm(low[2 * i_token + i / 2], 0, i % 2 ? 0x4342 : 0x4140));
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] = uniform_halves<BITS>(pair(i_token, i, 10 - BITS));
        }
    }

  private:
    uint32_t subsets[2][2]; /* bit 0, bit 1; tokens 0 to 3, 4 to 7 */
};

/* Scales and centers of a page, lifted, in shared memory: a value is code * mul + add. Keys: one
 * of each a channel; values: a token. */
typedef struct CudaKvMeta {
    __half *mul, *add;
} CudaKvMeta;

/* Fills `meta` from a page's scales and centers at `raw`, which begin where the block's do; `table`
 * is kv_scales, and N at least n_vectors / 32. Returns the lift. All threads of a warp call. */
template <int N>
static __device__ inline float lift_meta(const CudaKvFormat &f, const uint8_t *raw,
                                         const float *table, uint32_t n_vectors,
                                         const CudaKvMeta &meta) {
    const uint8_t *centers = raw + (f.centers_offset - f.scales_offset);
    uint32_t lane = threadIdx.x % CUDA_WARP;
    float scales[N], middles[N], most = 0, lift;

#pragma unroll
    for (uint32_t k = 0; k < N; k++) {
        uint32_t i = lane + k * CUDA_WARP;

        scales[k] = middles[k] = 0;
        if (i >= n_vectors)
            continue;
        if (f.meta_bytes == 1) {
            scales[k] = table[raw[i]] * f.unit;
            if (f.has_centers) /* codes are counted from half a step below the middle */
                middles[k] = (0.5f * (float)(int8_t)centers[i] + 0.5f) * scales[k];
        } else {
            scales[k] = __half2float(((const __half *)raw)[i]);
            middles[k] = __half2float(((const __half *)centers)[i]) + 0.5f * scales[k];
        }
        most = fmaxf(most, scales[k] * f.code_max + fabsf(middles[k]));
    }
    lift = lift_of(warp_max(most));
#pragma unroll
    for (uint32_t k = 0; k < N; k++) {
        uint32_t i = lane + k * CUDA_WARP;
        float excess = f.has_centers ? uniform_excess(f.bits) : 0;

        if (i >= n_vectors)
            continue;
        meta.mul[i] = __float2half_rn(scales[k] * lift);
        if (f.has_centers)
            meta.add[i] = __float2half_rn((middles[k] - excess * scales[k]) * lift);
    }
    return lift;
}

/* Half i of eight, twice. */
static __device__ inline __half2 twice(const uint4 &halves, uint32_t i) {
    return half2_of(__byte_perm((&halves.x)[i / 2], 0, i % 2 ? 0x3232 : 0x1010));
}

/* Whether a tile has values as levels: their scales, one a token, are for the weights. */
static __device__ inline bool tile_has_levels(const CudaKvFormat &f, KvSide side) {
    return side == KV_SIDE_V && f.bits != 16 && !f.has_centers;
}

/* Sixteen tokens' codes of both planes to a tile of halves [16][pitch]; a warp's work. Levels stay
 * as they are where `is_bare`. */
template <KvSide SIDE, int BITS, int P0, int P1>
static __device__ inline void unpack_sixteen(const CudaKvFormat &f, const uint8_t *plane0,
                                             const uint8_t *plane1, uint32_t head_dim,
                                             uint32_t first_token, const CudaKvMeta &meta,
                                             __half *tile, uint32_t pitch, bool is_bare) {
    constexpr bool has_centers = SIDE == KV_SIDE_K || BITS > 4;
    uint32_t lane = threadIdx.x % CUDA_WARP, n = head_dim / CUDA_KV_UNIT;

    for (uint32_t i_unit = lane; i_unit < 2 * n; i_unit += CUDA_WARP) {
        uint32_t first = i_unit / n * CUDA_KV_UNIT, channel = i_unit % n * CUDA_KV_UNIT;
        CudaUnit<SIDE, BITS, P0, P1> unit(plane0, plane1, i_unit, 2 * n,
                                          channel % KV_TRELLIS_RUN == 0);
        uint32_t at_meta = SIDE == KV_SIDE_K ? channel : first_token + first;
        uint4 mul = *(const uint4 *)(meta.mul + at_meta), add = make_uint4(0, 0, 0, 0);

        if (has_centers)
            add = *(const uint4 *)(meta.add + at_meta);
#pragma unroll
        for (uint32_t t = 0; t < CUDA_KV_UNIT; t++) {
            __half2 x[4];

            unit.token(f, t, x);
#pragma unroll
            for (int i = 0; i < 4 && (has_centers || !is_bare); i++) {
                __half2 m = SIDE == KV_SIDE_K ? half2_of((&mul.x)[i]) : twice(mul, t);
                __half2 a = SIDE == KV_SIDE_K ? half2_of((&add.x)[i]) : twice(add, t);

                x[i] = has_centers ? __hfma2(x[i], m, a) : __hmul2(x[i], m);
            }
            *(uint4 *)(tile + (first + t) * pitch + channel) = *(uint4 *)x;
        }
    }
}

/* The same of any format; the planes' sixteens begin at plane0 and plane1. */
template <KvSide SIDE>
static __device__ inline void unpack_any(const CudaKvFormat &f, const uint8_t *plane0,
                                         const uint8_t *plane1, uint32_t head_dim,
                                         uint32_t first_token, const CudaKvMeta &meta, __half *tile,
                                         uint32_t pitch, bool is_bare) {
#define UNPACK(_bits, _p0, _p1)                                                                 \
    unpack_sixteen<SIDE, _bits, _p0, _p1>(f, plane0, plane1, head_dim, first_token, meta, tile, \
                                          pitch, is_bare)
    switch (f.format) {
    case KV_FORMAT_8:
        UNPACK(8, 8, 0);
        break;
    case KV_FORMAT_6:
        UNPACK(6, 4, 2);
        break;
    case KV_FORMAT_5:
        UNPACK(5, 4, 1);
        break;
    case KV_FORMAT_4:
        UNPACK(4, 4, 0);
        break;
    case KV_FORMAT_3:
        UNPACK(3, 2, 1);
        break;
    default:
        UNPACK(2, 2, 0);
        break;
    }
#undef UNPACK
}
