/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How a Weight lies in memory; shared by the packer (weight.c) and the kernels, private to cpu/.
 *
 * 32 rows make a group: they are the lanes of the kernels' vectors, so a sum over columns never
 * crosses lanes. Rows that a last group lacks are zeros.
 *
 * f32, f16, bf16: a group is [n_cols][32 rows].
 *
 * Block formats: a group is its blocks, in order; a block is a header and 1 (or 8, in the k
 * formats) runs of 32 columns. Everything is whole cache lines, and a product reads it linearly.
 * Header:
 *     q8_0, q4_0, q5_0   f16 scale[32]
 *     q4_1, q5_1         f16 scale[32], f16 min[32]
 *     q4_k, q5_k         f16 d[32], f16 dmin[32], 8 x { u8 scale[32], u8 min[32] }
 *     q6_k               f16 d[32], 16 x { s8 scale[32] }
 * A value is scale * q (+ min), with scale = d * scale and min = -dmin * min in the k formats.
 *
 * A run: the bits of q are cut into planes, of 4 (q4), 4 + 1 (q5), 4 + 2 (q6) or 8 (q8) bits. A
 * plane of `bits` is `bits` slices of 32 rows x 2 x 16 bits. The values of columns 2 p and 2 p + 1
 * (a pair) are in slice p / (16 / bits): field p % (16 / bits), counted from the low end, of the
 * low and the high 16 bits. One shift and one mask thus give, for all rows, a pair of columns as
 * 16-bit numbers: the operand of the processor's 16-bit dot product.
 * q is stored unsigned, with q4_0, q5_0 and q6_k's zero at 8, 16 and 32; q8_0's is signed.
 */

#include "backend/ops.h"

#define GROUP_ROWS 32
#define RUN_COLS 32 /* of weights, and of activations that share a scale */
#define SLICE_BYTES (GROUP_ROWS * 4)
#define WEIGHT_ALIGN_BYTES 64

/* The tag of backend/ops.h, as this backend defines it. Tags have no linkage: other backends in the
 * same program define theirs. */
struct Weight {
    WeightFormat format;
    uint32_t n_rows, n_cols;
    uint32_t n_groups;
    size_t group_bytes;
    size_t data_bytes;
    uint8_t *data; /* [n_groups][group_bytes], owned */
};

/* The rest are constants once inlined into code for one format. */

static inline bool format_is_block(WeightFormat format) {
    return format != WEIGHT_F32 && format != WEIGHT_F16 && format != WEIGHT_BF16;
}

static inline bool format_is_k(WeightFormat format) {
    return format == WEIGHT_Q4_K || format == WEIGHT_Q5_K || format == WEIGHT_Q6_K;
}

static inline bool format_has_min(WeightFormat format) {
    return format == WEIGHT_Q4_1 || format == WEIGHT_Q5_1 || format == WEIGHT_Q4_K ||
           format == WEIGHT_Q5_K;
}

/* Bits of the first plane. */
static inline uint32_t format_low_bits(WeightFormat format) {
    return format == WEIGHT_Q8_0 ? 8 : 4;
}

/* Bits of the second plane, or 0. */
static inline uint32_t format_high_bits(WeightFormat format) {
    switch (format) {
    case WEIGHT_Q5_0:
    case WEIGHT_Q5_1:
    case WEIGHT_Q5_K:
        return 1;
    case WEIGHT_Q6_K:
        return 2;
    default:
        return 0;
    }
}

/* What is subtracted from the stored q. */
static inline int32_t format_zero(WeightFormat format) {
    switch (format) {
    case WEIGHT_Q4_0:
        return 8;
    case WEIGHT_Q5_0:
        return 16;
    case WEIGHT_Q6_K:
        return 32;
    default:
        return 0;
    }
}

/* Columns that share a scale. */
static inline uint32_t format_scale_cols(WeightFormat format) {
    return format == WEIGHT_Q6_K ? 16 : 32;
}

static inline size_t plane_bytes(uint32_t bits) {
    return bits * SLICE_BYTES;
}

static inline size_t format_run_bytes(WeightFormat format) {
    return plane_bytes(format_low_bits(format)) + plane_bytes(format_high_bits(format));
}

static inline uint32_t format_block_runs(WeightFormat format) {
    return format_is_k(format) ? 8 : 1;
}

static inline size_t format_header_bytes(WeightFormat format) {
    switch (format) {
    case WEIGHT_Q4_K:
    case WEIGHT_Q5_K:
        return (2 + 2 + 8 * 2) * GROUP_ROWS;
    case WEIGHT_Q6_K:
        return (2 + 16) * GROUP_ROWS;
    default:
        return (format_has_min(format) ? 4 : 2) * GROUP_ROWS;
    }
}

static inline size_t format_block_bytes(WeightFormat format) {
    return format_header_bytes(format) + format_block_runs(format) * format_run_bytes(format);
}

/* Into a block: the f16 mins; the byte scales of part i (of 8, or 16 in q6_k), then their mins. */
#define HEADER_MIN (2 * GROUP_ROWS)

static inline size_t header_part(WeightFormat format, uint32_t i) {
    return format == WEIGHT_Q6_K ? (2 + i) * GROUP_ROWS : (4 + 2 * i) * GROUP_ROWS;
}
