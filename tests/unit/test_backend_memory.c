/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of memory_info; what else backend/ops.h promises of memory is for
 * tests/unit/conformance.
 */
#include "cpu/cpu_backend.h"

#include <setjmp.h>
#include <stdarg.h>

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
        cmocka_unit_test(test_memory_info_counts_what_is_taken),
    };

    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
