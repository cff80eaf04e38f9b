/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Normalizing works in stretches; where one may begin is checked here for every character, against
 * utf8proc, which looks at the whole text.
 */
#include "text/unicode_normalize.h"

#include "text/unicode_drift.h"
#include "util/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <utf8proc.h>

#define LAST_ASSIGNED 0x323b0 /* of Unicode 14 outside of the private and special planes */

static bool is_character(uint32_t cp) {
    return (cp < 0xd800 || cp > 0xdfff) && !unicode_is_inert(cp);
}

/* `before`: what stands in front of the character, so that it may join; `after`: a mark. */
static void check_nfc(const char *before, uint32_t cp, const char *after) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL, out = BUFFER_NULL;
    CLEANUP(free) char *expected = NULL;
    char *to;

    buffer_append_text(&text, before);
    to = buffer_reserve(&text, 4);
    assert_non_null(to);
    text.size += utf8_encode(cp, to);
    buffer_append_text(&text, after);
    assert_int_equal(unicode_normalize(UNICODE_NFC, text.data, text.size, &out), 0);
    expected = (char *)utf8proc_NFC((const utf8proc_uint8_t *)text.data);
    assert_non_null(expected);
    if (strcmp(expected, buffer_text(&out)) != 0)
        fail_msg("\"%s\" U+%04X \"%s\"", before, cp, after);
}

/* Before each character stands each that something composes with, of the scripts where stretches
 * begin at letters. */
static void test_a_stretch_begins_where_nothing_joins(void **state) {
    static const char *const before[] = {
        "",       "a",      "\u0415", "\u0435", "\u0627",       "\u0648",  "\u06c1",
        "\u3046", "\u304b", "\u30cf", "\u1100", "\uac00",       "\u0928",  "\u09c7",
        "\u0bc6", "\u0dd9", "\u1025", "\u4e2d", "\u4e2d\u0316", "e\u0301", "\u3146",
    };

    (void)state;
    for (uint32_t cp = 1; cp < LAST_ASSIGNED; cp++) {
        if (!is_character(cp))
            continue;
        for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++)
            check_nfc(before[i], cp, i % 2 ? "" : "\u0301\u0316");
    }
}

static void test_no_stretch_is_without_end(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL, out = BUFFER_NULL;
    Account account;

    (void)state;
    while (text.size < 4000000)
        buffer_append_text(&text, "\u0301\u0316");
    assert_int_equal(unicode_normalize(UNICODE_NFC, text.data, text.size, &out), -EOVERFLOW);
    /* A stretch of a million characters in Chinese would not fit. */
    account_init(&account, NULL, 9u << 20, "small");
    buffer_deinit(&out);
    out.account = &account;
    buffer_clear(&text);
    while (text.size < 4000000)
        buffer_append_text(&text, "\u4e2d\u0301");
    assert_int_equal(unicode_normalize(UNICODE_NFC, text.data, text.size, &out), 0);
    assert_int_equal(out.size, text.size);
    buffer_deinit(&out);
    account_deinit(&account);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stretch_begins_where_nothing_joins),
        cmocka_unit_test(test_no_stretch_is_without_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
