/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eigenvectors, and the transform of keys made of them: scores stay, spreads become even, and
 * covariances that say nothing leave the Hadamard transform.
 */
#include "kvcache/key_transform.h"

#include "kvcache/eigen.h"
#include "kvcache/hadamard.h"
#include "tests/unit/random.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint32_t head_dims[] = { 8, 40, 64, 96, 128, 256 };
#define N_HEAD_DIMS (sizeof(head_dims) / sizeof(*head_dims))

static double *new_doubles(size_t n) {
    double *x = calloc(n, sizeof(*x));

    assert_non_null(x);
    return x;
}

/* eigenvectors */

static void check_eigen(const double *a, uint32_t n) {
    double *copy = new_doubles((size_t)n * n), *values = new_doubles(n);
    double *rows = new_doubles((size_t)n * n), norm = 0;

    memcpy(copy, a, (size_t)n * n * sizeof(*copy));
    assert_int_equal(eigen_symmetric(copy, values, rows, n), 0);
    for (size_t i = 0; i < (size_t)n * n; i++)
        norm += a[i] * a[i];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double product = 0, sum = 0;

            for (uint32_t k = 0; k < n; k++) {
                product += rows[(size_t)i * n + k] * rows[(size_t)j * n + k];
                sum += values[k] * rows[(size_t)k * n + i] * rows[(size_t)k * n + j];
            }
            assert_true(fabs(product - (i == j)) < 1e-12 * n);
            assert_true(fabs(sum - a[(size_t)i * n + j]) <= 1e-13 * n * sqrt(norm) + DBL_MIN);
        }
    free(copy);
    free(values);
    free(rows);
}

static void eigenvectors_compose_the_matrix(void **state) {
    Random r = random_start("eigenvectors_compose_the_matrix");

    (void)state;
    for (uint32_t n = 1; n <= 100; n += 1 + n / 3)
        for (uint32_t kind = 0; kind < 4; kind++) {
            double *a = new_doubles((size_t)n * n);

            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j <= i; j++) {
                    double x = random_normal(&r);

                    if (kind == 1) /* spans many orders */
                        x *= exp(-0.2 * (i + j));
                    if (kind == 2) /* many equal eigenvalues */
                        x = i == j ? 1 + i % 2 : 0;
                    if (kind == 3)
                        x = 0;
                    a[(size_t)i * n + j] = a[(size_t)j * n + i] = x;
                }
            check_eigen(a, n);
            free(a);
        }
}

/* transforms */

/* Of keys whose spreads span three orders, in random directions; or of rank `rank`. */
static float *random_covariance(Random *r, uint32_t n, uint32_t rank) {
    float *s = calloc((size_t)n * n, sizeof(*s)), *x = malloc(n * sizeof(*x));

    assert_true(s && x);
    for (uint32_t k = 0; k < rank; k++) {
        float spread = expf(-7.0f * (float)k / (float)rank);

        random_normals(r, x, n);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                s[(size_t)i * n + j] += spread * x[i] * x[j];
    }
    free(x);
    return s;
}

static KeyTransform *transform_of(const float *covariance, uint32_t n, double exponent) {
    KeyTransform *t = malloc(key_transform_bytes(n));

    assert_non_null(t);
    assert_int_equal(key_transform_init(t, covariance, n, exponent), 0);
    assert_int_equal(t->n_channels, n);
    return t;
}

static double dot(const double *a, const double *b, uint32_t n) {
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Random queries and keys before and after. */
static void check_scores(Random *r, const KeyTransform *t) {
    uint32_t n = t->n_channels;
    float *q = malloc(2 * n * sizeof(*q)), *k = q + n;
    double *tq = new_doubles(2 * (size_t)n), *tk = tq + n;

    assert_non_null(q);
    for (int i = 0; i < 20; i++) {
        double score = 0;

        random_normals(r, q, 2 * n);
        key_transform_apply(tq, q, key_transform_of_queries(t), n);
        key_transform_apply(tk, k, key_transform_of_keys(t), n);
        for (uint32_t c = 0; c < n; c++)
            score += (double)q[c] * k[c];
        assert_true(fabs(dot(tq, tk, n) - score) <=
                    4e-7 * sqrt(dot(tq, tq, n) * dot(tk, tk, n)) + DBL_MIN);
    }
    free(q);
    free(tq);
}

/* The matrix m x m^T of transformed keys whose covariance is `s`. */
static double *covariance_after(const KeyTransform *t, const float *s) {
    uint32_t n = t->n_channels;
    const float *m = key_transform_of_keys(t);
    double *half = new_doubles((size_t)n * n), *whole = new_doubles((size_t)n * n);

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t k = 0; k < n; k++)
                half[(size_t)i * n + j] += (double)m[(size_t)k * n + i] * s[(size_t)k * n + j];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t k = 0; k < n; k++)
                whole[(size_t)i * n + j] += half[(size_t)i * n + k] * m[(size_t)k * n + j];
    free(half);
    return whole;
}

static void scores_and_energy_stay(void **state) {
    Random r = random_start("scores_and_energy_stay");

    (void)state;
    for (size_t d = 0; d < N_HEAD_DIMS; d++)
        for (int step = 0; step <= 2; step++) {
            uint32_t n = head_dims[d];
            float *s = random_covariance(&r, n, 3 * n);
            KeyTransform *t = transform_of(s, n, step * 0.5);
            double *after = covariance_after(t, s), energy = 0, energy_after = 0;

            assert_false(t->is_plain);
            check_scores(&r, t);
            for (uint32_t i = 0; i < n; i++) {
                energy += s[(size_t)i * (n + 1)];
                energy_after += after[(size_t)i * (n + 1)];
            }
            assert_true(fabs(energy_after / energy - 1) < 1e-5);
            free(s);
            free(t);
            free(after);
        }
}

static void the_whole_exponent_makes_spreads_equal(void **state) {
    Random r = random_start("the_whole_exponent_makes_spreads_equal");

    (void)state;
    for (size_t d = 0; d < N_HEAD_DIMS; d++) {
        uint32_t n = head_dims[d];
        float *s = random_covariance(&r, n, 3 * n);
        KeyTransform *t = transform_of(s, n, 1);
        double *after = covariance_after(t, s), mean = 0;

        for (uint32_t i = 0; i < n; i++)
            mean += s[(size_t)i * (n + 1)] / (double)n;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                assert_true(fabs(after[(size_t)i * n + j] / mean - (i == j)) < 1e-3);
        free(s);
        free(t);
        free(after);
    }
}

static void moments_are_those_of_transformed_queries(void **state) {
    Random r = random_start("moments_are_those_of_transformed_queries");

    (void)state;
    for (size_t d = 0; d < N_HEAD_DIMS - 1; d++) {
        uint32_t n = head_dims[d];
        float *s = random_covariance(&r, n, n), *q = malloc(n * sizeof(*q));
        float *m = calloc((size_t)n * n, sizeof(*m));
        double *want = new_doubles((size_t)n * n), *tq = new_doubles(n), norm = 0, error = 0;
        KeyTransform *t = transform_of(s, n, 0.5);

        assert_true(q && m);
        for (int k = 0; k < 10; k++) {
            random_normals(&r, q, n);
            key_transform_apply(tq, q, key_transform_of_queries(t), n);
            for (uint32_t i = 0; i < n; i++)
                for (uint32_t j = 0; j < n; j++) {
                    m[(size_t)i * n + j] += q[i] * q[j];
                    want[(size_t)i * n + j] += tq[i] * tq[j];
                }
        }
        assert_int_equal(key_transform_moment(t, m), 0);
        for (size_t i = 0; i < (size_t)n * n; i++) {
            norm += want[i] * want[i];
            error += (m[i] - want[i]) * (m[i] - want[i]);
        }
        assert_true(sqrt(error) < 1e-5 * sqrt(norm));
        free(s);
        free(q);
        free(m);
        free(want);
        free(tq);
        free(t);
    }
}

static void assert_plain(const KeyTransform *t) {
    uint32_t n = t->n_channels;
    float *unit = calloc(n, sizeof(*unit));

    assert_non_null(unit);
    assert_true(t->is_plain);
    for (uint32_t j = 0; j < n; j++) {
        memset(unit, 0, n * sizeof(*unit));
        unit[j] = 1;
        hadamard_apply(unit, n);
        assert_memory_equal(key_transform_of_keys(t) + (size_t)j * n, unit, n * sizeof(*unit));
        assert_memory_equal(key_transform_of_queries(t) + (size_t)j * n, unit, n * sizeof(*unit));
    }
    free(unit);
}

static void covariances_that_say_nothing_give_the_hadamard_transform(void **state) {
    static const float odd[] = { NAN, INFINITY, -INFINITY };
    Random r = random_start("covariances_that_say_nothing_give_the_hadamard_transform");

    (void)state;
    for (size_t d = 0; d < N_HEAD_DIMS; d++) {
        uint32_t n = head_dims[d], at = random_below(&r, n * n);
        float *s = calloc((size_t)n * n, sizeof(*s));
        KeyTransform *t = transform_of(s, n, 0.5); /* all zero */

        assert_plain(t);
        for (uint32_t i = 0; i < n; i++)
            s[(size_t)i * (n + 1)] = 1e-38f;
        assert_int_equal(key_transform_init(t, s, n, 0.5), 0);
        assert_plain(t);
        for (size_t i = 0; i < 3; i++) {
            free(s);
            s = random_covariance(&r, n, n);
            s[at] = odd[i];
            assert_int_equal(key_transform_init(t, s, n, 0.5), 0);
            assert_plain(t);
        }
        free(s);
        free(t);
    }
}

/* Keys that never leave a line, or a plane: the transform stays within what halves hold. */
static void singular_covariances_are_bounded(void **state) {
    Random r = random_start("singular_covariances_are_bounded");

    (void)state;
    for (size_t d = 0; d < N_HEAD_DIMS; d++)
        for (uint32_t rank = 1; rank < 4; rank++) {
            uint32_t n = head_dims[d];
            float *s = random_covariance(&r, n, rank), *x = malloc(n * sizeof(*x));
            KeyTransform *t = transform_of(s, n, 0.5);
            double *y = new_doubles(n);

            assert_non_null(x);
            assert_false(t->is_plain);
            check_scores(&r, t);
            random_normals(&r, x, n);
            key_transform_apply(y, x, key_transform_of_keys(t), n);
            for (uint32_t i = 0; i < n; i++)
                assert_true(fabs(y[i]) < 1000);
            free(s);
            free(x);
            free(t);
            free(y);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eigenvectors_compose_the_matrix),
        cmocka_unit_test(scores_and_energy_stay),
        cmocka_unit_test(the_whole_exponent_makes_spreads_equal),
        cmocka_unit_test(moments_are_those_of_transformed_queries),
        cmocka_unit_test(covariances_that_say_nothing_give_the_hadamard_transform),
        cmocka_unit_test(singular_covariances_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
