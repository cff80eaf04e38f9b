/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows begin with BOS where the tokenizer begins texts with it: spm.gguf does, a tokenizer.json
 * made here does not.
 */
#include "server/commands/text_tokens.h"

#include "tests/unit/tokenizer_files.h"

#include <errno.h>

#define WINDOW 4

static const char text[] = "the cat sat on the mat and the dog lay by the door of the house";

static TokenIds read_windows(const char *tokenizer) {
    TokenIds ids = TOKEN_IDS_NULL;
    Reason why = REASON_NULL;

    model_file_write_text("text.txt", text);
    if (text_tokens_read(&ids, tokenizer, model_path("text.txt"), WINDOW, &why))
        fail_msg("%s", why.text);
    assert_true(ids.n > 2 * WINDOW);
    return ids;
}

static TokenIds encode_alone(const Tokenizer *tokenizer) {
    TokenIds ids = TOKEN_IDS_NULL;

    assert_int_equal(
        tokenizer_encode(tokenizer, text, strlen(text), &(EncodeOptions){ .ids_max = 0 }, &ids), 0);
    return ids;
}

static void test_windows_begin_as_texts_do(void **state) {
    const char *path = tokenizer_unpack("spm.gguf.xz", "spm.gguf");
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = tokenizer_must_open(path);
    CLEANUP(token_ids_deinit) TokenIds ids = read_windows(path), alone = encode_alone(tokenizer);

    (void)state;
    assert_int_equal(ids.n, alone.n);
    for (size_t i = 0; i < ids.n; i++)
        assert_int_equal(ids.ids[i], i % WINDOW ? alone.ids[i] : tokenizer_bos(tokenizer));
}

/* A token for each byte that the text has; BOS exists, but nothing puts it anywhere. */
static void test_texts_without_bos_stay_as_they_are(void **state) {
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,"
        "\"f\":6,\"g\":7,\"h\":8,\"l\":9,\"m\":10,\"n\":11,\"o\":12,\"r\":13,\"s\":14,\"t\":15,"
        "\"u\":16,\"y\":17,\" \":18},\"merges\":[]},\"added_tokens\":[{\"id\":0,\"content\":"
        "\"<s>\",\"special\":true}]}";
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL, alone = TOKEN_IDS_NULL;

    (void)state;
    model_file_write_text("tokenizer_config.json", "{\"bos_token\":\"<s>\"}");
    assert_int_equal(tokenizer_open_text(&tokenizer, json, strlen(json), NULL), 0);
    assert_int_equal(tokenizer_bos(tokenizer), 0);
    ids = read_windows(model_path("tokenizer.json"));
    alone = encode_alone(tokenizer);
    assert_int_equal(ids.n, alone.n);
    assert_memory_equal(ids.ids, alone.ids, ids.n * sizeof(*ids.ids));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_begin_as_texts_do),
        cmocka_unit_test(test_texts_without_bos_stay_as_they_are),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
