/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where JSON ends and where it goes wrong, seen byte by byte: made texts, and random ones against
 * the parser that reads them whole.
 */
#include "tests/unit/random.h"
#include "util/buffer.h"
#include "util/json_scan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Where the scan stops: behind the last byte (*rp is JSON_SCAN_E_END), at the one that is wrong
 * (-EINVAL), or at the text's end (0). */
static size_t scan(const char *text, size_t size, int *rp) {
    JsonScan s = JSON_SCAN_NULL;

    *rp = 0;
    for (size_t i = 0; i < size; i++) {
        *rp = json_scan_byte(&s, text[i]);
        if (*rp)
            return *rp < 0 ? i : i + 1;
    }
    return size;
}

static void test_ends(void **state) {
    static const char *const texts[] = {
        "{}",
        "[]",
        "{ }",
        "[\n]",
        "[1]",
        "{\"a\":1}",
        "[1,-2.5e+3 , true,false ,null]",
        "{\"a\":{\"b\":[[],{}]},\"c\":\"}]\\\"\"}",
        "[\"\\u00e9\\\\\\/\\b\\f\\n\\r\\t\"]",
        "{\"\xc3\xa9\" : \"\xf0\x9f\x98\x80\"}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        char longer[128];
        size_t size = strlen(texts[i]);
        int r;

        snprintf(longer, sizeof(longer), "%s}", texts[i]);
        assert_int_equal(scan(longer, size + 1, &r), size);
        assert_int_equal(r, JSON_SCAN_E_END);
        assert_int_equal(scan(texts[i], size - 1, &r), size - 1);
        assert_int_equal(r, 0);
    }
}

/* The byte marked by '@' is the first at which no JSON goes on. */
static void test_what_is_wrong_is_seen_at_once(void **state) {
    static const char *const texts[] = {
        "@1",        "@\"a\"",      "@ {}",        "@true",         "{@a",         "{@1",
        "[@,",       "[1 @2",       "[1,@]",       "{\"a\"@,",      "{\"a\"@}",    "{\"a\":@}",
        "{\"a\":@,", "{\"a\":1,@}", "{\"a\":1,@1", "{\"a\":1@]",    "[1@}",        "[\"a\"@\"b\"",
        "[\"@\n",    "[\"@\t",      "[\"\\@x",     "[\"\\u@g",      "[\"\\u00e@x", "[@None",
        "[@'a'",     "[@+1",        "[@.5",        "{\"a\" @\"b\"", "[{}@{}",      "[1@:",
        "[truE@{",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        const char *mark = strchr(texts[i], '@');
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        size_t at = (size_t)(mark - texts[i]), got;
        int r;

        buffer_append(&text, texts[i], at);
        buffer_append_text(&text, mark + 1);
        got = scan(text.data, text.size, &r);
        if (r != -EINVAL || got != at)
            fail_msg("%s: %d at %zu", texts[i], r, got);
    }
}

static void test_depth_has_a_limit(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    int r;

    (void)state;
    for (int i = 0; i <= JSON_DEPTH_MAX; i++)
        buffer_append_char(&text, '[');
    assert_int_equal(scan(text.data, text.size, &r), JSON_DEPTH_MAX);
    assert_int_equal(r, -EINVAL);
}

/* Whatever the parser reads, the scan follows to its last byte, and no further. */
static void test_random_texts_against_the_parser(void **state) {
    static const char alphabet[] = "{}[]\",:\\ua1-.e tn\n";
    Random random = random_start("json_scan");
    int n_read = 0;

    (void)state;
    for (int i = 0; i < 400000; i++) {
        char text[12];
        size_t size = 2 + random_below(&random, sizeof(text) - 2), end;
        CLEANUP(json_unref) json_t *tree = NULL;
        int r;

        text[0] = random_below(&random, 2) ? '{' : '[';
        for (size_t j = 1; j < size; j++)
            text[j] = alphabet[random_below(&random, sizeof(alphabet) - 1)];
        end = scan(text, size, &r);
        if (json_parse(&tree, text, size, 0, NULL))
            continue;
        n_read++;
        while (json_is_space(text[size - 1]))
            size--;
        assert_int_equal(r, JSON_SCAN_E_END);
        assert_int_equal(end, size);
    }
    assert_true(n_read > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_what_is_wrong_is_seen_at_once),
        cmocka_unit_test(test_depth_has_a_limit),
        cmocka_unit_test(test_random_texts_against_the_parser),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
