/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The inner loops of a matrix product: one source (matmul_kernels.c), compiled per instruction set,
 * one table each. Pure functions of their arguments; no threads, no allocation.
 */

#include "cpu/cpu_backend.h"
#include "cpu/weight_layout.h"

/* Of 32 activations in fixed point: x = scale * q, |q| <= 32767. NaN: they were not finite. */
typedef struct FixedScale {
    float scale;
    float sum; /* scale * (sum of q): what a weight's min is multiplied by */
} FixedScale;

/* A range of rows times a range of tokens. Block formats read fixed and scales, others read in. */
typedef struct ProductArgs {
    const Weight *weight;
    const float *in;          /* [.., n_cols] */
    const int16_t *fixed;     /* [.., n_cols] */
    const FixedScale *scales; /* [.., n_cols / 32] */
    const float *bias;        /* [n_rows] or NULL */
    float *out;               /* [.., n_rows] */
    bool accumulate;
    uint32_t group_begin, group_end; /* of 16 rows */
    uint32_t token_begin, token_end; /* rows of in, fixed, scales, out */
} ProductArgs;

typedef struct MatmulKernels {
    /* One row of n_cols (a multiple of 32) activations to fixed point. */
    void (*fix)(int16_t *fixed, FixedScale *scales, const float *in, uint32_t n_cols);
    void (*product[WEIGHT_FORMATS])(const ProductArgs *args);
} MatmulKernels;

extern const MatmulKernels matmul_kernels_baseline; /* 4 lanes: SSE2, NEON, or plain C */
#if defined(__x86_64__)
extern const MatmulKernels matmul_kernels_avx2;
extern const MatmulKernels matmul_kernels_avx512;
extern const MatmulKernels matmul_kernels_avx512_vnni;
#endif
