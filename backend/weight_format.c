/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One function a format, one block a call, written to be read beside ggml's definitions
 * (ggml-common.h, ggml-quants.c). Stateless. All products of scales and codes fit in 24 bits, so
 * only the addition of a minimum rounds, and only where the sum needs it.
 */
#include "backend/weight_format.h"

#include "util/half.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are little-endian");

#define K_BLOCK_VALUES 256 /* of the q*_k formats */
#define BLOCK_VALUES 32    /* of the others */

const WeightFormatInfo weight_formats[WEIGHT_FORMATS] = {
    [WEIGHT_F32] = { .name = "f32", .block_values = 1, .block_bytes = 4 },
    [WEIGHT_F16] = { .name = "f16", .block_values = 1, .block_bytes = 2 },
    [WEIGHT_BF16] = { .name = "bf16", .block_values = 1, .block_bytes = 2 },
    [WEIGHT_Q8_0] = { .name = "q8_0", .block_values = 32, .block_bytes = 34 },
    [WEIGHT_Q4_0] = { .name = "q4_0", .block_values = 32, .block_bytes = 18 },
    [WEIGHT_Q4_1] = { .name = "q4_1", .block_values = 32, .block_bytes = 20 },
    [WEIGHT_Q5_0] = { .name = "q5_0", .block_values = 32, .block_bytes = 22 },
    [WEIGHT_Q5_1] = { .name = "q5_1", .block_values = 32, .block_bytes = 24 },
    [WEIGHT_Q4_K] = { .name = "q4_k", .block_values = 256, .block_bytes = 144 },
    [WEIGHT_Q5_K] = { .name = "q5_k", .block_values = 256, .block_bytes = 176 },
    [WEIGHT_Q6_K] = { .name = "q6_k", .block_values = 256, .block_bytes = 210 },
};

size_t weight_row_bytes(WeightFormat format, uint32_t n_cols) {
    const WeightFormatInfo *info = &weight_formats[format];

    if (n_cols % info->block_values)
        return 0;
    return (size_t)(n_cols / info->block_values) * info->block_bytes;
}

/* numbers */

static uint16_t load_u16(const uint8_t *p) {
    uint16_t x;

    memcpy(&x, p, sizeof(x));
    return x;
}

static uint32_t load_u32(const uint8_t *p) {
    uint32_t x;

    memcpy(&x, p, sizeof(x));
    return x;
}

static float float_of_bits(uint32_t bits) {
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

static float load_f16(const uint8_t *p) {
    return half_value(load_u16(p));
}

static void f32_block(const uint8_t *block, float *dst) {
    memcpy(dst, block, sizeof(*dst));
}

static void f16_block(const uint8_t *block, float *dst) {
    *dst = load_f16(block);
}

static void bf16_block(const uint8_t *block, float *dst) {
    *dst = float_of_bits((uint32_t)load_u16(block) << 16);
}

/* blocks of 32; in packed codes, value i is a low nibble and value i + 16 the high one beside it */

static void q8_0_block(const uint8_t *block, float *dst) {
    float d = load_f16(block);
    const int8_t *codes = (const int8_t *)block + 2;

    for (int i = 0; i < BLOCK_VALUES; i++)
        dst[i] = d * codes[i];
}

static void q4_0_block(const uint8_t *block, float *dst) {
    float d = load_f16(block);
    const uint8_t *codes = block + 2;

    for (int i = 0; i < BLOCK_VALUES / 2; i++) {
        dst[i] = d * (float)((codes[i] & 0xf) - 8);
        dst[i + 16] = d * (float)((codes[i] >> 4) - 8);
    }
}

static void q4_1_block(const uint8_t *block, float *dst) {
    float d = load_f16(block), min = load_f16(block + 2);
    const uint8_t *codes = block + 4;

    for (int i = 0; i < BLOCK_VALUES / 2; i++) {
        dst[i] = d * (float)(codes[i] & 0xf) + min;
        dst[i + 16] = d * (float)(codes[i] >> 4) + min;
    }
}

/* The fifth bits of all 32 values stand in one word, in their order. */
static int code_5_bits(const uint8_t *codes, uint32_t fifth_bits, int i) {
    int low = i < 16 ? codes[i] & 0xf : codes[i - 16] >> 4;

    return low | (int)(fifth_bits >> i & 1) << 4;
}

static void q5_0_block(const uint8_t *block, float *dst) {
    float d = load_f16(block);
    uint32_t fifth_bits = load_u32(block + 2);

    for (int i = 0; i < BLOCK_VALUES; i++)
        dst[i] = d * (float)(code_5_bits(block + 6, fifth_bits, i) - 16);
}

static void q5_1_block(const uint8_t *block, float *dst) {
    float d = load_f16(block), min = load_f16(block + 2);
    uint32_t fifth_bits = load_u32(block + 4);

    for (int i = 0; i < BLOCK_VALUES; i++)
        dst[i] = d * (float)code_5_bits(block + 8, fifth_bits, i) + min;
}

/* blocks of 256, in sub-blocks with scales of their own */

/* q4_k and q5_k: eight 6-bit scales and eight 6-bit minima in 12 bytes. The first four of each are
 * the low 6 bits of bytes 0-3 and 4-7; the others have their low 4 bits in bytes 8-11 and their
 * high 2 bits on top of those bytes. */
static void k_scale_and_min(const uint8_t packed[12], int i, float *scale, float *min) {
    if (i < 4) {
        *scale = (float)(packed[i] & 63);
        *min = (float)(packed[i + 4] & 63);
    } else {
        *scale = (float)((packed[i + 4] & 0xf) | packed[i - 4] >> 6 << 4);
        *min = (float)(packed[i + 4] >> 4 | packed[i] >> 6 << 4);
    }
}

/* Sub-blocks 2 j and 2 j + 1 are the low and the high nibbles of codes 32 j .. 32 j + 31; bit i of
 * a byte of `fifth_bits` belongs to sub-block i. */
static void k_block(const uint8_t *block, const uint8_t *fifth_bits, const uint8_t *codes,
                    float *dst) {
    float d = load_f16(block), d_min = load_f16(block + 2);

    for (int i = 0; i < 8; i++) {
        float scale, min;

        k_scale_and_min(block + 4, i, &scale, &min);
        scale *= d;
        min *= d_min;
        for (int j = 0; j < 32; j++) {
            int code = codes[i / 2 * 32 + j] >> i % 2 * 4 & 0xf;

            if (fifth_bits)
                code |= (fifth_bits[j] >> i & 1) << 4;
            dst[i * 32 + j] = scale * (float)code - min;
        }
    }
}

static void q4_k_block(const uint8_t *block, float *dst) {
    k_block(block, NULL, block + 16, dst);
}

static void q5_k_block(const uint8_t *block, float *dst) {
    k_block(block, block + 16, block + 48, dst);
}

/* Sixteen sub-blocks of 16. Each half of 128 values has four runs of 32: run r has its low 4 bits
 * in 64 bytes (r even: first 32, odd: last 32; r < 2: low nibbles) and its high 2 bits in bits
 * 2 r and 2 r + 1 of 32 bytes. */
static void q6_k_block(const uint8_t *block, float *dst) {
    const int8_t *scales = (const int8_t *)block + 192;
    float d = load_f16(block + 208);

    for (int i = 0; i < K_BLOCK_VALUES; i++) {
        int half = i / 128, run = i / 32 % 4, j = i % 32;
        int low = block[half * 64 + run % 2 * 32 + j] >> run / 2 * 4 & 0xf;
        int high = block[128 + half * 32 + j] >> run * 2 & 3;

        dst[i] = d * (float)scales[i / 16] * (float)((low | high << 4) - 32);
    }
}

void weight_to_f32(WeightFormat format, const void *src, float *dst, size_t n) {
    static void (*const block_functions[WEIGHT_FORMATS])(const uint8_t *, float *) = {
        [WEIGHT_F32] = f32_block,   [WEIGHT_F16] = f16_block,   [WEIGHT_BF16] = bf16_block,
        [WEIGHT_Q8_0] = q8_0_block, [WEIGHT_Q4_0] = q4_0_block, [WEIGHT_Q4_1] = q4_1_block,
        [WEIGHT_Q5_0] = q5_0_block, [WEIGHT_Q5_1] = q5_1_block, [WEIGHT_Q4_K] = q4_k_block,
        [WEIGHT_Q5_K] = q5_k_block, [WEIGHT_Q6_K] = q6_k_block,
    };
    const WeightFormatInfo *info = &weight_formats[format];
    const uint8_t *block = src;

    assert(n % info->block_values == 0);
    for (size_t i = 0; i < n; i += info->block_values, block += info->block_bytes)
        block_functions[format](block, dst + i);
}
