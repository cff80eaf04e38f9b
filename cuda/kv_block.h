/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How this backend places what kvcache/kv_format.h says a block holds. Sizes, and where planes,
 * scales and centers begin, are as there; within them:
 *
 *   16 bits   [64 tokens][head_dim], keys and values alike; tails and sinks too
 *   planes    in units of 8 tokens by 8 channels: [64 / 8][head_dim / 8] units of 8 p bytes for a
 *             plane of p bits, so that the 16 tokens that a warp takes at a time are one piece
 *
 * Within a unit each token's eight codes follow each other, and within those the codes of channels
 * 2 i and 2 i + 1 are 16 bits apart in a word: they come out as the two halves of a register. In 8
 * bits a code is a byte, in order.
 */

#include "kvcache/kv_format.h"

#define CUDA_KV_UNIT 8

/* A format as kernels take it, by value. */
typedef struct CudaKvFormat {
    KvFormat format;
    uint32_t bits, planes[2];
    uint32_t meta_bytes;
    uint32_t plane1_offset, scales_offset, centers_offset;
    uint32_t has_centers;
    float levels_per_sigma;
    float levels[KV_LEVELS_MAX];
    float code_max;    /* the most that a code stands for, in scales */
    uint32_t table[2]; /* eight levels plus 128, or eight sizes of levels, a byte each */
} CudaKvFormat;

#ifdef __cplusplus
extern "C" {
#endif

/* Of a side that is not quantized `bits` is 16, and what follows is 0. */
CudaKvFormat cuda_kv_format(KvFormat format, KvSide side, uint32_t head_dim);

#ifdef __cplusplus
}
#endif
