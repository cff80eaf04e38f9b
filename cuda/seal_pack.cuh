/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Codes from shared memory into planes, as cuda/kv_block.h places them: a thread takes units of 8
 * tokens by 8 channels.
 */

#include "cuda/seal_steps.cuh"

#define TRELLIS_CODED_BIT 16 /* in a code, beside the level's number */

/* Codes in shared memory, a byte each: [n_channels][n_tokens], with 8 bytes more behind every eight
 * channels, so that threads of neighbouring units meet in no bank. */
static __host__ __device__ inline size_t seal_codes_bytes(uint32_t n_channels, uint32_t n_tokens) {
    return (size_t)n_channels * n_tokens + n_channels;
}

static __device__ inline uint32_t seal_code_at(uint32_t n_tokens, uint32_t channel,
                                               uint32_t token) {
    return channel * n_tokens + channel / SEAL_OCTET * 8 + token;
}

/* One token's eight codes of a plane of P bits, as the word it lies in has them. */
template <uint32_t P>
static __device__ inline uint32_t pack_codes(const uint32_t *codes, uint32_t from_bit,
                                             uint32_t token) {
    constexpr uint32_t mask = (1u << P) - 1, per_word = 4 / P;
    uint32_t word = 0;

#pragma unroll
    for (uint32_t i = 0; i < CUDA_KV_UNIT; i++) {
        uint32_t pair = i / 2 + token % per_word * 4;

        word |= ((codes[i] >> from_bit) & mask) << (pair * P + i % 2 * 16);
    }
    return word;
}

/* Levels of 4 bits. */
static __device__ inline uint32_t pack_levels(const uint32_t *codes) {
    uint32_t word = 0;

#pragma unroll
    for (uint32_t i = 0; i < CUDA_KV_UNIT; i++)
        word |= (codes[i] & 7) << 4 * i | codes[i] >> 3 << (i < 4 ? 8 * i + 7 : 8 * i - 29);
    return word;
}

/* A token's eight numbers of levels of a trellis, and their coded bits, into a unit's words of a
 * plane: bit by bit. */
template <uint32_t P>
static __device__ inline void pack_trellis(const uint32_t *codes, uint32_t token, uint32_t *words) {
#pragma unroll
    for (uint32_t i = 0; i < CUDA_KV_UNIT; i++) {
        uint32_t at_bit = 4 * i + token % 4, chosen = codes[i] % TRELLIS_CODED_BIT / 4;

        if (P == 2) {
            words[token / 4] |= codes[i] / TRELLIS_CODED_BIT << at_bit;
            words[2 + token / 4] |= (chosen & 1) << at_bit;
        } else {
            words[token / 4] |= chosen >> 1 << at_bit;
        }
    }
}

/* A unit's words [2 P] of a plane; `tokens` are its codes, of each channel those of four tokens and
 * of four more. */
template <uint32_t P>
static __device__ inline void pack_words(const CudaKvFormat &f, const uint2 *tokens,
                                         uint32_t from_bit, uint32_t *words) {
#pragma unroll
    for (uint32_t i = 0; i < 2 * P; i++)
        words[i] = 0;
#pragma unroll
    for (uint32_t t = 0; t < CUDA_KV_UNIT; t++) {
        uint32_t codes[CUDA_KV_UNIT];

#pragma unroll
        for (uint32_t i = 0; i < CUDA_KV_UNIT; i++)
            codes[i] = (t < 4 ? tokens[i].x : tokens[i].y) >> t % 4 * 8 & 0xff;
        if constexpr (P == 8) {
            words[2 * t] = codes[0] | codes[1] << 8 | codes[2] << 16 | codes[3] << 24;
            words[2 * t + 1] = codes[4] | codes[5] << 8 | codes[6] << 16 | codes[7] << 24;
        } else {
            if (P <= 2 && f.has_trellis)
                pack_trellis<P>(codes, t, words);
            else if (P == 4 && !f.has_centers)
                words[t] = pack_levels(codes);
            else
                words[t * P / 4] |= pack_codes<P>(codes, from_bit, t);
        }
    }
}

/* A unit's part of a plane: `unit` among the n_units of sixteen tokens, which begin at `to`. */
template <uint32_t P>
static __device__ inline void pack_plane(const CudaKvFormat &f, const uint2 *tokens,
                                         uint32_t from_bit, uint8_t *to, uint32_t unit,
                                         uint32_t n_units) {
    uint32_t words[2 * P];

    pack_words<P>(f, tokens, from_bit, words);
    if constexpr (P == 1)
        ((uint2 *)to)[unit] = make_uint2(words[0], words[1]);
    else
#pragma unroll
        for (uint32_t i = 0; i < P / 2; i++)
            ((uint4 *)to)[i * n_units + unit] =
                make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
}

/* All codes of the block's tokens into the page; every thread of the block calls. */
static __device__ inline void pack_page(const CudaKvFormat &f, const CudaSealPage &page,
                                        const uint8_t *codes, uint32_t n) {
    uint32_t n_across = n / CUDA_KV_UNIT, n_units = 2 * n_across;

    for (uint32_t i = threadIdx.x; i < page.n_tokens / CUDA_KV_UNIT * n_across; i += blockDim.x) {
        uint32_t first = i / n_across * CUDA_KV_UNIT, across = i % n_across;
        uint32_t down = (page.first_token + first) / CUDA_KV_UNIT;
        uint32_t unit = down % 2 * n_across + across;
        uint2 tokens[CUDA_KV_UNIT];

#pragma unroll
        for (uint32_t c = 0; c < CUDA_KV_UNIT; c++)
            tokens[c] = *(const uint2 *)(codes + seal_code_at(page.n_tokens,
                                                              across * CUDA_KV_UNIT + c, first));
        for (uint32_t plane = 0, from_bit = 0; plane < 2 && f.planes[plane];
             from_bit += f.planes[plane++]) {
            uint32_t p = f.planes[plane];
            uint8_t *to =
                page.block + (plane ? f.plane1_offset : 0) + (size_t)(down / 2) * 16 * n * p / 8;

            if (p == 8)
                pack_plane<8>(f, tokens, from_bit, to, unit, n_units);
            else if (p == 4)
                pack_plane<4>(f, tokens, from_bit, to, unit, n_units);
            else if (p == 2)
                pack_plane<2>(f, tokens, from_bit, to, unit, n_units);
            else
                pack_plane<1>(f, tokens, from_bit, to, unit, n_units);
        }
    }
}
