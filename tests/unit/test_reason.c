/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/profile.h"
#include "util/reason.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int find(Reason *why, int *line) {
    *line = __LINE__ + 1;
    return reason_set(why, -EINVAL, "expected %d", 4);
}

static int wrap(Reason *why, int *line) {
    int r = find(why, line);

    return reason_prefix(why, r, "%s: ", "tensor x");
}

static void assert_origin(const Reason *why, const char *file, int line) {
    char expected[64];

    snprintf(expected, sizeof(expected), "%s:%d", file, line);
    assert_string_equal(why->origin, expected);
}

static void test_origin_is_where_the_sentence_was_written(void **state) {
    Reason why = REASON_NULL;
    int line;

    (void)state;
    assert_null(why.origin);
    assert_int_equal(find(&why, &line), -EINVAL);
    assert_string_equal(why.text, "expected 4");
    assert_origin(&why, "tests/unit/test_reason.c", line);
}

static void test_origin_is_not_a_wrapper(void **state) {
    Reason why = REASON_NULL;
    int line;

    (void)state;
    assert_int_equal(reason_prefix(&why, wrap(&why, &line), "model.gguf: "), -EINVAL);
    assert_string_equal(why.text, "model.gguf: tensor x: expected 4");
    assert_origin(&why, "tests/unit/test_reason.c", line);
}

/* A Reason is used again where the first error was got over. */
static void test_another_sentence_has_another_origin(void **state) {
    Reason why = REASON_NULL;
    int line;

    (void)state;
    find(&why, &line);
    reason_set(&why, -EIO, "cannot be read");
    assert_origin(&why, "tests/unit/test_reason.c", __LINE__ - 1);
}

static void set_list(Reason *why, const char *format, ...) {
    va_list args;

    va_start(args, format);
    reason_set_list(why, format, args);
    va_end(args);
}

static void test_a_list_of_arguments_has_no_origin(void **state) {
    Reason why = REASON_NULL;
    int line;

    (void)state;
    find(&why, &line);
    set_list(&why, "%s", "refused");
    assert_string_equal(why.text, "refused");
    assert_null(why.origin);
}

/* The file's reader tells its users what to do, and that is not where the error was found. */
static void test_origin_survives_other_words(void **state) {
    char path[] = "/tmp/kvasir-reason-XXXXXX";
    int file = mkstemp(path);
    Profile *profile = NULL;
    Reason why = REASON_NULL;
    const KvGeometry geometry = { .n_layers = 1, .n_kv_heads = 1, .head_dim = 4 };
    int r;

    (void)state;
    assert_true(file >= 0);
    assert_int_equal(write(file, "no profile", 10), 10);
    close(file);
    r = profile_load(&profile, path, "", &geometry, &why);
    unlink(path);
    assert_int_equal(r, -EINVAL);
    assert_non_null(strstr(why.text, "kvasird profile --model"));
    assert_ptr_equal(strstr(why.origin, "kvcache/profile.c:"), why.origin);
    assert_true(atoi(why.origin + strlen("kvcache/profile.c:")) < 400); /* profile_load is below */
}

static void test_no_reason_is_asked_for(void **state) {
    (void)state;
    assert_int_equal(reason_set(NULL, -ENOMEM, "out of memory"), -ENOMEM);
    assert_int_equal(reason_prefix(NULL, -ENOMEM, "x: "), -ENOMEM);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_origin_is_where_the_sentence_was_written),
        cmocka_unit_test(test_origin_is_not_a_wrapper),
        cmocka_unit_test(test_another_sentence_has_another_origin),
        cmocka_unit_test(test_a_list_of_arguments_has_no_origin),
        cmocka_unit_test(test_origin_survives_other_words),
        cmocka_unit_test(test_no_reason_is_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
