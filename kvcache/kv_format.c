/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/kv_format.h"

#include "kvcache/value_trellis.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define BLOCK_ALIGN_BYTES 16

#define LEVEL(_n) ((_n) / 64.0f)

/* At 4 bits the levels are Lloyd and Max's for the normal density, at the integer scale below 128
 * that loses least to rounding: distortion after the unbiased gain 0.0095975, where the real-valued
 * set has 0.0095921. Those of the trellis are as tests/tools/train_value_levels.py prints them. */
const KvFormatInfo kv_formats[KV_FORMATS] = {
    [KV_FORMAT_BF16] = { .name = "bf16", .bits = 16 },
    [KV_FORMAT_F16] = { .name = "f16", .bits = 16 },
    [KV_FORMAT_8] = { .name = "8", .bits = 8, .n_planes = 1, .planes = { 8 }, .meta_bytes = 2 },
    [KV_FORMAT_6] = { .name = "6", .bits = 6, .n_planes = 2, .planes = { 4, 2 }, .meta_bytes = 1 },
    [KV_FORMAT_5] = { .name = "5", .bits = 5, .n_planes = 2, .planes = { 4, 1 }, .meta_bytes = 1 },
    [KV_FORMAT_4] = { .name = "4",
                      .bits = 4,
                      .n_planes = 1,
                      .planes = { 4 },
                      .meta_bytes = 1,
                      .n_levels = 16,
                      .levels = { LEVEL(-104), LEVEL(-79), LEVEL(-62), LEVEL(-48), LEVEL(-36),
                                  LEVEL(-25), LEVEL(-15), LEVEL(-5), LEVEL(5), LEVEL(15), LEVEL(25),
                                  LEVEL(36), LEVEL(48), LEVEL(62), LEVEL(79), LEVEL(104) },
                      .levels_per_sigma = 38.143300f / 64 },
    [KV_FORMAT_3] = { .name = "3",
                      .bits = 3,
                      .n_planes = 2,
                      .planes = { 2, 1 },
                      .meta_bytes = 1,
                      .n_levels = 16,
                      .levels = { LEVEL(-127), LEVEL(-92), LEVEL(-69), LEVEL(-53), LEVEL(-39),
                                  LEVEL(-27), LEVEL(-16), LEVEL(-5), LEVEL(5), LEVEL(16), LEVEL(27),
                                  LEVEL(39), LEVEL(53), LEVEL(69), LEVEL(92), LEVEL(127) },
                      .levels_per_sigma = 53.0f / 64 },
    [KV_FORMAT_2] = { .name = "2",
                      .bits = 2,
                      .n_planes = 1,
                      .planes = { 2 },
                      .meta_bytes = 1,
                      .n_levels = 8,
                      .levels = { LEVEL(-107), LEVEL(-62), LEVEL(-35), LEVEL(-11), LEVEL(11),
                                  LEVEL(35), LEVEL(62), LEVEL(107) },
                      .levels_per_sigma = 58.0f / 64 },
};

KvFormat kv_format_of_bits(uint32_t bits) {
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++)
        if (kv_formats[f].bits == bits)
            return f;
    return KV_FORMATS;
}

/* layout */

KvBlockLayout kv_block_layout(KvFormat format, KvSide side, uint32_t head_dim) {
    const KvFormatInfo *info = &kv_formats[format];
    KvBlockLayout l = {
        .n_vectors = side == KV_SIDE_K ? head_dim : KV_PAGE_TOKENS,
        .n_codes = side == KV_SIDE_K ? KV_PAGE_TOKENS : head_dim,
    };
    size_t offset = 0;

    assert(head_dim && head_dim <= KV_HEAD_DIM_MAX);
    if (!kv_format_quantizes(format)) {
        l.size_bytes = (size_t)head_dim * KV_PAGE_TOKENS * sizeof(uint16_t);
        return l;
    }
    assert(head_dim % 8 == 0);
    for (uint32_t i = 0; i < info->n_planes; i++) {
        l.plane_offset[i] = offset;
        l.plane_row_bytes[i] = (size_t)l.n_codes * info->planes[i] / 8;
        offset += l.n_vectors * l.plane_row_bytes[i];
    }
    l.scales_offset = offset;
    offset += (size_t)l.n_vectors * info->meta_bytes;
    if (kv_format_has_centers(format, side)) {
        l.centers_offset = offset;
        offset += (size_t)l.n_vectors * info->meta_bytes;
    }
    l.size_bytes = (offset + BLOCK_ALIGN_BYTES - 1) / BLOCK_ALIGN_BYTES * BLOCK_ALIGN_BYTES;
    return l;
}

/* scales */

/* Nine powers of two from _low on. */
#define DOUBLINGS(_low)                                                                \
    (_low), 2 * (_low), 4 * (_low), 8 * (_low), 16 * (_low), 32 * (_low), 64 * (_low), \
        128 * (_low), 256 * (_low)

/* An octave from _low on, a power of two: 2^(i/16), rounded to nearest. */
#define OCTAVE(_low)                                                               \
    0x1.000000p+0f * (_low), 0x1.0b5586p+0f * (_low), 0x1.172b84p+0f * (_low),     \
        0x1.2387a6p+0f * (_low), 0x1.306fe0p+0f * (_low), 0x1.3dea64p+0f * (_low), \
        0x1.4bfdaep+0f * (_low), 0x1.5ab07ep+0f * (_low), 0x1.6a09e6p+0f * (_low), \
        0x1.7a1148p+0f * (_low), 0x1.8ace54p+0f * (_low), 0x1.9c4918p+0f * (_low), \
        0x1.ae89fap+0f * (_low), 0x1.c199bep+0f * (_low), 0x1.d5818ep+0f * (_low), \
        0x1.ea4afap+0f * (_low)

const float kv_scales[KV_SCALES] = {
    0,
    DOUBLINGS(0x1p-28f),
    DOUBLINGS(0x1p-19f),
    OCTAVE(0x1p-10f),
    OCTAVE(0x1p-9f),
    OCTAVE(0x1p-8f),
    OCTAVE(0x1p-7f),
    OCTAVE(0x1p-6f),
    OCTAVE(0x1p-5f),
    OCTAVE(0x1p-4f),
    OCTAVE(0x1p-3f),
    OCTAVE(0x1p-2f),
    OCTAVE(0x1p-1f),
    OCTAVE(0x1p0f),
    OCTAVE(0x1p1f),
    OCTAVE(0x1p2f),
    OCTAVE(0x1p3f),
    DOUBLINGS(0x1p4f),
    0x1p13f,
    0x1p14f,
    0x1p15f,
    0x1p16f,
};

uint8_t kv_scale_ceil(float x) {
    uint32_t code = 0;

    /* The last code whose scale is below x, bit by bit. */
    for (uint32_t bit = KV_SCALES / 2; bit; bit /= 2)
        code += kv_scales[code + bit] < x ? bit : 0;
    return (uint8_t)(code + (kv_scales[code] < x && code < KV_SCALES - 1));
}

uint8_t kv_scale_nearest(float x) {
    uint8_t above = kv_scale_ceil(x);

    if (above <= 1)
        return above;
    /* The nearer by ratio: x^2 against the product of the two neighbours. */
    return (double)x * x < (double)kv_scales[above] * kv_scales[above - 1] ? above - 1 : above;
}

/* codes */

/* Where the bits of a trellis' code lie in a plane, of 2 bits or 1. */
typedef struct CodePlace {
    uint32_t byte, bit;
} CodePlace;

static CodePlace trellis_place(uint32_t bits, uint32_t n, uint32_t j) {
    uint32_t first = j / KV_TRELLIS_RUN * KV_TRELLIS_RUN, bit = (j - first) * bits;
    uint32_t k = (j - first) / 8, l = j % 8;

    if (n - first >= KV_TRELLIS_RUN) /* a whole run: bits of 16-bit words */
        bit = bits == 2 ? 16 * l + 2 * k : 16 * (l % 4) + 2 * k + l / 4;
    return (CodePlace){ .byte = (first * bits + bit) / 8, .bit = bit % 8 };
}

/* Bits `shift` .. `shift` + bits - 1 of the codes, to and from a row of a plane. */

static void pack_plane(bool is_trellis, uint32_t bits, uint32_t shift, const uint8_t *codes,
                       uint32_t n, uint8_t *row) {
    uint32_t stride = n * bits / 8, mask = (1u << bits) - 1;

    memset(row, 0, stride);
    for (uint32_t j = 0; is_trellis && j < n; j++) {
        CodePlace at = trellis_place(bits, n, j);

        row[at.byte] |= (uint8_t)(((uint32_t)codes[j] >> shift & mask) << at.bit);
    }
    for (uint32_t part = 0; !is_trellis && part < 8 / bits; part++)
        for (uint32_t byte = 0; byte < stride; byte++)
            row[byte] |=
                (uint8_t)(((uint32_t)codes[part * stride + byte] >> shift & mask) << part * bits);
}

static void unpack_plane(bool is_trellis, uint32_t bits, uint32_t shift, const uint8_t *row,
                         uint32_t n, uint8_t *codes) {
    uint32_t stride = n * bits / 8, mask = (1u << bits) - 1;

    for (uint32_t j = 0; is_trellis && j < n; j++) {
        CodePlace at = trellis_place(bits, n, j);

        codes[j] |= (uint8_t)(((uint32_t)row[at.byte] >> at.bit & mask) << shift);
    }
    for (uint32_t part = 0; !is_trellis && part < 8 / bits; part++)
        for (uint32_t byte = 0; byte < stride; byte++)
            codes[part * stride + byte] |=
                (uint8_t)(((uint32_t)row[byte] >> part * bits & mask) << shift);
}

void kv_pack(KvFormat format, KvSide side, const uint8_t *codes, uint32_t n,
             uint8_t *const rows[2]) {
    const KvFormatInfo *info = &kv_formats[format];
    bool is_trellis = kv_format_has_trellis(format, side);
    uint32_t shift = 0;

    for (uint32_t i = 0; i < info->n_planes; shift += info->planes[i++])
        pack_plane(is_trellis, info->planes[i], shift, codes, n, rows[i]);
}

void kv_unpack(KvFormat format, KvSide side, const uint8_t *const rows[2], uint32_t n,
               uint8_t *codes) {
    const KvFormatInfo *info = &kv_formats[format];
    bool is_trellis = kv_format_has_trellis(format, side);
    uint32_t shift = 0;

    memset(codes, 0, n);
    for (uint32_t i = 0; i < info->n_planes; shift += info->planes[i++])
        unpack_plane(is_trellis, info->planes[i], shift, rows[i], n, codes);
}

/* the reference */

static float scale_at(KvFormat format, const uint8_t *block, const KvBlockLayout *l, uint32_t i) {
    uint16_t half;

    if (kv_formats[format].meta_bytes == 1)
        return kv_scales[block[l->scales_offset + i]];
    memcpy(&half, block + l->scales_offset + 2 * (size_t)i, sizeof(half));
    return half_value(half);
}

static float center_at(KvFormat format, const uint8_t *block, const KvBlockLayout *l, uint32_t i,
                       float scale) {
    uint16_t half;

    if (kv_formats[format].meta_bytes == 1)
        return (float)(int8_t)block[l->centers_offset + i] * (scale / 2);
    memcpy(&half, block + l->centers_offset + 2 * (size_t)i, sizeof(half));
    return half_value(half);
}

void kv_block_to_f32(KvFormat format, KvSide side, uint32_t head_dim, const void *block,
                     float *out) {
    const KvFormatInfo *info = &kv_formats[format];
    KvBlockLayout l = kv_block_layout(format, side, head_dim);
    const uint8_t *bytes = block;
    uint8_t codes[KV_HEAD_DIM_MAX];

    if (!kv_format_quantizes(format)) {
        for (uint32_t i = 0; i < head_dim * KV_PAGE_TOKENS; i++)
            out[i] = kv_16bit_value(format, ((const uint16_t *)block)[i]);
        return;
    }
    for (uint32_t i = 0; i < l.n_vectors; i++) {
        float scale = scale_at(format, bytes, &l, i);
        const uint8_t *rows[2] = { bytes + l.plane_offset[0] + i * l.plane_row_bytes[0],
                                   bytes + l.plane_offset[1] + i * l.plane_row_bytes[1] };

        kv_unpack(format, side, rows, l.n_codes, codes);
        if (kv_format_has_trellis(format, side))
            kv_trellis_levels(codes, l.n_codes, codes);
        for (uint32_t j = 0; j < l.n_codes; j++)
            if (kv_format_has_centers(format, side))
                out[i * l.n_codes + j] =
                    scale * ((float)codes[j] - (float)(1u << (info->bits - 1)) + 0.5f) +
                    center_at(format, bytes, &l, i, scale);
            else
                out[i * l.n_codes + j] = scale * (float)info->levels[codes[j]];
    }
}
