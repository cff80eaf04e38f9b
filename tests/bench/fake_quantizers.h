/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How others quantize a KV cache, as changes of its values: quantized and brought back in one go
 * ("fake quantization"), to be compared with this tree's formats by eval_baselines. Written from
 * their papers and documents; where those leave something open, the choice is said beside it.
 */

#include "kvcache/kv_layout.h"

#include <stdint.h>

/* What is known of one KV head beforehand, from text it will not be tested on. Arrays [d][d]. */
typedef struct FakeHead {
    const float *basis[KV_SIDES]; /* rows: eigenvectors, by falling eigenvalue, of the second moment
                                     of queries (K) and of attention's outputs (V) */
    float clip[KV_SIDES];         /* share of a token's range that is kept */
} FakeHead;

/* x [n][d], tokens in order, in place; to codes of `bits`. */
typedef void (*FakeQuantizeFn)(const FakeHead *head, uint32_t bits, float *x, uint32_t n,
                               uint32_t d);

typedef struct FakeMethod {
    const char *name;
    FakeQuantizeFn quantize[KV_SIDES];  /* NULL: exact */
    uint32_t bits[KV_SIDES];            /* of a code */
    double token_meta_bits[KV_SIDES];   /* of a token and head: scales and the like */
    double element_meta_bits[KV_SIDES]; /* of an element, where groups do not depend on d */
    uint32_t n_first, n_last;           /* tokens kept exact */
    uint32_t group;                     /* tokens quantized together; 1: each as it comes */
} FakeMethod;

extern const FakeMethod fake_methods[];
extern const uint32_t n_fake_methods;

/* Bits per element, metadata included, of what is quantized; K and V equally. */
double fake_bits(const FakeMethod *method, uint32_t head_dim);

/* Fits `clip` of one side to tokens x [n][d]: the share that brings OSCAR's rotated two bits
 * closest to them. */
void fake_fit_clip(FakeHead *head, KvSide side, const float *x, uint32_t n, uint32_t d);

/* Eigenvectors of a symmetric matrix [n][n] as rows, by falling eigenvalue (cyclic Jacobi). The
 * matrix becomes diagonal. */
void fake_eigenvectors(float *matrix, uint32_t n, float *rows);
