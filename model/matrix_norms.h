/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Norms of a weight matrix.
 */

#include "model/checkpoint.h"

/* An eigenvalue of A A^T is taken for the largest once what is left of its equation is less than
 * this share of it: the spectral norm, its root, is then right to 5e-6 of itself. */
#define SPECTRAL_TOLERANCE 1e-5

typedef struct MatrixNorms {
    double frobenius;
    double spectral; /* the largest singular value */
} MatrixNorms;

/* Of a tensor of two dimensions. The same bits on every call. -ENOMEM; -ERANGE: numbers that are
 * not finite. */
int matrix_norms(MatrixNorms *out, const TensorView *tensor);
