/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One name for the widest float vector the file is compiled for, so that a kernel is written once
 * and built per instruction set (cpu/meson.build). Reductions have a fixed order: a result depends
 * on the instruction set, never on alignment or neighbours.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define V_LANES 16
#define V_BLOCK 4 /* vectors a register tile is wide */
#elif defined(__AVX2__)
#define V_LANES 8
#define V_BLOCK 2
#else
#define V_LANES 4
#define V_BLOCK 2
#endif

typedef float Vf __attribute__((__vector_size__(V_LANES * 4)));
typedef int32_t Vi __attribute__((__vector_size__(V_LANES * 4)));
typedef uint32_t Vu __attribute__((__vector_size__(V_LANES * 4)));
typedef uint16_t Vh __attribute__((__vector_size__(V_LANES * 2)));

static inline Vf v_load(const float *p) {
    Vf v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void v_store(float *p, Vf v) {
    memcpy(p, &v, sizeof(v));
}

static inline Vf v_set1(float x) {
    return x - (Vf){ 0 };
}

static inline Vi v_set1_i32(int32_t x) {
    return x - (Vi){ 0 };
}

/* a * b + c, rounded once where the processor can. */
static inline Vf v_fma(Vf a, Vf b, Vf c) {
#if defined(__AVX512F__)
    return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* a * b + c, rounded once, always. */
static inline Vf v_fused(Vf a, Vf b, Vf c) {
#if defined(__AVX2__)
    return v_fma(a, b, c);
#else
    for (uint32_t i = 0; i < V_LANES; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

static inline Vf v_load_bf16(const uint16_t *p) {
#if defined(__AVX512F__)
    return (Vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
#elif defined(__AVX2__)
    return (Vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
#else
    Vh h;

    memcpy(&h, p, sizeof(h));
    return (Vf)(__builtin_convertvector(h, Vu) << 16);
#endif
}

static inline Vf v_load_f16(const void *p) {
#if defined(__AVX512F__)
    return (Vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
#elif defined(__AVX2__)
    return (Vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
#else
    /* Exponent and mantissa moved to f32's places are 2^-112 of the value, subnormals included;
     * exponent 31 (infinity, NaN) becomes 255. */
    Vh h;
    Vu wide;

    memcpy(&h, p, sizeof(h));
    wide = __builtin_convertvector(h, Vu);
    Vi special = (wide & 0x7c00) == 0x7c00;
    Vf scaled = (Vf)((wide & 0x7fff) << 13) * v_set1(0x1p112f);
    return (Vf)((Vi)scaled | (special & 0x7f800000) | (Vi)((wide & 0x8000) << 16));
#endif
}

/* Lane by lane; `mask` is all ones or all zeros, as comparisons give it. */
static inline Vf v_select(Vi mask, Vf a, Vf b) {
#if defined(__AVX512F__)
    return (Vf)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), (__m512)b, (__m512)a);
#elif defined(__AVX2__)
    return (Vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
#else
    return (Vf)(((Vi)a & mask) | ((Vi)b & ~mask));
#endif
}

/* a > b ? a : b, lane by lane: b where one of them is NaN. */
static inline Vf v_max(Vf a, Vf b) {
#if defined(__AVX512F__)
    return (Vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return v_select(a > b, a, b);
#endif
}

static inline Vf v_min(Vf a, Vf b) {
#if defined(__AVX512F__)
    return (Vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return v_select(a < b, a, b);
#endif
}

static inline Vi v_min_i32(Vi a, Vi b) {
#if defined(__AVX512F__)
    return (Vi)_mm512_min_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Vi)_mm256_min_epi32((__m256i)a, (__m256i)b);
#else
    return (Vi)v_select(a < b, (Vf)a, (Vf)b);
#endif
}

static inline Vi v_max_i32(Vi a, Vi b) {
#if defined(__AVX512F__)
    return (Vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return (Vi)v_select(a > b, (Vf)a, (Vf)b);
#endif
}

/* A vector is quads of 4 lanes. Each lane takes the one of its quad that the low 2 bits of its
 * number name. */
static inline Vf v_permute_quads(Vf x, Vi number) {
#if defined(__AVX512F__)
    return (Vf)_mm512_permutevar_ps((__m512)x, (__m512i)number);
#elif defined(__AVX2__)
    return (Vf)_mm256_permutevar_ps((__m256)x, (__m256i)number);
#else
    number &= 3;
    return (Vf){ x[number[0]], x[number[1]], x[number[2]], x[number[3]] };
#endif
}

/* Four vectors' quads as rows of 4x4 matrices, turned about their diagonals. */
static inline void v_transpose_quads(Vf x[4]) {
#if defined(__AVX512F__)
    __m512 a = _mm512_unpacklo_ps((__m512)x[0], (__m512)x[1]);
    __m512 b = _mm512_unpackhi_ps((__m512)x[0], (__m512)x[1]);
    __m512 c = _mm512_unpacklo_ps((__m512)x[2], (__m512)x[3]);
    __m512 d = _mm512_unpackhi_ps((__m512)x[2], (__m512)x[3]);

    x[0] = (Vf)_mm512_shuffle_ps(a, c, 0x44);
    x[1] = (Vf)_mm512_shuffle_ps(a, c, 0xee);
    x[2] = (Vf)_mm512_shuffle_ps(b, d, 0x44);
    x[3] = (Vf)_mm512_shuffle_ps(b, d, 0xee);
#elif defined(__AVX2__)
    __m256 a = _mm256_unpacklo_ps((__m256)x[0], (__m256)x[1]);
    __m256 b = _mm256_unpackhi_ps((__m256)x[0], (__m256)x[1]);
    __m256 c = _mm256_unpacklo_ps((__m256)x[2], (__m256)x[3]);
    __m256 d = _mm256_unpackhi_ps((__m256)x[2], (__m256)x[3]);

    x[0] = (Vf)_mm256_shuffle_ps(a, c, 0x44);
    x[1] = (Vf)_mm256_shuffle_ps(a, c, 0xee);
    x[2] = (Vf)_mm256_shuffle_ps(b, d, 0x44);
    x[3] = (Vf)_mm256_shuffle_ps(b, d, 0xee);
#else
    Vf a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5);
    Vf b = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
    Vf c = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
    Vf d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);

    x[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    x[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    x[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    x[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
#endif
}

/* Lane i with lane i + n / 2, for n lanes, then n / 2, and so on. */
#if defined(__AVX2__)
#define V_FOLD(_v, _op)                                               \
    __extension__({                                                   \
        __m128 fold_ = V_FOLD_TO_4(_v, _op);                          \
        fold_ = _mm_##_op##_ps(fold_, _mm_movehl_ps(fold_, fold_));   \
        _mm_cvtss_f32(_mm_##_op##_ps(fold_, _mm_movehdup_ps(fold_))); \
    })
#define V_FOLD_8(_v, _op)                                                                 \
    __extension__({                                                                       \
        __m256 eight_ = (_v);                                                             \
        _mm_##_op##_ps(_mm256_castps256_ps128(eight_), _mm256_extractf128_ps(eight_, 1)); \
    })
#if defined(__AVX512F__)
#define V_FOLD_TO_4(_v, _op)                                             \
    V_FOLD_8(_mm256_##_op##_ps(_mm512_castps512_ps256((__m512)(_v)),     \
                               _mm512_extractf32x8_ps((__m512)(_v), 1)), \
             _op)
#else
#define V_FOLD_TO_4(_v, _op) V_FOLD_8((__m256)(_v), _op)
#endif
#endif

static inline float v_sum(Vf v) {
#if defined(__AVX2__)
    return V_FOLD(v, add);
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

/* As v_max takes the greater of two. */
static inline float v_max_lane(Vf v) {
#if defined(__AVX2__)
    return V_FOLD(v, max);
#else
    float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];

    return a > b ? a : b;
#endif
}

/* exp(x), 2 ulp; 0 below -87.33, saturates above 88.37; NaN stays. Cody-Waite reduction by ln 2 and
 * the degree-6 Taylor polynomial on [-ln2/2, ln2/2]. */
static inline Vf v_exp(Vf x) {
    const float low = -87.33f, high = 88.37f, magic = 12582912.0f; /* 1.5 * 2^23: rounds to int */
    Vf clamped = v_max(v_set1(low), v_min(v_set1(high), x));
    Vf t = v_fma(clamped, v_set1(1.44269504f), v_set1(magic));
    Vf n = t - magic;
    Vf r = v_fma(n, v_set1(-0.693359375f), clamped);
    Vf p = v_set1(1.0f / 720);

    r = v_fma(n, v_set1(2.12194440e-4f), r);
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    /* The integer n sits in t's low mantissa bits; moved to the exponent it multiplies by 2^n. */
    p = (Vf)((Vi)p + ((Vi)t << 23));
    return v_select(x < low, v_set1(0), p);
}
