/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Eigenvalues and eigenvectors of a small symmetric matrix, in double.
 */

#include <stdint.h>

/* a = sum over i of values[i] * row_i row_i^T, where row_i is row i of `vectors`; rows are
 * orthonormal. a [n][n] is symmetric and is destroyed; values [n] in no particular order; vectors
 * [n][n]; n >= 1. -ENOMEM; -ERANGE: it does not converge, as with numbers that are not finite. */
int eigen_symmetric(double *a, double *values, double *vectors, uint32_t n);
