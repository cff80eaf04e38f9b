/* SPDX-License-Identifier: Apache-2.0 */
#include "util/text.h"

#include "server/api/api_error.h"
#include "util/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Characters of one to four bytes, so that every cut falls inside each kind somewhere. */
static const char mixed[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\xf0\x9f\x98\x80\xe2\x82\xac";

static void test_whole_drops_less_than_a_character(void **state) {
    (void)state;
    for (size_t n = 0; n < sizeof(mixed); n++) {
        size_t whole = text_whole(mixed, n);

        assert_true(whole <= n && n - whole < 4);
        assert_true(utf8_is_valid(mixed, whole));
        if (utf8_is_valid(mixed, n))
            assert_int_equal(whole, n);
    }
}

static void test_copy_cuts_between_characters(void **state) {
    (void)state;
    for (size_t size = 1; size <= sizeof(mixed) + 3; size++) {
        char to[sizeof(mixed) + 3];

        memset(to, 'x', sizeof(to));
        text_copy(to, size, mixed);
        assert_true(strlen(to) < size && size - strlen(to) <= (size < sizeof(mixed) ? 4 : size));
        assert_memory_equal(to, mixed, strlen(to));
        assert_true(utf8_is_valid(to, strlen(to)));
    }
}

/* What was cut before by somebody else, in the middle of a character. */
static void test_copy_drops_a_half_character(void **state) {
    char to[16];

    (void)state;
    text_copy(to, sizeof(to), "ab\xf0\x9f\x98");
    assert_string_equal(to, "ab");
}

static void test_errors_of_any_length_stay_utf8(void **state) {
    (void)state;
    for (size_t n = 0; n < 8; n++) {
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
        ApiError error = API_ERROR_NULL;
        Reason why = REASON_NULL;

        for (size_t i = 0; i < n; i++)
            buffer_append_char(&text, 'x');
        for (size_t i = 0; i < 2000; i++)
            buffer_append_text(&text, "\xf0\x9f\x98\x80");
        api_refuse(&error, text.data, "`%s` is not known.", text.data);
        assert_true(utf8_is_valid(error.param, strlen(error.param)));
        assert_true(utf8_is_valid(error.why.text, strlen(error.why.text)));
        api_error_write(&out, &error);
        assert_true(utf8_is_valid(out.data, out.size));
        reason_set(&why, 0, "%s", text.data);
        assert_true(utf8_is_valid(why.text, strlen(why.text)));
        reason_prefix(&why, 0, "%s", "\xc3\xa9");
        assert_true(utf8_is_valid(why.text, strlen(why.text)));
        assert_string_equal(why.text + strlen(why.text) - 3, "...");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_drops_less_than_a_character),
        cmocka_unit_test(test_copy_cuts_between_characters),
        cmocka_unit_test(test_copy_drops_a_half_character),
        cmocka_unit_test(test_errors_of_any_length_stay_utf8),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
