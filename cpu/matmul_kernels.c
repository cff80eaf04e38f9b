/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Compiled once per instruction set with MATMUL_KERNELS naming the table (cpu/meson.build).
 *
 * A tile is TILE_VECTORS vectors of weight rows times up to TILE_TOKENS tokens, held in registers
 * while the columns go by. Every output element is one chain of sums in rising order of columns
 * that no other element of the tile touches: so neither tile nor batch shows in the result.
 *
 * Block formats, for each run of 32 columns: the weights' integers are multiplied with the
 * activations' 16-bit fixed point numbers, exactly (|sum| <= 32 * 128 * 32767 < 2^31); the sum
 * times both scales, and the weights' min times the activations' sum, are added to the chain.
 */

#include "cpu/matmul_kernels.h"

#include "cpu/matmul_vector.h"

#include <assert.h>

#define VECTORS_PER_GROUP (GROUP_ROWS / V_LANES)

#if defined(__AVX512F__)
#define TILE_VECTORS 2
#define TILE_TOKENS 6
#else
#define TILE_VECTORS 2
#define TILE_TOKENS 3
#endif

/* One tile's operands. A vector that the last tile lacks repeats another and is not stored. */
typedef struct Tile {
    const uint8_t *header[TILE_VECTORS]; /* of the group, at the vector's lanes of 16 bits */
    const uint8_t *quants[TILE_VECTORS]; /* of the group, at the vector's lanes of 32 bits */
    uint32_t lane[TILE_VECTORS];         /* of the group: the vector's first */
    uint32_t n_cols;
    const float *in;
    const int16_t *fixed;
    const FixedScale *scales;
} Tile;

typedef Vf TileSums[TILE_TOKENS][TILE_VECTORS];

/* The stored q of pair p of a run of 32 columns, both columns as signed 16-bit numbers. */
V_INLINE Vi quant_pair(WeightFormat format, const uint8_t *run, uint32_t p) {
    uint32_t per_vector = 16 / format_low_bits(format), shift = p % per_vector;
    Vi low = vi_load(run + p / per_vector * PLANE_VECTOR_BYTES);
    if (format == WEIGHT_Q8_0)
        return shift == 0 ? (Vi)((Vs)low << 8 >> 8) : (Vi)((Vs)low >> 8);

    low = shift == 3 ? (Vi)((Vus)low >> 12) : (Vi)((Vus)low >> (4 * shift)) & vi_set1(0x000f000f);
    uint32_t high_bits = format_high_bits(format);
    if (high_bits) {
        uint32_t high_per_vector = 16 / high_bits, high_shift = high_bits * (p % high_per_vector);
        Vi high = vi_load(run + plane_bytes(4) + p / high_per_vector * PLANE_VECTOR_BYTES);
        high = high_shift < 4 ? (Vi)((Vus)high << (4 - high_shift))
                              : (Vi)((Vus)high >> (high_shift - 4));
        low = vi_merge(low, high, vi_set1(high_bits == 1 ? 0x00100010 : 0x00300030));
    }
    int32_t zero = format_zero(format);
    return zero ? (Vi)((Vs)low - (Vs)vi_set1(zero * 0x10001)) : low;
}

V_INLINE Vf tile_scale(WeightFormat format, const Tile *tile, uint32_t v, uint32_t i_quant,
                       uint32_t i_half) {
    const uint8_t *block = header_block(format, tile->header[v], i_quant);
    Vf d = v_load_f16(block + tile->lane[v] * 2);
    if (!format_is_k(format))
        return d;
    const uint8_t *scales = block_scales(format, block, i_quant, i_half) + tile->lane[v];
    return d * (format == WEIGHT_Q6_K ? v_load_s8(scales) : v_load_u8(scales));
}

V_INLINE Vf tile_min(WeightFormat format, const Tile *tile, uint32_t v, uint32_t i_quant) {
    const uint8_t *block = header_block(format, tile->header[v], i_quant);
    Vf min = v_load_f16(block + 32 + tile->lane[v] * 2);
    if (!format_is_k(format))
        return min;
    const uint8_t *mins = block_scales(format, block, i_quant, 0) + GROUP_ROWS + tile->lane[v];
    return -(min * v_load_u8(mins));
}

/* Columns that share a scale: pairs pair_begin .. + n_pairs of run i_quant. */
V_INLINE void tile_add_run(WeightFormat format, uint32_t n_tokens, const Tile *tile, TileSums sums,
                           uint32_t i_quant, uint32_t i_half) {
    const uint32_t n_pairs = format_scale_cols(format) / 2;
    const uint32_t n_runs = tile->n_cols / QUANT_COLS;
    const int16_t *fixed = tile->fixed + (size_t)i_quant * QUANT_COLS;
    Vi dots[TILE_TOKENS][TILE_VECTORS];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            dots[t][v] = (Vi){ 0 };

#pragma GCC unroll 16
    for (uint32_t i = 0; i < n_pairs; i++) {
        uint32_t p = i_half * n_pairs + i;
        Vi q[TILE_VECTORS];
#pragma GCC unroll 8
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            q[v] = quant_pair(format, tile->quants[v] + i_quant * format_quant_bytes(format), p);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n_tokens; t++) {
            Vi x = vi_set1_pair(fixed + (size_t)t * tile->n_cols + 2 * p);
#pragma GCC unroll 8
            for (uint32_t v = 0; v < TILE_VECTORS; v++)
                dots[t][v] = vi_dot_pairs(dots[t][v], q[v], x);
        }
    }

#pragma GCC unroll 8
    for (uint32_t v = 0; v < TILE_VECTORS; v++) {
        Vf scale = tile_scale(format, tile, v, i_quant, i_half);
        Vf min = format_has_min(format) ? tile_min(format, tile, v, i_quant) : (Vf){ 0 };
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n_tokens; t++) {
            const FixedScale *x = &tile->scales[(size_t)t * n_runs + i_quant];
            sums[t][v] = v_fma(scale * x->scale, v_from_i32(dots[t][v]), sums[t][v]);
            if (format_has_min(format))
                sums[t][v] = v_fma(min, v_set1(x->sum), sums[t][v]);
        }
    }
}

V_INLINE void tile_sum_blocks(WeightFormat format, uint32_t n_tokens, const Tile *tile,
                              TileSums sums) {
    for (uint32_t i = 0; i < tile->n_cols / QUANT_COLS; i++) {
        tile_add_run(format, n_tokens, tile, sums, i, 0);
        if (format_scale_cols(format) < QUANT_COLS)
            tile_add_run(format, n_tokens, tile, sums, i, 1);
    }
}

V_INLINE Vf load_plain(WeightFormat format, const uint8_t *p) {
    if (format == WEIGHT_F16)
        return v_load_f16(p);
    return format == WEIGHT_BF16 ? v_load_bf16((const uint16_t *)(const void *)p)
                                 : v_load((const float *)(const void *)p);
}

V_INLINE void tile_sum_plain(WeightFormat format, uint32_t n_tokens, const Tile *tile,
                             TileSums sums) {
    const uint32_t value_bytes = format == WEIGHT_F32 ? 4 : 2;
#pragma GCC unroll 2
    for (uint32_t i = 0; i < tile->n_cols; i++) {
        Vf w[TILE_VECTORS];
#pragma GCC unroll 8
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            w[v] = load_plain(format, tile->quants[v] + (size_t)i * GROUP_ROWS * value_bytes);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n_tokens; t++) {
            Vf x = v_set1(tile->in[(size_t)t * tile->n_cols + i]);
#pragma GCC unroll 8
            for (uint32_t v = 0; v < TILE_VECTORS; v++)
                sums[t][v] = v_fma(w[v], x, sums[t][v]);
        }
    }
}

/* One row's sums of one vector to out[n], n of its lanes. */
V_INLINE void sums_store(const ProductArgs *args, Vf sums, uint32_t token, uint32_t row) {
    uint32_t n_rows = args->weight->n_rows;
    float *out = args->out + (size_t)token * n_rows + row;
    uint32_t n = n_rows - row < V_LANES ? n_rows - row : V_LANES;
    if (n == V_LANES) {
        if (args->bias)
            sums += v_load(args->bias + row);
        v_store(out, args->accumulate ? v_load(out) + sums : sums);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        float sum = args->bias ? sums[i] + args->bias[row + i] : sums[i];
        out[i] = args->accumulate ? out[i] + sum : sum;
    }
}

/* Vectors first .. first + TILE_VECTORS - 1 of the weight, tokens token .. + n_tokens - 1. */
V_INLINE void tile_run(WeightFormat format, uint32_t n_tokens, const ProductArgs *args, Tile *tile,
                       uint32_t vector, uint32_t vector_end, uint32_t token) {
    tile->in = args->in + (size_t)token * tile->n_cols;
    tile->fixed = args->fixed + (size_t)token * tile->n_cols;
    tile->scales = args->scales + (size_t)token * (tile->n_cols / QUANT_COLS);

    TileSums sums;
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            sums[t][v] = (Vf){ 0 };
    if (format_is_block(format))
        tile_sum_blocks(format, n_tokens, tile, sums);
    else
        tile_sum_plain(format, n_tokens, tile, sums);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n_tokens; t++)
#pragma GCC unroll 8
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            if (vector + v < vector_end && (vector + v) * V_LANES < args->weight->n_rows)
                sums_store(args, sums[t][v], token + t, (vector + v) * V_LANES);
}

V_INLINE void product(WeightFormat format, const ProductArgs *args) {
    const Weight *weight = args->weight;
    uint32_t vector_end = args->group_end * VECTORS_PER_GROUP;
    uint32_t lane_bytes = format == WEIGHT_F16 || format == WEIGHT_BF16 ? 2 : 4;
    for (uint32_t vector = args->group_begin * VECTORS_PER_GROUP; vector < vector_end;
         vector += TILE_VECTORS) {
        Tile tile = { .n_cols = weight->n_cols };
        for (uint32_t v = 0; v < TILE_VECTORS; v++) {
            uint32_t at = vector + v < vector_end ? vector + v : vector;
            const uint8_t *group = weight->data + at / VECTORS_PER_GROUP * weight->group_bytes;
            tile.lane[v] = at % VECTORS_PER_GROUP * V_LANES;
            tile.header[v] = group;
            tile.quants[v] = group + weight->header_bytes + tile.lane[v] * lane_bytes;
        }
        for (uint32_t token = args->token_begin; token < args->token_end;) {
            uint32_t left = args->token_end - token;
            if (TILE_TOKENS >= 6 && left >= 6) {
                tile_run(format, 6, args, &tile, vector, vector_end, token);
                token += 6;
            } else if (TILE_TOKENS >= 4 && left >= 4) {
                tile_run(format, 4, args, &tile, vector, vector_end, token);
                token += 4;
            } else if (TILE_TOKENS == 3 && left >= 3) {
                tile_run(format, 3, args, &tile, vector, vector_end, token);
                token += 3;
            } else if (left >= 2) {
                tile_run(format, 2, args, &tile, vector, vector_end, token);
                token += 2;
            } else {
                tile_run(format, 1, args, &tile, vector, vector_end, token);
                token += 1;
            }
        }
    }
}

#define PRODUCT_DEFINE(_name, _format)                     \
    static void product_##_name(const ProductArgs *args) { \
        product(_format, args);                            \
    }

PRODUCT_DEFINE(f32, WEIGHT_F32)
PRODUCT_DEFINE(f16, WEIGHT_F16)
PRODUCT_DEFINE(bf16, WEIGHT_BF16)
PRODUCT_DEFINE(q8_0, WEIGHT_Q8_0)
PRODUCT_DEFINE(q4_0, WEIGHT_Q4_0)
PRODUCT_DEFINE(q4_1, WEIGHT_Q4_1)
PRODUCT_DEFINE(q5_0, WEIGHT_Q5_0)
PRODUCT_DEFINE(q5_1, WEIGHT_Q5_1)
PRODUCT_DEFINE(q4_k, WEIGHT_Q4_K)
PRODUCT_DEFINE(q5_k, WEIGHT_Q5_K)
PRODUCT_DEFINE(q6_k, WEIGHT_Q6_K)

#define FIX_AMAX_MIN 0x1p-100f /* below, a scale or its reciprocal would leave f32's range */

static void fix_block(int16_t *fixed, FixedScale *scale, const float *in) {
    Vi max_bits = { 0 }, sum = { 0 };
    for (uint32_t i = 0; i < QUANT_COLS; i += V_LANES) {
        Vi bits = (Vi)v_load(in + i) & 0x7fffffff;
        max_bits = (Vi)v_select(bits > max_bits, (Vf)bits, (Vf)max_bits);
    }
    int32_t amax_bits = vi_max_lane(max_bits);
    float amax;
    memcpy(&amax, &amax_bits, sizeof(amax));

    /* As integers, NaN and infinities are the largest. */
    if (amax_bits >= 0x7f800000 || amax < FIX_AMAX_MIN) {
        float x = amax < FIX_AMAX_MIN ? 0 : __builtin_nanf("");
        memset(fixed, 0, QUANT_COLS * sizeof(*fixed));
        *scale = (FixedScale){ .scale = x, .sum = x };
        return;
    }
    float inverse = 32767 / amax;
    for (uint32_t i = 0; i < QUANT_COLS; i += V_LANES) {
        Vi q = v_to_i32(v_load(in + i) * inverse);
        Vsh narrow = __builtin_convertvector(q, Vsh);
        memcpy(fixed + i, &narrow, sizeof(narrow));
        sum += q;
    }
    scale->scale = amax / 32767;
    scale->sum = scale->scale * (float)vi_sum_lanes(sum);
}

static void fix(int16_t *fixed, FixedScale *scales, const float *in, uint32_t n_cols) {
    for (uint32_t i = 0; i < n_cols / QUANT_COLS; i++)
        fix_block(fixed + (size_t)i * QUANT_COLS, &scales[i], in + (size_t)i * QUANT_COLS);
}

const MatmulKernels MATMUL_KERNELS = {
    .fix = fix,
    .product = {
        [WEIGHT_F32] = product_f32,
        [WEIGHT_F16] = product_f16,
        [WEIGHT_BF16] = product_bf16,
        [WEIGHT_Q8_0] = product_q8_0,
        [WEIGHT_Q4_0] = product_q4_0,
        [WEIGHT_Q4_1] = product_q4_1,
        [WEIGHT_Q5_0] = product_q5_0,
        [WEIGHT_Q5_1] = product_q5_1,
        [WEIGHT_Q4_K] = product_q4_k,
        [WEIGHT_Q5_K] = product_q5_k,
        [WEIGHT_Q6_K] = product_q6_k,
    },
};
