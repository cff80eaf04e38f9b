/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How a block (one KV head of one page) is stored at each width.
 *
 * Common to all backends, and not to change, are the values: which numbers share a scale, what a
 * code of each width stands for, the scales and centers there are, the levels; so that a model
 * gives the same quality wherever it runs. Where codes, scales and centers lie within a block is
 * each backend's own, as long as it fits the block's bytes: a page never leaves the process. What
 * follows of placement (parts, planes, the order of channels and tokens) is the CPU's.
 *
 * A quantized block is, in this order, each part without padding, the whole padded to 16 bytes:
 *
 *   codes    planes, see below; K [head_dim][64 tokens], V [64 tokens][head_dim]
 *   scales   one per vector
 *   centers  one per vector, where the format has them
 *
 * A *vector* is what shares a scale: a channel of K over the page's 64 tokens, a token of V over
 * its channels. So the scale of a key's channel folds into the query, the scale of a value's token
 * into its softmax weight, and the inner loop stays integer -> float -> multiply-add. A block never
 * needs a byte of another.
 *
 * Codes of b bits are cut into planes of 8, 4, 2 or 1 bits (6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1; the
 * first plane holds the low bits). In a plane of p bits a vector of n codes takes n p / 8 bytes,
 * and code j sits in byte j mod (n p / 8), at bit p (j / (n p / 8)): unpacking is a mask and a
 * shift of whole registers, whatever n. All vectors of one plane lie together, which keeps planes
 * aligned.
 *
 * Within a plane codes of a trellis (V at 3 and 2 bits) are placed otherwise: a whole run of 64
 * channels in 16-bit words, a shorter one as a plain row of bits, the first code lowest.
 *   2-bit plane   channel 8 k + l of the run is at bits 2 k and 2 k + 1 of word l, l < 8
 *   1-bit plane   channel 8 k + l is at bit 2 k of word l, l < 4; channel 8 k + l + 4 above it
 *
 * What a code stands for:
 *   uniform    x = scale * (code - 2^(b-1) + 1/2) + center            K at every width; V at 8, 6,
 * 5 levels     x = scale * level[code]                                V at 4 trellis    x = scale *
 * level[i], i by kvcache/value_trellis.h     V at 3, 2 At 8 bits scale and center are IEEE half
 * floats. At 6 bits and below a scale is one byte, an index into the scales below, and a center is
 * a signed byte c that means c * scale / 2: 16-bit metadata would cost a quarter of a bit per
 * element and buy 7% of the damage, 14% at 6 bits.
 *
 * `levels` are Lloyd and Max's for a normal density (S. Lloyd, "Least squares quantization in PCM",
 * 1982; J. Max, 1960), those of a trellis are trained on one. All are whole 64ths, and as such fit
 * 8 bits: levels near 1 make a token's scale about its deviation, where one-byte scales are fine.
 *
 * How a block is sealed is common as well:
 *   keys    The steps of a channel span the share kv_key_range of its range, about its middle.
 *           Scales are from the values as they come. Then channels are rounded in the order of
 *           kvcache/rounding.h, the error of each moving those to come; how far that looks ahead
 *           is the backend's (BackendOps.rounding_paths).
 *   values  Uniform steps of a token span the share kv_value_range of its range, about its middle.
 *           Else a token is brought to units of levels by its own deviation, sqrt(sum of squares /
 *           head_dim) = levels_per_sigma, and takes the nearest levels, or the codes of the best
 *           path: the one with the least sum of squared errors, each added to the sum by a fused
 *           multiply-add in f32. Of two equal paths into a state the one from the lower state
 *           wins, of equal states at the end of a run the lowest; of two levels at the same
 *           distance the higher. The scale is then chosen so that <v, q(v)> = <v, v> (arXiv
 *           2108.08842, section 3): the nearest level shrinks a vector, and that bias would add up
 *           over tokens where honest noise averages out.
 *
 * Non-finite input: before rounding a NaN counts as 0, and what lies beyond +-65504 (infinity too)
 * as +-65504. Out of finite codes comes no NaN and no infinity.
 */

#include "kvcache/kv_layout.h"
#include "util/device_fn.h"
#include "util/half.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KV_HEAD_DIM_MAX 512
#define KV_SCALES 256
#define KV_LEVELS_MAX 16

typedef struct KvFormatInfo {
    const char *name;
    uint32_t bits;               /* of a code; 16 for bf16 and f16 */
    uint32_t n_planes;           /* 0 for bf16 and f16 */
    uint32_t planes[2];          /* bits of each, low bits first */
    uint32_t meta_bytes;         /* of a scale, and of a center: 2 or 1 */
    uint32_t n_levels;           /* V's codes are these, and there is no center; 0: uniform */
    float levels[KV_LEVELS_MAX]; /* [n_levels], rising: 2^bits, or 2^(bits + 1) of a trellis */
    float levels_per_sigma;      /* what a value of one standard deviation is in level units */
} KvFormatInfo;

extern const KvFormatInfo kv_formats[KV_FORMATS];

static inline bool kv_format_has_centers(KvFormat format, KvSide side) {
    return side == KV_SIDE_K || !kv_formats[format].n_levels;
}

/* Whether codes of a side choose levels by a trellis. */
static inline bool kv_format_has_trellis(KvFormat format, KvSide side) {
    return side == KV_SIDE_V && kv_formats[format].n_levels > 1u << kv_formats[format].bits;
}

/* The share of a channel's range that the steps of keys span. Cutting the ends off costs less than
 * coarser steps, once other channels make up for what was cut. KLD of keys alone by share, over
 * 8,192 tokens of wiki.test.raw, standard errors 3 to 5%:
 *   2 bits   .80 .0227   .85 .0199   .90 .0212
 *   3 bits   .90 .0043   .93 .0034   .95 .0034   .97 .0037   1 .0041
 *   4 bits   .93 .0011   .94 .0010   .96 .00085  .98 .00084  1 .00084
 * and over its first 4,096:
 *   5 bits   .98 .000197   .985 .000211   1 .000246
 * `is_compensated`: by a rounding that is not plain. */
DEVICE_FN float kv_key_range(KvFormat format, bool is_compensated) {
    if (!is_compensated)
        return 1;
    switch (format) {
    case KV_FORMAT_5:
        return 0.98f;
    case KV_FORMAT_3:
        return 0.95f;
    case KV_FORMAT_2:
        return 0.85f;
    default:
        return 1;
    }
}

/* The share of a token's range that uniform steps of values span, about its middle: at 5 bits a
 * little less than all. Of normal values of 64, 128 and 256 channels, error / square (in 1/1000):
 *   share 1  2.04 2.48 2.93   .97  1.90 2.32 2.76   .94  2.06 2.35 2.69   .9  2.89 2.79 2.86
 * where 32 Lloyd-Max levels, whose unbiased scale takes half the metadata, have 2.48 2.58 2.62: per
 * bit that is as much as the steps with 64 channels and share 1. KLD of values alone, as above over
 * 4,096 tokens: share 1 .000162, .97 .000153. */
DEVICE_FN float kv_value_range(KvFormat format) {
    return format == KV_FORMAT_5 ? 0.97f : 1;
}

/* The format of that many bits (16: f16; 8, 6, 5, 4, 3, 2), or KV_FORMATS. */
KvFormat kv_format_of_bits(uint32_t bits);

/* Where the parts of a block lie. */
typedef struct KvBlockLayout {
    uint32_t n_vectors; /* K: head_dim; V: 64 */
    uint32_t n_codes;   /* of a vector; K: 64; V: head_dim */
    size_t plane_offset[2];
    size_t plane_row_bytes[2]; /* of one vector in that plane */
    size_t scales_offset;
    size_t centers_offset; /* 0: none */
    size_t size_bytes;     /* of the block */
} KvBlockLayout;

/* head_dim: a multiple of 8, at most KV_HEAD_DIM_MAX. */
KvBlockLayout kv_block_layout(KvFormat format, KvSide side, uint32_t head_dim);

/*
 * The one-byte scales, rising: 0; then the powers of two from 2^-28 to 2^-11; from 2^-10 to below
 * 2^4, where keys and values of real models live, 1/16 octave apart; then the powers of two up to
 * 2^16. Every finite input has a scale that covers it.
 */
extern const float kv_scales[KV_SCALES];

/* The smallest scale that is >= x (the largest one if none is), and the one nearest to x by ratio.
 * x >= 0. */
uint8_t kv_scale_ceil(float x);
uint8_t kv_scale_nearest(float x);

/* Codes of one vector, a byte each, to and from its row in every plane. */
void kv_pack(KvFormat format, KvSide side, const uint8_t *codes, uint32_t n,
             uint8_t *const rows[2]);
void kv_unpack(KvFormat format, KvSide side, const uint8_t *const rows[2], uint32_t n,
               uint8_t *codes);

/* A number of a bf16 or f16 block. */
static inline float kv_16bit_value(KvFormat format, uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float x;

    if (format == KV_FORMAT_F16)
        return half_value(bits);
    memcpy(&x, &u, sizeof(x));
    return x;
}

/* The readable reference: a sealed block as f32, K [head_dim][64] or V [64][head_dim]. */
void kv_block_to_f32(KvFormat format, KvSide side, uint32_t head_dim, const void *block,
                     float *out);
