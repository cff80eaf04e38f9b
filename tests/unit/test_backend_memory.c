/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What backend/ops.h promises of memory: where it begins, that it is zeros whatever lay there
 * before, and that upload and download are each other's inverse.
 */
#include "cpu/cpu_backend.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const BackendOps *const ops = &cpu_ops;
static Backend *backend;

static int open_backend(void **state) {
    (void)state;
    return cpu_backend_new(&backend, &(CpuBackendOptions){ .n_threads = 1 }, NULL);
}

static int close_backend(void **state) {
    (void)state;
    backend = ops->free(backend);
    return 0;
}

/* Odd sizes, and sizes on both sides of the processor's page sizes. */
static const size_t sizes[] = { 1,
                                3,
                                63,
                                64,
                                65,
                                4095,
                                4096,
                                100001,
                                1u << 20,
                                (2u << 20) - 1,
                                2u << 20,
                                (2u << 20) + 1,
                                (5u << 20) + 7 };
#define N_SIZES (sizeof(sizes) / sizeof(*sizes))

static void check_zeros(DevAddr address, size_t size) {
    uint8_t *bytes = malloc(size);

    assert_non_null(bytes);
    memset(bytes, 0xff, size);
    assert_int_equal(ops->download(backend, bytes, address, size), 0);
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            fail_msg("byte %zu of %zu is %u", i, size, bytes[i]);
    free(bytes);
}

/* Leaves memory full of ones behind, so that zeros do not come from the system by themselves. */
static void soil(size_t size) {
    uint8_t *ones = malloc(size);
    DevAddr address = 0;

    assert_non_null(ones);
    memset(ones, 0xff, size);
    assert_int_equal(ops->memory_new(backend, &address, size, "ones", NULL), 0);
    assert_int_equal(ops->upload(backend, address, ones, size), 0);
    ops->memory_free(backend, address);
    free(ones);
}

static void test_memory_is_aligned_and_zeros(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        DevAddr address = 0;

        soil(sizes[i]);
        assert_int_equal(ops->memory_new(backend, &address, sizes[i], "a test", NULL), 0);
        assert_true(address);
        assert_int_equal(address % BACKEND_ALIGN_BYTES, 0);
        check_zeros(address, sizes[i]);
        ops->memory_free(backend, address);
    }
}

static void test_what_is_uploaded_comes_back(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size = sizes[i];
        uint8_t *in = malloc(size), *out = calloc(1, size);
        DevAddr address = 0;

        assert_true(in && out);
        for (size_t k = 0; k < size; k++)
            in[k] = (uint8_t)(k * 167 + 13);
        assert_int_equal(ops->memory_new(backend, &address, size, "a test", NULL), 0);
        assert_int_equal(ops->upload(backend, address, in, size), 0);
        assert_int_equal(ops->download(backend, out, address, size), 0);
        assert_memory_equal(in, out, size);
        /* From the middle on. */
        assert_int_equal(ops->download(backend, out, address + size / 2, size - size / 2), 0);
        assert_memory_equal(in + size / 2, out, size - size / 2);
        ops->memory_free(backend, address);
        free(in);
        free(out);
    }
}

static void test_what_cannot_be_had_is_refused_by_its_purpose(void **state) {
    Reason why = REASON_NULL;
    DevAddr address = 5;

    (void)state;
    assert_int_equal(ops->memory_new(backend, &address, SIZE_MAX / 4, "too much", &why), -ENOMEM);
    assert_int_equal(address, 5);
    assert_non_null(strstr(why.text, "too much"));
}

/* Taking much shows in the figures. */
static void test_memory_info_counts_what_is_taken(void **state) {
    const size_t size = (size_t)256 << 20;
    MemoryInfo before, after;
    bool shown = false;
    DevAddr address;

    (void)state;
    assert_int_equal(ops->memory_info(backend, &before), 0);
    assert_true(before.free_bytes && before.free_bytes <= before.total_bytes);
    assert_true(before.cache_bytes && before.cache_bytes <= before.free_bytes);
    if (before.free_bytes < 4 * size)
        skip();
    /* Others take and give at the same time, but not always the same. */
    for (int i = 0; i < 20 && !shown; i++) {
        assert_int_equal(ops->memory_info(backend, &before), 0);
        assert_int_equal(ops->memory_new(backend, &address, size, "a test", NULL), 0);
        assert_int_equal(ops->memory_info(backend, &after), 0);
        ops->memory_free(backend, address);
        assert_int_equal(after.total_bytes, before.total_bytes);
        shown = after.free_bytes + size / 2 < before.free_bytes;
    }
    assert_true(shown);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_aligned_and_zeros),
        cmocka_unit_test(test_what_is_uploaded_comes_back),
        cmocka_unit_test(test_what_cannot_be_had_is_refused_by_its_purpose),
        cmocka_unit_test(test_memory_info_counts_what_is_taken),
    };

    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
