/* SPDX-License-Identifier: Apache-2.0 */
/*
 * That the quantizers ours are compared with do what they are known to: a faked one that is worse
 * than the real one would flatter us.
 */

#include "tests/bench/fake_quantizers.h"

#include "tests/unit/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { D = 64, N = 64 };

static const FakeMethod *method(const char *name) {
    for (uint32_t i = 0; i < n_fake_methods; i++)
        if (strcmp(fake_methods[i].name, name) == 0)
            return &fake_methods[i];
    fail_msg("no method %s", name);
    return NULL;
}

/* Squared error over squares, of normal values. */
static double error_of(const char *name, KvSide side, const FakeHead *head, Random *random) {
    const FakeMethod *m = method(name);
    static float x[N * D], y[N * D];
    double error;

    random_normals(random, x, N * D);
    memcpy(y, x, sizeof(y));
    m->quantize[side](head, m->bits[side], y, N, D);
    error = relative_error(y, x, N * D);
    return error * error;
}

static void test_errors_on_normal_values(void **state) {
    static float basis[D * D];
    Random random = random_start("errors");
    FakeHead head = { .basis = { basis, basis }, .clip = { 1, 1 } };
    /* At least seven standard deviations about the mean of 5,000 draws. */
    static const struct {
        const char *name;
        KvSide side;
        double least, most;
    } cases[] = {
        { "fp8 e4m3", KV_SIDE_K, 0.0005, 0.0009 },
        { "ggml q8_0", KV_SIDE_V, 0.00001, 0.00004 },
        { "ggml q4_0+H", KV_SIDE_K, 0.005, 0.009 },
        { "KIVI-4", KV_SIDE_K, 0.004, 0.008 },
        { "KIVI-4", KV_SIDE_V, 0.004, 0.008 },
        { "KIVI-2", KV_SIDE_K, 0.10, 0.19 },
        { "KIVI-2", KV_SIDE_V, 0.10, 0.19 },
        { "TurboQuant-4", KV_SIDE_K, 0.006, 0.012 }, /* Lloyd and Max: 0.0095 */
        { "TurboQuant-3", KV_SIDE_K, 0.025, 0.042 }, /* 0.0345 */
        { "TurboQuant-4", KV_SIDE_V, 0.005, 0.012 },
        { "OSCAR", KV_SIDE_K, 0.13, 0.25 },
        { "OSCAR", KV_SIDE_V, 0.13, 0.25 },
        { "HeadQ, K alone", KV_SIDE_K, 0.13, 0.23 },
    };

    (void)state;
    for (uint32_t i = 0; i < D; i++)
        basis[i * D + i] = 1;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        double error = error_of(cases[i].name, cases[i].side, &head, &random);

        if (!(error >= cases[i].least && error <= cases[i].most))
            fail_msg("%s: %g is not within %g .. %g", cases[i].name, error, cases[i].least,
                     cases[i].most);
    }
}

static void test_fp8_values(void **state) {
    const FakeMethod *m = method("fp8 e4m3");
    float x[] = { 0, 1, 1.0625f, 1.1875f, -17, 448, 1e9f, -1e9f, 0x1p-9f, 0x1p-11f };
    const float expected[] = { 0, 1, 1, 1.25f, -16, 448, 448, -448, 0x1p-9f, 0 };

    (void)state;
    m->quantize[KV_SIDE_K](NULL, 8, x, 1, sizeof(x) / sizeof(x[0]));
    for (size_t i = 0; i < sizeof(x) / sizeof(x[0]); i++)
        assert_true(x[i] == expected[i]);
}

static void test_bits_are_the_published_ones(void **state) {
    static const struct {
        const char *name;
        uint32_t head_dim;
        double bits;
    } cases[] = { { "fp8 e4m3", 64, 8 }, { "ggml q8_0", 64, 8.5 }, { "ggml q4_0+H", 128, 4.5 },
                  { "KIVI-2", 64, 3 },   { "KIVI-4", 128, 5 },     { "OSCAR", 128, 2.25 },
                  { "OSCAR", 64, 2.5 } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_true(fake_bits(method(cases[i].name), cases[i].head_dim) == cases[i].bits);
}

/* V diag(w) V^T comes apart again. */
static void test_eigenvectors(void **state) {
    static float a[D * D], copy[D * D], rows[D * D];
    Random random = random_start("eigenvectors");

    (void)state;
    for (uint32_t r = 0; r < 2 * D; r++) {
        float x[D];

        for (uint32_t i = 0; i < D; i++)
            x[i] = random_normal(&random) / (float)(1 + i);
        for (uint32_t i = 0; i < D; i++)
            for (uint32_t k = 0; k < D; k++)
                a[i * D + k] += x[i] * x[k];
    }
    memcpy(copy, a, sizeof(copy));
    fake_eigenvectors(copy, D, rows);
    for (uint32_t i = 0; i < D; i++) {
        double error = 0;

        if (i)
            assert_true(copy[i * D + i] <= copy[(i - 1) * D + i - 1]);
        for (uint32_t c = 0; c < D; c++) {
            double product = 0;

            for (uint32_t k = 0; k < D; k++)
                product += (double)a[c * D + k] * rows[i * D + k];
            product -= (double)copy[i * D + i] * rows[i * D + c];
            error += product * product;
        }
        assert_true(sqrt(error) < 1e-4 * copy[0]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_on_normal_values),
        cmocka_unit_test(test_fp8_values),
        cmocka_unit_test(test_bits_are_the_published_ones),
        cmocka_unit_test(test_eigenvectors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
