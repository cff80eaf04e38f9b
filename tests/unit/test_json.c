/* SPDX-License-Identifier: Apache-2.0 */
#include "util/json.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static json_t *parse(const char *text) {
    json_t *json = NULL;
    Reason why = REASON_NULL;

    if (json_parse(&json, text, strlen(text), 0, &why))
        fail_msg("%s", why.text);
    return json;
}

static void assert_mentions(const Reason *why, const char *part) {
    if (!strstr(why->text, part))
        fail_msg("\"%s\" does not mention \"%s\"", why->text, part);
}

static void test_getters_tell_absent_from_wrong(void **state) {
    CLEANUP(json_unref)
    json_t *json = parse("{\"n\":7,\"text\":\"x\",\"null\":null,\"flag\":true}");
    Reason why = REASON_NULL;
    uint32_t n = 1;
    bool flag = false;

    (void)state;
    assert_int_equal(json_get_u32(json, "n", 0, 10, &n, &why), 0);
    assert_int_equal(n, 7);
    assert_int_equal(json_get_u32(json, "null", 0, 10, &n, &why), JSON_E_ABSENT);
    assert_int_equal(json_get_u32(json, "none", 0, 10, &n, &why), JSON_E_ABSENT);
    assert_int_equal(n, 7);
    assert_int_equal(json_required(JSON_E_ABSENT, "none", &why), -EINVAL);
    assert_mentions(&why, "key \"none\" is missing");
    assert_int_equal(json_get_u32(json, "text", 0, 10, &n, &why), -EINVAL);
    assert_mentions(&why, "key \"text\": expected a whole number from 0 to 10, found \"x\"");
    assert_int_equal(json_get_u32(json, "n", 8, 10, &n, &why), -EINVAL);
    assert_int_equal(json_get_bool(json, "flag", &flag, &why), 0);
    assert_true(flag);
    assert_int_equal(json_get_bool(json, "n", &flag, &why), -EINVAL);
    assert_mentions(&why, "expected true or false, found 7");
}

static void test_whole_numbers_may_be_written_as_reals(void **state) {
    CLEANUP(json_unref)
    json_t *json = parse("{\"a\":3.0,\"b\":3.5,\"c\":1e300,\"d\":-2,\"e\":1e40}");
    Reason why = REASON_NULL;
    int64_t n = 0;
    float x;

    (void)state;
    assert_int_equal(json_get_i64(json, "a", 0, INT64_MAX, &n, &why), 0);
    assert_int_equal(n, 3);
    assert_int_equal(json_get_i64(json, "b", 0, INT64_MAX, &n, &why), -EINVAL);
    assert_mentions(&why, "found 3.5");
    assert_int_equal(json_get_i64(json, "c", 0, INT64_MAX, &n, &why), -EINVAL);
    assert_int_equal(json_get_i64(json, "d", INT64_MIN, 0, &n, &why), 0);
    assert_int_equal(json_get_float(json, "d", &x, &why), 0);
    assert_true(x == -2);
    assert_int_equal(json_get_float(json, "e", &x, &why), -EINVAL);
}

/* Hugging Face writes 10^30 for "no limit". The others stay what they are. */
static void test_integers_beyond_64_bits_are_reals(void **state) {
    CLEANUP(json_unref)
    json_t *json = parse("{\"model_max_length\":1000000000000000019884624838656,\"id\":5}");
    Reason why = REASON_NULL;
    double limit;
    int64_t id;

    (void)state;
    assert_int_equal(json_get_double(json, "model_max_length", &limit, NULL), 0);
    assert_true(limit == 1e30);
    assert_int_equal(json_get_i64(json, "id", 0, 10, &id, NULL), 0);
    assert_int_equal(id, 5);
    assert_true(json_is_integer(json_object_get(json, "id")));
    assert_int_equal(json_get_i64(json, "model_max_length", INT64_MIN, INT64_MAX, &id, &why),
                     -EINVAL);
    assert_mentions(&why, "found 1000000000000000019884624838656");
}

static void test_words_hold_no_nul(void **state) {
    CLEANUP(json_unref)
    json_t *json = parse("{\"a\":\"silu\\u0000x\",\"b\":\"silu\",\"c\\u0000\":1}");
    const char *word = NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(json_get_word(json, "a", &word, &why), -EINVAL);
    assert_mentions(&why, "key \"a\": expected a string without NUL, found \"silu\\u0000x\"");
    assert_int_equal(json_get_word(json, "c", &word, &why), JSON_E_ABSENT);
    assert_int_equal(json_get_word(json, "b", &word, &why), 0);
    assert_string_equal(word, "silu");
}

static void test_texts_keep_their_length(void **state) {
    CLEANUP(json_unref) json_t *json = parse("{\"text\":\"a\\u0000b\",\"list\":[1]}");
    Reason why = REASON_NULL;
    const json_t *list = NULL;
    const char *text;
    size_t size;

    (void)state;
    assert_int_equal(json_get_text(json, "text", &text, &size, NULL), 0);
    assert_int_equal(size, 3);
    assert_memory_equal(text, "a\0b", 3);
    assert_int_equal(json_get_array(json, "list", &list, NULL), 0);
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(json_get_object(json, "list", &list, &why), -EINVAL);
    assert_mentions(&why, "expected an object, found an array");
}

static void test_broken_text_names_the_place(void **state) {
    static const char *const broken[] = {
        "",   "{", "{\"a\":}", "[1,]", "{} x", "\"\xff\"", "[1e999]", "{\"a\":\"\xed\xa0\x80\"}",
        "nul"
    };
    Reason why;

    (void)state;
    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        json_t *json = NULL;

        assert_int_equal(json_parse(&json, broken[i], strlen(broken[i]), 0, &why), -EINVAL);
        assert_mentions(&why, "not valid JSON: line ");
    }
}

static void test_nesting_is_bounded(void **state) {
    char deep[20000];
    json_t *json = NULL;

    (void)state;
    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    assert_int_equal(json_parse(&json, deep, sizeof(deep), 0, NULL), -EINVAL);
}

static void test_values_are_described_in_one_short_line(void **state) {
    CLEANUP(json_unref)
    json_t *json = parse("[\"line\\nbreak\",\"a very long text that goes on and on\",{},true,"
                         "12345678901234567890,\"\\u20ac\\ud83d\\ude00\\u0000\"]");
    char text[16], wide[32];

    (void)state;
    assert_string_equal(json_describe(json_array_get(json, 0), text, sizeof(text)),
                        "\"line\\nbreak\"");
    assert_string_equal(json_describe(json_array_get(json, 1), text, sizeof(text)),
                        "\"a very long...");
    assert_string_equal(json_describe(json_array_get(json, 2), text, sizeof(text)), "an object");
    assert_string_equal(json_describe(json_array_get(json, 3), text, sizeof(text)), "true");
    assert_string_equal(json_describe(json_array_get(json, 4), text, sizeof(text)),
                        "123456789012...");
    assert_string_equal(json_describe(json_array_get(json, 5), wide, sizeof(wide)),
                        "\"\\u20AC\\uD83D\\uDE00\\u0000\"");
    assert_string_equal(json_describe(NULL, text, sizeof(text)), "nothing");
}

static void test_files_are_named(void **state) {
    json_t *json = NULL;
    Reason why;

    (void)state;
    assert_int_equal(json_load_path(&json, "/nonexistent/x.json", 0, &why), -ENOENT);
    assert_mentions(&why, "/nonexistent/x.json: ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_getters_tell_absent_from_wrong),
        cmocka_unit_test(test_whole_numbers_may_be_written_as_reals),
        cmocka_unit_test(test_integers_beyond_64_bits_are_reals),
        cmocka_unit_test(test_words_hold_no_nul),
        cmocka_unit_test(test_texts_keep_their_length),
        cmocka_unit_test(test_broken_text_names_the_place),
        cmocka_unit_test(test_nesting_is_bounded),
        cmocka_unit_test(test_values_are_described_in_one_short_line),
        cmocka_unit_test(test_files_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
