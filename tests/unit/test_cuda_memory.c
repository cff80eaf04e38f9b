/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit on what is taken of a GPU: what is over it is refused by name, and what is given back
 * can be had again. Without a GPU the refusal alone is tested.
 */
#include "cuda/cuda_backend.h"
#include "cuda/memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)
#define LIMIT (100 * MIB)

static void test_what_is_over_the_limit_is_refused(void **state) {
    CudaMemory memory = { .max_bytes = 1000, .used_bytes = 900 };
    Reason why = REASON_NULL;
    void *address = NULL;
    int r = cuda_memory_take(&memory, &address, 101);

    (void)state;
    assert_int_equal(r, -ENOMEM);
    assert_null(address);
    assert_int_equal(memory.used_bytes, 900);
    assert_int_equal(cuda_memory_refused(&memory, r, "the tails", "lower max_num_seqs", &why), r);
    assert_string_equal(why.text,
                        "gpu_memory is 1000 bytes, of which 900 are taken, and has no room for the "
                        "tails: 101 bytes; raise gpu_memory, or lower max_num_seqs");
    memory.used_bytes = 0;
    cuda_memory_deinit(&memory);
}

static void test_what_is_left(void **state) {
    CudaMemory memory = { .max_bytes = 1000, .used_bytes = 900 };

    (void)state;
    assert_int_equal(cuda_memory_left(&memory, 5000), 100);
    assert_int_equal(cuda_memory_left(&memory, 50), 50);
    memory.max_bytes = 0;
    assert_int_equal(cuda_memory_left(&memory, 5000), 5000);
}

static void test_a_backend_keeps_to_its_limit(void **state) {
    Backend *backend;
    Reason why = REASON_NULL;
    MemoryInfo info, less;
    DevAddr half, other;
    int r = cuda_backend_new(&backend, &(CudaBackendOptions){ .max_bytes = LIMIT }, &why);

    (void)state;
    if (r == -ENODEV || r == -ENOTSUP) {
        print_message("skipped: %s\n", why.text);
        skip();
    }
    assert_int_equal(r, 0);
    assert_int_equal(cuda_ops.memory_info(backend, &info), 0);
    assert_int_equal(info.total_bytes, LIMIT);
    assert_true(info.free_bytes < LIMIT); /* staging is there */
    assert_true(info.cache_bytes <= info.free_bytes);
    assert_int_equal(cuda_ops.memory_new(backend, &half, LIMIT / 2, "one half", &why), 0);
    assert_int_equal(cuda_ops.memory_info(backend, &less), 0);
    assert_int_equal(less.free_bytes, info.free_bytes - LIMIT / 2);
    assert_int_equal(cuda_ops.memory_new(backend, &other, LIMIT / 2, "the other half", &why),
                     -ENOMEM);
    assert_non_null(strstr(why.text, "gpu_memory is 104857600 bytes"));
    assert_non_null(strstr(why.text, "the other half"));
    cuda_ops.memory_free(backend, half);
    assert_int_equal(cuda_ops.memory_new(backend, &other, LIMIT / 2, "the other half", &why), 0);
    cuda_ops.memory_free(backend, other);
    cuda_ops.free(backend);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_over_the_limit_is_refused),
        cmocka_unit_test(test_what_is_left),
        cmocka_unit_test(test_a_backend_keeps_to_its_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
