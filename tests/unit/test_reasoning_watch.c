/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where reasoning ends, whatever tokens its mark is cut into, and what may come until then.
 */
#include "server/engine/reasoning_watch.h"
#include "tests/unit/random.h"
#include "tests/unit/tokenizer_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *const pieces[] = { "<",   "/",  "think", ">",   "</th",   "ink>",    "ink>\n",
                                      ">x",  "\n", "\n\n",  "{",   "a",      "</think", "/think>x",
                                      "</t", "hi", "nk",    "END", "<think>" };
enum { N_PIECES = sizeof(pieces) / sizeof(*pieces), END = 17, BEGIN = 18, N_VOCAB = 40 };

static Tokenizer *open_tokenizer(void) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    Tokenizer *tokenizer = NULL;

    buffer_append_text(&text,
                       "{\"added_tokens\": [], \"normalizer\": null, \"pre_tokenizer\": null, "
                       "\"post_processor\": null, \"decoder\": null, \"model\": {\"type\": "
                       "\"BPE\", \"merges\": [], \"vocab\": {");
    for (size_t i = 0; i < N_PIECES; i++) {
        buffer_printf(&text, "%s\"", i ? ", " : "");
        for (const char *c = pieces[i]; *c; c++)
            buffer_append_text(&text, *c == '\n' ? "\\n" : (char[]){ *c, 0 });
        buffer_printf(&text, "\": %zu", i);
    }
    buffer_append_text(&text, "}}}");
    assert_int_equal(tokenizer_open_text(&tokenizer, text.data, text.size, NULL), 0);
    return tokenizer;
}

static ReasoningForm form_of(const Tokenizer *tokenizer, bool begun) {
    static const uint32_t ends[] = { END };

    return (ReasoningForm){ .family = reasoning_family_find("think"),
                            .begun = begun,
                            .tokenizer = tokenizer,
                            .ends = ends,
                            .n_ends = 1 };
}

static bool is_in(const uint32_t *mask, uint32_t id) {
    return mask[id / 32] >> id % 32 & 1;
}

/* Whether the text has a mark, and what stands behind it; NULL: it has none. */
static const char *behind_mark(const char *text) {
    const char *mark = strstr(text, "</think>");

    return mark ? mark + strlen("</think>") : NULL;
}

/* Draws tokens that the masks let through. The mark is seen with the token that completes it, and
 * nothing but line breaks is taken with it. */
static void test_the_mark_is_seen_however_it_is_cut(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokenizer();
    Random r = random_start("marks");
    uint32_t n_ends = 0;

    (void)state;
    for (int round = 0; round < 3000; round++) {
        CLEANUP(reasoning_watch_deinit) ReasoningWatch w;
        ReasoningForm form = form_of(tokenizer, true);
        char text[1024] = "";

        reasoning_watch_init(&w, &form, NULL);
        for (int i = 0; i < 60 && w.place == REASONING_INSIDE; i++) {
            uint32_t mask[2] = { 0 }, id = random_below(&r, N_PIECES);
            const char *behind;

            assert_int_equal(reasoning_watch_fill(&w, mask, N_VOCAB), 0);
            assert_int_equal(mask[1], 0xff);
            assert_false(is_in(mask, END));
            if (id == END)
                continue;
            strcat(text, pieces[id]);
            behind = behind_mark(text);
            assert_int_equal(is_in(mask, id), !behind || strspn(behind, "\n") == strlen(behind));
            if (!is_in(mask, id)) {
                text[strlen(text) - strlen(pieces[id])] = 0;
                continue;
            }
            assert_int_equal(reasoning_watch_take(&w, id), 0);
            assert_int_equal(w.place == REASONING_INSIDE, !behind);
            if (behind)
                assert_int_equal(w.place, *behind ? REASONING_OVER : REASONING_BEHIND);
        }
        n_ends += w.place != REASONING_INSIDE;
    }
    assert_in_range(n_ends, 100, 3000);
}

static void test_breaks_and_the_answer_come_behind(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokenizer();
    ReasoningForm form = form_of(tokenizer, true);

    (void)state;
    for (uint32_t id = 0; id < N_PIECES; id++) {
        CLEANUP(reasoning_watch_deinit) ReasoningWatch w;
        bool is_breaks = *pieces[id] == '\n';
        uint32_t mask[2] = { 1u << 11, 0 };

        reasoning_watch_init(&w, &form, NULL);
        assert_int_equal(reasoning_watch_take(&w, 12), 0);
        assert_int_equal(reasoning_watch_take(&w, 3), 0);
        assert_int_equal(w.place, REASONING_BEHIND);
        assert_int_equal(reasoning_watch_add(&w, mask, N_VOCAB), 0);
        assert_int_equal(is_in(mask, id), is_breaks || id == 11);
        assert_int_equal(reasoning_watch_take(&w, id), is_breaks ? 0 : REASONING_E_ANSWER);
        assert_int_equal(w.place, REASONING_OVER);
        assert_int_equal(reasoning_watch_take(&w, 8), REASONING_E_ANSWER);
    }
}

static void test_the_first_token_may_begin_it(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokenizer();
    ReasoningForm form = form_of(tokenizer, false);
    ReasoningWatch w;
    uint32_t mask[2] = { 1u << 10, 0 };

    (void)state;
    reasoning_watch_init(&w, &form, NULL);
    assert_int_equal(w.place, REASONING_AT_START);
    assert_int_equal(reasoning_watch_add(&w, mask, N_VOCAB), 0);
    assert_int_equal(mask[0], 1u << 10 | 1u << BEGIN);
    assert_int_equal(reasoning_watch_take(&w, BEGIN), 0);
    assert_int_equal(w.place, REASONING_INSIDE);
    reasoning_watch_deinit(&w);
    reasoning_watch_init(&w, &form, NULL);
    assert_int_equal(reasoning_watch_take(&w, 10), REASONING_E_ANSWER);
    assert_int_equal(w.place, REASONING_OVER);
    reasoning_watch_deinit(&w);
    form.family = reasoning_family_find("mistral"); /* whose mark is no token here */
    reasoning_watch_init(&w, &form, NULL);
    assert_int_equal(w.place, REASONING_OVER);
    reasoning_watch_deinit(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_mark_is_seen_however_it_is_cut),
        cmocka_unit_test(test_breaks_and_the_answer_come_behind),
        cmocka_unit_test(test_the_first_token_may_begin_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
