/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled once per instruction set with KV_KERNELS naming the table (cpu/meson.build).
 *
 * In sealing a lane is a token: tokens do not depend on each other once the scales are known. The
 * loops over lanes are plain C, for the compiler to turn into vectors; each lane is a fixed chain
 * of single IEEE operations (fused where it says fmaf), which a GPU thread reproduces to the bit.
 */
#include "cpu/kv_kernels.h"

#include "cpu/vector.h"

#include <math.h>
#include <string.h>

#define LANES KV_PAGE_TOKENS
#define QUERIES_TILE 4
#define INPUT_MAX 65504.0f

/* sealing */

/* What a lane needs to round a value: uniform steps or levels. */
typedef struct Grid {
    float scale[LANES], inverse[LANES], center[LANES];
} Grid;

static float clean(uint16_t bf16) {
    uint32_t u = (uint32_t)bf16 << 16;
    float x;

    memcpy(&x, &u, sizeof(x));
    if (x != x)
        return 0;
    return x > INPUT_MAX ? INPUT_MAX : x < -INPUT_MAX ? -INPUT_MAX : x;
}

/* The tail as f32, channel-major, lanes are tokens. */
static void load_tail(KvSide side, uint32_t head_dim, const uint16_t *tail, float (*x)[LANES]) {
    for (uint32_t c = 0; c < head_dim; c++)
        for (uint32_t t = 0; t < LANES; t++)
            x[c][t] = clean(side == KV_SIDE_K ? tail[c * LANES + t] : tail[t * head_dim + c]);
}

static void put_half(uint8_t *at, uint16_t half) {
    memcpy(at, &half, sizeof(half));
}

/* Scale and center of the vector `i` whose values span low .. high, into the block and back as the
 * floats they stand for. */
static void fit_uniform(KvFormat format, const KvBlockLayout *l, uint8_t *block, uint32_t i,
                        float low, float high, float *scalep, float *centerp) {
    const KvFormatInfo *info = &kv_formats[format];
    float steps = (float)((1u << info->bits) - 1), middle = low + (high - low) * 0.5f;
    float scale, center;

    if (info->meta_bytes == 1) {
        /* A center is at most 127 half steps from 0. */
        uint8_t code = kv_scale_ceil(fmaxf((high - low) / steps, fabsf(middle) / 63));
        int8_t half_steps;

        scale = kv_scales[code];
        half_steps = scale > 0 ? (int8_t)rintf(middle / (scale * 0.5f)) : 0;
        center = (float)half_steps * (scale * 0.5f);
        block[l->scales_offset + i] = code;
        block[l->centers_offset + i] = (uint8_t)half_steps;
    } else {
        uint16_t half = kv_half_nearest(middle), step;

        center = kv_half_value(half);
        step = kv_half_ceil(fmaxf(high - center, center - low) * 2 / steps);
        scale = kv_half_value(step);
        put_half(block + l->scales_offset + 2 * (size_t)i, step);
        put_half(block + l->centers_offset + 2 * (size_t)i, half);
    }
    *scalep = scale;
    *centerp = center;
}

static void round_uniform(uint32_t bits, const Grid *g, const float *x, uint8_t *codes,
                          float *rounded) {
    const float middle = (float)(1u << (bits - 1)) - 0.5f, top = (float)((1u << bits) - 1);

    for (uint32_t t = 0; t < LANES; t++) {
        float u = rintf(__builtin_fmaf(x[t] - g->center[t], g->inverse[t], middle));

        u = u < 0 ? 0 : u > top ? top : u;
        codes[t] = (uint8_t)u;
        rounded[t] = __builtin_fmaf(g->scale[t], u - middle, g->center[t]);
    }
}

/* `g->inverse` brings a value to level units. */
static void round_levels(KvFormat format, const Grid *g, const float *x, uint8_t *codes) {
    const KvFormatInfo *info = &kv_formats[format];
    const uint32_t n = 1u << info->bits;

    memset(codes, 0, LANES);
    for (uint32_t i = 1; i < n; i++) {
        const float border = 0.5f * (float)(info->levels[i - 1] + info->levels[i]);

        for (uint32_t t = 0; t < LANES; t++)
            codes[t] = (uint8_t)(codes[t] + (x[t] * g->inverse[t] >= border));
    }
}

static float inverse_of(float scale) {
    return scale > 0 ? 1 / scale : 0;
}

static void set_lanes(Grid *g, float scale, float center) {
    for (uint32_t t = 0; t < LANES; t++) {
        g->scale[t] = scale;
        g->inverse[t] = inverse_of(scale);
        g->center[t] = center;
    }
}

/* After channel `i` (in rounding order) became `rounded`: its error moves the channels to come. */
static void feed_error(const Rounding *r, uint32_t i, float (*x)[LANES], const float *rounded) {
    const uint32_t *order = rounding_order(r);
    const float *feed = rounding_feed(r, i), *from = x[order[i]];
    float error[LANES];

    if (r->is_plain)
        return;
    for (uint32_t t = 0; t < LANES; t++)
        error[t] = from[t] - rounded[t];
    for (uint32_t j = i + 1; j < r->n_channels; j++) {
        float *to = x[order[j]], factor = -feed[j];

        for (uint32_t t = 0; t < LANES; t++)
            to[t] = __builtin_fmaf(error[t], factor, to[t]);
    }
}

/*
 * The share of a channel's range that the steps span. At 2 bits cutting the ends off costs less
 * than coarser steps, once other channels make up for what was cut: K2 alone has KLD 0.0405 with
 * the whole range, 0.0290 with this share, 0.0331 with 0.8. At 3 bits 0.9 is as good as 1 and less
 * is worse, at 4 bits 0.95.
 */
static float range_kept(KvFormat format, const Rounding *rounding) {
    return format == KV_FORMAT_2 && !rounding->is_plain ? 0.85f : 1;
}

/* K: a scale a channel, from the values as they came. */
static void seal_k(KvFormat format, uint32_t head_dim, const KvBlockLayout *l,
                   const Rounding *rounding, uint8_t *block, KvScratch *s) {
    float scales[KV_HEAD_DIM_MAX], centers[KV_HEAD_DIM_MAX], rounded[LANES];
    Grid g;

    for (uint32_t c = 0; c < head_dim; c++) {
        float low = s->x[c][0], high = s->x[c][0], cut;

        for (uint32_t t = 1; t < LANES; t++) {
            low = s->x[c][t] < low ? s->x[c][t] : low;
            high = s->x[c][t] > high ? s->x[c][t] : high;
        }
        cut = (high - low) * 0.5f * (1 - range_kept(format, rounding));
        fit_uniform(format, l, block, c, low + cut, high - cut, &scales[c], &centers[c]);
    }
    for (uint32_t i = 0; i < head_dim; i++) {
        uint32_t c = rounding_order(rounding)[i];

        set_lanes(&g, scales[c], centers[c]);
        round_uniform(kv_formats[format].bits, &g, s->x[c], s->codes + (size_t)c * LANES, rounded);
        feed_error(rounding, i, s->x, rounded);
    }
}

static void fit_v_uniform(KvFormat format, uint32_t head_dim, const KvBlockLayout *l,
                          uint8_t *block, const KvScratch *s, Grid *g) {
    for (uint32_t t = 0; t < LANES; t++) {
        float low = s->x[0][t], high = s->x[0][t];

        for (uint32_t c = 1; c < head_dim; c++) {
            low = s->x[c][t] < low ? s->x[c][t] : low;
            high = s->x[c][t] > high ? s->x[c][t] : high;
        }
        fit_uniform(format, l, block, t, low, high, &g->scale[t], &g->center[t]);
        g->inverse[t] = inverse_of(g->scale[t]);
    }
}

static void fit_v_levels(KvFormat format, uint32_t head_dim, const KvScratch *s, Grid *g) {
    float squares[LANES] = { 0 };

    for (uint32_t c = 0; c < head_dim; c++)
        for (uint32_t t = 0; t < LANES; t++)
            squares[t] = __builtin_fmaf(s->x[c][t], s->x[c][t], squares[t]);
    for (uint32_t t = 0; t < LANES; t++) {
        g->inverse[t] =
            kv_formats[format].levels_per_sigma * inverse_of(sqrtf(squares[t] / (float)head_dim));
    }
}

/* The scale with <v, scale * levels> = <v, v>. */
static void fit_gains(KvFormat format, uint32_t head_dim, const KvBlockLayout *l, uint8_t *block,
                      const KvScratch *s) {
    const int8_t *levels = kv_formats[format].levels;
    float squares[LANES] = { 0 }, products[LANES] = { 0 };

    for (uint32_t c = 0; c < head_dim; c++)
        for (uint32_t t = 0; t < LANES; t++) {
            float x = s->x[c][t], level = (float)levels[s->codes[c * LANES + t]];

            squares[t] = __builtin_fmaf(x, x, squares[t]);
            products[t] = __builtin_fmaf(x, level, products[t]);
        }
    for (uint32_t t = 0; t < LANES; t++)
        block[l->scales_offset + t] =
            products[t] > 0 ? kv_scale_nearest(squares[t] / products[t]) : 0;
}

/* V: a scale a token. Rounded plainly: compensation against W_O's gram buys nothing (V2 alone has
 * KLD 0.0148 without, 0.0155 with; V3 and V4 the same with and without). */
static void seal_v(KvFormat format, uint32_t head_dim, const KvBlockLayout *l, uint8_t *block,
                   KvScratch *s) {
    bool has_levels = !kv_format_has_centers(format, KV_SIDE_V);
    Grid g;

    if (has_levels)
        fit_v_levels(format, head_dim, s, &g);
    else
        fit_v_uniform(format, head_dim, l, block, s, &g);
    for (uint32_t c = 0; c < head_dim; c++) {
        uint8_t *codes = s->codes + (size_t)c * LANES;

        if (has_levels)
            round_levels(format, &g, s->x[c], codes);
        else
            round_uniform(kv_formats[format].bits, &g, s->x[c], codes, s->x[c]);
    }
    if (has_levels)
        fit_gains(format, head_dim, l, block, s);
}

static void rows_of(const KvBlockLayout *l, uint8_t *block, uint32_t i, uint8_t *rows[2]) {
    for (int p = 0; p < 2; p++)
        rows[p] = block + l->plane_offset[p] + i * l->plane_row_bytes[p];
}

static void seal(KvFormat format, KvSide side, uint32_t head_dim, const uint16_t *tail,
                 const Rounding *rounding, void *block, KvScratch *s) {
    KvBlockLayout l = kv_block_layout(format, side, head_dim);
    uint8_t token_codes[KV_HEAD_DIM_MAX], *rows[2];

    memset(block, 0, l.size_bytes);
    load_tail(side, head_dim, tail, s->x);
    if (side == KV_SIDE_K)
        seal_k(format, head_dim, &l, rounding, block, s);
    else
        seal_v(format, head_dim, &l, block, s);
    for (uint32_t i = 0; i < l.n_vectors; i++) {
        const uint8_t *codes = s->codes + (size_t)i * LANES;

        if (side == KV_SIDE_V) {
            for (uint32_t c = 0; c < head_dim; c++)
                token_codes[c] = s->codes[(size_t)c * LANES + i];
            codes = token_codes;
        }
        rows_of(&l, block, i, rows);
        kv_pack(format, codes, l.n_codes, rows);
    }
}

/* opening */

static void open_metadata(KvFormat format, KvSide side, const KvBlockLayout *l,
                          const uint8_t *block, KvScratch *s) {
    bool wide = kv_formats[format].meta_bytes == 2, centered = kv_format_has_centers(format, side);

    for (uint32_t i = 0; i < l->n_vectors; i++) {
        uint16_t half;

        if (wide) {
            memcpy(&half, block + l->scales_offset + 2 * (size_t)i, sizeof(half));
            s->scales[i] = kv_half_value(half);
            memcpy(&half, block + l->centers_offset + 2 * (size_t)i, sizeof(half));
            s->offsets[i] = kv_half_value(half) + 0.5f * s->scales[i];
        } else {
            s->scales[i] = kv_scales[block[l->scales_offset + i]];
            s->offsets[i] =
                centered ? 0.5f * s->scales[i] * (float)(1 + (int8_t)block[l->centers_offset + i])
                         : 0;
        }
    }
}

/* The codes of one plane, added to what lower planes left in `out`, `n` of them. */
static inline __attribute__((__always_inline__)) void open_plane(uint8_t *out, const uint8_t *row,
                                                                 uint32_t n, uint32_t bits,
                                                                 uint32_t shift, bool first) {
    uint32_t stride = n * bits / 8;

    for (uint32_t part = 0; part < 8 / bits; part++)
        for (uint32_t byte = 0; byte < stride; byte++) {
            uint8_t code = (uint8_t)((uint32_t)row[byte] >> part * bits & ((1u << bits) - 1));

            out[part * stride + byte] =
                (uint8_t)(first ? code : out[part * stride + byte] | code << shift);
        }
}

/* One vector's codes; `n` is constant for the usual head sizes so that the loops become moves. */
static inline __attribute__((__always_inline__)) void open_row(KvFormat format, uint8_t *out,
                                                               const uint8_t *low,
                                                               const uint8_t *high, uint32_t n) {
    switch (format) {
    case KV_FORMAT_8:
        memcpy(out, low, n);
        break;
    case KV_FORMAT_6:
        open_plane(out, low, n, 4, 0, true);
        open_plane(out, high, n, 2, 4, false);
        break;
    case KV_FORMAT_4:
        open_plane(out, low, n, 4, 0, true);
        break;
    case KV_FORMAT_3:
        open_plane(out, low, n, 2, 0, true);
        open_plane(out, high, n, 1, 2, false);
        break;
    default:
        open_plane(out, low, n, 2, 0, true);
        break;
    }
}

/* Codes to the signed bytes they stand for. */
static void open_signed(KvFormat format, bool centered, uint8_t *codes, uint32_t n) {
    const KvFormatInfo *info = &kv_formats[format];
    const uint8_t middle = (uint8_t)(1u << (info->bits - 1));

    if (centered) {
        for (uint32_t i = 0; i < n; i++)
            codes[i] = (uint8_t)(codes[i] - middle);
        return;
    }
    /* 16 bytes looked up at a time where there is an instruction for it. */
#if defined(__AVX2__)
    __m128i table = _mm_loadu_si128((const __m128i *)info->levels);
    uint32_t i = 0;

    for (; i + 16 <= n; i += 16)
        _mm_storeu_si128((__m128i *)(codes + i),
                         _mm_shuffle_epi8(table, _mm_loadu_si128((const __m128i *)(codes + i))));
    for (; i < n; i++)
        codes[i] = (uint8_t)info->levels[codes[i]];
#else
    for (uint32_t i = 0; i < n; i++)
        codes[i] = (uint8_t)info->levels[codes[i]];
#endif
}

static inline __attribute__((__always_inline__)) void open_rows(KvFormat format,
                                                                const KvBlockLayout *l,
                                                                const uint8_t *block, uint8_t *out,
                                                                uint32_t n) {
    for (uint32_t i = 0; i < l->n_vectors; i++)
        open_row(format, out + (size_t)i * n,
                 block + l->plane_offset[0] + i * l->plane_row_bytes[0],
                 block + l->plane_offset[1] + i * l->plane_row_bytes[1], n);
}

static void open_codes(KvFormat format, const KvBlockLayout *l, const uint8_t *block,
                       uint8_t *out) {
    switch (l->n_codes) {
    case 64:
        open_rows(format, l, block, out, 64);
        break;
    case 128:
        open_rows(format, l, block, out, 128);
        break;
    default:
        open_rows(format, l, block, out, l->n_codes);
        break;
    }
}

static void open_block(KvFormat format, KvSide side, uint32_t head_dim, const void *block,
                       KvScratch *s) {
    KvBlockLayout l = kv_block_layout(format, side, head_dim);
    uint8_t *codes = (uint8_t *)s->opened;

    open_metadata(format, side, &l, block, s);
    open_codes(format, &l, block, codes);
    open_signed(format, kv_format_has_centers(format, side), codes, l.n_vectors * l.n_codes);
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
    .seal = seal,
    .open = open_block,
    .scores = scores,
    .values = values,
};
