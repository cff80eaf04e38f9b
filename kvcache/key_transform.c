/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs once per (layer, KV head) at start, in double: a few n^3 operations.
 */
#include "kvcache/key_transform.h"

#include "kvcache/eigen.h"
#include "kvcache/hadamard.h"
#include "util/cleanup.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A mean variance below this is no information about anything. */
#define VARIANCE_MIN 1e-30
/* The least variance of a direction, as a share of the mean: with a = 1 keys grow 100 times there,
 * with a = 0.5 ten times, and half floats hold that. */
#define VARIANCE_SHARE_MIN 1e-4

_Static_assert(sizeof(KeyTransform) == 64, "matrices begin where a cache line does");

size_t key_transform_bytes(uint32_t n) {
    return sizeof(KeyTransform) + 2 * (size_t)n * n * sizeof(float);
}

static float *matrix_of(KeyTransform *t, bool of_queries) {
    return (float *)(void *)(t + 1) + (of_queries ? (size_t)t->n_channels * t->n_channels : 0);
}

void key_transform_init_plain(KeyTransform *out, uint32_t n) {
    *out = (KeyTransform){ .n_channels = n, .is_plain = true };
    for (int of_queries = 0; of_queries < 2; of_queries++) {
        float *m = matrix_of(out, of_queries);

        memset(m, 0, (size_t)n * n * sizeof(*m));
        for (uint32_t i = 0; i < n; i++) {
            m[(size_t)i * (n + 1)] = 1;
            hadamard_apply(m + (size_t)i * n, n);
        }
    }
}

/* Row j of `out` = H times column j of sum over i of factors[i] * row_i row_i^T. */
static void compose(float *out, const double *factors, const double *rows, uint32_t n,
                    double *sum) {
    for (uint32_t j = 0; j < n; j++) {
        memset(sum, 0, n * sizeof(*sum));
        for (uint32_t i = 0; i < n; i++) {
            double x = factors[i] * rows[(size_t)i * n + j];

            for (uint32_t k = 0; k < n; k++)
                sum[k] += x * rows[(size_t)i * n + k];
        }
        for (uint32_t k = 0; k < n; k++)
            out[(size_t)j * n + k] = (float)sum[k];
        hadamard_apply(out + (size_t)j * n, n);
    }
}

/* The covariance in double, its mean variance 1; false: there is nothing to learn from it. */
static bool normalize(double *s, const float *covariance, uint32_t n) {
    double mean = 0;
    bool is_finite = true;

    for (uint32_t i = 0; i < n; i++)
        mean += covariance[(size_t)i * (n + 1)] / (double)n;
    if (!(mean > VARIANCE_MIN) || !isfinite(mean))
        return false;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double x = covariance[(size_t)i * n + j], y = covariance[(size_t)j * n + i];

            s[(size_t)i * n + j] = (x + y) / (2 * mean);
            is_finite = is_finite && isfinite(s[(size_t)i * n + j]);
        }
    return is_finite;
}

/* Eigenvalues of the covariance to factors of S^(-a/2) c and S^(a/2) / c. */
static void make_factors(double *of_keys, double *of_queries, const double *variances, uint32_t n,
                         double exponent) {
    double before = 0, after = 0, c;

    for (uint32_t i = 0; i < n; i++) {
        double x = fmax(variances[i], VARIANCE_SHARE_MIN);

        of_keys[i] = pow(x, -exponent / 2);
        before += x;
        after += x * of_keys[i] * of_keys[i];
    }
    c = sqrt(before / after);
    for (uint32_t i = 0; i < n; i++) {
        of_keys[i] *= c;
        of_queries[i] = 1 / of_keys[i];
    }
}

int key_transform_init(KeyTransform *out, const float *covariance, uint32_t n, double exponent) {
    CLEANUP(free) double *s = malloc((size_t)n * n * sizeof(*s));
    CLEANUP(free) double *rows = malloc((size_t)n * n * sizeof(*rows));
    CLEANUP(free) double *vectors = malloc(4 * (size_t)n * sizeof(*vectors));
    double *variances, *of_keys, *of_queries, *scratch;
    int r;

    if (!s || !rows || !vectors)
        return -ENOMEM;
    variances = vectors;
    of_keys = variances + n;
    of_queries = of_keys + n;
    scratch = of_queries + n;
    key_transform_init_plain(out, n);
    if (!normalize(s, covariance, n))
        return 0;
    r = eigen_symmetric(s, variances, rows, n);
    if (r)
        return r == -ENOMEM ? r : 0;
    make_factors(of_keys, of_queries, variances, n, exponent);
    out->is_plain = false;
    compose(matrix_of(out, false), of_keys, rows, n, scratch);
    compose(matrix_of(out, true), of_queries, rows, n, scratch);
    return 0;
}

void key_transform_apply(double *y, const float *x, const float *matrix, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        y[i] = 0;
        for (uint32_t j = 0; j < n; j++)
            y[i] += (double)x[j] * matrix[(size_t)j * n + i];
    }
}

int key_transform_moment(const KeyTransform *t, float *m) {
    uint32_t n = t->n_channels;
    const float *matrix = key_transform_of_queries(t);
    CLEANUP(free) double *half = calloc((size_t)n * n, sizeof(*half));
    CLEANUP(free) double *whole = calloc((size_t)n * n, sizeof(*whole));

    if (!half || !whole)
        return -ENOMEM;
    /* With t the matrix as it is stored, half = m t and whole = t^T half. */
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            for (uint32_t j = 0; j < n; j++)
                half[(size_t)i * n + j] += (double)m[(size_t)i * n + k] * matrix[(size_t)k * n + j];
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                whole[(size_t)i * n + j] +=
                    (double)matrix[(size_t)k * n + i] * half[(size_t)k * n + j];
    for (size_t i = 0; i < (size_t)n * n; i++)
        m[i] = (float)whole[i];
    return 0;
}
