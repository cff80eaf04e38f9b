/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What matrix products need beyond cpu/vector.h: pairs of 16-bit numbers and their dot product,
 * and loads of small numbers as floats. Exact, whatever the instruction set.
 */

#include "cpu/vector.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

typedef int16_t Vs __attribute__((__vector_size__(V_LANES * 4)));
typedef uint16_t Vus __attribute__((__vector_size__(V_LANES * 4)));
typedef int16_t Vsh __attribute__((__vector_size__(V_LANES * 2)));
typedef int8_t Vsb __attribute__((__vector_size__(V_LANES)));
typedef uint8_t Vub __attribute__((__vector_size__(V_LANES)));

/*
 * V_INLINE makes one copy of a function a caller, with the caller's constants; V_UNROLL stands
 * before a loop over a tile, whose arrays then live in registers. With a sanitizer's checks the
 * result would take minutes to compile, and plain functions are checked as well.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define V_INLINE static inline
#define V_UNROLL(_n)
#else
#define V_INLINE static inline __attribute__((__always_inline__))
#define V_PRAGMA(_text) _Pragma(#_text)
#if defined(__clang__)
#define V_UNROLL(_n) V_PRAGMA(clang loop unroll(full))
#else
#define V_UNROLL(_n) V_PRAGMA(GCC unroll _n)
#endif
#endif

V_INLINE Vi vi_load(const void *p) {
    Vi v;

    memcpy(&v, p, sizeof(v));
    return v;
}

V_INLINE Vi vi_set1(int32_t x) {
    return x - (Vi){ 0 };
}

/* Two 16-bit numbers, at any address, to every lane. */
V_INLINE Vi vi_set1_pair(const int16_t *p) {
    int32_t x;

    memcpy(&x, p, sizeof(x));
    return vi_set1(x);
}

/* Keeps the compiler from adding a long chain of terms up in another order, which is the same
 * number but needs a register a term. */
V_INLINE Vi vi_in_order(Vi v) {
#if defined(__SSE2__)
    __asm__("" : "+v"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* Lane by lane, both 16-bit halves: sum + low(a) * low(b) + high(a) * high(b), signed. */
V_INLINE Vi vi_dot_pairs(Vi sum, Vi a, Vi b) {
#if defined(__AVX512VNNI__)
    return (Vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return vi_in_order(sum + (Vi)_mm512_madd_epi16((__m512i)a, (__m512i)b));
#elif defined(__AVX2__)
    return vi_in_order(sum + (Vi)_mm256_madd_epi16((__m256i)a, (__m256i)b));
#elif defined(__SSE2__)
    return vi_in_order(sum + (Vi)_mm_madd_epi16((__m128i)a, (__m128i)b));
#elif defined(__ARM_NEON)
    int32x4_t low = vmlal_s16((int32x4_t)sum, vmovn_s32((int32x4_t)a), vmovn_s32((int32x4_t)b));
    return (Vi)vmlal_s16(low, vshrn_n_s32((int32x4_t)a, 16), vshrn_n_s32((int32x4_t)b, 16));
#else
    return sum + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

/* a | (b & mask) */
V_INLINE Vi vi_merge(Vi a, Vi b, Vi mask) {
#if defined(__AVX512F__)
    return (Vi)_mm512_ternarylogic_epi32((__m512i)a, (__m512i)b, (__m512i)mask, 0xf8);
#else
    return a | (b & mask);
#endif
}

V_INLINE int32_t vi_max_lane(Vi v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t x[V_LANES], max;

    memcpy(x, &v, sizeof(v));
    max = x[0];
    for (int i = 1; i < V_LANES; i++)
        max = x[i] > max ? x[i] : max;
    return max;
#endif
}

V_INLINE int32_t vi_sum_lanes(Vi v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t x[V_LANES], sum = 0;

    memcpy(x, &v, sizeof(v));
    for (int i = 0; i < V_LANES; i++)
        sum += x[i];
    return sum;
#endif
}

V_INLINE Vf v_from_i32(Vi v) {
    return __builtin_convertvector(v, Vf);
}

/* |x| < 2^22, to the nearest integer, ties to even: 1.5 * 2^23 leaves no fraction bits. */
V_INLINE Vi v_to_i32(Vf x) {
    Vf magic = v_set1(12582912.0f);

    return (Vi)(x + magic) - (Vi)magic;
}

V_INLINE Vf v_load_s8(const uint8_t *p) {
#if defined(__AVX512F__)
    return (Vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
#elif defined(__AVX2__)
    return (Vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
#else
    Vsb b;

    memcpy(&b, p, sizeof(b));
    return v_from_i32(__builtin_convertvector(b, Vi));
#endif
}

V_INLINE Vf v_load_u8(const uint8_t *p) {
#if defined(__AVX512F__)
    return (Vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
#elif defined(__AVX2__)
    return (Vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
#else
    Vub b;

    memcpy(&b, p, sizeof(b));
    return v_from_i32(__builtin_convertvector(b, Vi));
#endif
}
