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

/* Codes of a plane of P bits: those of a token's unit, two in a word, 16 bits apart. */
template <int P>
static __device__ inline void plane_pairs(const uint8_t *unit, uint32_t token, uint32_t *pairs) {
    const uint32_t *words = (const uint32_t *)unit;

    if (P == 8) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t word = words[2 * token + i];

            pairs[2 * i] = __byte_perm(word, 0, 0x4140);
            pairs[2 * i + 1] = __byte_perm(word, 0, 0x4342);
        }
    } else {
        constexpr uint32_t per_word = 4 / (P < 8 ? P : 4), mask = ((1u << P) - 1) * 0x10001u;
        uint32_t word = words[token / per_word] >> (token % per_word * 4 * P);

#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            pairs[i] = word >> (i * P) & mask;
    }
}

/* Codes of a format, from its one or two planes. */
template <int P0, int P1>
static __device__ inline void code_pairs(const uint8_t *unit0, const uint8_t *unit1, uint32_t token,
                                         uint32_t *pairs) {
    plane_pairs<P0>(unit0, token, pairs);
    if (P1) {
        uint32_t high[4];

        plane_pairs<P1 ? P1 : 1>(unit1, token, high);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            pairs[i] |= high[i] << P0;
    }
}

/* code - 2^(bits - 1), exactly: a half of 1024 and more has the code as its last bits. */
template <int BITS> static __device__ inline __half2 uniform_steps(uint32_t pair) {
    constexpr uint32_t zero = 0x6400 + (1u << (BITS - 1));

    return __hsub2(half2_of(pair | 0x64006400), half2_of(zero | zero << 16));
}

/* Levels of up to eight codes, looked up as they are. */
static __device__ inline __half2 few_levels(const CudaKvFormat &f, uint32_t pair) {
    uint32_t bytes = __byte_perm(f.table[0], f.table[1], (pair | pair >> 12) & 0x77);

    return __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4140)), half2_of(0x64806480));
}

/* Levels of sixteen codes, which are symmetric: looked up by size, with the sign of the top bit. */
static __device__ inline __half2 many_levels(const CudaKvFormat &f, uint32_t pair) {
    uint32_t negative = ~pair & 0x00080008;
    uint32_t index = pair ^ (negative - (negative >> 3));
    uint32_t bytes = __byte_perm(f.table[0], f.table[1], (index | index >> 12) & 0x77);
    __half2 size = __hsub2(half2_of(__byte_perm(bytes, 0x64646464, 0x4140)), half2_of(0x64006400));

    return half2_of(word_of(size) ^ negative << 12);
}

template <KvSide SIDE, int BITS, int P0, int P1>
static __device__ inline void unpack_token(const CudaKvFormat &f, const uint8_t *unit0,
                                           const uint8_t *unit1, uint32_t token, __half2 *out) {
    uint32_t pairs[4];

    code_pairs<P0, P1>(unit0, unit1, token, pairs);
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[i] = SIDE == KV_SIDE_K || BITS >= 6 ? uniform_steps<BITS>(pairs[i])
                 : BITS == 4                    ? many_levels(f, pairs[i])
                                                : few_levels(f, pairs[i]);
}

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

/* Sixteen tokens' codes at `planes` (plane 0, then plane 1) to a tile of halves [16][pitch]. */
template <KvSide SIDE, int BITS, int P0, int P1>
static __device__ inline void unpack_tile(const CudaKvFormat &f, const uint8_t *planes,
                                          uint32_t head_dim, uint32_t first_token,
                                          const CudaKvMeta &meta, __half *tile, uint32_t pitch) {
    uint32_t lane = threadIdx.x % CUDA_WARP, n = head_dim / CUDA_KV_UNIT;
    const uint8_t *plane1 = planes + 16 * head_dim * P0 / 8;

    for (uint32_t unit = lane; unit < 2 * n; unit += CUDA_WARP) {
        uint32_t group = unit / n, channel = unit % n * CUDA_KV_UNIT;
        __half2 mul[4], add[4];

        if (SIDE == KV_SIDE_K) {
            *(uint4 *)mul = *(const uint4 *)(meta.mul + channel);
            *(uint4 *)add = *(const uint4 *)(meta.add + channel);
        }
#pragma unroll
        for (uint32_t t = 0; t < CUDA_KV_UNIT; t++) {
            uint32_t token = group * CUDA_KV_UNIT + t;
            __half2 x[4];

            unpack_token<SIDE, BITS, P0, P1>(f, planes + unit * CUDA_KV_UNIT * P0,
                                             plane1 + unit * CUDA_KV_UNIT * P1, t, x);
            if (SIDE == KV_SIDE_V) {
                mul[0] = __half2half2(meta.mul[first_token + token]);
                add[0] = __half2half2(meta.add[first_token + token]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[i] =
                    __hfma2(x[i], mul[SIDE == KV_SIDE_K ? i : 0], add[SIDE == KV_SIDE_K ? i : 0]);
            *(uint4 *)(tile + token * pitch + channel) = *(uint4 *)x;
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
