/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How this backend places what kvcache/kv_format.h says a block holds. Sizes, and where planes,
 * scales and centers begin, are as there; within them:
 *
 *   16 bits   [64 tokens][head_dim], keys and values alike; tails and sinks too
 *   planes    sixteen tokens after sixteen, the piece that a warp takes at a time; in it, units of
 * 8 tokens by 8 channels, which a thread takes, in two rows of head_dim / 8
 *
 * A unit of a plane of p bits has 8 p bytes: of the eight tokens in turn, their eight codes each.
 * They lie in parts of 16 bytes, first the first parts of all units: so neighbouring threads read
 * neighbouring bytes. Within a token's eight codes those of channels 2 i and 2 i + 1 are 16 bits
 * apart in a word, and come out as the two halves of a register; but in 8 bits a code is a byte, in
 * order; and of values in 4 bits the lower three of channel i are at bit 4 i, and the upper ones
 * are where a byte has its sign, channels 0 to 3 in the word as it is and 4 to 7 after a shift
 * by 4.
 *
 * Codes of a trellis lie bit by bit: a word has one bit of four tokens, token t of channel i at 4 i
 * + t, so that the bits of the channels before are a shift by 4, 8 or 12. In 2 bits a unit's words
 * are the coded bits of tokens 0 to 3 and of 4 to 7, then the other bits alike; in 3 bits the
 * second plane has the upper ones.
 */

#include "kvcache/kv_format.h"

#define CUDA_KV_UNIT 8

/* A format as kernels take it, by value. */
typedef struct CudaKvFormat {
    KvFormat format;
    uint32_t bits, planes[2];
    uint32_t meta_bytes;
    uint32_t plane1_offset, scales_offset, centers_offset;
    uint32_t has_centers, has_trellis;
    float unit; /* a power of two: of levels, which are whole numbers of it; else 1 */
    float levels_per_sigma;
    float levels[KV_LEVELS_MAX];
    float code_max;    /* the most that a code stands for, in scales times `unit` */
    uint32_t table[4]; /* levels in units, plus 128, a byte each */
} CudaKvFormat;

#ifdef __cplusplus
extern "C" {
#endif

/* Of a side that is not quantized `bits` is 16, and what follows is 0. */
CudaKvFormat cuda_kv_format(KvFormat format, KvSide side, uint32_t head_dim);

#ifdef __cplusplus
}
#endif
