/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Codes of one vector to and from its rows in the planes of a block (kvcache/kv_format.h), 16 or 8
 * at a time. kv_pack and kv_unpack are the same by the definition.
 *
 * Everything is inlined with the format as a constant; `n`, the codes of a vector, is a constant
 * for the usual sizes.
 */

#include "kvcache/kv_format.h"

#include <string.h>

#if defined(__SSSE3__)
#include <immintrin.h>
#endif

#define KV_INLINE static inline __attribute__((__always_inline__))
#define KV_CHUNK 16 /* codes that are opened at a time */

typedef uint8_t KvChunk __attribute__((__vector_size__(KV_CHUNK)));

/* Bits of plane i of a format; 0 if it has none. Constants where `format` is one. */
KV_INLINE uint32_t kv_plane_bits(KvFormat format, uint32_t i) {
    switch (format) {
    case KV_FORMAT_8:
        return i ? 0 : 8;
    case KV_FORMAT_6:
        return i ? 2 : 4;
    case KV_FORMAT_4:
        return i ? 0 : 4;
    case KV_FORMAT_3:
        return i ? 1 : 2;
    default:
        return i ? 0 : 2;
    }
}

/* Codes 16 i .. 16 i + 15 of one plane. Its row is a whole number of chunks, or half a one. */
KV_INLINE KvChunk kv_plane_chunk(const uint8_t *row, uint32_t n, uint32_t bits, uint32_t i) {
    uint32_t stride = n * bits / 8, first = i * KV_CHUNK;
    KvChunk x;

    if (stride % KV_CHUNK == 0) {
        memcpy(&x, row + first % stride, sizeof(x));
        x >>= first / stride * bits;
    } else {
        const uint32_t shift = first / stride * bits;
        uint64_t half, both[2];

        memcpy(&half, row, sizeof(half));
        both[0] = half >> shift; /* bits of other bytes come in above those that are kept */
        both[1] = half >> (shift + bits);
        memcpy(&x, both, sizeof(x));
    }
    return x & (uint8_t)((1u << bits) - 1);
}

/* Whether kv_open_row takes vectors of n codes. */
KV_INLINE bool kv_row_has_chunks(KvFormat format, uint32_t n) {
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t stride = n * kv_plane_bits(format, i) / 8;

        if (stride % KV_CHUNK != 0 && stride != KV_CHUNK / 2)
            return false;
    }
    return n % KV_CHUNK == 0;
}

/* What a code multiplies the scale by, as a signed byte: the code less the middle of the range, or
 * its level. */
KV_INLINE KvChunk kv_chunk_signed(KvFormat format, bool centered, KvChunk codes) {
    const KvFormatInfo *info = &kv_formats[format];

    if (centered)
        return codes - (uint8_t)(1u << (kv_plane_bits(format, 0) + kv_plane_bits(format, 1) - 1));
#if defined(__SSSE3__)
    KvChunk levels;

    memcpy(&levels, info->levels, sizeof(levels));
    return (KvChunk)_mm_shuffle_epi8((__m128i)levels, (__m128i)codes);
#else
    for (uint32_t j = 0; j < KV_CHUNK; j++)
        codes[j] = (uint8_t)info->levels[codes[j]];
    return codes;
#endif
}

/* One vector as signed bytes. */
KV_INLINE void kv_open_row(KvFormat format, bool centered, const uint8_t *const rows[2], uint32_t n,
                           int8_t *out) {
    const uint32_t low_bits = kv_plane_bits(format, 0), high_bits = kv_plane_bits(format, 1);

    for (uint32_t i = 0; i < n / KV_CHUNK; i++) {
        KvChunk codes = kv_plane_chunk(rows[0], n, low_bits, i);

        if (high_bits)
            codes |= kv_plane_chunk(rows[1], n, high_bits, i) << low_bits;
        codes = kv_chunk_signed(format, centered, codes);
        memcpy(out + i * KV_CHUNK, &codes, sizeof(codes));
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
