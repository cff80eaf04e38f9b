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
    if (P == 1) {
        *(uint2 *)words = ((const uint2 *)plane)[unit];
        return;
    }
#pragma unroll
    for (uint32_t i = 0; i < P / 2; i++)
        ((uint4 *)words)[i] = ((const uint4 *)plane)[i * n_units + unit];
}

/* Codes of a plane of P bits: those of a token's unit, two in a word, 16 bits apart. */
template <int P>
static __device__ inline void plane_pairs(const uint32_t *words, uint32_t token, uint32_t *pairs) {
    if (P == 8) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            pairs[2 * i] = __byte_perm(words[2 * token + i], 0, 0x4140);
            pairs[2 * i + 1] = __byte_perm(words[2 * token + i], 0, 0x4342);
        }
    } else {
        constexpr uint32_t per_word = 4 / (P < 8 ? P : 4), mask = ((1u << P) - 1) * 0x10001u;
        uint32_t word = words[token / per_word];

#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            pairs[i] = word >> (token % per_word * 4 * P + i * P) & mask;
    }
}

/* code - 2^(bits - 1), exactly: a half of 1024 and more has the code as its last bits. */
template <int BITS>
static __device__ inline __half2 uniform_steps(uint32_t pair) {
    constexpr uint32_t zero = 0x6400 + (1u << (BITS - 1));

    return __hsub2(half2_of(pair | 0x64006400), half2_of(zero | zero << 16));
}

/* Four levels plus 128, a byte each, to halves. */
static __device__ inline void bytes_to_halves(uint32_t bytes, __half2 *out) {
    out[0] = __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4140)), half2_of(0x64806480));
    out[1] = __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4342)), half2_of(0x64806480));
}

/* Levels of up to eight codes. */
static __device__ inline __half2 few_levels(const CudaKvFormat &f, uint32_t pair) {
    uint32_t bytes = __byte_perm(f.table[0], f.table[1], (pair | pair >> 12) & 0x77);

    return __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4140)), half2_of(0x64806480));
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

/* A unit's words of both planes, and a token of it as four pairs of whole numbers. */
template <KvSide SIDE, int BITS, int P0, int P1> struct CudaUnit {
    uint32_t low[2 * P0], high[P1 ? 2 * P1 : 1];

    __device__ CudaUnit(const uint8_t *plane0, const uint8_t *plane1, uint32_t unit,
                        uint32_t n_units) {
        load_unit<P0>(plane0, unit, n_units, low);
        if (P1)
            load_unit<P1 ? P1 : 1>(plane1, unit, n_units, high);
    }

    __device__ void token(const CudaKvFormat &f, uint32_t i_token, __half2 *out) const {
        uint32_t pairs[4], upper[4];

        if (SIDE == KV_SIDE_V && BITS == 4) {
            many_levels(f, low[i_token], out);
            return;
        }
        plane_pairs<P0>(low, i_token, pairs);
        if (P1)
            plane_pairs<P1 ? P1 : 1>(high, i_token, upper);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair = P1 ? pairs[i] | upper[i] << P0 : pairs[i];

            out[i] = SIDE == KV_SIDE_K || BITS >= 6 ? uniform_steps<BITS>(pair)
                                                    : few_levels(f, pair);
        }
    }
};

/* Scales and centers of a page, lifted, in shared memory: a value is code * mul + add. Keys: one
 * of each a channel; values: a token. */
typedef struct CudaKvMeta {
    __half *mul, *add;
} CudaKvMeta;

/* Fills `meta` from a page's scales and centers at `raw`, which begin where the block's do; `table`
 * is kv_scales. Returns the lift. All threads of a warp call. */
static __device__ inline float lift_meta(const CudaKvFormat &f, const uint8_t *raw,
                                         const float *table, uint32_t n_vectors,
                                         const CudaKvMeta &meta) {
    const uint8_t *centers = raw + (f.centers_offset - f.scales_offset);
    uint32_t lane = threadIdx.x % CUDA_WARP;
    float most = 0, lift;

    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = lane; i < n_vectors; i += CUDA_WARP) {
            float scale, center = 0;

            if (f.meta_bytes == 1) {
                scale = table[raw[i]];
                if (f.has_centers)
                    center = (float)(int8_t)centers[i] * (scale * 0.5f);
            } else {
                scale = __half2float(((const __half *)raw)[i]);
                center = __half2float(((const __half *)centers)[i]);
            }
            if (f.has_centers)
                center += 0.5f * scale; /* codes are counted from below the middle */
            if (pass == 0) {
                most = fmaxf(most, scale * f.code_max + fabsf(center));
            } else {
                meta.mul[i] = __float2half_rn(scale * lift);
                meta.add[i] = __float2half_rn(center * lift);
            }
        }
        if (pass == 0)
            lift = lift_of(warp_max(most));
    }
    return lift;
}

/* Half i of eight, twice. */
static __device__ inline __half2 twice(const uint4 &halves, uint32_t i) {
    return half2_of(__byte_perm((&halves.x)[i / 2], 0, i % 2 ? 0x3232 : 0x1010));
}

/* Sixteen tokens' codes at `planes` (plane 0, then plane 1) to a tile of halves [16][pitch]. */
template <KvSide SIDE, int BITS, int P0, int P1>
static __device__ inline void unpack_tile(const CudaKvFormat &f, const uint8_t *planes,
                                          uint32_t head_dim, uint32_t first_token,
                                          const CudaKvMeta &meta, __half *tile, uint32_t pitch) {
    constexpr bool has_centers = SIDE == KV_SIDE_K || BITS >= 6;
    uint32_t lane = threadIdx.x % CUDA_WARP, n = head_dim / CUDA_KV_UNIT;
    const uint8_t *plane1 = planes + 16 * head_dim * P0 / 8;

    for (uint32_t i_unit = lane; i_unit < 2 * n; i_unit += CUDA_WARP) {
        uint32_t first = i_unit / n * CUDA_KV_UNIT, channel = i_unit % n * CUDA_KV_UNIT;
        CudaUnit<SIDE, BITS, P0, P1> unit(planes, plane1, i_unit, 2 * n);
        uint32_t at_meta = SIDE == KV_SIDE_K ? channel : first_token + first;
        uint4 mul = *(const uint4 *)(meta.mul + at_meta), add = make_uint4(0, 0, 0, 0);

        if (has_centers)
            add = *(const uint4 *)(meta.add + at_meta);
#pragma unroll
        for (uint32_t t = 0; t < CUDA_KV_UNIT; t++) {
            __half2 x[4];

            unit.token(f, t, x);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                __half2 m = SIDE == KV_SIDE_K ? half2_of((&mul.x)[i]) : twice(mul, t);
                __half2 a = SIDE == KV_SIDE_K ? half2_of((&add.x)[i]) : twice(add, t);

                x[i] = has_centers ? __hfma2(x[i], m, a) : __hmul2(x[i], m);
            }
            *(uint4 *)(tile + (first + t) * pitch + channel) = *(uint4 *)x;
        }
    }
}

template <KvSide SIDE>
static __device__ inline void unpack_any_tile(const CudaKvFormat &f, const uint8_t *planes,
                                              uint32_t head_dim, uint32_t first_token,
                                              const CudaKvMeta &meta, __half *tile,
                                              uint32_t pitch) {
    switch (f.format) {
    case KV_FORMAT_8:
        unpack_tile<SIDE, 8, 8, 0>(f, planes, head_dim, first_token, meta, tile, pitch);
        break;
    case KV_FORMAT_6:
        unpack_tile<SIDE, 6, 4, 2>(f, planes, head_dim, first_token, meta, tile, pitch);
        break;
    case KV_FORMAT_4:
        unpack_tile<SIDE, 4, 4, 0>(f, planes, head_dim, first_token, meta, tile, pitch);
        break;
    case KV_FORMAT_3:
        unpack_tile<SIDE, 3, 2, 1>(f, planes, head_dim, first_token, meta, tile, pitch);
        break;
    default:
        unpack_tile<SIDE, 2, 2, 0>(f, planes, head_dim, first_token, meta, tile, pitch);
        break;
    }
}
