/* SPDX-License-Identifier: Apache-2.0 */
#include "util/json_writer.h"

#include "util/json.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_nesting_and_commas(void **state) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&out);

    (void)state;
    json_begin_object(&w, NULL);
    json_put_u64(&w, "a", UINT64_MAX);
    json_begin_array(&w, "b");
    json_put_null(&w, NULL);
    json_begin_object(&w, NULL);
    json_end_object(&w);
    json_begin_array(&w, NULL);
    json_end_array(&w);
    json_put_bool(&w, NULL, true);
    json_end_array(&w);
    json_put_key(&w, "k\"", 2);
    json_put_float(&w, NULL, -0.5f);
    json_put_text(&w, "t", NULL);
    json_end_object(&w);
    assert_string_equal(
        buffer_text(&out),
        "{\"a\":18446744073709551615,\"b\":[null,{},[],true],\"k\\\"\":-0.5,\"t\":null}");
}

/* Every character there is comes back from a JSON parser as it was. */
static void test_every_character_survives(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    CLEANUP(json_unref) json_t *back = NULL;
    JsonWriter w = JSON_WRITER(&out);

    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        if (c < 0x80) {
            buffer_append_char(&text, (char)c);
        } else if (c < 0x800) {
            buffer_append_char(&text, (char)(0xc0 | c >> 6));
        } else if (c < 0x10000) {
            buffer_append_char(&text, (char)(0xe0 | c >> 12));
            buffer_append_char(&text, (char)(0x80 | (c >> 6 & 0x3f)));
        } else {
            buffer_append_char(&text, (char)(0xf0 | c >> 18));
            buffer_append_char(&text, (char)(0x80 | (c >> 12 & 0x3f)));
            buffer_append_char(&text, (char)(0x80 | (c >> 6 & 0x3f)));
        }
        if (c >= 0x80)
            buffer_append_char(&text, (char)(0x80 | (c & 0x3f)));
    }
    json_put_string(&w, NULL, text.data, text.size);
    assert_int_equal(json_parse(&back, out.data, out.size, JSON_DECODE_ANY, NULL), 0);
    assert_int_equal(json_string_length(back), text.size);
    assert_memory_equal(json_string_value(back), text.data, text.size);
}

static void test_floats_come_back_exactly(void **state) {
    const float values[] = { 0, -0.0f, 1, -1.5f, 0.1f, FLT_MIN, FLT_MAX, -FLT_TRUE_MIN, 1e-7f };

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
        CLEANUP(json_unref) json_t *back = NULL;
        JsonWriter w = JSON_WRITER(&out);

        json_put_float(&w, NULL, values[i]);
        assert_int_equal(json_parse(&back, out.data, out.size, JSON_DECODE_ANY, NULL), 0);
        assert_true((float)json_number_value(back) == values[i]);
    }
}

/* Whatever bytes come in, at whatever place, what goes out is JSON: the parser checks UTF-8. */
static void test_no_bytes_make_it_invalid(void **state) {
    static const char *const pieces[] = { "\x80",         "\xc3",     "\xe2\x82", "\xf0\x9f\x98",
                                          "\xed\xa0\x80", "\xc0\xaf", "\xff",     "\"\\\x01" };

    (void)state;
    for (size_t at = 0; at < 20; at++) {
        for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
            CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
            CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
            CLEANUP(json_unref) json_t *back = NULL;
            JsonWriter w = JSON_WRITER(&out);

            buffer_append(&text, "twenty plain letters", at);
            buffer_append_text(&text, pieces[i]);
            buffer_append(&text, "and more \xc3\xa9", 20 - at < 11 ? 20 - at : 11);
            json_put_string(&w, NULL, text.data, text.size);
            assert_int_equal(json_parse(&back, out.data, out.size, JSON_DECODE_ANY, NULL), 0);
            assert_memory_equal(json_string_value(back), text.data, at);
        }
    }
}

static void test_a_broken_character_is_one_replacement(void **state) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&out);

    (void)state;
    json_put_text(&w, NULL, "a\xe2\x82z\xff");
    assert_string_equal(buffer_text(&out), "\"a\xef\xbf\xbdz\xef\xbf\xbd\"");
}

static void test_doubles_and_integers(void **state) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&out);

    (void)state;
    json_begin_array(&w, NULL);
    json_put_i64(&w, NULL, INT64_MIN);
    json_put_double(&w, NULL, 0.1);
    json_put_double(&w, NULL, NAN);
    json_put_double(&w, NULL, -INFINITY);
    json_put_double(&w, NULL, DBL_MAX);
    json_end_array(&w);
    assert_string_equal(buffer_text(&out), "[-9223372036854775808,0.10000000000000001,null,null,"
                                           "1.7976931348623157e+308]");
}

static void test_indented_text(void **state) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    JsonWriter w = { .out = &out, .indent = 2 };

    (void)state;
    json_begin_object(&w, NULL);
    json_put_u64(&w, "a", 1);
    json_begin_array(&w, "b");
    json_put_null(&w, NULL);
    json_begin_object(&w, NULL);
    json_end_object(&w);
    json_end_array(&w);
    json_put_key(&w, "c", 1);
    json_put_bool(&w, NULL, false);
    json_end_object(&w);
    assert_string_equal(buffer_text(&out),
                        "{\n  \"a\": 1,\n  \"b\": [\n    null,\n    {}\n  ],\n  \"c\": false\n}");
}

/* Trees go out as they came, keys with NUL and numbers of any length among them. */
static void test_values_of_trees(void **state) {
    static const char text[] =
        "{\"a\\u0000\":[1,1.0,100000000000000000000,{\"\":null}],\"b\":\"\"}";
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    CLEANUP(json_unref) json_t *tree = NULL;
    JsonWriter w = JSON_WRITER(&out);

    (void)state;
    assert_int_equal(json_parse(&tree, text, strlen(text), 0, NULL), 0);
    json_begin_object(&w, NULL);
    json_put_value(&w, "tree", tree);
    json_put_value(&w, "none", NULL);
    json_end_object(&w);
    buffer_append_char(&out, ' ');
    json_write(tree, &out);
    assert_string_equal(buffer_text(&out),
                        "{\"tree\":{\"a\\u0000\":[1,1.0,100000000000000000000,{\"\":null}],\"b\":"
                        "\"\"},\"none\":null} "
                        "{\"a\\u0000\":[1,1.0,100000000000000000000,{\"\":null}],\"b\":\"\"}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nesting_and_commas),
        cmocka_unit_test(test_every_character_survives),
        cmocka_unit_test(test_floats_come_back_exactly),
        cmocka_unit_test(test_no_bytes_make_it_invalid),
        cmocka_unit_test(test_a_broken_character_is_one_replacement),
        cmocka_unit_test(test_doubles_and_integers),
        cmocka_unit_test(test_indented_text),
        cmocka_unit_test(test_values_of_trees),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
