/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How a weight matrix is stored. The block formats are ggml's (GGUF): a row is a whole number of
 * blocks, and blocks never cross rows.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum WeightFormat {
    WEIGHT_F32,
    WEIGHT_F16,
    WEIGHT_BF16,
    WEIGHT_Q8_0,
    WEIGHT_Q4_0,
    WEIGHT_Q4_1,
    WEIGHT_Q5_0,
    WEIGHT_Q5_1,
    WEIGHT_Q4_K,
    WEIGHT_Q5_K,
    WEIGHT_Q6_K,
    WEIGHT_FORMATS
} WeightFormat;

typedef struct WeightFormatInfo {
    const char *name;      /* as GGUF and safetensors users know it: "q4_1" */
    uint32_t block_values; /* values a block holds: 1, 32 or 256 */
    uint32_t block_bytes;
} WeightFormatInfo;

extern const WeightFormatInfo weight_formats[WEIGHT_FORMATS];

/* Bytes of a row of n_cols values; 0 if n_cols is not a whole number of blocks. */
size_t weight_row_bytes(WeightFormat format, uint32_t n_cols);

/* The readable reference: `n` values (whole blocks) at `src` to f32. Exact in every format. */
void weight_to_f32(WeightFormat format, const void *src, float *dst, size_t n);
