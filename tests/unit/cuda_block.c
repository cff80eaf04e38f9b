/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/cuda_block.h"

#include "cuda/kv_block.h"
#include "kvcache/value_trellis.h"
#include "util/half.h"

#include <math.h>
#include <string.h>

#define UNIT CUDA_KV_UNIT

/* A code's place: its unit, and where it is in it. */
typedef struct Place {
    const uint8_t *sixteen[2]; /* each plane's sixteen tokens */
    uint32_t unit, n_units;
    uint32_t token, channel; /* of the unit */
} Place;

static Place place_of(const CudaKvFormat *f, const uint8_t *block, uint32_t n, uint32_t t,
                      uint32_t c) {
    const uint8_t *planes[2] = { block, block + f->plane1_offset };
    Place p = { .n_units = 2 * n / UNIT,
                .unit = t % 16 / UNIT * (n / UNIT) + c / UNIT,
                .token = t % UNIT,
                .channel = c % UNIT };

    for (int i = 0; i < 2; i++)
        p.sixteen[i] = planes[i] + (size_t)(t / 16) * 16 * n * f->planes[i] / 8;
    return p;
}

/* Word i of the unit in a plane of `bits`. */
static uint32_t word_of(const Place *p, uint32_t plane, uint32_t bits, uint32_t i) {
    uint32_t part_words = bits == 1 ? 2 : 4, word;

    memcpy(&word,
           p->sixteen[plane] +
               (((size_t)(i / part_words) * p->n_units + p->unit) * part_words + i % part_words) *
                   4,
           4);
    return word;
}

static uint32_t trellis_code(const CudaKvFormat *f, const Place *p) {
    uint32_t bit = 4 * p->channel + p->token % 4, i = p->token / 4;
    uint32_t code = (word_of(p, 0, 2, i) >> bit & 1) | (word_of(p, 0, 2, 2 + i) >> bit & 1) << 1;

    return f->planes[1] ? code | (word_of(p, 1, 1, i) >> bit & 1) << 2 : code;
}

static uint32_t plane_code(const CudaKvFormat *f, const Place *p, uint32_t plane) {
    uint32_t bits = f->planes[plane], word, per_word, pair;

    if (bits == 8)
        return word_of(p, plane, 8, 2 * p->token + p->channel / 4) >> p->channel % 4 * 8 & 0xff;
    if (bits == 4 && !f->has_centers) {
        word = word_of(p, plane, 4, p->token);
        return (word >> 4 * p->channel & 7) |
               (word >> (p->channel < 4 ? 8 * p->channel + 7 : 8 * p->channel - 29) & 1) << 3;
    }
    per_word = 4 / bits;
    pair = p->channel / 2 + p->token % per_word * 4;
    word = word_of(p, plane, bits, p->token / per_word);
    return word >> (pair * bits + p->channel % 2 * 16) & ((1u << bits) - 1);
}

static uint32_t code_of(const CudaKvFormat *f, const Place *p) {
    if (f->has_trellis)
        return trellis_code(f, p);
    return plane_code(f, p, 0) | (f->planes[1] ? plane_code(f, p, 1) << f->planes[0] : 0);
}

static void meta_of(const CudaKvFormat *f, const uint8_t *block, uint32_t i, float *scalep,
                    float *centerp) {
    uint16_t halves[2] = { 0 };

    if (f->meta_bytes == 1) {
        *scalep = kv_scales[block[f->scales_offset + i]];
        *centerp =
            f->has_centers ? (float)(int8_t)block[f->centers_offset + i] * (*scalep * 0.5f) : 0;
        return;
    }
    memcpy(&halves[0], block + f->scales_offset + 2 * (size_t)i, 2);
    memcpy(&halves[1], block + f->centers_offset + 2 * (size_t)i, 2);
    *scalep = half_value(halves[0]);
    *centerp = half_value(halves[1]);
}

static void token_to_f32(const CudaKvFormat *f, KvSide side, uint32_t n, const uint8_t *block,
                         uint32_t t, float *x) {
    uint8_t codes[KV_HEAD_DIM_MAX], levels[KV_HEAD_DIM_MAX];

    for (uint32_t c = 0; c < n; c++) {
        Place p = place_of(f, block, n, t, c);

        codes[c] = levels[c] = (uint8_t)code_of(f, &p);
    }
    if (f->has_trellis)
        kv_trellis_levels(codes, n, levels);
    for (uint32_t c = 0; c < n; c++) {
        float scale, center;

        meta_of(f, block, side == KV_SIDE_K ? c : t, &scale, &center);
        x[c] = f->has_centers
                   ? fmaf(scale, (float)codes[c] - ((float)(1u << (f->bits - 1)) - 0.5f), center)
                   : f->levels[levels[c]] * scale;
    }
}

void cuda_block_to_f32(KvFormat format, KvSide side, uint32_t head_dim, const uint8_t *block,
                       float *x) {
    CudaKvFormat f = cuda_kv_format(format, side, head_dim);

    for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
        token_to_f32(&f, side, head_dim, block, t, x + (size_t)t * head_dim);
}
