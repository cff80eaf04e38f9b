/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled once per instruction set with KV_KERNELS naming the table (cpu/meson.build).
 *
 * A value is scale * u + offset, where u is the level that its code chooses, or the steps that it
 * is from the middle one; half a step is in the offset. Scales are folded into queries and weights,
 * offsets into one number a query, so that the inner loops turn codes to floats and multiply-add.
 * For the few queries of a decoding sequence they do so in registers; for more, all u of a block
 * are written out once and read by every few queries. Both are the same operations on the same
 * numbers, in the same order.
 */
#include "cpu/kv_kernels.h"

#include "cpu/kv_codes.h"
#include "cpu/kv_seal.h"
#include "cpu/kv_trellis.h"
#include "cpu/vector.h"

#include <string.h>

#define LANES KV_PAGE_TOKENS
#define CACHE_LINE_BYTES 64
#define QUERIES_TILE KV_QUERIES_TILE

/* what a block holds */

static void look_up_scales(const uint8_t *codes, uint32_t n, float *scales) {
    uint32_t i = 0;

#if defined(__AVX512F__)
    for (; i + V_LANES <= n; i += V_LANES)
        _mm512_storeu_ps(scales + i, _mm512_i32gather_ps((__m512i)kv_load_bytes(codes + i),
                                                         kv_scales, sizeof(float)));
#elif defined(__AVX2__)
    for (; i + V_LANES <= n; i += V_LANES)
        _mm256_storeu_ps(
            scales + i,
            _mm256_i32gather_ps(kv_scales, (__m256i)kv_load_bytes(codes + i), sizeof(float)));
#endif
    for (; i < n; i++)
        scales[i] = kv_scales[codes[i]];
}

static void read_metadata(KvFormat format, KvSide side, const KvBlockLayout *l,
                          const uint8_t *block, CpuKvScratch *s) {
    const uint8_t *scales = block + l->scales_offset, *centers = block + l->centers_offset;
    uint32_t n = l->n_vectors;

    if (kv_formats[format].meta_bytes == 2) {
        uint16_t halves[2][KV_HEAD_DIM_MAX];

        memcpy(halves[0], scales, n * sizeof(halves[0][0]));
        memcpy(halves[1], centers, n * sizeof(halves[1][0]));
        for (uint32_t i = 0; i < n; i++) {
            s->scales[i] = half_value(halves[0][i]);
            s->offsets[i] = half_value(halves[1][i]) + 0.5f * s->scales[i];
        }
        return;
    }
    look_up_scales(scales, n, s->scales);
    if (!kv_format_has_centers(format, side))
        memset(s->offsets, 0, n * sizeof(*s->offsets));
    else
        for (uint32_t i = 0; i < n; i++)
            s->offsets[i] = s->scales[i] * (0.5f * (float)(int8_t)centers[i] + 0.5f);
}

static CpuKvTable table_of(KvFormat format, KvSide side) {
    const KvFormatInfo *info = &kv_formats[format];
    float entries[16];
    CpuKvTable table;

    if (!kv_format_has_centers(format, side))
        return kv_level_table(info);
    for (uint32_t i = 0; i < 16; i++)
        entries[i] = (float)(i & ((1u << info->bits) - 1)) - (float)(1u << (info->bits - 1));
    memcpy(&table, entries, sizeof(table));
    return table;
}

/* Bytes of a block for each of its vectors. */
static uint32_t vector_share(const KvBlockLayout *l) {
    return (uint32_t)((l->size_bytes + l->n_vectors - 1) / l->n_vectors);
}

/* Of the codes that kernels see: those of a trellis are levels by then. */
KV_INLINE uint32_t code_bits(KvFormat format, KvSide side) {
    uint32_t bits = kv_plane_bits(format, 0) + kv_plane_bits(format, 1);

    return side == KV_SIDE_V && bits < 4 ? bits + 1 : bits;
}

KV_INLINE CpuKvCodes packed(KvFormat format, KvSide side, uint32_t n, const KvBlockLayout *l,
                            const uint8_t *block, const uint8_t *next) {
    return (CpuKvCodes){ .is_uniform = side == KV_SIDE_K ||
                                       kv_plane_bits(format, 0) + kv_plane_bits(format, 1) > 4,
                         .bits = kv_plane_bits(format, 0) + kv_plane_bits(format, 1),
                         .low_bits = kv_plane_bits(format, 0),
                         .high_bits = kv_plane_bits(format, 1),
                         .n = n,
                         .low = block + l->plane_offset[0],
                         .high = block + l->plane_offset[1],
                         .next = next,
                         .next_bytes = vector_share(l) };
}

/* Levels of a trellis in words, of tokens low .. high - 1. */
KV_INLINE CpuKvCodes levels_of(KvFormat format, uint32_t n, const KvBlockLayout *l,
                               const uint8_t *block, const uint8_t *next, uint32_t low,
                               uint32_t high, CpuKvScratch *s) {
    const uint32_t runs = n / KV_TRELLIS_RUN;
    const uint8_t *planes[2] = { block + l->plane_offset[0], block + l->plane_offset[1] };
    uint16_t *levels = (uint16_t *)(void *)s->codes;

    /* From a whole vector of runs on; a block has an even number of them. */
    for (uint32_t i = low * runs & ~1u; i < high * runs; i += KV_TRELLIS_RUNS)
        kv_trellis_unpack_runs(format, planes[0] + (size_t)i * 16, planes[1] + (size_t)i * 8,
                               levels + (size_t)i * 16);
    return (CpuKvCodes){ .bits = code_bits(format, KV_SIDE_V),
                         .n = n,
                         .low = s->codes,
                         .next = next,
                         .next_bytes = vector_share(l) };
}

/* The share of one vector in the block to come: spread over the work on this one, its lines come in
 * at the pace at which memory gives them. */
KV_INLINE void prefetch_vector(const CpuKvCodes *codes, uint32_t i) {
    const uint8_t *share = codes->next + (size_t)i * codes->next_bytes;

    for (uint32_t at = 0; at < codes->next_bytes; at += CACHE_LINE_BYTES)
        __builtin_prefetch(share + at);
}

/* What the codes of vectors low .. high - 1 stand for, into scratch. */
KV_INLINE CpuKvCodes unpacked(CpuKvCodes codes, const CpuKvTable *table, uint32_t low,
                              uint32_t high, CpuKvScratch *s) {
    float *u = s->x[0];

    for (uint32_t i = low; i < high; i++) {
        if (codes.next)
            prefetch_vector(&codes, i);
        for (uint32_t j = 0; j < codes.n; j += V_LANES)
            v_store(u + (size_t)i * codes.n + j, kv_lane_values(&codes, table, i, j));
    }
    return (CpuKvCodes){ .bits = KV_BITS_UNPACKED, .n = codes.n, .unpacked = u };
}

/* The same of values, by the definition: for head sizes whose rows are no whole vectors. */
static CpuKvCodes unpacked_slowly(KvFormat format, const KvBlockLayout *l, const uint8_t *block,
                                  const CpuKvTable *table, uint32_t low, uint32_t high,
                                  CpuKvScratch *s) {
    const uint32_t bits = code_bits(format, KV_SIDE_V), n = l->n_codes;
    const float middle = (float)(1u << (bits - 1));
    float entries[16], *u = s->x[0];

    memcpy(entries, table, sizeof(entries));
    for (uint32_t i = low; i < high; i++) {
        const uint8_t *const rows[2] = { block + l->plane_offset[0] + i * l->plane_row_bytes[0],
                                         block + l->plane_offset[1] + i * l->plane_row_bytes[1] };
        uint8_t codes[KV_HEAD_DIM_MAX];

        kv_unpack(format, KV_SIDE_V, rows, n, codes);
        if (kv_format_has_trellis(format, KV_SIDE_V))
            kv_trellis_levels(codes, n, codes);
        for (uint32_t j = 0; j < n; j++)
            u[(size_t)i * n + j] = bits > 4 ? (float)codes[j] - middle : entries[codes[j]];
    }
    return (CpuKvCodes){ .bits = KV_BITS_UNPACKED, .n = n, .unpacked = u };
}

/* scores */

/* Vectors of a tile of n queries: as many as the registers hold with their sums. */
#define TILE_VECTORS_MAX 4
KV_INLINE uint32_t tile_vectors(uint32_t n) {
    return n < 3 ? TILE_VECTORS_MAX : V_BLOCK;
}

KV_INLINE void scores_tile(float *out, const float *folded, const float *bias,
                           const CpuKvCodes *codes, const CpuKvTable *table, uint32_t j, uint32_t n,
                           uint32_t head_dim) {
    const uint32_t n_vectors = tile_vectors(n);
    Vf sums[QUERIES_TILE][TILE_VECTORS_MAX];

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            sums[i][b] = v_set1(bias[i]);
    for (uint32_t c = 0; c < head_dim; c++) {
        if (codes->next)
            prefetch_vector(codes, c);
        for (uint32_t b = 0; b < n_vectors; b++) {
            Vf k = kv_lane_values(codes, table, c, j + b * V_LANES);

            for (uint32_t i = 0; i < n; i++)
                sums[i][b] = v_fma(v_set1(folded[i * head_dim + c]), k, sums[i][b]);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            v_store(out + i * LANES + j + b * V_LANES, sums[i][b]);
}

/* Folds the channel scales into one query; returns what the offsets contribute to every score. */
static float fold_query(float *folded, const float *query, const CpuKvScratch *keys,
                        uint32_t head_dim) {
    Vf bias = { 0 };
    float rest = 0;
    uint32_t c = 0;

    for (; c + V_LANES <= head_dim; c += V_LANES) {
        Vf q = v_load(query + c);

        v_store(folded + c, q * v_load(keys->scales + c));
        bias = v_fma(q, v_load(keys->offsets + c), bias);
    }
    for (; c < head_dim; c++) {
        folded[c] = query[c] * keys->scales[c];
        rest += query[c] * keys->offsets[c];
    }
    return v_sum(bias) + rest;
}

/* Unrolled, so that where codes lie in a row is constant in each tile. */
KV_INLINE void scores_tiles(float *out, const float *folded, const float *bias, CpuKvCodes *codes,
                            const CpuKvTable *table, uint32_t n, uint32_t head_dim) {
    const uint32_t tile = tile_vectors(n) * V_LANES;

#pragma GCC unroll 8
    for (uint32_t j = 0; j < LANES; j += tile, codes->next = NULL)
        scores_tile(out, folded, bias, codes, table, j, n, head_dim);
}

KV_INLINE void scores_of(CpuKvCodes codes, const CpuKvTable *table, float *out,
                         const float *queries, uint32_t n_queries, uint32_t head_dim,
                         CpuKvScratch *s) {
    for (uint32_t i = 0; i < n_queries; i += QUERIES_TILE) {
        uint32_t n = n_queries - i < QUERIES_TILE ? n_queries - i : QUERIES_TILE;
        float bias[QUERIES_TILE], *o = out + (size_t)i * LANES;

        for (uint32_t k = 0; k < n; k++)
            bias[k] = fold_query(s->folded + (size_t)k * head_dim,
                                 queries + (size_t)(i + k) * head_dim, s, head_dim);
        switch (n) {
        case 1:
            scores_tiles(o, s->folded, bias, &codes, table, 1, head_dim);
            break;
        case 2:
            scores_tiles(o, s->folded, bias, &codes, table, 2, head_dim);
            break;
        case 3:
            scores_tiles(o, s->folded, bias, &codes, table, 3, head_dim);
            break;
        default:
            scores_tiles(o, s->folded, bias, &codes, table, QUERIES_TILE, head_dim);
            break;
        }
    }
}

static void scores_unpacked(CpuKvCodes codes, float *out, const float *queries, uint32_t n_queries,
                            uint32_t head_dim, CpuKvScratch *s) {
    codes.bits = KV_BITS_UNPACKED;
    codes.n = LANES;
    codes.next = NULL;
    scores_of(codes, NULL, out, queries, n_queries, head_dim, s);
}

KV_INLINE void scores_by(KvFormat format, const KvBlockLayout *l, const uint8_t *block,
                         const uint8_t *next, float *out, const float *queries, uint32_t n_queries,
                         uint32_t head_dim, CpuKvScratch *s) {
    const CpuKvTable table = table_of(format, KV_SIDE_K);
    const CpuKvCodes codes = packed(format, KV_SIDE_K, LANES, l, block, next);

    read_metadata(format, KV_SIDE_K, l, block, s);
    if (n_queries <= QUERIES_TILE)
        scores_of(codes, &table, out, queries, n_queries, head_dim, s);
    else
        scores_unpacked(unpacked(codes, &table, 0, head_dim, s), out, queries, n_queries, head_dim,
                        s);
}

static void scores(KvFormat format, float *out, const float *queries, const void *block,
                   const void *next, uint32_t n_queries, uint32_t head_dim, CpuKvScratch *s) {
    KvBlockLayout l = kv_block_layout(format, KV_SIDE_K, head_dim);

    switch (format) {
    case KV_FORMAT_8:
        scores_by(KV_FORMAT_8, &l, block, next, out, queries, n_queries, head_dim, s);
        break;
    case KV_FORMAT_6:
        scores_by(KV_FORMAT_6, &l, block, next, out, queries, n_queries, head_dim, s);
        break;
    case KV_FORMAT_5:
        scores_by(KV_FORMAT_5, &l, block, next, out, queries, n_queries, head_dim, s);
        break;
    case KV_FORMAT_4:
        scores_by(KV_FORMAT_4, &l, block, next, out, queries, n_queries, head_dim, s);
        break;
    case KV_FORMAT_3:
        scores_by(KV_FORMAT_3, &l, block, next, out, queries, n_queries, head_dim, s);
        break;
    default:
        scores_by(KV_FORMAT_2, &l, block, next, out, queries, n_queries, head_dim, s);
        break;
    }
}

/* values */

/* Folds the token scales into one query's weights; returns what the offsets contribute to every
 * channel. */
static float fold_weights(float *weights, const CpuKvScratch *values) {
    Vf bias = { 0 };

    for (uint32_t j = 0; j < LANES; j += V_LANES) {
        Vf w = v_load(weights + j);

        bias = v_fma(w, v_load(values->offsets + j), bias);
        v_store(weights + j, w * v_load(values->scales + j));
    }
    return v_sum(bias);
}

KV_INLINE void values_tile(float *out, const float *weights, const float *bias,
                           const CpuKvCodes *codes, const CpuKvTable *table, uint32_t c, uint32_t n,
                           uint32_t n_vectors, uint32_t head_dim, uint32_t low, uint32_t high) {
    Vf sums[QUERIES_TILE][TILE_VECTORS_MAX];

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            sums[i][b] = v_load(out + (size_t)i * head_dim + c + b * V_LANES) + bias[i];
    for (uint32_t j = 0; codes->next && j < low; j++) /* which the loop below does not come by */
        prefetch_vector(codes, j);
    for (uint32_t j = high; codes->next && j < LANES; j++)
        prefetch_vector(codes, j);
    for (uint32_t j = low; j < high; j++) {
        if (codes->next)
            prefetch_vector(codes, j);
        for (uint32_t b = 0; b < n_vectors; b++) {
            Vf v = kv_lane_values(codes, table, j, c + b * V_LANES);

            for (uint32_t i = 0; i < n; i++)
                sums[i][b] = v_fma(v_set1(weights[i * LANES + j]), v, sums[i][b]);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            v_store(out + (size_t)i * head_dim + c + b * V_LANES, sums[i][b]);
}

/* Channels that do not fill a vector; codes are unpacked. */
static void values_rest(float *out, const float *weights, const float *bias,
                        const CpuKvCodes *codes, uint32_t n, uint32_t first, uint32_t head_dim,
                        uint32_t low, uint32_t high) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = first; c < head_dim; c++) {
            float sum = out[(size_t)i * head_dim + c] + bias[i];

            for (uint32_t j = low; j < high; j++)
                sum += weights[i * LANES + j] * codes->unpacked[(size_t)j * head_dim + c];
            out[(size_t)i * head_dim + c] = sum;
        }
}

KV_INLINE void values_group(float *out, const float *weights, const float *bias, CpuKvCodes *codes,
                            const CpuKvTable *table, uint32_t n, uint32_t head_dim, uint32_t low,
                            uint32_t high) {
    const uint32_t n_vectors = tile_vectors(n), tile = n_vectors * V_LANES;
    /* Unrolled, so that where codes lie in a row is constant in each tile. With the sums of four
     * queries and a table of 16 levels the registers would not do. */
    const bool is_unrolled = n < QUERIES_TILE || codes->is_uniform || codes->bits != 4;
    uint32_t c = 0;

    if (is_unrolled)
#pragma GCC unroll 8
        for (; c + tile <= head_dim; c += tile, codes->next = NULL)
            values_tile(out, weights, bias, codes, table, c, n, n_vectors, head_dim, low, high);
    for (; c + tile <= head_dim; c += tile, codes->next = NULL)
        values_tile(out, weights, bias, codes, table, c, n, n_vectors, head_dim, low, high);
    for (; c + V_LANES <= head_dim; c += V_LANES, codes->next = NULL)
        values_tile(out, weights, bias, codes, table, c, n, 1, head_dim, low, high);
    if (c < head_dim)
        values_rest(out, weights, bias, codes, n, c, head_dim, low, high);
}

KV_INLINE void values_of(CpuKvCodes codes, const CpuKvTable *table, float *out, float *weights,
                         uint32_t n_queries, uint32_t low, uint32_t high, const CpuKvScratch *s) {
    const uint32_t head_dim = codes.n;

    for (uint32_t i = 0; i < n_queries; i += QUERIES_TILE) {
        uint32_t n = n_queries - i < QUERIES_TILE ? n_queries - i : QUERIES_TILE;
        float bias[QUERIES_TILE], *o = out + (size_t)i * head_dim, *w = weights + (size_t)i * LANES;

        for (uint32_t k = 0; k < n; k++)
            bias[k] = fold_weights(w + (size_t)k * LANES, s);
        switch (n) {
        case 1:
            values_group(o, w, bias, &codes, table, 1, head_dim, low, high);
            break;
        case 2:
            values_group(o, w, bias, &codes, table, 2, head_dim, low, high);
            break;
        case 3:
            values_group(o, w, bias, &codes, table, 3, head_dim, low, high);
            break;
        default:
            values_group(o, w, bias, &codes, table, QUERIES_TILE, head_dim, low, high);
            break;
        }
    }
}

static void values_unpacked(CpuKvCodes codes, float *out, float *weights, uint32_t n_queries,
                            uint32_t low, uint32_t high, const CpuKvScratch *s) {
    codes.bits = KV_BITS_UNPACKED;
    codes.next = NULL;
    values_of(codes, NULL, out, weights, n_queries, low, high, s);
}

/* Whether the block was of the given head size, and is done. */
KV_INLINE bool values_packed(KvFormat format, uint32_t n, const KvBlockLayout *l,
                             const uint8_t *block, const uint8_t *next, const CpuKvTable *table,
                             float *out, float *weights, uint32_t n_queries, uint32_t low,
                             uint32_t high, CpuKvScratch *s) {
    CpuKvCodes codes;

    if (l->n_codes != n)
        return false;
    codes = format == KV_FORMAT_3 || format == KV_FORMAT_2
                ? levels_of(format, n, l, block, next, low, high, s)
                : packed(format, KV_SIDE_V, n, l, block, next);
    if (n_queries <= QUERIES_TILE)
        values_of(codes, table, out, weights, n_queries, low, high, s);
    else
        values_unpacked(unpacked(codes, table, low, high, s), out, weights, n_queries, low, high,
                        s);
    return true;
}

/* Head sizes of nearly all models are constants; others are unpacked first. */
KV_INLINE void values_by(KvFormat format, const KvBlockLayout *l, const uint8_t *block,
                         const uint8_t *next, float *out, float *weights, uint32_t n_queries,
                         uint32_t low, uint32_t high, CpuKvScratch *s) {
    const CpuKvTable table = table_of(format, KV_SIDE_V);

    read_metadata(format, KV_SIDE_V, l, block, s);
    if (values_packed(format, 64, l, block, next, &table, out, weights, n_queries, low, high, s) ||
        values_packed(format, 128, l, block, next, &table, out, weights, n_queries, low, high, s) ||
        values_packed(format, 256, l, block, next, &table, out, weights, n_queries, low, high, s))
        return;
    values_unpacked(unpacked_slowly(format, l, block, &table, low, high, s), out, weights,
                    n_queries, low, high, s);
}

static void values(KvFormat format, float *out, float *weights, const void *block, const void *next,
                   uint32_t n_queries, uint32_t head_dim, uint32_t low, uint32_t high,
                   CpuKvScratch *s) {
    KvBlockLayout l = kv_block_layout(format, KV_SIDE_V, head_dim);

    switch (format) {
    case KV_FORMAT_8:
        values_by(KV_FORMAT_8, &l, block, next, out, weights, n_queries, low, high, s);
        break;
    case KV_FORMAT_6:
        values_by(KV_FORMAT_6, &l, block, next, out, weights, n_queries, low, high, s);
        break;
    case KV_FORMAT_5:
        values_by(KV_FORMAT_5, &l, block, next, out, weights, n_queries, low, high, s);
        break;
    case KV_FORMAT_4:
        values_by(KV_FORMAT_4, &l, block, next, out, weights, n_queries, low, high, s);
        break;
    case KV_FORMAT_3:
        values_by(KV_FORMAT_3, &l, block, next, out, weights, n_queries, low, high, s);
        break;
    default:
        values_by(KV_FORMAT_2, &l, block, next, out, weights, n_queries, low, high, s);
        break;
    }
}

const CpuKvKernels KV_KERNELS = {
    .seal = KV_SEAL,
    .scores = scores,
    .values = values,
};
