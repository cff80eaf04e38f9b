/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which tokens end an answer, over small GGUF files whose tokens have any text and type and whose
 * eos is right, wrong or absent.
 */
#include "text/end_of_turn.h"

#include "tests/unit/tokenizer_files.h"

#define NO_EOS UINT32_MAX

enum {
    NORMAL = 1,
    CONTROL = 3,
    USER_DEFINED = 4,
};

typedef struct TestToken {
    const char *text;
    uint32_t type;
} TestToken;

static Tokenizer *open_tokens(const TestToken *tokens, size_t n, uint32_t eos) {
    CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;

    put_gguf_head(&file, 0, eos == NO_EOS ? 6 : 7);
    put_key_text(&file, "general.architecture", "llama");
    put_key_text(&file, "tokenizer.ggml.model", "gpt2");
    put_key_text(&file, "tokenizer.ggml.pre", "smollm");
    put_key_array(&file, "tokenizer.ggml.tokens", 8, n);
    for (size_t i = 0; i < n; i++)
        put_text(&file, tokens[i].text);
    put_key_array(&file, "tokenizer.ggml.token_type", 5, n);
    for (size_t i = 0; i < n; i++)
        put_u32(&file, tokens[i].type);
    put_key_array(&file, "tokenizer.ggml.merges", 8, 0);
    if (eos != NO_EOS)
        put_key_u32(&file, "tokenizer.ggml.eos_token_id", eos);
    model_file_write("model.gguf", file.data, file.size);
    return tokenizer_must_open(model_path("model.gguf"));
}

/* `expected`: ids in rising order, as digits. */
static void check(const TestToken *tokens, size_t n, uint32_t eos, const char *expected,
                  const char *doubt) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokens(tokens, n, eos);
    GenerationDefaults generation = { .n_eos_ids = eos != NO_EOS, .eos_ids = { eos } };
    Reason why = REASON_NULL;
    EndOfTurn ends;
    char found[32] = "";
    size_t n_found = 0;

    end_of_turn_find(&ends, tokenizer, &generation, &why);
    for (uint32_t id = 0; id < n; id++)
        for (uint32_t i = 0; i < ends.n_ids; i++)
            if (ends.ids[i] == id)
                found[n_found++] = (char)('0' + id);
    assert_int_equal(n_found, ends.n_ids);
    assert_string_equal(found, expected);
    if (doubt)
        assert_mentions(why.text, doubt);
    else
        assert_string_equal(why.text, "");
}

#define CHECK(_tokens, _eos, _expected, _doubt) \
    check(_tokens, sizeof(_tokens) / sizeof((_tokens)[0]), _eos, _expected, _doubt)

static const TestToken chat[] = {
    { "<|endoftext|>", CONTROL }, { "<|im_start|>", CONTROL }, { "<|im_end|>", CONTROL },
    { "<repo_name>", CONTROL },   { "the", NORMAL },           { "<tool>", USER_DEFINED },
};

static void test_the_file_is_right(void **state) {
    static const TestToken base[] = { { "</s>", CONTROL }, { "<|endoftext|>", CONTROL } };

    (void)state;
    /* It names how a turn ends; how a text ends is known besides. */
    CHECK(chat, 2, "02", NULL);
    /* It names how a text ends: another separator of documents is none. */
    CHECK(base, 0, "0", NULL);
    /* A mark that nobody knows. */
    CHECK(chat, 5, "25", "5 (<tool>); known as such by their texts: 2 (<|im_end|>)");
}

static void test_the_file_names_none(void **state) {
    static const TestToken nothing[] = { { "a", NORMAL }, { "<s>", CONTROL } };

    (void)state;
    CHECK(chat, NO_EOS, "02",
          "none; known as such by their texts: 2 (<|im_end|>), 0 (<|endoftext|>)");
    CHECK(nothing, NO_EOS, "", "answers end at: none, that is at max_tokens");
}

static void test_the_file_names_another_mark(void **state) {
    (void)state;
    CHECK(chat, 0, "02", "0 (<|endoftext|>); known as such by their texts: 2 (<|im_end|>)");
}

/* An ordinary word would end answers at random; where there is nothing else, it is all there is. */
static void test_the_file_names_a_word(void **state) {
    static const TestToken words[] = { { "a", NORMAL }, { "the", NORMAL } };
    static const TestToken untyped[] = { { "a", NORMAL }, { "</s>", NORMAL } };

    (void)state;
    CHECK(chat, 4, "02", "ordinary words, and hardly meant: 4 (the)");
    CHECK(words, 1, "1", "hardly meant: 1 (the); answers end at: 1 (the)");
    CHECK(untyped, 1, "1", NULL);
}

static void test_families(void **state) {
    static const TestToken gpt_oss[] = { { "<|end|>", CONTROL },
                                         { "<|return|>", CONTROL },
                                         { "<|call|>", CONTROL },
                                         { "<|endoftext|>", CONTROL } };
    static const TestToken phi[] = { { "<|end|>", CONTROL }, { "<|endoftext|>", CONTROL } };
    static const TestToken gemma[] = { { "<eos>", CONTROL }, { "<end_of_turn>", CONTROL } };
    static const TestToken deepseek[] = { { "<\uff5cend\u2581of\u2581sentence\uff5c>", CONTROL },
                                          { "<\uff5cUser\uff5c>", CONTROL } };
    static const TestToken html[] = { { "</s>", NORMAL },
                                      { "<end_of_turn>", NORMAL },
                                      { "<|im_end|>", NORMAL },
                                      { "<|eot_id|>", USER_DEFINED },
                                      { "</s", USER_DEFINED } };

    (void)state;
    /* <|end|> ends a part of an answer there. */
    CHECK(gpt_oss, 1, "123", "<|call|>");
    CHECK(phi, 1, "01", "<|end|>");
    CHECK(gemma, 0, "01", "<end_of_turn>");
    CHECK(deepseek, NO_EOS, "0", "none");
    CHECK(html, NO_EOS, "3", "none");
}

static void test_a_token_that_has_no_text(void **state) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = open_tokens(chat, 6, NO_EOS);
    GenerationDefaults generation = { .n_eos_ids = 2, .eos_ids = { 2, 100 } };
    Reason why = REASON_NULL;
    EndOfTurn ends;

    (void)state;
    end_of_turn_find(&ends, tokenizer, &generation, &why);
    assert_int_equal(ends.n_ids, 2);
    assert_mentions(why.text, "100 (no token)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_file_is_right),
        cmocka_unit_test(test_the_file_names_none),
        cmocka_unit_test(test_the_file_names_another_mark),
        cmocka_unit_test(test_the_file_names_a_word),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_a_token_that_has_no_text),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
