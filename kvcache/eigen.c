/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Householder's reduction to three diagonals, then implicit QL steps (Golub and Van Loan, Matrix
 * Computations, sections 8.3.1 and 8.3.3; Bowdler, Martin, Reinsch and Wilkinson, 1968): some 9 n^3
 * operations. Both transform rows of what becomes the eigenvectors, so that inner loops run along
 * memory.
 */
#include "kvcache/eigen.h"

#include "util/cleanup.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define QL_STEPS_MAX 60 /* for one eigenvalue; two or three are usual */

static double dot(const double *a, const double *b, uint32_t n) {
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Sets v [m] to the vector, of length sqrt(2), whose reflection I - v v^T takes x [m] to a multiple
 * of the first unit vector; returns that multiple. v is zero where x is such a multiple. */
static double reflector(const double *x, double *v, uint32_t m) {
    double norm = sqrt(dot(x, x, m)), rest = dot(x + 1, x + 1, m - 1);
    double image = x[0] > 0 ? -norm : norm, length;

    memcpy(v, x, m * sizeof(*v));
    v[0] -= image;
    length = sqrt(dot(v, v, m));
    if (!(rest > 0) || !(length > 0)) {
        memset(v, 0, m * sizeof(*v));
        return x[0];
    }
    for (uint32_t i = 0; i < m; i++)
        v[i] *= M_SQRT2 / length;
    return image;
}

/* a = (I - v v^T) a (I - v v^T) for the last m rows and columns of a; p [m] is scratch. */
static void reflect_both_sides(double *a, const double *v, double *p, uint32_t m, uint32_t n) {
    double *corner = a + (size_t)(n - m) * (n + 1), half;

    for (uint32_t i = 0; i < m; i++)
        p[i] = dot(corner + (size_t)i * n, v, m);
    half = dot(p, v, m) / 2;
    for (uint32_t i = 0; i < m; i++)
        p[i] -= half * v[i];
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = 0; j < m; j++)
            corner[(size_t)i * n + j] -= v[i] * p[j] + p[i] * v[j];
}

/* The last m rows of `rows` become (I - v v^T) times them; p [n] is scratch. */
static void reflect_rows(double *rows, const double *v, double *p, uint32_t m, uint32_t n) {
    double *last = rows + (size_t)(n - m) * n;

    memset(p, 0, n * sizeof(*p));
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j++)
            p[j] += v[i] * last[(size_t)i * n + j];
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = 0; j < n; j++)
            last[(size_t)i * n + j] -= v[i] * p[j];
}

/* a = rows^T t rows for the t of that diagonal and, beside it, off[i] at (i, i + 1). */
static void reduce(double *a, double *diagonal, double *off, double *rows, double *scratch,
                   uint32_t n) {
    double *v = scratch, *p = scratch + n;

    memset(rows, 0, (size_t)n * n * sizeof(*rows));
    for (uint32_t i = 0; i < n; i++)
        rows[(size_t)i * (n + 1)] = 1;
    for (uint32_t k = 0; k + 1 < n; k++) {
        uint32_t m = n - k - 1;

        off[k] = reflector(a + (size_t)k * n + k + 1, v, m);
        reflect_both_sides(a, v, p, m, n);
        reflect_rows(rows, v, p, m, n);
    }
    off[n - 1] = 0;
    for (uint32_t i = 0; i < n; i++)
        diagonal[i] = a[(size_t)i * (n + 1)];
}

static void rotate_rows(double *low, double *high, double c, double s, uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        double h = high[j];

        high[j] = s * low[j] + c * h;
        low[j] = c * low[j] - s * h;
    }
}

/* One implicit QL step on the block first .. last of the three diagonals. */
static void ql_step(double *d, double *off, double *rows, uint32_t first, uint32_t last,
                    uint32_t n) {
    double g = (d[first + 1] - d[first]) / (2 * off[first]), s = 1, c = 1, p = 0;

    g = d[last] - d[first] + off[first] / (g + copysign(hypot(g, 1), g));
    for (uint32_t i = last; i-- > first;) {
        double f = s * off[i], b = c * off[i], r = hypot(f, g);

        off[i + 1] = r;
        if (r == 0) { /* the block falls apart here */
            d[i + 1] -= p;
            off[last] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        rotate_rows(rows + (size_t)i * n, rows + (size_t)(i + 1) * n, c, s, n);
    }
    d[first] -= p;
    off[first] = g;
    off[last] = 0;
}

/* The end of the block that begins at `first`: where the next number beside the diagonal is as good
 * as zero. */
static uint32_t block_end(const double *d, const double *off, uint32_t first, uint32_t n) {
    uint32_t i = first;

    while (i + 1 < n && !(fabs(off[i]) <= DBL_EPSILON * (fabs(d[i]) + fabs(d[i + 1]))))
        i++;
    return i;
}

int eigen_symmetric(double *a, double *values, double *vectors, uint32_t n) {
    CLEANUP(free) double *scratch = malloc(3 * (size_t)n * sizeof(*scratch));
    double *off;

    if (!scratch)
        return -ENOMEM;
    off = scratch + 2 * (size_t)n;
    reduce(a, values, off, vectors, scratch, n);
    for (uint32_t first = 0; first < n; first++) {
        uint32_t last, n_steps = 0;

        while ((last = block_end(values, off, first, n)) > first) {
            if (n_steps++ == QL_STEPS_MAX)
                return -ERANGE;
            ql_step(values, off, vectors, first, last, n);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return -ERANGE;
    return 0;
}
