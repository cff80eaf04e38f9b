/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products of every weight format on every instruction set this processor has, where
 * cpu/matmul.h promises more than the op (tests/unit/conformance): how small the error is, the same
 * bits from other teams and instruction sets, what becomes of numbers that are not finite.
 */

#include "cpu/matmul.h"
#include "tests/unit/random.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/*
 * Errors are relative to what the outputs' norm is when terms do not cancel by chance:
 * sum over columns of (sum over rows of w^2) * (sum over tokens of x^2).
 *
 * The step of 16-bit fixed point is 1/32767 of the largest of 32 normal numbers, which is about 2.1
 * of their standard deviation: 2.1 / 32767 / sqrt(12) = 1.9e-5 is expected.
 */
#define ERROR_MAX 2.5e-5

static Random rng;

/* A matrix as a file would hold it, and its Weight. */
typedef struct Matrix {
    WeightSource source;
    uint8_t *data;
    Weight *weight;
} Matrix;

/* A positive or negative f16 of magnitude 2^-7 .. 2^-2. */
static uint16_t random_f16(void) {
    return (uint16_t)((random_u64(&rng) & 0x83ff) | (8 + random_below(&rng, 5)) << 10);
}

static void put_f16(uint8_t *p) {
    uint16_t x = random_f16();
    memcpy(p, &x, sizeof(x));
}

static void random_plain(WeightFormat format, uint8_t *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float x = random_normal(&rng);
        if (format == WEIGHT_F32)
            memcpy(data + 4 * i, &x, 4);
        else if (format == WEIGHT_BF16)
            memcpy(data + 2 * i, (uint8_t *)&x + 2, 2);
        else
            put_f16(data + 2 * i);
    }
}

/* Any bytes make a valid block, but scales must be sane numbers. */
static void random_blocks(WeightFormat format, uint8_t *data, size_t n_blocks) {
    size_t block_bytes = weight_formats[format].block_bytes;
    for (size_t i = 0; i < n_blocks * block_bytes; i++)
        data[i] = (uint8_t)random_u64(&rng);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *block = data + i * block_bytes;
        put_f16(format == WEIGHT_Q6_K ? block + 208 : block);
        if (format == WEIGHT_Q4_1 || format == WEIGHT_Q5_1 || format == WEIGHT_Q4_K ||
            format == WEIGHT_Q5_K)
            put_f16(block + 2);
    }
}

static Matrix matrix_new(CpuTeam *team, WeightFormat format, uint32_t n_rows, uint32_t n_cols,
                         const uint32_t *row_order) {
    Matrix m = {
        .source = { .format = format, .n_rows = n_rows, .n_cols = n_cols, .row_order = row_order }
    };
    size_t n_blocks = (size_t)n_rows * n_cols / weight_formats[format].block_values;
    m.data = malloc(n_blocks * weight_formats[format].block_bytes);
    assert_non_null(m.data);
    if (weight_formats[format].block_values == 1)
        random_plain(format, m.data, n_blocks);
    else
        random_blocks(format, m.data, n_blocks);
    m.source.data = m.data;
    Reason why = REASON_NULL;
    assert_int_equal(cpu_weight_new(&m.weight, team, &m.source, &why), 0);
    return m;
}

static void matrix_free(Matrix *m) {
    cpu_weight_free(m->weight);
    free(m->data);
}

static float *random_activations(size_t n) {
    float *x = malloc(n * sizeof(float));
    assert_non_null(x);
    random_normals(&rng, x, n);
    return x;
}

/* Whole blocks of a format, at least one, or any number of columns of a plain one. */
static uint32_t random_cols(WeightFormat format) {
    uint32_t block_values = weight_formats[format].block_values;
    if (block_values == 1)
        return 1 + random_below(&rng, 700);
    return block_values * (1 + random_below(&rng, 1024 / block_values));
}

static DevAddr address(const void *p) {
    return (DevAddr)(uintptr_t)p;
}

static CpuTeam *new_team(uint32_t n_threads) {
    CpuTeam *team = NULL;
    assert_int_equal(cpu_team_new(&team, n_threads, NULL), 0);
    return team;
}

static CpuMatmul *new_matmul(CpuTeam *team, CpuIsa isa) {
    CpuMatmul *matmul = NULL;
    assert_int_equal(cpu_matmul_new(&matmul, team, isa, NULL), 0);
    assert_int_equal(cpu_matmul_reserve(matmul, 1024, &(size_t){ 0 }, NULL), 0);
    return matmul;
}

/* out [n_tokens, n_rows], by one instruction set or, if matmul is NULL, by the definition. */
static void product(CpuMatmul *matmul, const Matrix *m, const float *in, uint32_t n_tokens,
                    float *out) {
    MatmulPart part = { .weight = m->weight, .out = address(out) };
    MatmulArgs args = { .in = address(in), .n_tokens = n_tokens, .n_parts = 1, .parts = &part };
    assert_int_equal(matmul ? cpu_matmul_run(matmul, &args) : cpu_matmul_reference(&args), 0);
}

static double expected_norm(const Matrix *m, const float *in, uint32_t n_tokens) {
    uint32_t n_rows = m->source.n_rows, n_cols = m->source.n_cols;
    double *energy = calloc(n_cols, sizeof(*energy)), sum = 0;
    float *row = malloc(n_cols * sizeof(*row));
    for (uint32_t i = 0; i < n_rows; i++) {
        cpu_weight_row_to_f32(m->weight, i, row);
        for (uint32_t c = 0; c < n_cols; c++)
            energy[c] += (double)row[c] * row[c];
    }
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t c = 0; c < n_cols; c++)
            sum += energy[c] * in[(size_t)t * n_cols + c] * in[(size_t)t * n_cols + c];
    free(energy);
    free(row);
    return sqrt(sum);
}

/* Of out against ref, both [n_tokens, n_rows]. */
static double product_error(const Matrix *m, const float *in, uint32_t n_tokens, const float *out,
                            const float *ref) {
    double sum = 0;
    for (size_t i = 0; i < (size_t)n_tokens * m->source.n_rows; i++)
        sum += ((double)out[i] - ref[i]) * ((double)out[i] - ref[i]);
    return sqrt(sum) / expected_norm(m, in, n_tokens);
}

static void test_rows_read_back(void **state) {
    (void)state;
    CLEANUP(cpu_team_free) CpuTeam *team = new_team(2);
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++) {
        uint32_t n_rows = 1 + random_below(&rng, 600), n_cols = random_cols(format);
        uint32_t *order = malloc(n_rows * sizeof(*order));
        for (uint32_t i = 0; i < n_rows; i++)
            order[i] = random_below(&rng, n_rows);
        Matrix m = matrix_new(team, format, n_rows, n_cols, order);
        float *got = malloc(n_cols * sizeof(float)), *expected = malloc(n_cols * sizeof(float));
        for (uint32_t i = 0; i < n_rows; i++) {
            cpu_weight_row_to_f32(m.weight, i, got);
            weight_to_f32(format, m.data + order[i] * weight_row_bytes(format, n_cols), expected,
                          n_cols);
            assert_memory_equal(got, expected, n_cols * sizeof(float));
        }
        assert_int_equal(cpu_weight_rows(m.weight), n_rows);
        assert_int_equal(cpu_weight_cols(m.weight), n_cols);
        free(got);
        free(expected);
        free(order);
        matrix_free(&m);
    }
}

static void check_against_definition(CpuMatmul *matmul, CpuIsa isa, const Matrix *m,
                                     uint32_t n_tokens) {
    uint32_t n_rows = m->source.n_rows, n_cols = m->source.n_cols;
    float *in = random_activations((size_t)n_tokens * n_cols);
    float *out = calloc((size_t)n_tokens * n_rows, sizeof(float));
    float *ref = calloc((size_t)n_tokens * n_rows, sizeof(float));
    product(matmul, m, in, n_tokens, out);
    product(NULL, m, in, n_tokens, ref);
    double error = product_error(m, in, n_tokens, out, ref);
    if (!(error <= ERROR_MAX))
        fail_msg("%s %s, %u tokens, %u x %u: relative error %g", cpu_isa_name(isa),
                 weight_formats[m->source.format].name, n_tokens, n_rows, n_cols, error);
    free(in);
    free(out);
    free(ref);
}

static void test_the_error_is_that_of_fixed_point(void **state) {
    (void)state;
    CLEANUP(cpu_team_free) CpuTeam *team = new_team(2);
    for (CpuIsa isa = 0; isa < CPU_ISAS; isa++) {
        if (!cpu_isa_available(isa))
            continue;
        CLEANUP(cpu_matmul_free) CpuMatmul *matmul = new_matmul(team, isa);
        for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++) {
            Matrix m = matrix_new(team, format, 150, 1024, NULL);
            check_against_definition(matmul, isa, &m, 100);
            matrix_free(&m);
        }
    }
}

/* A row alone, on one thread, against the same row among many, on several. */
static void check_invariance(CpuIsa isa, WeightFormat format) {
    CLEANUP(cpu_team_free) CpuTeam *one = new_team(1);
    CLEANUP(cpu_team_free) CpuTeam *many = new_team(2 + random_below(&rng, 3));
    CLEANUP(cpu_matmul_free) CpuMatmul *alone = new_matmul(one, isa);
    CLEANUP(cpu_matmul_free) CpuMatmul *together = new_matmul(many, isa);
    uint32_t n_rows = 1 + random_below(&rng, 200), n_cols = random_cols(format);
    uint32_t n_tokens = 1 + random_below(&rng, 450);
    Matrix m = matrix_new(many, format, n_rows, n_cols, NULL);
    float *in = random_activations((size_t)n_tokens * n_cols);
    float *out = malloc((size_t)n_tokens * n_rows * sizeof(float));
    float *row = malloc(n_rows * sizeof(float));
    product(together, &m, in, n_tokens, out);
    for (uint32_t t = 0; t < n_tokens; t++) {
        product(alone, &m, in + (size_t)t * n_cols, 1, row);
        if (memcmp(row, out + (size_t)t * n_rows, n_rows * sizeof(float)) != 0)
            fail_msg("%s %s, %u x %u: token %u of %u differs from itself alone", cpu_isa_name(isa),
                     weight_formats[format].name, n_rows, n_cols, t, n_tokens);
    }
    free(in);
    free(out);
    free(row);
    matrix_free(&m);
}

static void test_row_alone_is_row_in_batch(void **state) {
    (void)state;
    for (CpuIsa isa = 0; isa < CPU_ISAS; isa++)
        for (WeightFormat format = 0; cpu_isa_available(isa) && format < WEIGHT_FORMATS; format++)
            check_invariance(isa, format);
}

/* Integer products are exact, so those that fuse multiply and add agree to the bit. */
static void test_instruction_sets_agree(void **state) {
    (void)state;
    static const CpuIsa fused[] = { CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_AVX512_VNNI };
    CLEANUP(cpu_team_free) CpuTeam *team = new_team(2);
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++) {
        uint32_t n_rows = 1 + random_below(&rng, 200), n_cols = random_cols(format);
        uint32_t n_tokens = 1 + random_below(&rng, 20);
        Matrix m = matrix_new(team, format, n_rows, n_cols, NULL);
        float *in = random_activations((size_t)n_tokens * n_cols);
        float *out[2] = { NULL, NULL };
        for (uint32_t i = 0; i < 3; i++) {
            if (!cpu_isa_available(fused[i]))
                continue;
            CLEANUP(cpu_matmul_free) CpuMatmul *matmul = new_matmul(team, fused[i]);
            float *now = malloc((size_t)n_tokens * n_rows * sizeof(float));
            product(matmul, &m, in, n_tokens, now);
            if (out[0])
                assert_memory_equal(out[0], now, (size_t)n_tokens * n_rows * sizeof(float));
            free(out[0]);
            out[0] = now;
        }
        free(out[0]);
        free(in);
        matrix_free(&m);
    }
}

/* A number that is not finite spoils all outputs of its own row, and none of its neighbours'. */
static void test_not_finite(void **state) {
    (void)state;
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    CLEANUP(cpu_team_free) CpuTeam *team = new_team(1);
    for (CpuIsa isa = 0; isa < CPU_ISAS; isa++) {
        if (!cpu_isa_available(isa))
            continue;
        CLEANUP(cpu_matmul_free) CpuMatmul *matmul = new_matmul(team, isa);
        for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++) {
            Matrix m = matrix_new(team, format, 40, 256, NULL);
            float *in = random_activations(5 * 256), out[5 * 40];
            in[2 * 256 + random_below(&rng, 256)] = bad[random_below(&rng, 3)];
            product(matmul, &m, in, 5, out);
            for (uint32_t i = 0; i < 5 * 40; i++)
                assert_true(i / 40 != 2                               ? isfinite(out[i])
                            : weight_formats[format].block_values > 1 ? isnan(out[i])
                                                                      : !isfinite(out[i]));
            free(in);
            matrix_free(&m);
        }
    }
}

static void test_bad_arguments(void **state) {
    (void)state;
    CLEANUP(cpu_team_free) CpuTeam *team = new_team(1);
    CLEANUP(cpu_matmul_free) CpuMatmul *matmul = NULL;
    CLEANUP(cpu_weight_free) Weight *weight = NULL;
    assert_int_equal(cpu_matmul_new(&matmul, team, cpu_isa_detect(), NULL), 0);

    static const uint8_t data[64];
    static const uint32_t order[] = { 0, 2 };
    WeightSource source = { .format = WEIGHT_Q4_0, .n_rows = 2, .n_cols = 33, .data = data };
    Reason why = REASON_NULL;
    assert_int_equal(cpu_weight_new(&weight, team, &source, &why), -EINVAL);
    assert_non_null(strstr(why.text, "33"));
    source.n_cols = 0;
    assert_int_equal(cpu_weight_new(&weight, team, &source, &why), -EINVAL);
    source = (WeightSource){ .format = WEIGHT_FORMATS, .n_rows = 1, .n_cols = 32, .data = data };
    assert_int_equal(cpu_weight_new(&weight, team, &source, &why), -EINVAL);
    source = (WeightSource){
        .format = WEIGHT_Q4_0, .n_rows = 2, .n_cols = 32, .data = data, .row_order = order
    };
    assert_int_equal(cpu_weight_new(&weight, team, &source, &why), -EINVAL);
    assert_null(weight);

    source.row_order = NULL;
    assert_int_equal(cpu_weight_new(&weight, team, &source, &why), 0);
    float in[32] = { 0 }, out[2];
    MatmulPart part = { .weight = weight, .out = address(out) };
    MatmulArgs args = { .in = address(in), .n_tokens = 1, .n_parts = 1, .parts = &part };
    assert_int_equal(cpu_matmul_run(matmul, &args), -EINVAL); /* nothing reserved */
    assert_int_equal(cpu_matmul_reserve(matmul, 32, &(size_t){ 0 }, NULL), 0);
    assert_int_equal(cpu_matmul_run(matmul, &args), 0);

    CLEANUP(cpu_matmul_free) CpuMatmul *unavailable = NULL;
    for (CpuIsa isa = 0; isa < CPU_ISAS; isa++)
        if (!cpu_isa_available(isa))
            assert_int_equal(cpu_matmul_new(&unavailable, team, isa, &why), -ENOTSUP);
}

int main(void) {
    rng = random_start("matmul");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_read_back),
        cmocka_unit_test(test_the_error_is_that_of_fixed_point),
        cmocka_unit_test(test_row_alone_is_row_in_batch),
        cmocka_unit_test(test_instruction_sets_agree),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
