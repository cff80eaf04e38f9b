/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs once per (layer, KV head) at start, in double: a few n^3 operations.
 */
#include "kvcache/rounding.h"

#include "util/cleanup.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* A mean diagonal below this is no information about anything. */
#define MOMENT_DIAGONAL_MIN 1e-30

size_t rounding_bytes(uint32_t n) {
    return sizeof(Rounding) + n * sizeof(uint32_t) + ((size_t)n + 1) * n * sizeof(float);
}

static uint32_t *order_of(Rounding *r) {
    return (uint32_t *)(void *)(r + 1);
}

static float *feed_of(Rounding *r) {
    return (float *)(void *)(order_of(r) + r->n_channels);
}

static float *weights_of(Rounding *r) {
    return feed_of(r) + (size_t)r->n_channels * r->n_channels;
}

void rounding_init_plain(Rounding *out, uint32_t n) {
    out->n_channels = n;
    out->is_plain = true;
    out->n_paths = 1;
    for (uint32_t i = 0; i < n; i++)
        order_of(out)[i] = i;
    for (uint32_t i = 0; i < n; i++)
        weights_of(out)[i] = 1;
    memset(feed_of(out), 0, (size_t)n * n * sizeof(float));
}

/* Channels by falling diagonal, ties by rising index. */
static void sort_order(uint32_t *order, const float *moment, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = i;

        for (; j > 0 && moment[(size_t)order[j - 1] * (n + 1)] < moment[(size_t)i * (n + 1)]; j--)
            order[j] = order[j - 1];
        order[j] = i;
    }
}

/* In place: lower L with a = L L^T; false if a is not positive definite. */
static bool cholesky(double *a, uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        double d = a[(size_t)j * n + j];

        for (uint32_t k = 0; k < j; k++)
            d -= a[(size_t)j * n + k] * a[(size_t)j * n + k];
        if (!(d > 0) || !isfinite(d))
            return false;
        d = sqrt(d);
        a[(size_t)j * n + j] = d;
        for (uint32_t i = j + 1; i < n; i++) {
            double x = a[(size_t)i * n + j];

            for (uint32_t k = 0; k < j; k++)
                x -= a[(size_t)i * n + k] * a[(size_t)j * n + k];
            a[(size_t)i * n + j] = x / d;
        }
    }
    return true;
}

/* The inverse of a lower triangle, below and on the diagonal of `inverse`. */
static void invert_lower(const double *l, double *inverse, uint32_t n) {
    memset(inverse, 0, (size_t)n * n * sizeof(*inverse));
    for (uint32_t j = 0; j < n; j++) {
        inverse[(size_t)j * n + j] = 1 / l[(size_t)j * n + j];
        for (uint32_t i = j + 1; i < n; i++) {
            double x = 0;

            for (uint32_t k = j; k < i; k++)
                x -= l[(size_t)i * n + k] * inverse[(size_t)k * n + j];
            inverse[(size_t)i * n + j] = x / l[(size_t)i * n + i];
        }
    }
}

/* a = b^T b for a lower triangle b. */
static void gram(const double *b, double *a, uint32_t n) {
    memset(a, 0, (size_t)n * n * sizeof(*a));
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i <= k; i++)
            for (uint32_t j = 0; j <= k; j++)
                a[(size_t)i * n + j] += b[(size_t)k * n + i] * b[(size_t)k * n + j];
}

/*
 * With M = C + damping in rounding order: M = L L^T, inverse(M) = L^-T L^-1, and inverse(M) = T T^T
 * for a lower T gives U = T^T.
 */
int rounding_init(Rounding *out, const float *moment, uint32_t n, double damping,
                  uint32_t n_paths) {
    CLEANUP(free) double *m = malloc((size_t)n * n * sizeof(*m));
    CLEANUP(free) double *inverse = malloc((size_t)n * n * sizeof(*inverse));
    double mean = 0;

    if (!m || !inverse)
        return -ENOMEM;
    rounding_init_plain(out, n);
    for (uint32_t i = 0; i < n; i++)
        mean += moment[(size_t)i * (n + 1)] / (double)n;
    if (!(mean > MOMENT_DIAGONAL_MIN) || !isfinite(mean))
        return 0;
    sort_order(order_of(out), moment, n);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            m[(size_t)i * n + j] = moment[(size_t)order_of(out)[i] * n + order_of(out)[j]] / mean +
                                   (i == j ? damping : 0);
    if (!cholesky(m, n)) {
        rounding_init_plain(out, n);
        return 0;
    }
    invert_lower(m, inverse, n);
    gram(inverse, m, n);
    if (!cholesky(m, n)) {
        rounding_init_plain(out, n);
        return 0;
    }
    out->is_plain = false;
    out->n_paths = n_paths;
    for (uint32_t i = 0; i < n; i++) {
        double diagonal = m[(size_t)i * (n + 1)];

        weights_of(out)[i] = (float)(1 / (diagonal * diagonal));
        for (uint32_t j = i + 1; j < n; j++)
            feed_of(out)[(size_t)i * n + j] = (float)(m[(size_t)j * n + i] / diagonal);
    }
    return 0;
}
