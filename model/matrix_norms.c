/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spectral norm by Lanczos' method (Golub and Van Loan, Matrix Computations, section 10.1) on
 * A A^T or A^T A, whichever is smaller, with full reorthogonalization: a few dozen products with
 * the matrix where an SVD takes as many as it has rows. It starts at a fixed vector. What it may
 * miss is a largest singular vector that this start is orthogonal to, which no model has.
 */
#include "model/matrix_norms.h"

#include "kvcache/eigen.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define STEPS_MAX                                                                                  \
    512                /* as far as it is followed; a matrix with less rows or columns ends before \
                        */
#define ROUNDING 1e-12 /* a share of the largest eigenvalue that is nothing but rounding */
#define STEPS_A_LOOK 8 /* between two looks at whether it is good enough */
#define SUM_LANES 8    /* partial sums of a dot product, so that it fills vector registers */

typedef struct Matrix {
    float *values; /* [n_rows][n_cols], owned */
    uint32_t n_rows, n_cols;
} Matrix;

static void matrix_deinit(Matrix *matrix) {
    free(matrix->values);
}
CLEANUP_DEINIT_DEFINE(Matrix, matrix_deinit);

static int matrix_read(Matrix *matrix, const TensorView *t) {
    size_t row_bytes = weight_row_bytes(t->format, t->shape[1]);

    matrix->n_rows = t->shape[0];
    matrix->n_cols = t->shape[1];
    matrix->values = malloc((size_t)t->shape[0] * t->shape[1] * sizeof(*matrix->values));
    if (!matrix->values)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->shape[0]; i++)
        weight_to_f32(t->format, (const char *)t->data + i * row_bytes,
                      matrix->values + (size_t)i * t->shape[1], t->shape[1]);
    return 0;
}

static double frobenius_norm(const Matrix *matrix) {
    size_t n = (size_t)matrix->n_rows * matrix->n_cols;
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += (double)matrix->values[i] * matrix->values[i];
    return sqrt(squares);
}

/* products */

static double dot(const double *a, const double *b, uint32_t n) {
    double lanes[SUM_LANES] = { 0 }, sum = 0;
    uint32_t i = 0;

    for (; i + SUM_LANES <= n; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++)
            lanes[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (uint32_t j = 0; j < SUM_LANES; j++)
        sum += lanes[j];
    return sum;
}

static double dot_row(const float *row, const double *x, uint32_t n) {
    double lanes[SUM_LANES] = { 0 }, sum = 0;
    uint32_t i = 0;

    for (; i + SUM_LANES <= n; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++)
            lanes[j] += row[i + j] * x[i + j];
    for (; i < n; i++)
        sum += row[i] * x[i];
    for (uint32_t j = 0; j < SUM_LANES; j++)
        sum += lanes[j];
    return sum;
}

static void add_scaled(double *to, double scale, const double *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        to[i] += scale * x[i];
}

/* y [n_rows] = A x */
static void multiply(const Matrix *a, const double *x, double *y) {
    for (uint32_t i = 0; i < a->n_rows; i++)
        y[i] = dot_row(a->values + (size_t)i * a->n_cols, x, a->n_cols);
}

/* y [n_cols] = A^T x */
static void multiply_transposed(const Matrix *a, const double *x, double *y) {
    memset(y, 0, a->n_cols * sizeof(*y));
    for (uint32_t i = 0; i < a->n_rows; i++) {
        const float *row = a->values + (size_t)i * a->n_cols;

        for (uint32_t j = 0; j < a->n_cols; j++)
            y[j] += x[i] * row[j];
    }
}

/* Lanczos */

/* Of the matrix A A^T or A^T A, [n][n]. */
typedef struct Lanczos {
    const Matrix *matrix;
    uint32_t n, n_steps;
    double *basis;      /* [n_steps_max + 1][n], orthonormal; owned */
    double *other_side; /* [the larger of rows and columns]: scratch; owned */
    double largest;     /* of the diagonal so far: no more than the largest eigenvalue */
    double diagonal[STEPS_MAX], beside[STEPS_MAX]; /* of the matrix in that basis, tridiagonal */
} Lanczos;

static void lanczos_deinit(Lanczos *l) {
    free(l->basis);
    free(l->other_side);
}
CLEANUP_DEINIT_DEFINE(Lanczos, lanczos_deinit);

/* A vector that favours no direction: the fractions of multiples of the golden ratio. */
static void start_vector(double *x, uint32_t n) {
    double norm;

    for (uint32_t i = 0; i < n; i++)
        x[i] = fmod((i + 1) * 0.6180339887498949, 1) - 0.5;
    norm = sqrt(dot(x, x, n));
    for (uint32_t i = 0; i < n; i++)
        x[i] = norm > 0 ? x[i] / norm : 1;
}

static uint32_t steps_max(const Lanczos *l) {
    return l->n < STEPS_MAX ? l->n : STEPS_MAX;
}

static int lanczos_init(Lanczos *l, const Matrix *matrix) {
    uint32_t larger = matrix->n_rows > matrix->n_cols ? matrix->n_rows : matrix->n_cols;

    l->matrix = matrix;
    l->n = matrix->n_rows < matrix->n_cols ? matrix->n_rows : matrix->n_cols;
    l->basis = malloc((size_t)(steps_max(l) + 1) * l->n * sizeof(*l->basis));
    l->other_side = malloc(larger * sizeof(*l->other_side));
    if (!l->basis || !l->other_side)
        return -ENOMEM;
    start_vector(l->basis, l->n);
    return 0;
}

static void multiply_square(const Lanczos *l, const double *x, double *y) {
    if (l->n == l->matrix->n_cols) {
        multiply(l->matrix, x, l->other_side);
        multiply_transposed(l->matrix, l->other_side, y);
    } else {
        multiply_transposed(l->matrix, x, l->other_side);
        multiply(l->matrix, l->other_side, y);
    }
}

/* One more vector of the basis; false: there is none, what there is spans all that the matrix makes
 * of the start. */
static bool lanczos_step(Lanczos *l) {
    uint32_t k = l->n_steps++;
    double *x = l->basis + (size_t)k * l->n, *next = x + l->n, length;

    multiply_square(l, x, next);
    l->diagonal[k] = dot(x, next, l->n);
    for (int twice = 0; twice < 2; twice++)
        for (uint32_t i = 0; i <= k; i++) {
            const double *before = l->basis + (size_t)i * l->n;

            add_scaled(next, -dot(before, next, l->n), before, l->n);
        }
    length = sqrt(dot(next, next, l->n));
    l->beside[k] = length;
    l->largest = fmax(l->largest, l->diagonal[k]);
    if (!(length > ROUNDING * l->largest))
        return false;
    for (uint32_t i = 0; i < l->n; i++)
        next[i] /= length;
    return true;
}

/* The largest eigenvalue in the basis so far, and the length of what is left of its equation. */
static int largest_eigenvalue(const Lanczos *l, double *valuep, double *leftp) {
    uint32_t n = l->n_steps, best = 0;
    CLEANUP(free) double *tridiagonal = calloc((size_t)n * n, sizeof(*tridiagonal));
    CLEANUP(free) double *vectors = malloc((size_t)n * n * sizeof(*vectors));
    CLEANUP(free) double *values = malloc(n * sizeof(*values));
    int r;

    if (!tridiagonal || !vectors || !values)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        tridiagonal[(size_t)i * n + i] = l->diagonal[i];
        if (i + 1 < n)
            tridiagonal[(size_t)i * n + i + 1] = tridiagonal[(size_t)(i + 1) * n + i] =
                l->beside[i];
    }
    r = eigen_symmetric(tridiagonal, values, vectors, n);
    if (r)
        return r;
    for (uint32_t i = 1; i < n; i++)
        best = values[i] > values[best] ? i : best;
    *valuep = values[best];
    *leftp = l->beside[n - 1] * fabs(vectors[(size_t)best * n + n - 1]);
    return 0;
}

static int spectral_norm(const Matrix *matrix, double *out) {
    CLEANUP(lanczos_deinit) Lanczos l = { .n_steps = 0 };
    double value = 0, left = 0;
    int r = lanczos_init(&l, matrix);

    while (!r) {
        bool goes_on = lanczos_step(&l) && l.n_steps < steps_max(&l);

        if (goes_on && l.n_steps % STEPS_A_LOOK)
            continue;
        r = largest_eigenvalue(&l, &value, &left);
        if (!goes_on || left <= SPECTRAL_TOLERANCE * value)
            break;
    }
    *out = sqrt(fmax(value, 0));
    return r;
}

int matrix_norms(MatrixNorms *out, const TensorView *tensor) {
    CLEANUP(matrix_deinit) Matrix matrix = { .values = NULL };
    int r = matrix_read(&matrix, tensor);

    if (r)
        return r;
    out->frobenius = frobenius_norm(&matrix);
    if (!isfinite(out->frobenius))
        return -ERANGE;
    return spectral_norm(&matrix, &out->spectral);
}
