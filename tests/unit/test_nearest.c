/* SPDX-License-Identifier: Apache-2.0 */
#include "util/nearest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *nearest_of(const char *typed, size_t n) {
    static const char *const names[] = { "n", "top_p", "top_k", "max_tokens", "stop" };
    Nearest nearest = nearest_begin(typed, n);

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        nearest_offer(&nearest, names[i]);
    return nearest.name;
}

static void test_typing_errors(void **state) {
    static const char *const cases[][2] = {
        { "max_token", "max_tokens" },
        { "maxTokens", "max_tokens" },
        { "MAX-TOKENS", "max_tokens" },
        { "mxa_tokens", "max_tokens" },
        { "stpo", "stop" },
        { "topk", "top_k" },
        { "top_x", "top_p" }, /* as near as top_k, and before it */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(nearest_of(cases[i][0], strlen(cases[i][0])), cases[i][1]);
}

static void test_nothing_is_close(void **state) {
    char large[4096];

    (void)state;
    memset(large, 'n', sizeof(large));
    assert_null(nearest_of("", 0));
    assert_null(nearest_of("x", 1)); /* one letter away from "n", and from everything else */
    assert_null(nearest_of("temperature", 11));
    for (size_t n = NEAREST_BYTES_MAX - 2; n < NEAREST_BYTES_MAX + 2; n++)
        assert_null(nearest_of(large, n));
    assert_null(nearest_of(large, sizeof(large)));
    assert_string_equal(nearest_of("stop_and_more", 4), "stop");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_typing_errors),
        cmocka_unit_test(test_nothing_is_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
