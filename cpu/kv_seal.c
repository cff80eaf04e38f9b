/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane is a token: tokens do not depend on each other once the scales are known. Each lane is a
 * fixed chain of single IEEE operations (fused where it says so), which every instruction set and a
 * GPU thread reproduce to the bit.
 */
#include "cpu/kv_seal.h"

#include "cpu/kv_codes.h"
#include "cpu/kv_key_paths.h"
#include "cpu/kv_trellis.h"
#include "cpu/vector.h"

#include <math.h>
#include <string.h>

#define LANES KV_PAGE_TOKENS
#define INPUT_MAX 65504.0f

/* the input */

/* A channel's 64 tokens as f32, without NaN, infinity and what is as large. */
static void load_channel(float *x, const uint16_t *f16) {
    for (uint32_t t = 0; t < LANES; t += V_LANES) {
        Vf v = v_load_f16(f16 + t);

        v = v_select(v == v, v, v_set1(0));
        v_store(x + t, v_max(v_min(v, v_set1(INPUT_MAX)), v_set1(-INPUT_MAX)));
    }
}

/* The tail, channel by channel. */
static void load_tail(KvSide side, uint32_t head_dim, const uint16_t *tail, float (*x)[LANES]) {
    uint16_t channel[LANES];

    for (uint32_t c = 0; c < head_dim; c++) {
        const uint16_t *from = tail + (size_t)c * LANES;

        if (side == KV_SIDE_V) {
            for (uint32_t t = 0; t < LANES; t++)
                channel[t] = tail[(size_t)t * head_dim + c];
            from = channel;
        }
        load_channel(x[c], from);
    }
}

/* scales */

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
        float least = fabsf(middle) / 63, step = (high - low) / steps;
        uint8_t code = kv_scale_ceil(step > least ? step : least);
        int8_t half_steps;

        scale = kv_scales[code];
        half_steps = scale > 0 ? (int8_t)rintf(middle / (scale * 0.5f)) : 0;
        center = (float)half_steps * (scale * 0.5f);
        block[l->scales_offset + i] = code;
        block[l->centers_offset + i] = (uint8_t)half_steps;
    } else {
        uint16_t half = half_nearest(middle), step;
        float above, below;

        center = half_value(half);
        above = high - center;
        below = center - low;
        step = half_ceil((above > below ? above : below) * 2 / steps);
        scale = half_value(step);
        put_half(block + l->scales_offset + 2 * (size_t)i, step);
        put_half(block + l->centers_offset + 2 * (size_t)i, half);
    }
    *scalep = scale;
    *centerp = center;
}

/* One vector's worth of lanes to uniform steps; `x` becomes what the codes stand for. */
static inline void round_uniform(uint32_t bits, Vf scale, Vf inverse, Vf center, Vf *x,
                                 uint8_t *codes) {
    const float middle = (float)(1u << (bits - 1)) - 0.5f, top = (float)((1u << bits) - 1);
    const Vf magic = v_set1(12582912.0f); /* 1.5 * 2^23 leaves no fraction bits */
    Vf u = v_fused(*x - center, inverse, v_set1(middle));

    u = v_min(v_max(u, v_set1(0)), v_set1(top)) + magic;
    kv_store_bytes(codes, (Vi)u - (Vi)magic);
    *x = v_fused(scale, u - magic - middle, center);
}

/* keys: a scale a channel */

static void channel_range(const float *x, float *lowp, float *highp) {
    Vf low = v_load(x), high = low;

    for (uint32_t t = V_LANES; t < LANES; t += V_LANES) {
        low = v_min(v_load(x + t), low);
        high = v_max(v_load(x + t), high);
    }
    *lowp = -v_max_lane(-low);
    *highp = v_max_lane(high);
}

/* After channel `i` (in rounding order) was rounded: its error moves the channels to come. */
static void feed_error(const Rounding *r, uint32_t i, float (*x)[LANES], const float *error) {
    const uint32_t *order = rounding_order(r);
    const float *feed = rounding_feed(r, i);
    Vf e[LANES / V_LANES];

    if (r->is_plain)
        return;
    memcpy(e, error, sizeof(e));
    for (uint32_t j = i + 1; j < r->n_channels; j++) {
        float *to = x[order[j]];
        Vf factor = v_set1(-feed[j]);

        for (uint32_t b = 0; b < LANES / V_LANES; b++)
            v_store(to + b * V_LANES, v_fused(e[b], factor, v_load(to + b * V_LANES)));
    }
}

/* A format's codes, the best of several paths for each token. */
static void search_k(KvFormat format, const Rounding *rounding, CpuKvScratch *s) {
    for (uint32_t t = 0; t < LANES; t += V_LANES)
        kv_key_search(kv_formats[format].bits, rounding, t, s);
}

static void seal_k(KvFormat format, uint32_t head_dim, const KvBlockLayout *l,
                   const Rounding *rounding, uint8_t *block, CpuKvScratch *s) {
    /* The scales are from the values as they came. */
    for (uint32_t c = 0; c < head_dim; c++) {
        float low, high, cut;

        channel_range(s->x[c], &low, &high);
        cut = (high - low) * 0.5f * (1 - kv_key_range(format, !rounding->is_plain));
        fit_uniform(format, l, block, c, low + cut, high - cut, &s->scales[c], &s->offsets[c]);
    }
    if (rounding->n_paths > 1) {
        search_k(format, rounding, s);
        return;
    }
    for (uint32_t i = 0; i < head_dim; i++) {
        uint32_t c = rounding_order(rounding)[i];
        Vf scale = v_set1(s->scales[c]), center = v_set1(s->offsets[c]);
        Vf inverse = v_set1(kv_inverse(s->scales[c]));
        float error[LANES];

        for (uint32_t t = 0; t < LANES; t += V_LANES) {
            Vf x = v_load(s->x[c] + t), rounded = x;

            round_uniform(kv_formats[format].bits, scale, inverse, center, &rounded,
                          s->codes + (size_t)c * LANES + t);
            v_store(error + t, x - rounded);
        }
        feed_error(rounding, i, s->x, error);
    }
}

/* values: a scale a token. Rounded plainly: compensation against W_O's gram buys nothing (V2 alone
 * has KLD 0.0148 without, 0.0155 with; V3 and V4 the same with and without). */

static void seal_v_uniform(KvFormat format, uint32_t head_dim, const KvBlockLayout *l,
                           uint8_t *block, CpuKvScratch *s) {
    float low[LANES], high[LANES], scale[LANES], inverse[LANES], center[LANES];

    memcpy(low, s->x[0], sizeof(low));
    memcpy(high, s->x[0], sizeof(high));
    for (uint32_t c = 1; c < head_dim; c++)
        for (uint32_t t = 0; t < LANES; t += V_LANES) {
            Vf x = v_load(s->x[c] + t);

            v_store(low + t, v_min(x, v_load(low + t)));
            v_store(high + t, v_max(x, v_load(high + t)));
        }
    for (uint32_t t = 0; t < LANES; t++) {
        float cut = (high[t] - low[t]) * 0.5f * (1 - kv_value_range(format));

        fit_uniform(format, l, block, t, low[t] + cut, high[t] - cut, &scale[t], &center[t]);
        inverse[t] = kv_inverse(scale[t]);
    }
    for (uint32_t c = 0; c < head_dim; c++)
        for (uint32_t t = 0; t < LANES; t += V_LANES) {
            Vf x = v_load(s->x[c] + t);

            round_uniform(kv_formats[format].bits, v_load(scale + t), v_load(inverse + t),
                          v_load(center + t), &x, s->codes + (size_t)c * LANES + t);
        }
}

/* One vector's worth of lanes, in level units, to codes and the levels they stand for. */
static inline Vf round_levels(const KvFormatInfo *info, Vf u, uint8_t *codes) {
    Vf level = v_set1(info->levels[0]);
    Vi code = { 0 };

    for (uint32_t i = 1; i < 1u << info->bits; i++) {
        float below = info->levels[i - 1], above = info->levels[i];
        Vi passed = u >= 0.5f * (below + above);

        code -= passed; /* a mask is -1 */
        level += (Vf)((Vi)v_set1(above - below) & passed);
    }
    kv_store_bytes(codes, code);
    return level;
}

/* The lanes' tokens to the nearest levels. Returns <v, levels>. */
static Vf nearest_levels(const KvFormatInfo *info, uint32_t head_dim, uint32_t t, Vf units,
                         CpuKvScratch *s) {
    Vf products = { 0 };

    for (uint32_t c = 0; c < head_dim; c++) {
        Vf x = v_load(s->x[c] + t);
        Vf level = round_levels(info, x * units, s->codes + (size_t)c * LANES + t);

        products = v_fused(x, level, products);
    }
    return products;
}

/* The same by the best path. */
KV_INLINE Vf trellis_levels(const KvFormatInfo *info, uint32_t bits, const CpuKvTable *table,
                            uint32_t head_dim, uint32_t t, Vf units, CpuKvScratch *s) {
    Vf products = { 0 };

    for (uint32_t first = 0; first < head_dim; first += KV_TRELLIS_RUN) {
        uint32_t n = head_dim - first < KV_TRELLIS_RUN ? head_dim - first : KV_TRELLIS_RUN;
        Vi levels[KV_TRELLIS_RUN];

        kv_trellis_search(info, 1u << (bits + 1), n, s->x[first] + t, units,
                          s->codes + (size_t)first * LANES + t, levels);
        for (uint32_t c = 0; c < n; c++)
            products = v_fused(v_load(s->x[first + c] + t),
                               kv_table_values(table, bits + 1, levels[c]), products);
    }
    return products;
}

static void seal_v_levels(KvFormat format, uint32_t head_dim, const KvBlockLayout *l,
                          uint8_t *block, CpuKvScratch *s) {
    const KvFormatInfo *info = &kv_formats[format];
    const CpuKvTable table = kv_level_table(info);

    for (uint32_t t = 0; t < LANES; t += V_LANES) {
        Vf squares = { 0 }, products, units;
        float square[V_LANES], product[V_LANES], unit[V_LANES];

        for (uint32_t c = 0; c < head_dim; c++) {
            Vf x = v_load(s->x[c] + t);

            squares = v_fused(x, x, squares);
        }
        v_store(square, squares);
        for (uint32_t i = 0; i < V_LANES; i++)
            unit[i] = info->levels_per_sigma * kv_inverse(sqrtf(square[i] / (float)head_dim));
        units = v_load(unit);
        if (format == KV_FORMAT_2)
            products = trellis_levels(info, 2, &table, head_dim, t, units, s);
        else if (format == KV_FORMAT_3)
            products = trellis_levels(info, 3, &table, head_dim, t, units, s);
        else
            products = nearest_levels(info, head_dim, t, units, s);
        /* The scale with <v, scale * levels> = <v, v>. */
        v_store(product, products);
        for (uint32_t i = 0; i < V_LANES; i++)
            block[l->scales_offset + t + i] =
                product[i] > 0 ? kv_scale_nearest(square[i] / product[i]) : 0;
    }
}

/* codes */

KV_INLINE void pack_block(KvFormat format, KvSide side, const KvBlockLayout *l, uint32_t n,
                          const CpuKvScratch *s, uint8_t *block) {
    for (uint32_t i = 0; i < l->n_vectors; i++) {
        const uint8_t *codes = s->codes + (size_t)i * LANES;
        uint8_t *const rows[2] = { block + l->plane_offset[0] + i * l->plane_row_bytes[0],
                                   block + l->plane_offset[1] + i * l->plane_row_bytes[1] };
        uint8_t token[KV_HEAD_DIM_MAX];

        if (side == KV_SIDE_V) {
            for (uint32_t c = 0; c < n; c++)
                token[c] = s->codes[(size_t)c * LANES + i];
            codes = token;
        }
        kv_pack_row(format, codes, n, rows);
    }
}

KV_INLINE void pack_codes(KvFormat format, KvSide side, const KvBlockLayout *l,
                          const CpuKvScratch *s, uint8_t *block) {
    if (l->n_codes == 64)
        pack_block(format, side, l, 64, s, block);
    else
        pack_block(format, side, l, l->n_codes, s, block);
}

/* Codes of a trellis: whole runs together, what is left of each token by the definition. */
static void pack_trellis(KvFormat format, const KvBlockLayout *l, const CpuKvScratch *s,
                         uint8_t *block) {
    uint8_t *low = block + l->plane_offset[0], *high = block + l->plane_offset[1];
    const size_t *row_bytes = l->plane_row_bytes;
    uint32_t first = 0;

    for (; first + KV_TRELLIS_RUN <= l->n_codes; first += KV_TRELLIS_RUN)
        kv_trellis_pack_run(format, s->codes + (size_t)first * LANES, low + first / 4,
                            high + first / 8, row_bytes);
    for (uint32_t t = 0; first < l->n_codes && t < LANES; t++) {
        uint8_t token[KV_TRELLIS_RUN];

        for (uint32_t c = first; c < l->n_codes; c++)
            token[c - first] = s->codes[(size_t)c * LANES + t];
        kv_pack(format, KV_SIDE_V, token, l->n_codes - first,
                (uint8_t *const[2]){ low + t * row_bytes[0] + first / 4,
                                     high + t * row_bytes[1] + first / 8 });
    }
}

void KV_SEAL(KvFormat format, KvSide side, uint32_t head_dim, const uint16_t *tail,
             const Rounding *rounding, void *block, CpuKvScratch *s) {
    KvBlockLayout l = kv_block_layout(format, side, head_dim);

    memset(block, 0, l.size_bytes);
    load_tail(side, head_dim, tail, s->x);
    if (side == KV_SIDE_K)
        seal_k(format, head_dim, &l, rounding, block, s);
    else if (kv_format_has_centers(format, side))
        seal_v_uniform(format, head_dim, &l, block, s);
    else
        seal_v_levels(format, head_dim, &l, block, s);
    if (kv_format_has_trellis(format, side)) {
        pack_trellis(format, &l, s, block);
        return;
    }
    switch (format) {
    case KV_FORMAT_8:
        pack_codes(KV_FORMAT_8, side, &l, s, block);
        break;
    case KV_FORMAT_6:
        pack_codes(KV_FORMAT_6, side, &l, s, block);
        break;
    case KV_FORMAT_5:
        pack_codes(KV_FORMAT_5, side, &l, s, block);
        break;
    case KV_FORMAT_4:
        pack_codes(KV_FORMAT_4, side, &l, s, block);
        break;
    case KV_FORMAT_3:
        pack_codes(KV_FORMAT_3, side, &l, s, block);
        break;
    default:
        pack_codes(KV_FORMAT_2, side, &l, s, block);
        break;
    }
}
