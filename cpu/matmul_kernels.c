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

#define TILE_VECTORS 2
#define TILE_TOKENS 6

/* One tile's operands; the vectors are those from `lane` on, of one group. */
typedef struct Tile {
    const uint8_t *group;
    const uint8_t *end; /* of the weights of the call */
    uint32_t lane;
    uint32_t n_cols;
    const float *in;             /* [tokens, n_cols] */
    const int16_t *fixed;        /* [n_cols / 32][tokens][32] */
    const CpuFixedScale *scales; /* [n_cols / 32][tokens] */
} Tile;

typedef Vf TileSums[TILE_TOKENS][TILE_VECTORS];

/* Far enough ahead for memory's latency at the rate of one token. The processor's own prefetcher
 * stops at the ends of pages. Nothing beyond `end` is fetched: another thread works there. */
#define PREFETCH_BYTES 8192

V_INLINE void prefetch(const uint8_t *now, size_t size_bytes, const uint8_t *end) {
    const uint8_t *ahead = end - now > PREFETCH_BYTES ? now + PREFETCH_BYTES : now;
    V_UNROLL(32)
    for (size_t i = 0; i < size_bytes; i += 64)
        __builtin_prefetch(ahead + i);
}

/* The stored q of pair p of a run, both columns as signed 16-bit numbers. */
V_INLINE Vi quant_pair(WeightFormat format, const uint8_t *run, uint32_t p) {
    uint32_t per_slice = 16 / format_low_bits(format), shift = p % per_slice;
    Vi low = vi_load(run + p / per_slice * SLICE_BYTES);
    if (format == WEIGHT_Q8_0)
        return shift == 0 ? (Vi)((Vs)low << 8 >> 8) : (Vi)((Vs)low >> 8);

    low = shift == 3 ? (Vi)((Vus)low >> 12) : (Vi)((Vus)low >> (4 * shift)) & vi_set1(0x000f000f);
    uint32_t high_bits = format_high_bits(format);
    if (high_bits) {
        uint32_t high_per_slice = 16 / high_bits, high_shift = high_bits * (p % high_per_slice);
        Vi high = vi_load(run + plane_bytes(4) + p / high_per_slice * SLICE_BYTES);
        high = high_shift < 4 ? (Vi)((Vus)high << (4 - high_shift))
                              : (Vi)((Vus)high >> (high_shift - 4));
        low = vi_merge(low, high, vi_set1(high_bits == 1 ? 0x00100010 : 0x00300030));
    }
    int32_t zero = format_zero(format);
    return zero ? (Vi)((Vs)low - (Vs)vi_set1(zero * 0x10001)) : low;
}

/* Of the V_LANES rows from `lane` on; i_part counts the scales of a k format's block. */
V_INLINE Vf block_scale(WeightFormat format, const uint8_t *block, uint32_t i_part, uint32_t lane) {
    Vf d = v_load_f16(block + 2 * lane);
    if (!format_is_k(format))
        return d;
    const uint8_t *part = block + header_part(format, i_part) + lane;
    return d * (format == WEIGHT_Q6_K ? v_load_s8(part) : v_load_u8(part));
}

V_INLINE Vf block_min(WeightFormat format, const uint8_t *block, uint32_t i_part, uint32_t lane) {
    Vf min = v_load_f16(block + HEADER_MIN + 2 * lane);
    if (!format_is_k(format))
        return min;
    return -(min * v_load_u8(block + header_part(format, i_part) + GROUP_ROWS + lane));
}

/* What the columns of one scale add: part i_part of run i_run of a block. x: the tokens' run. */
V_INLINE void tile_add_part(WeightFormat format, uint32_t n_tokens, const uint8_t *block,
                            uint32_t lane, uint32_t i_run, uint32_t i_part, const int16_t *x,
                            const CpuFixedScale *x_scales, TileSums sums) {
    const uint32_t n_pairs = format_scale_cols(format) / 2;
    const uint8_t *run = block + format_header_bytes(format) + i_run * format_run_bytes(format);
    Vi dots[TILE_TOKENS][TILE_VECTORS];
    V_UNROLL(8)
    for (uint32_t t = 0; t < n_tokens; t++) {
        V_UNROLL(8)
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            dots[t][v] = (Vi){ 0 };
    }

    V_UNROLL(16)
    for (uint32_t i = 0; i < n_pairs; i++) {
        uint32_t p = i_part * n_pairs + i;
        Vi q[TILE_VECTORS];
        V_UNROLL(8)
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            q[v] = quant_pair(format, run + 4 * (lane + v * V_LANES), p);
        V_UNROLL(8)
        for (uint32_t t = 0; t < n_tokens; t++) {
            Vi pair = vi_set1_pair(x + t * RUN_COLS + 2 * p);
            V_UNROLL(8)
            for (uint32_t v = 0; v < TILE_VECTORS; v++)
                dots[t][v] = vi_dot_pairs(dots[t][v], q[v], pair);
        }
    }

    uint32_t i_scale = i_run * (RUN_COLS / format_scale_cols(format)) + i_part;
    V_UNROLL(8)
    for (uint32_t v = 0; v < TILE_VECTORS; v++) {
        Vf scale = block_scale(format, block, i_scale, lane + v * V_LANES);
        Vf min = format_has_min(format) ? block_min(format, block, i_scale, lane + v * V_LANES)
                                        : (Vf){ 0 };
        V_UNROLL(8)
        for (uint32_t t = 0; t < n_tokens; t++) {
            sums[t][v] = v_fma(scale * x_scales[t].scale, v_from_i32(dots[t][v]), sums[t][v]);
            if (format_has_min(format))
                sums[t][v] = v_fma(min, v_set1(x_scales[t].sum), sums[t][v]);
        }
    }
}

V_INLINE void tile_sum_blocks(WeightFormat format, uint32_t n_tokens, const Tile *tile,
                              TileSums sums) {
    const uint32_t block_runs = format_block_runs(format);
    const uint8_t *block = tile->group;
    const int16_t *x = tile->fixed;
    const CpuFixedScale *x_scales = tile->scales;
    for (uint32_t n = tile->n_cols / (block_runs * RUN_COLS); n > 0; n--) {
        for (uint32_t i = 0; i < block_runs; i++) {
            prefetch(block + format_header_bytes(format) + i * format_run_bytes(format),
                     format_run_bytes(format) + format_header_bytes(format) / block_runs,
                     tile->end);
            tile_add_part(format, n_tokens, block, tile->lane, i, 0, x, x_scales, sums);
            if (format_scale_cols(format) < RUN_COLS)
                tile_add_part(format, n_tokens, block, tile->lane, i, 1, x, x_scales, sums);
            x += n_tokens * RUN_COLS;
            x_scales += n_tokens;
        }
        block += format_block_bytes(format);
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
    const uint8_t *weights = tile->group + tile->lane * value_bytes;
    for (uint32_t i = 0; i < tile->n_cols; i++) {
        prefetch(weights, GROUP_ROWS * value_bytes, tile->end);
        Vf w[TILE_VECTORS];
        V_UNROLL(8)
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            w[v] = load_plain(format, weights + v * V_LANES * value_bytes);
        V_UNROLL(8)
        for (uint32_t t = 0; t < n_tokens; t++) {
            Vf x = v_set1(tile->in[(size_t)t * tile->n_cols + i]);
            V_UNROLL(8)
            for (uint32_t v = 0; v < TILE_VECTORS; v++)
                sums[t][v] = v_fma(w[v], x, sums[t][v]);
        }
        weights += GROUP_ROWS * value_bytes;
    }
}

/* One row's sums of one vector to out[n], n of its lanes. */
V_INLINE void sums_store(const CpuProductArgs *args, Vf sums, uint32_t token, uint32_t row) {
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

/* Rows from `row` on, a tile's width, times the n_tokens tokens from `token` on. */
V_INLINE void tile_run(WeightFormat format, uint32_t n_tokens, const CpuProductArgs *args,
                       uint32_t row, uint32_t token) {
    const Weight *weight = args->weight;
    const CpuFixedTiles *tiles = args->tiles;
    Tile tile = {
        .group = weight->data + row / GROUP_ROWS * weight->group_bytes,
        .end = weight->data + args->group_end * weight->group_bytes,
        .lane = row % GROUP_ROWS,
        .n_cols = weight->n_cols,
        .in = args->in + (size_t)token * weight->n_cols,
        .fixed = tiles->fixed + (size_t)token * weight->n_cols,
        .scales = tiles->scales + (size_t)token * (weight->n_cols / RUN_COLS),
    };
    TileSums sums;
    V_UNROLL(8)
    for (uint32_t t = 0; t < n_tokens; t++) {
        V_UNROLL(8)
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            sums[t][v] = (Vf){ 0 };
    }
    if (format_is_block(format))
        tile_sum_blocks(format, n_tokens, &tile, sums);
    else
        tile_sum_plain(format, n_tokens, &tile, sums);
    V_UNROLL(8)
    for (uint32_t t = 0; t < n_tokens; t++) {
        V_UNROLL(8)
        for (uint32_t v = 0; v < TILE_VECTORS; v++)
            if (row + v * V_LANES < weight->n_rows)
                sums_store(args, sums[t][v], token + t, row + v * V_LANES);
    }
}

#define TILE_CASE(_n)                           \
    case _n:                                    \
        tile_run(format, _n, args, row, token); \
        break

/* Rows outside, tokens inside: a tile's weights come from memory once and stay close. */
V_INLINE void product(WeightFormat format, const CpuProductArgs *args) {
    uint32_t row_end = args->group_end * GROUP_ROWS;
    for (uint32_t row = args->group_begin * GROUP_ROWS; row < row_end;
         row += TILE_VECTORS * V_LANES) {
        for (uint32_t i = args->tile_begin; i < args->tile_end; i++) {
            uint32_t token = tile_token(args->tiles, i);
            switch (tile_token(args->tiles, i + 1) - token) {
                TILE_CASE(1);
                TILE_CASE(2);
                TILE_CASE(3);
                TILE_CASE(4);
                TILE_CASE(5);
                TILE_CASE(6);
            default:
                assert(false);
            }
        }
    }
}

#define PRODUCT_DEFINE(_name, _format)                        \
    static void product_##_name(const CpuProductArgs *args) { \
        product(_format, args);                               \
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

static void fix_run(int16_t *fixed, CpuFixedScale *scale, const float *in) {
    Vi max_bits = { 0 }, sum = { 0 };
    for (uint32_t i = 0; i < RUN_COLS; i += V_LANES) {
        Vi bits = (Vi)v_load(in + i) & 0x7fffffff;
        max_bits = (Vi)v_select(bits > max_bits, (Vf)bits, (Vf)max_bits);
    }
    int32_t amax_bits = vi_max_lane(max_bits);
    float amax;
    memcpy(&amax, &amax_bits, sizeof(amax));

    /* As integers, NaN and infinities are the largest. */
    if (amax_bits >= 0x7f800000 || amax < FIX_AMAX_MIN) {
        float x = amax < FIX_AMAX_MIN ? 0 : __builtin_nanf("");
        memset(fixed, 0, RUN_COLS * sizeof(*fixed));
        *scale = (CpuFixedScale){ .scale = x, .sum = x };
        return;
    }
    float inverse = 32767 / amax;
    for (uint32_t i = 0; i < RUN_COLS; i += V_LANES) {
        Vi q = v_to_i32(v_load(in + i) * inverse);
        Vsh narrow = __builtin_convertvector(q, Vsh);
        memcpy(fixed + i, &narrow, sizeof(narrow));
        sum += q;
    }
    scale->scale = amax / 32767;
    scale->sum = scale->scale * (float)vi_sum_lanes(sum);
}

static void fix(const CpuFixedTiles *tiles, uint32_t i_tile, const float *in, uint32_t n_cols) {
    uint32_t token = tile_token(tiles, i_tile);
    uint32_t n_tokens = tile_token(tiles, i_tile + 1) - token, n_runs = n_cols / RUN_COLS;
    int16_t *fixed = tiles->fixed + (size_t)token * n_cols;
    CpuFixedScale *scales = tiles->scales + (size_t)token * n_runs;
    in += (size_t)token * n_cols;
    for (uint32_t i = 0; i < n_runs; i++)
        for (uint32_t t = 0; t < n_tokens; t++)
            fix_run(fixed + ((size_t)i * n_tokens + t) * RUN_COLS, &scales[i * n_tokens + t],
                    in + (size_t)t * n_cols + (size_t)i * RUN_COLS);
}

const CpuMatmulKernels MATMUL_KERNELS = {
    .tile_tokens_max = TILE_TOKENS,
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
