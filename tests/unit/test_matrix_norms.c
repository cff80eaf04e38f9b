/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Norms of matrices, against all eigenvalues of A A^T and against matrices whose norms are known.
 */
#include "model/matrix_norms.h"

#include "kvcache/eigen.h"
#include "tests/unit/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static TensorView tensor_of(const float *values, uint32_t n_rows, uint32_t n_cols) {
    return (TensorView){ .name = "a",
                         .format = WEIGHT_F32,
                         .n_dims = 2,
                         .shape = { n_rows, n_cols },
                         .data = values,
                         .size_bytes = (size_t)n_rows * n_cols * sizeof(float) };
}

static MatrixNorms norms_of(const float *values, uint32_t n_rows, uint32_t n_cols) {
    TensorView tensor = tensor_of(values, n_rows, n_cols);
    MatrixNorms norms = { -1, -1 };

    assert_int_equal(matrix_norms(&norms, &tensor), 0);
    return norms;
}

static void assert_near(double x, double expected, double share) {
    if (!(fabs(x - expected) <= share * fabs(expected)))
        fail_msg("%.12g, expected %.12g", x, expected);
}

/* The root of the largest eigenvalue of the smaller of A A^T and A^T A, by a method that finds all
 * of them. */
static double spectral_by_hand(const float *a, uint32_t n_rows, uint32_t n_cols) {
    bool is_wide = n_rows < n_cols;
    uint32_t n = is_wide ? n_rows : n_cols, n_sum = is_wide ? n_cols : n_rows;
    uint32_t step = is_wide ? n_cols : 1, sum_step = is_wide ? 1 : n_cols;
    CLEANUP(free) double *square = calloc((size_t)n * n, sizeof(*square));
    CLEANUP(free) double *values = calloc(n, sizeof(*values));
    CLEANUP(free) double *vectors = calloc((size_t)n * n, sizeof(*vectors));
    double largest = 0;

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t c = 0; c < n_sum; c++)
                square[i * n + j] +=
                    (double)a[i * step + c * sum_step] * a[j * step + c * sum_step];
    assert_int_equal(eigen_symmetric(square, values, vectors, n), 0);
    for (uint32_t i = 0; i < n; i++)
        largest = fmax(largest, values[i]);
    return sqrt(largest);
}

/* Without a gap behind the largest singular value, which is the hardest case there is. */
static void random_matrices_have_the_norms_of_an_svd(void **state) {
    static const uint32_t shapes[][2] = { { 1, 1 },   { 1, 40 },   { 40, 1 },   { 3, 5 },
                                          { 64, 64 }, { 64, 300 }, { 150, 32 }, { 128, 130 } };
    Random random = random_start("norms");

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        uint32_t n_rows = shapes[i][0], n_cols = shapes[i][1];
        size_t n = (size_t)n_rows * n_cols;
        CLEANUP(free) float *a = malloc(n * sizeof(*a));
        MatrixNorms norms;
        double squares = 0;

        random_normals(&random, a, n);
        for (size_t j = 0; j < n; j++)
            squares += (double)a[j] * a[j];
        norms = norms_of(a, n_rows, n_cols);
        assert_near(norms.frobenius, sqrt(squares), 1e-12);
        assert_near(norms.spectral, spectral_by_hand(a, n_rows, n_cols), SPECTRAL_TOLERANCE);
    }
}

/* Singular values that fall slowly from a largest one that comes twice. */
static void ties_and_small_gaps_do_not_mislead(void **state) {
    enum { N = 96 };
    static float a[N * N];

    (void)state;
    for (uint32_t i = 0; i < N; i++)
        a[i * N + (i * 7 + 3) % N] = i < 2 ? 5 : 5 - 1e-3f * (float)i;
    assert_near(norms_of(a, N, N).spectral, 5, SPECTRAL_TOLERANCE);
}

static void matrices_of_low_rank(void **state) {
    enum { ROWS = 50, COLS = 80 };
    static float a[ROWS * COLS];
    double u = 0, v = 0;

    (void)state;
    assert_true(norms_of(a, ROWS, COLS).spectral == 0);
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t j = 0; j < COLS; j++)
            a[i * COLS + j] = (float)(i % 7) * (float)(j % 5);
    for (uint32_t i = 0; i < ROWS; i++)
        u += (i % 7) * (i % 7);
    for (uint32_t j = 0; j < COLS; j++)
        v += (j % 5) * (j % 5);
    assert_near(norms_of(a, ROWS, COLS).spectral, sqrt(u * v), 1e-9);
    assert_near(norms_of(a, ROWS, COLS).frobenius, sqrt(u * v), 1e-9);
}

static void numbers_that_are_not_finite_are_refused(void **state) {
    float a[6] = { 1, 2, NAN, 4, 5, 6 };
    TensorView tensor = tensor_of(a, 2, 3);
    MatrixNorms norms;

    (void)state;
    assert_int_equal(matrix_norms(&norms, &tensor), -ERANGE);
    a[2] = INFINITY;
    assert_int_equal(matrix_norms(&norms, &tensor), -ERANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_matrices_have_the_norms_of_an_svd),
        cmocka_unit_test(ties_and_small_gaps_do_not_mislead),
        cmocka_unit_test(matrices_of_low_rank),
        cmocka_unit_test(numbers_that_are_not_finite_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
