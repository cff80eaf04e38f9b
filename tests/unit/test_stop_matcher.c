/* SPDX-License-Identifier: Apache-2.0 */
#include "server/engine/stop_matcher.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct Case {
    const char *stops[4];
    const char *text;
    const char *out;
    uint32_t found;
    bool include;
} Case;

static const Case cases[] = {
    { { "stop" }, "and stop here", "and ", 0, false },
    { { "stop" }, "and stop here", "and stop", 0, true },
    { { "stop" }, "and stob stosto", "and stob stosto", STOP_NONE, false },
    { { "stop" }, "stop", "", 0, false },
    { { "aab" }, "aaaab", "aa", 0, false },
    { { "abab", "xx" }, "ababx", "", 0, false },
    { { "abc", "bc" }, "zabcz", "z", 0, false },          /* they end together: the longest */
    { { "bcd", "abcde", "c" }, "abcde", "ab", 2, false }, /* the first to be complete */
    { { "\n\n" }, "a\nb\n\nc", "a\nb", 0, false },
    { { "\xC3\xA9t\xC3\xA9" }, "un \xC3\xA9t\xC3\xA9!", "un ", 0, false },
    { { "aa", "a" }, "baa", "b", 1, false },
};

static void set_stops(StopSet *set, const char *const *stops, uint32_t n_stops) {
    size_t n_bytes = 0;

    for (uint32_t i = 0; i < n_stops; i++)
        n_bytes += strlen(stops[i]);
    assert_int_equal(stop_set_init(set, n_stops, n_bytes, NULL), 0);
    for (uint32_t i = 0; i < n_stops; i++)
        stop_set_add(set, stops[i], strlen(stops[i]));
}

/* Pushes `text` in pieces of `n_piece` bytes; a piece count of 0 is one piece. */
static uint32_t push_all(StopMatcher *m, const char *text, size_t n_piece, bool include,
                         Buffer *out) {
    size_t size = strlen(text);
    uint32_t found = STOP_NONE;

    for (size_t i = 0; i < size && found == STOP_NONE; i += n_piece ? n_piece : size) {
        size_t n = n_piece && n_piece < size - i ? n_piece : size - i;

        found = stop_matcher_push(m, text + i, n, true, include, out);
    }
    if (found == STOP_NONE)
        stop_matcher_flush(m, out);
    return found;
}

static void test_answer_does_not_depend_on_the_pieces(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const Case *c = &cases[i];
        uint32_t n_stops = 0;

        while (n_stops < 4 && c->stops[n_stops])
            n_stops++;
        for (size_t n_piece = 0; n_piece <= 6; n_piece++) {
            CLEANUP(stop_set_deinit) StopSet set = STOP_SET_NULL;
            CLEANUP(stop_matcher_deinit) StopMatcher m = STOP_MATCHER_NULL;
            CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

            set_stops(&set, c->stops, n_stops);
            assert_int_equal(stop_matcher_init(&m, &set), 0);
            assert_int_equal(push_all(&m, c->text, n_piece, c->include, &out), c->found);
            assert_string_equal(buffer_text(&out), c->out);
            assert_false(stop_matcher_failed(&m));
        }
    }
}

static void test_only_what_may_be_a_stop_is_held_back(void **state) {
    static const char *const stops[] = { "stop", "to be" };
    static const struct {
        const char *piece, *out;
    } steps[] = {
        { "hello", "hello" },
        { " st", "hello " },
    };
    CLEANUP(stop_set_deinit) StopSet set = STOP_SET_NULL;
    CLEANUP(stop_matcher_deinit) StopMatcher m = STOP_MATCHER_NULL;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    (void)state;
    set_stops(&set, stops, 2);
    assert_int_equal(stop_matcher_init(&m, &set), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            stop_matcher_push(&m, steps[i].piece, strlen(steps[i].piece), true, false, &out),
            STOP_NONE);
        assert_string_equal(buffer_text(&out), steps[i].out);
    }
    /* "sto" may go on as "stop", and when it does not, "to" may go on as "to be". */
    assert_int_equal(stop_matcher_push(&m, "o", 1, true, false, &out), STOP_NONE);
    assert_string_equal(buffer_text(&out), "hello ");
    assert_int_equal(stop_matcher_push(&m, " b", 2, true, false, &out), STOP_NONE);
    assert_string_equal(buffer_text(&out), "hello s");
    assert_int_equal(stop_matcher_push(&m, "e or", 4, true, false, &out), 1);
    assert_string_equal(buffer_text(&out), "hello s");
}

static void test_an_unarmed_stop_is_text(void **state) {
    static const char *const stops[] = { "abab" };
    CLEANUP(stop_set_deinit) StopSet set = STOP_SET_NULL;
    CLEANUP(stop_matcher_deinit) StopMatcher m = STOP_MATCHER_NULL;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    (void)state;
    set_stops(&set, stops, 1);
    assert_int_equal(stop_matcher_init(&m, &set), 0);
    assert_int_equal(stop_matcher_push(&m, "xabab", 5, false, false, &out), STOP_NONE);
    /* Its second half may still begin one that ends when armed. */
    assert_string_equal(buffer_text(&out), "xab");
    assert_int_equal(stop_matcher_push(&m, "ab", 2, true, false, &out), 0);
    assert_string_equal(buffer_text(&out), "xab");
    stop_matcher_flush(&m, &out);
    assert_string_equal(buffer_text(&out), "xab");
}

static void test_a_zero_byte_after_a_stop_is_text(void **state) {
    static const char *const stops[] = { "ab" };
    CLEANUP(stop_set_deinit) StopSet set = STOP_SET_NULL;
    CLEANUP(stop_matcher_deinit) StopMatcher m = STOP_MATCHER_NULL;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    (void)state;
    set_stops(&set, stops, 1);
    assert_int_equal(stop_matcher_init(&m, &set), 0);
    assert_int_equal(stop_matcher_push(&m, "ab\0\0c", 5, false, false, &out), STOP_NONE);
    assert_int_equal(out.size, 5);
}

/* Against a search of the whole text, over two letters, where overlaps are everywhere. */
static void test_random_texts_match_a_plain_search(void **state) {
    (void)state;
    srand(3);
    for (int round = 0; round < 20000; round++) {
        char stops_text[3][10], text[80];
        const char *stops[3] = { stops_text[0], stops_text[1], stops_text[2] };
        CLEANUP(stop_set_deinit) StopSet set = STOP_SET_NULL;
        CLEANUP(stop_matcher_deinit) StopMatcher m = STOP_MATCHER_NULL;
        CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
        size_t size = (size_t)(rand() % 79), best_end = SIZE_MAX, best_size = 0;

        for (int i = 0; i < 3; i++) {
            int n = 1 + rand() % 9;

            for (int j = 0; j < n; j++)
                stops_text[i][j] = (char)('a' + (rand() % 3 == 0));
            stops_text[i][n] = 0;
        }
        for (size_t i = 0; i < size; i++)
            text[i] = (char)('a' + (rand() % 3 == 0));
        text[size] = 0;
        for (int i = 0; i < 3; i++) {
            const char *at = strstr(text, stops[i]);
            size_t n = strlen(stops[i]), end = at ? (size_t)(at - text) + n : SIZE_MAX;

            if (end < best_end || (at && end == best_end && n > best_size)) {
                best_end = end;
                best_size = n;
            }
        }
        set_stops(&set, stops, 3);
        assert_int_equal(stop_matcher_init(&m, &set), 0);
        assert_int_equal(push_all(&m, text, (size_t)(rand() % 4), false, &out) == STOP_NONE,
                         best_end == SIZE_MAX);
        if (best_end != SIZE_MAX)
            text[best_end - best_size] = 0;
        assert_string_equal(buffer_text(&out), text);
    }
}

static void test_no_stops_pass_everything(void **state) {
    CLEANUP(stop_matcher_deinit) StopMatcher m = STOP_MATCHER_NULL;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    (void)state;
    assert_int_equal(stop_matcher_init(&m, NULL), 0);
    assert_int_equal(stop_matcher_push(&m, "a\0b", 3, true, false, &out), STOP_NONE);
    assert_int_equal(out.size, 3);
    stop_matcher_flush(&m, &out);
    assert_int_equal(out.size, 3);
}

static void test_a_set_is_charged_and_shared(void **state) {
    static const char *const stops[] = { "one", "three" };
    Account account;
    StopSet set = STOP_SET_NULL;
    StopMatcher a, b;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    (void)state;
    account_init(&account, NULL, 64, "limit");
    assert_int_equal(stop_set_init(&set, 2, 8, &account), -ENOMEM);
    account_set_limit(&account, 4096);
    assert_int_equal(stop_set_init(&set, 2, 8, &account), 0);
    stop_set_add(&set, stops[0], 3);
    stop_set_add(&set, stops[1], 5);
    assert_true(atomic_load(&account.used) >= 8 + 10 * sizeof(uint32_t));
    assert_int_equal(stop_matcher_init(&a, &set), 0);
    assert_int_equal(stop_matcher_init(&b, &set), 0);
    assert_int_equal(stop_matcher_push(&a, "thr", 3, true, false, &out), STOP_NONE);
    assert_int_equal(stop_matcher_push(&b, "ee", 2, true, false, &out), STOP_NONE);
    assert_int_equal(stop_matcher_push(&a, "ee", 2, true, false, &out), 1);
    stop_matcher_deinit(&a);
    stop_matcher_deinit(&b);
    stop_set_deinit(&set);
    account_deinit(&account);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer_does_not_depend_on_the_pieces),
        cmocka_unit_test(test_only_what_may_be_a_stop_is_held_back),
        cmocka_unit_test(test_an_unarmed_stop_is_text),
        cmocka_unit_test(test_a_zero_byte_after_a_stop_is_text),
        cmocka_unit_test(test_random_texts_match_a_plain_search),
        cmocka_unit_test(test_no_stops_pass_everything),
        cmocka_unit_test(test_a_set_is_charged_and_shared),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
