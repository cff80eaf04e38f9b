/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled once per instruction set with KV_KERNELS naming the table (cpu/meson.build). A block is
 * opened into signed bytes, which are then multiplied as floats; what scales and offsets are folded
 * into is outside of the inner loops.
 */
#include "cpu/kv_kernels.h"

#include "cpu/kv_codes.h"
#include "cpu/kv_seal.h"
#include "cpu/vector.h"

#include <string.h>

#define LANES KV_PAGE_TOKENS
#define QUERIES_TILE 4

/* opening */

static void open_metadata(KvFormat format, KvSide side, const KvBlockLayout *l,
                          const uint8_t *block, KvScratch *s) {
    const uint8_t *scales = block + l->scales_offset, *centers = block + l->centers_offset;
    uint16_t halves[2][KV_HEAD_DIM_MAX];

    if (kv_formats[format].meta_bytes == 2) {
        memcpy(halves[0], scales, l->n_vectors * sizeof(halves[0][0]));
        memcpy(halves[1], centers, l->n_vectors * sizeof(halves[1][0]));
        for (uint32_t i = 0; i < l->n_vectors; i++) {
            s->scales[i] = kv_half_value(halves[0][i]);
            s->offsets[i] = kv_half_value(halves[1][i]) + 0.5f * s->scales[i];
        }
        return;
    }
    for (uint32_t i = 0; i < l->n_vectors; i++)
        s->scales[i] = kv_scales[scales[i]];
    if (kv_format_has_centers(format, side))
        for (uint32_t i = 0; i < l->n_vectors; i++)
            s->offsets[i] = 0.5f * s->scales[i] * (float)(1 + (int8_t)centers[i]);
    else
        memset(s->offsets, 0, l->n_vectors * sizeof(*s->offsets));
}

/* Rows that are no whole chunks, by the definition. */
static void open_odd_row(KvFormat format, bool centered, const uint8_t *const rows[2], uint32_t n,
                         int8_t *out) {
    const KvFormatInfo *info = &kv_formats[format];
    uint8_t codes[KV_HEAD_DIM_MAX];

    kv_unpack(format, rows, n, codes);
    for (uint32_t j = 0; j < n; j++)
        out[j] = centered ? (int8_t)(codes[j] - (1u << (info->bits - 1))) : info->levels[codes[j]];
}

KV_INLINE void open_rows(KvFormat format, bool centered, const KvBlockLayout *l,
                         const uint8_t *block, uint32_t n, int8_t *out) {
    for (uint32_t i = 0; i < l->n_vectors; i++) {
        const uint8_t *const rows[2] = { block + l->plane_offset[0] + i * l->plane_row_bytes[0],
                                         block + l->plane_offset[1] + i * l->plane_row_bytes[1] };

        if (kv_row_has_chunks(format, n))
            kv_open_row(format, centered, rows, n, out + (size_t)i * n);
        else
            open_odd_row(format, centered, rows, n, out + (size_t)i * n);
    }
}

KV_INLINE void open_codes(KvFormat format, bool centered, const KvBlockLayout *l,
                          const uint8_t *block, int8_t *out) {
    switch (l->n_codes) {
    case 64:
        open_rows(format, centered, l, block, 64, out);
        break;
    case 128:
        open_rows(format, centered, l, block, 128, out);
        break;
    default:
        open_rows(format, centered, l, block, l->n_codes, out);
        break;
    }
}

static void open_block(KvFormat format, KvSide side, uint32_t head_dim, const void *block,
                       KvScratch *s) {
    KvBlockLayout l = kv_block_layout(format, side, head_dim);

    open_metadata(format, side, &l, block, s);
    switch (format) {
    case KV_FORMAT_8:
        open_codes(KV_FORMAT_8, true, &l, block, s->opened);
        break;
    case KV_FORMAT_6:
        open_codes(KV_FORMAT_6, true, &l, block, s->opened);
        break;
    case KV_FORMAT_4:
        open_codes(KV_FORMAT_4, side == KV_SIDE_K, &l, block, s->opened);
        break;
    case KV_FORMAT_3:
        open_codes(KV_FORMAT_3, side == KV_SIDE_K, &l, block, s->opened);
        break;
    default:
        open_codes(KV_FORMAT_2, side == KV_SIDE_K, &l, block, s->opened);
        break;
    }
}

/* attention over an opened block */

static inline Vf load_i8(const int8_t *p) {
#if defined(__AVX512F__)
    return (Vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
#elif defined(__AVX2__)
    return (Vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
#else
    Vf v;

    for (int i = 0; i < V_LANES; i++)
        v[i] = p[i];
    return v;
#endif
}

static inline __attribute__((__always_inline__)) void scores_tile(float *out, const float *folded,
                                                                  const float *bias,
                                                                  const int8_t *keys, uint32_t n,
                                                                  uint32_t head_dim) {
    Vf sums[QUERIES_TILE][V_BLOCK];

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < V_BLOCK; b++)
            sums[i][b] = v_set1(bias[i]);
    for (uint32_t c = 0; c < head_dim; c++)
        for (uint32_t b = 0; b < V_BLOCK; b++) {
            Vf k = load_i8(keys + c * LANES + b * V_LANES);

            for (uint32_t i = 0; i < n; i++)
                sums[i][b] = v_fma(v_set1(folded[i * head_dim + c]), k, sums[i][b]);
        }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < V_BLOCK; b++)
            v_store(out + i * LANES + b * V_LANES, sums[i][b]);
}

/* Folds the channel scales into one query; returns what the offsets contribute to every score. */
static float fold_query(float *folded, const float *query, const KvScratch *keys,
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

static void scores(float *out, const float *queries, float *folded, const KvScratch *keys,
                   uint32_t n_queries, uint32_t head_dim) {
    for (uint32_t i = 0; i < n_queries; i += QUERIES_TILE) {
        uint32_t n = n_queries - i < QUERIES_TILE ? n_queries - i : QUERIES_TILE;
        float bias[QUERIES_TILE], *f = folded + (size_t)i * head_dim, *s = out + (size_t)i * LANES;

        for (uint32_t k = 0; k < n; k++)
            bias[k] = fold_query(f + (size_t)k * head_dim, queries + (size_t)(i + k) * head_dim,
                                 keys, head_dim);
        for (uint32_t j = 0; j < LANES; j += V_BLOCK * V_LANES)
            switch (n) {
            case 1:
                scores_tile(s + j, f, bias, keys->opened + j, 1, head_dim);
                break;
            case 2:
                scores_tile(s + j, f, bias, keys->opened + j, 2, head_dim);
                break;
            case 3:
                scores_tile(s + j, f, bias, keys->opened + j, 3, head_dim);
                break;
            default:
                scores_tile(s + j, f, bias, keys->opened + j, QUERIES_TILE, head_dim);
                break;
            }
    }
}

/* Folds the token scales into one query's weights; returns what the offsets contribute to every
 * channel. */
static float fold_weights(float *weights, const KvScratch *values) {
    Vf bias = { 0 };

    for (uint32_t j = 0; j < LANES; j += V_LANES) {
        Vf w = v_load(weights + j);

        bias = v_fma(w, v_load(values->offsets + j), bias);
        v_store(weights + j, w * v_load(values->scales + j));
    }
    return v_sum(bias);
}

static inline __attribute__((__always_inline__)) void values_tile(
    float *out, const float *weights, const float *bias, const int8_t *values, uint32_t n,
    uint32_t n_vectors, uint32_t head_dim, uint32_t low, uint32_t high) {
    Vf sums[QUERIES_TILE][V_BLOCK];

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            sums[i][b] = v_load(out + (size_t)i * head_dim + b * V_LANES) + bias[i];
    for (uint32_t j = low; j < high; j++)
        for (uint32_t b = 0; b < n_vectors; b++) {
            Vf v = load_i8(values + (size_t)j * head_dim + b * V_LANES);

            for (uint32_t i = 0; i < n; i++)
                sums[i][b] = v_fma(v_set1(weights[i * LANES + j]), v, sums[i][b]);
        }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            v_store(out + (size_t)i * head_dim + b * V_LANES, sums[i][b]);
}

static void values_rest(float *out, const float *weights, const float *bias, const int8_t *values,
                        uint32_t n, uint32_t first, uint32_t head_dim, uint32_t low,
                        uint32_t high) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = first; c < head_dim; c++) {
            float sum = out[(size_t)i * head_dim + c] + bias[i];

            for (uint32_t j = low; j < high; j++)
                sum = __builtin_fmaf(weights[i * LANES + j], values[(size_t)j * head_dim + c], sum);
            out[(size_t)i * head_dim + c] = sum;
        }
}

static inline __attribute__((__always_inline__)) void values_group(float *out, const float *weights,
                                                                   const float *bias,
                                                                   const int8_t *values, uint32_t n,
                                                                   uint32_t head_dim, uint32_t low,
                                                                   uint32_t high) {
    uint32_t c = 0;

    for (; c + V_BLOCK * V_LANES <= head_dim; c += V_BLOCK * V_LANES)
        values_tile(out + c, weights, bias, values + c, n, V_BLOCK, head_dim, low, high);
    for (; c + V_LANES <= head_dim; c += V_LANES)
        values_tile(out + c, weights, bias, values + c, n, 1, head_dim, low, high);
    if (c < head_dim)
        values_rest(out, weights, bias, values, n, c, head_dim, low, high);
}

static void values(float *out, float *weights, const KvScratch *v, uint32_t n_queries,
                   uint32_t head_dim, uint32_t low, uint32_t high) {
    for (uint32_t i = 0; i < n_queries; i += QUERIES_TILE) {
        uint32_t n = n_queries - i < QUERIES_TILE ? n_queries - i : QUERIES_TILE;
        float bias[QUERIES_TILE], *o = out + (size_t)i * head_dim, *w = weights + (size_t)i * LANES;

        for (uint32_t k = 0; k < n; k++)
            bias[k] = fold_weights(w + (size_t)k * LANES, v);
        switch (n) {
        case 1:
            values_group(o, w, bias, v->opened, 1, head_dim, low, high);
            break;
        case 2:
            values_group(o, w, bias, v->opened, 2, head_dim, low, high);
            break;
        case 3:
            values_group(o, w, bias, v->opened, 3, head_dim, low, high);
            break;
        default:
            values_group(o, w, bias, v->opened, QUERIES_TILE, head_dim, low, high);
            break;
        }
    }
}

const KvKernels KV_KERNELS = {
    .seal = KV_SEAL,
    .open = open_block,
    .scores = scores,
    .values = values,
};
