/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trees: what is JSON and what is not, that nothing of it is lost, and what a tree costs.
 */
#include "util/json_writer.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static json_t *parse(const char *text, size_t flags) {
    json_t *tree = NULL;
    Reason why = REASON_NULL;

    if (json_parse(&tree, text, strlen(text), flags, &why))
        fail_msg("%s: %s", text, why.text);
    return tree;
}

/* `part` must be in the reason. */
static void refuse_bytes(const char *text, size_t size, size_t flags, const char *part) {
    json_t *tree = NULL;
    Reason why = REASON_NULL;

    if (json_parse(&tree, text, size, flags, &why) != -EINVAL)
        fail_msg("%.40s was not refused", text);
    assert_null(tree);
    if (!strstr(why.text, "not valid JSON: line ") || !strstr(why.text, part))
        fail_msg("%.40s: \"%s\" does not mention \"%s\"", text, why.text, part);
}

static void refuse(const char *text, const char *part) {
    refuse_bytes(text, strlen(text), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, part);
}

static void assert_written(const json_t *value, const char *expected, size_t size) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    json_write(value, &out);
    if (out.size != size || memcmp(out.data, expected, size) != 0)
        fail_msg("%s, not %s", buffer_text(&out), expected);
}

/* what is written comes back as it was */

static void test_texts_come_back_as_they_were(void **state) {
    static const char *const texts[] = {
        "[]",
        "{}",
        "[[],{},[[]],{\"a\":{}}]",
        "null",
        "true",
        "false",
        "\"\"",
        "\"1234567\"",
        "\"12345678\"",
        "[1,-0,0.10,1e5,1E+5,-1.5e-7,18446744073709551616,123456789012345678901234567890.50]",
        "{\"\":1,\"a\\u0000\":{\"\\u0000\":[\"\\u0000\"]},\"a\":2}",
        "[\"\\\"\\\\/\\b\\f\\n\\r\\t\\u001f\x7f\"]",
        "[\"\xc2\x80\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\"]",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        CLEANUP(json_unref)
        json_t *tree = parse(texts[i], JSON_DECODE_ANY | JSON_REJECT_DUPLICATES);

        assert_written(tree, texts[i], strlen(texts[i]));
    }
}

static void test_spaces_and_escapes_are_read(void **state) {
    CLEANUP(json_unref)
    json_t *tree =
        parse(" \t\r\n{ \"\\u0061\\/\" : [ 1 , \"\\ud83d\\ude00\\uD83D\\uDE00\" ] }\n ", 0);
    static const char expected[] = "{\"a/\":[1,\"\xf0\x9f\x98\x80\xf0\x9f\x98\x80\"]}";

    (void)state;
    assert_written(tree, expected, strlen(expected));
}

static void test_numbers_do_not_change_one_another(void **state) {
    CLEANUP(json_unref)
    json_t *tree = parse("[1,9223372036854775807,-9223372036854775808,9223372036854775808,"
                         "-9223372036854775809,10000000000000000000000,-0,1.0,1e2]",
                         0);
    static const int64_t integers[] = { 1, INT64_MAX, INT64_MIN };
    const double reals[] = { 0x1p63, -0x1p63, 1e22 };
    const json_t *item;
    size_t i;

    (void)state;
    json_array_foreach(tree, i, item) {
        assert_true(json_is_number(item));
        assert_int_equal(json_is_integer(item), i < 3 || i == 6);
        assert_int_equal(json_is_real(item), !json_is_integer(item));
        if (i < 3)
            assert_true(json_integer_value(item) == integers[i]);
        else if (i < 6)
            assert_true(json_number_value(item) == reals[i - 3]);
    }
    assert_int_equal(i, 9);
    assert_string_equal(json_number_text(json_array_get(tree, 5)), "10000000000000000000000");
    assert_true(json_number_value(json_array_get(tree, 8)) == 100);
}

static void test_a_nul_is_a_character_of_a_key(void **state) {
    CLEANUP(json_unref)
    json_t *tree = parse("{\"model\\u0000x\":1,\"\\u0000\":2,\"model\":3,\"model\\u0000\":4}",
                         JSON_REJECT_DUPLICATES);
    const json_t *key, *value;
    size_t n_model = 0, n_nul = 0;

    (void)state;
    assert_int_equal(json_integer_value(json_object_get(tree, "model")), 3);
    assert_int_equal(json_integer_value(json_object_getn(tree, "model\0x", 7)), 1);
    assert_int_equal(json_integer_value(json_object_getn(tree, "model\0", 6)), 4);
    assert_int_equal(json_integer_value(json_object_getn(tree, "\0", 1)), 2);
    assert_null(json_object_get(tree, ""));
    json_object_foreach(tree, key, value) {
        n_model += json_string_is(key, "model");
        n_nul += json_string_has_nul(key);
    }
    assert_int_equal(n_model, 1);
    assert_int_equal(n_nul, 3);
}

static void test_nothing_has_nothing(void **state) {
    CLEANUP(json_unref) json_t *tree = parse("[1]", 0);
    const json_t *key, *value, *number = json_array_get(tree, 0);

    (void)state;
    assert_null(json_array_get(tree, 1));
    assert_null(json_object_get(tree, "a"));
    assert_null(json_object_get(NULL, "a"));
    assert_null(json_array_get(number, 0));
    assert_null(json_string_value(number));
    assert_int_equal(json_string_length(NULL), 0);
    assert_int_equal(json_array_size(NULL) + json_object_size(tree), 0);
    assert_false(json_string_is(NULL, "") || json_is_null(NULL) || json_is_number(NULL));
    assert_null(json_number_text(tree));
    assert_false(json_equal(NULL, NULL));
    json_object_foreach(number, key, value) {
        fail();
    }
    assert_null(json_unref(NULL));
}

static void test_equal_is_what_means_the_same(void **state) {
    static const char *const pairs[][2] = {
        { "{\"a\":1,\"b\":[2]}", "{\"b\":[2],\"a\":1}" },
        { "[1]", "[1.0]" },
        { "[\"\\u0061\\u0000\"]", "[\"a\\u0000\"]" },
    };
    static const char *const others[][2] = {
        { "{\"a\":1}", "{\"a\":2}" },
        { "{\"a\":1}", "{\"b\":1}" },
        { "[1]", "[1,1]" },
        { "[[]]", "[{}]" },
        { "[true]", "[false]" },
        { "[\"1\"]", "[1]" },
        { "[\"a\\u0000b\"]", "[\"a\"]" },
    };

    (void)state;
    for (size_t i = 0; i < 3 + 7; i++) {
        const char *const *pair = i < 3 ? pairs[i] : others[i - 3];
        CLEANUP(json_unref) json_t *a = parse(pair[0], 0);
        CLEANUP(json_unref) json_t *b = parse(pair[1], 0);

        assert_int_equal(json_equal(a, b), i < 3);
        assert_int_equal(json_equal(b, a), i < 3);
    }
}

/* what is no JSON */

static void test_what_is_no_json_is_refused_at_its_place(void **state) {
    static const char *const broken[][2] = {
        { "", "line 1, column 1: premature EOF" },
        { " \n ", "line 2, column 2: premature EOF" },
        { "{\n\"a\" 1}", "line 2, column 5" },
        { "[1,]", "line 1, column 4" },
        { "{\"a\":1,}", "column 8" },
        { "[1] x", "column 5: trailing garbage" },
        { "[1] [2]", "trailing garbage" },
        { "[1] \"", "column 6: trailing garbage" },
        { "1\"abc\\", "trailing garbage" },
        { "[1] tru", "trailing garbage" },
        { "[1] -", "trailing garbage" },
        { "[\"\xe2\x82\xac\", x]", "column 7" },
        { "[/* */ 1]", "comments are not enabled" },
        { "[01]", "column 3" },
        { "[1.]", "column" },
        { "[.5]", "column 2" },
        { "[+1]", "column 2" },
        { "[-]", "column" },
        { "[0x10]", "column" },
        { "[NaN]", "column 2" },
        { "[nul]", "column" },
        { "['a']", "column 2" },
        { "{a:1}", "column 2" },
        { "{1:1}", "column 2" },
        { "[\"a\tb\"]", "column" },
        { "[\"\\x\"]", "column" },
        { "[\"\\u12g4\"]", "column" },
        { "\xef\xbb\xbf[]", "column 1" },
        { "[1e999]", "column 6: a number beyond the range of double" },
        { "[-1e999]", "beyond the range of double" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++)
        refuse(broken[i][0], broken[i][1]);
    refuse_bytes("[]\0", 3, 0, "trailing garbage");
    refuse_bytes("[\"a\0b\"]", 7, 0, "column");
    refuse_bytes("1", 1, 0, "an object or an array was expected");
    refuse_bytes("\"a\"", 3, JSON_REJECT_DUPLICATES, "an object or an array was expected");
}

static void test_digits_beyond_the_range_of_double_are_refused(void **state) {
    char text[512];

    (void)state;
    memset(text, '9', sizeof(text));
    text[0] = '[';
    text[400] = ']';
    refuse_bytes(text, 401, 0, "a number beyond the range of double");
    text[300] = ']';
    {
        CLEANUP(json_unref) json_t *tree = NULL;

        assert_int_equal(json_parse(&tree, text, 301, 0, NULL), 0);
        assert_true(json_number_value(json_array_get(tree, 0)) > 9e298);
    }
}

static void test_invalid_utf8_is_refused(void **state) {
    static const char *const bytes[] = {
        "\xff",         "\x80",         "\xc0\x80",         "\xc1\xbf",         "\xe0\x80\x80",
        "\xe2\x82",     "\xed\xa0\x80", "\xed\xbf\xbf",     "\xf0\x80\x80\x80", "\xf4\x90\x80\x80",
        "\xf5\x80\x80", "\xe2\x82\"",   "\xf0\x9f\x98\xff",
    };
    char text[64];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes) / sizeof(*bytes); i++) {
        snprintf(text, sizeof(text), "[\"1234567890%s\"]", bytes[i]);
        refuse(text, "column 13: byte 0x");
        snprintf(text, sizeof(text), "{\"%s\":1}", bytes[i]);
        refuse(text, "column 3: byte 0x");
        snprintf(text, sizeof(text), "[\"%s", bytes[i]);
        refuse(text, "is not UTF-8");
    }
}

static void test_half_surrogate_pairs_are_refused(void **state) {
    static const char *const halves[] = {
        "\\ud800",        "\\udbff",          "\\udc00",        "\\uDFFF",
        "\\ud800\\u0041", "\\ud800\\ud800",   "\\udc00\\ud800", "\\ud83d\\n",
        "\\ud83dx",       "\\ud83d\\\\ude00", "\\ud83d\\ude0",
    };
    char text[64];

    (void)state;
    for (size_t i = 0; i < sizeof(halves) / sizeof(*halves); i++) {
        snprintf(text, sizeof(text), "[\"a%s\"]", halves[i]);
        refuse(text, "column 4: ");
        snprintf(text, sizeof(text), "{\"a%sg\":1}", halves[i]);
        refuse(text, "is half a character");
    }
    {
        /* A backslash that is itself escaped begins nothing. */
        CLEANUP(json_unref) json_t *tree = parse("[\"\\\\ud800\"]", 0);

        assert_string_equal(json_string_value(json_array_get(tree, 0)), "\\ud800");
    }
}

static void test_every_cut_is_refused(void **state) {
    static const char text[] = "{\"a\\u0000\\ud83d\\ude00\xf0\x9f\x98\x80\": [true, null, -1.5e+7, "
                               "\"\\n\"], \"b\": {}}";

    (void)state;
    for (size_t size = 0; size < strlen(text); size++)
        refuse_bytes(text, size, JSON_REJECT_DUPLICATES, "column");
    json_unref(parse(text, 0));
}

/* nesting */

static void nest(Buffer *out, size_t depth, const char *open, const char *close) {
    buffer_clear(out);
    for (size_t i = 0; i < depth; i++)
        buffer_append_text(out, open);
    buffer_append_text(out, "1");
    for (size_t i = 0; i < depth; i++)
        buffer_append_text(out, close);
}

static void test_nesting_is_bounded(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    static const char *const kinds[][2] = { { "[", "]" }, { "{\"a\":", "}" } };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        json_t *tree = NULL;

        nest(&text, JSON_DEPTH_MAX, kinds[i][0], kinds[i][1]);
        assert_int_equal(json_parse(&tree, text.data, text.size, 0, NULL), 0);
        assert_written(tree, text.data, text.size);
        assert_true(json_equal(tree, tree));
        json_unref(tree);
        nest(&text, JSON_DEPTH_MAX + 1, kinds[i][0], kinds[i][1]);
        refuse_bytes(text.data, text.size, 0, "nested deeper than 920 levels");
        nest(&text, 1000000, kinds[i][0], kinds[i][1]);
        refuse_bytes(text.data, text.size, 0, "nested deeper than 920 levels");
    }
}

/* duplicate keys */

static void put_members(Buffer *out, size_t n) {
    buffer_append_text(out, "{\"first\":0");
    for (size_t i = 0; i < n; i++)
        buffer_printf(out, ",\"key %zu\":%zu", i, i);
}

static void test_duplicates_are_refused_in_objects_of_any_size(void **state) {
    (void)state;
    refuse("{\"a\":1,\"a\":1}", "column 13: duplicate object key \"a\"");
    refuse("[{\"b\":{\"\\u0061\":1,\"a\":2}}]", "duplicate object key \"a\"");
    refuse("{\"a\\u0000\":1,\"b\":2,\"a\\u0000\":1}", "duplicate object key");
    for (size_t n = 0; n < 200; n++) {
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        CLEANUP(json_unref) json_t *tree = NULL;

        put_members(&text, n);
        buffer_append_text(&text, "}");
        assert_int_equal(json_parse(&tree, text.data, text.size, JSON_REJECT_DUPLICATES, NULL), 0);
        assert_int_equal(json_object_size(tree), n + 1);
        text.size--;
        buffer_append_text(&text, ",\"first\":1}");
        refuse_bytes(text.data, text.size, JSON_REJECT_DUPLICATES,
                     "duplicate object key \"first\"");
    }
}

static void test_the_last_of_duplicates_counts_where_they_are_taken(void **state) {
    CLEANUP(json_unref) json_t *tree = parse("{\"a\":1,\"b\":2,\"a\":3}", 0);

    (void)state;
    assert_int_equal(json_integer_value(json_object_get(tree, "a")), 3);
    assert_int_equal(json_object_size(tree), 3);
}

static double now_s(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Each with each would be 10^12 comparisons. */
static void test_a_million_keys_are_checked_in_time(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(json_unref) json_t *tree = NULL;
    double start = now_s();

    (void)state;
    put_members(&text, 1000000);
    buffer_append_text(&text, "}");
    assert_int_equal(json_parse(&tree, text.data, text.size, JSON_REJECT_DUPLICATES, NULL), 0);
    text.size--;
    buffer_append_text(&text, ",\"key 500000\":1}");
    refuse_bytes(text.data, text.size, JSON_REJECT_DUPLICATES, "\"key 500000\"");
    assert_true(now_s() - start < 60);
}

/* memory */

static void repeat(Buffer *out, const char *item, size_t n) {
    buffer_append_text(out, "[");
    for (size_t i = 0; i < n; i++) {
        buffer_append_text(out, i ? "," : "");
        buffer_append_text(out, item);
    }
    buffer_append_text(out, "]");
}

static void test_a_value_takes_little_more_than_16_bytes(void **state) {
    static const struct {
        const char *item;
        size_t bytes;
    } cases[] = { { "1", 16 },           { "{}", 16 },
                  { "\"1234567\"", 16 }, { "\"12345678\"", 25 },
                  { "null", 16 },        { "0.123456789", 28 },
                  { "[1]", 32 },         { "{\"a\":1}", 48 } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        json_t *tree = NULL;
        Account account;

        account_init(&account, NULL, UINT64_MAX, "limit");
        repeat(&text, cases[i].item, 1000000);
        assert_int_equal(
            json_parse_charged(&tree, text.data, text.size, JSON_REJECT_DUPLICATES, &account, NULL),
            0);
        assert_in_range(account.used, 1000000 * cases[i].bytes, 1010000 * cases[i].bytes + 131072);
        json_unref(tree);
        account_deinit(&account);
    }
}

/* Everything that takes memory: nodes, long and short texts, escapes, many keys. */
static void put_everything(Buffer *out) {
    buffer_append_text(out, "{\"text\":\"");
    for (size_t i = 0; i < 20000; i++)
        buffer_append_text(out, "long\\n\\u0000");
    buffer_append_text(out, "\",\"list\":");
    repeat(out, "[1,{},\"a text\",\"a longer text\\t\",1234567890.25]", 1000);
    buffer_append_text(out, ",\"object\":");
    put_members(out, 1000);
    buffer_append_text(out, "}}");
}

/* The limit grows until the text can be read: in each try another allocation is refused. */
static void test_nothing_is_kept_wherever_memory_ends(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    json_t *tree = NULL;
    size_t n_refused = 0;
    int r = -ENOMEM;

    (void)state;
    put_everything(&text);
    for (uint64_t limit = 0; r; limit += 500) {
        Account account;

        account_init(&account, NULL, limit, "limit");
        r = json_parse_charged(&tree, text.data, text.size, JSON_REJECT_DUPLICATES, &account, NULL);
        if (r) {
            assert_int_equal(r, -ENOMEM);
            assert_ptr_equal(account.refused_by, &account);
            n_refused++;
        } else {
            assert_int_equal(json_string_length(json_object_get(tree, "text")), 20000 * 6);
            assert_int_equal(json_object_size(json_object_get(tree, "object")), 1001);
            json_unref(tree);
        }
        account_deinit(&account);
    }
    assert_true(n_refused > 100);
}

static void test_broken_text_gives_its_memory_back(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    (void)state;
    put_everything(&text);
    for (size_t size = 0; size < text.size; size += 997) {
        json_t *tree = NULL;
        Account account;

        account_init(&account, NULL, UINT64_MAX, "limit");
        assert_int_equal(
            json_parse_charged(&tree, text.data, size, JSON_REJECT_DUPLICATES, &account, NULL),
            -EINVAL);
        account_deinit(&account);
    }
}

static void test_a_closed_account_ends_it(void **state) {
    json_t *tree = NULL;
    Account parent, account;

    (void)state;
    account_init(&parent, NULL, UINT64_MAX, "all");
    account_init(&account, &parent, UINT64_MAX, "one");
    account_close(&parent);
    assert_int_equal(json_parse_charged(&tree, "[]", 2, 0, &account, NULL), -ECANCELED);
    account_deinit(&account);
    account_deinit(&parent);
}

static void *close_soon(void *account) {
    while (!atomic_load(&((Account *)account)->used))
        sched_yield();
    account_close(account);
    return NULL;
}

/* A text of 50 MB that would take half a second. */
static void test_closing_ends_what_runs(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    double closed;
    pthread_t closer;
    Account account;
    json_t *tree = NULL;

    (void)state;
    repeat(&text, "{\"a\":[1,2]}", 4000000);
    account_init(&account, NULL, UINT64_MAX, "limit");
    closed = now_s();
    assert_int_equal(pthread_create(&closer, NULL, close_soon, &account), 0);
    assert_int_equal(
        json_parse_charged(&tree, text.data, text.size, JSON_REJECT_DUPLICATES, &account, NULL),
        -ECANCELED);
    closed = now_s() - closed;
    assert_int_equal(pthread_join(closer, NULL), 0);
    account_deinit(&account);
    print_message("left after %.0f ms\n", closed * 1e3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_come_back_as_they_were),
        cmocka_unit_test(test_spaces_and_escapes_are_read),
        cmocka_unit_test(test_numbers_do_not_change_one_another),
        cmocka_unit_test(test_a_nul_is_a_character_of_a_key),
        cmocka_unit_test(test_nothing_has_nothing),
        cmocka_unit_test(test_equal_is_what_means_the_same),
        cmocka_unit_test(test_what_is_no_json_is_refused_at_its_place),
        cmocka_unit_test(test_digits_beyond_the_range_of_double_are_refused),
        cmocka_unit_test(test_invalid_utf8_is_refused),
        cmocka_unit_test(test_half_surrogate_pairs_are_refused),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_nesting_is_bounded),
        cmocka_unit_test(test_duplicates_are_refused_in_objects_of_any_size),
        cmocka_unit_test(test_the_last_of_duplicates_counts_where_they_are_taken),
        cmocka_unit_test(test_a_million_keys_are_checked_in_time),
        cmocka_unit_test(test_a_value_takes_little_more_than_16_bytes),
        cmocka_unit_test(test_nothing_is_kept_wherever_memory_ends),
        cmocka_unit_test(test_broken_text_gives_its_memory_back),
        cmocka_unit_test(test_a_closed_account_ends_it),
        cmocka_unit_test(test_closing_ends_what_runs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
