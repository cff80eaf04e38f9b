/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Codes of a block (kvcache/kv_format.h), packed and unpacked by whole vectors. kv_pack and
 * kv_unpack are the same by the definition.
 *
 * Everything is inlined with the widths as constants. With a sanitizer's checks the result would
 * take a minute a file to compile, and plain functions are checked as well.
 */

#include "cpu/vector.h"
#include "kvcache/kv_format.h"

#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KV_INLINE static inline
#else
#define KV_INLINE static inline __attribute__((__always_inline__))
#endif

/* Where the codes of vectors are, `n` of each: in the rows of planes; or, of a trellis, numbers of
 * levels in words (cpu/kv_trellis.h); or what they stand for, unpacked. */
typedef struct CpuKvCodes {
    uint32_t bits;                /* of a code; KV_BITS_UNPACKED: floats */
    bool is_uniform;              /* codes count steps; else they are numbers of levels */
    uint32_t low_bits, high_bits; /* of the planes; high_bits 0: there is one; low_bits 0: words */
    uint32_t n;
    const uint8_t *low, *high; /* [vectors][n * bits of the plane / 8] */
    const float *unpacked;     /* [vectors][n] */
    const uint8_t *next;       /* the block to come, or NULL */
    uint32_t next_bytes;       /* of it, for each vector */
} CpuKvCodes;

#define KV_BITS_UNPACKED 32

/* Of a scale, which is not negative; 0 of 0. */
static inline float kv_inverse(float scale) {
    return scale > 0 ? 1 / scale : 0;
}

/* Up to how many bits a table turns steps to floats in fewer operations than arithmetic does. */
#if defined(__AVX512F__)
#define KV_STEPS_TABLE_BITS 4
#elif defined(__AVX2__)
#define KV_STEPS_TABLE_BITS 3
#else
#define KV_STEPS_TABLE_BITS 0
#endif

/* What codes of at most 4 bits stand for, in units of the scale: 16 entries, repeated where codes
 * have fewer bits. */
typedef struct CpuKvTable {
    Vf entries[16 / V_LANES];
} CpuKvTable;

static inline CpuKvTable kv_level_table(const KvFormatInfo *info) {
    float entries[16];
    CpuKvTable table;

    for (uint32_t i = 0; i < 16; i++)
        entries[i] = info->levels[i % info->n_levels];
    memcpy(&table, entries, sizeof(table));
    return table;
}

typedef uint8_t CpuKvLaneBytes __attribute__((__vector_size__(V_LANES)));

/* GCC 12 would do these one by one. */
static inline Vi kv_load_bytes(const uint8_t *p) {
#if defined(__AVX512F__)
    return (Vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
#elif defined(__AVX2__)
    return (Vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
#else
    CpuKvLaneBytes bytes;

    memcpy(&bytes, p, sizeof(bytes));
    return __builtin_convertvector(bytes, Vi);
#endif
}

static inline Vi kv_load_words(const uint8_t *p) {
#if defined(__AVX512F__)
    return (Vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
#elif defined(__AVX2__)
    return (Vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
#else
    Vh words;

    memcpy(&words, p, sizeof(words));
    return __builtin_convertvector(words, Vi);
#endif
}

static inline void kv_store_bytes(uint8_t *p, Vi lanes) {
#if defined(__AVX512F__)
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8((__m512i)lanes));
#else
    CpuKvLaneBytes bytes = __builtin_convertvector(lanes, CpuKvLaneBytes);

    memcpy(p, &bytes, sizeof(bytes));
#endif
}

/* Codes j .. j + V_LANES - 1 of a plane's row, from bit `lift` of the lanes on; the other bits are
 * anything. The row is a whole number of vectors, or half of one. */
KV_INLINE Vi kv_plane_lanes(const uint8_t *row, uint32_t n, uint32_t bits, uint32_t lift,
                            uint32_t j) {
    const uint32_t stride = n * bits / 8, shift = bits == 8 ? 0 : j / stride * bits;

    if (bits == 8)
        return kv_load_bytes(row + j);
    if (stride < V_LANES) {
        uint8_t twice[V_LANES];
        Vi shifts;

        memcpy(twice, row, V_LANES / 2);
        memcpy(twice + V_LANES / 2, row, V_LANES / 2);
        for (uint32_t i = 0; i < V_LANES; i++)
            shifts[i] = (int32_t)(i < V_LANES / 2 ? shift : shift + bits);
        return kv_load_bytes(twice) << (int32_t)lift >> shifts;
    }
    return shift < lift ? kv_load_bytes(row + j % stride) << (int32_t)(lift - shift)
                        : kv_load_bytes(row + j % stride) >> (int32_t)(shift - lift);
}

/* Codes j .. j + V_LANES - 1 of vector i; bits above them are anything. */
KV_INLINE Vi kv_lanes(const CpuKvCodes *codes, uint32_t i, uint32_t j) {
    const uint32_t n = codes->n, low_bits = codes->low_bits, high_bits = codes->high_bits;
    const int32_t mask = (1 << low_bits) - 1;
    Vi low, high;

    if (!low_bits) /* 16 words of 4 codes for each 64 channels */
        return kv_load_words(codes->low + (size_t)i * (n / 2) + j / 64 * 32 + j % 16 * 2) >>
               (int32_t)(j % 64 / 16 * 4);
    low = kv_plane_lanes(codes->low + (size_t)i * (n * low_bits / 8), n, low_bits, 0, j);
    if (!high_bits)
        return low;
    high = kv_plane_lanes(codes->high + (size_t)i * (n * high_bits / 8), n, high_bits, low_bits, j);
    return (low & mask) | (high & ~mask);
}

/* The entries of the lowest `bits` bits, at most 4; what is above them is ignored. */
KV_INLINE Vf kv_table_values(const CpuKvTable *table, uint32_t bits, Vi lanes) {
    (void)bits;
#if defined(__AVX512F__)
    return (Vf)_mm512_permutexvar_ps((__m512i)lanes, (__m512)table->entries[0]);
#elif defined(__AVX2__)
    __m256 below = _mm256_permutevar8x32_ps((__m256)table->entries[0], (__m256i)lanes);
    __m256 above = _mm256_permutevar8x32_ps((__m256)table->entries[1], (__m256i)lanes);

    return bits < 4
               ? (Vf)below
               : (Vf)_mm256_blendv_ps(below, above, (__m256)_mm256_slli_epi32((__m256i)lanes, 28));
#else
    const float *entries = (const float *)table->entries;
    Vf values;

    for (uint32_t k = 0; k < V_LANES; k++)
        values[k] = entries[lanes[k] & 15];
    return values;
#endif
}

/* What those codes stand for: the level of that number, or the steps from the middle one. */
KV_INLINE Vf kv_lane_values(const CpuKvCodes *codes, const CpuKvTable *table, uint32_t i,
                            uint32_t j) {
    Vi lanes, mantissa;

    if (codes->bits == KV_BITS_UNPACKED)
        return v_load(codes->unpacked + (size_t)i * codes->n + j);
    lanes = kv_lanes(codes, i, j);
    if (!codes->is_uniform || codes->bits <= KV_STEPS_TABLE_BITS)
        return kv_table_values(table, codes->bits, lanes);
    /* In the mantissa of 2^23 it counts whole numbers. */
    mantissa = lanes & ((1 << codes->bits) - 1);
    return (Vf)(mantissa | 0x4b000000) - (0x1p23f + (float)(1 << (codes->bits - 1)));
}

/* Bits of plane i of a format; 0 if it has none. A constant where `format` is one. */
KV_INLINE uint32_t kv_plane_bits(KvFormat format, uint32_t i) {
    switch (format) {
    case KV_FORMAT_8:
        return i ? 0 : 8;
    case KV_FORMAT_6:
        return i ? 2 : 4;
    case KV_FORMAT_5:
        return i ? 1 : 4;
    case KV_FORMAT_4:
        return i ? 0 : 4;
    case KV_FORMAT_3:
        return i ? 1 : 2;
    default:
        return i ? 0 : 2;
    }
}

/* Codes to one plane, 8 bytes of it at a time; `shift`: bits of the planes below. */
KV_INLINE void kv_pack_plane(const uint8_t *codes, uint32_t n, uint32_t bits, uint32_t shift,
                             uint8_t *row) {
    const uint64_t mask = 0x0101010101010101u * ((1u << bits) - 1);
    const uint32_t stride = n * bits / 8;

    for (uint32_t byte = 0; byte < stride; byte += sizeof(uint64_t)) {
        const uint32_t size = stride - byte < sizeof(uint64_t) ? stride - byte : sizeof(uint64_t);
        uint64_t packed = 0;

        for (uint32_t part = 0; part < 8 / bits; part++) {
            uint64_t word = 0;

            memcpy(&word, codes + part * stride + byte, size);
            packed |= (word >> shift & mask) << part * bits;
        }
        memcpy(row + byte, &packed, size);
    }
}

KV_INLINE void kv_pack_row(KvFormat format, const uint8_t *codes, uint32_t n,
                           uint8_t *const rows[2]) {
    const uint32_t low_bits = kv_plane_bits(format, 0), high_bits = kv_plane_bits(format, 1);

    kv_pack_plane(codes, n, low_bits, 0, rows[0]);
    if (high_bits)
        kv_pack_plane(codes, n, high_bits, low_bits, rows[1]);
}
