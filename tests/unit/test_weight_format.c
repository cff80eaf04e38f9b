/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scalar reference of the weight formats against blocks and values that the gguf package made
 * (tests/tools/make_weight_vectors.py), bit for bit.
 */
#include "backend/weight_format.h"
#include "util/mapped_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t *take(const MappedFile *file, size_t *at, size_t n) {
    const uint8_t *p = file->data + *at;

    assert_true(n <= file->size - *at);
    *at += n;
    return p;
}

static uint32_t take_u32(const MappedFile *file, size_t *at) {
    uint32_t x;

    memcpy(&x, take(file, at, sizeof(x)), sizeof(x));
    return x;
}

static void check_format(WeightFormat format, const MappedFile *file, size_t *at) {
    const WeightFormatInfo *info = &weight_formats[format];
    uint32_t n_values = take_u32(file, at), n_bytes = take_u32(file, at);
    const uint8_t *blocks = take(file, at, n_bytes);
    const uint8_t *expected = take(file, at, n_values * sizeof(float));
    CLEANUP(free) float *values = calloc(n_values, sizeof(*values));

    assert_non_null(values);
    assert_true(n_values > 0);
    assert_int_equal(weight_row_bytes(format, n_values), n_bytes);
    weight_to_f32(format, blocks, values, n_values);
    for (uint32_t i = 0; i < n_values; i++)
        if (memcmp(&values[i], expected + i * sizeof(float), sizeof(float))) {
            float wanted;

            memcpy(&wanted, expected + i * sizeof(float), sizeof(wanted));
            fail_msg("%s, value %u: expected %a, found %a", info->name, i, (double)wanted,
                     (double)values[i]);
        }
}

static void test_values_are_those_of_the_gguf_package(void **state) {
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    char path[4096];
    size_t at = 0;

    (void)state;
    snprintf(path, sizeof(path), "%s/tests/data/weight_format.bin", root ? root : ".");
    assert_int_equal(mapped_file_open(&file, path, NULL), 0);
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++)
        check_format(format, &file, &at);
    assert_int_equal(at, file.size);
}

static void test_nan_stays_nan(void **state) {
    const uint16_t f16 = 0x7e00, bf16 = 0x7fc0;
    float value;

    (void)state;
    weight_to_f32(WEIGHT_F16, &f16, &value, 1);
    assert_true(value != value);
    weight_to_f32(WEIGHT_BF16, &bf16, &value, 1);
    assert_true(value != value);
}

static void test_row_bytes_need_whole_blocks(void **state) {
    (void)state;
    assert_int_equal(weight_row_bytes(WEIGHT_Q4_1, 64), 40);
    assert_int_equal(weight_row_bytes(WEIGHT_Q4_1, 63), 0);
    assert_int_equal(weight_row_bytes(WEIGHT_Q6_K, 128), 0);
    assert_int_equal(weight_row_bytes(WEIGHT_BF16, 7), 14);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_those_of_the_gguf_package),
        cmocka_unit_test(test_nan_stays_nan),
        cmocka_unit_test(test_row_bytes_need_whole_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
