/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ids and texts against the reference: every line of a vectors file is one text, what the
 * reference makes of it with and without special tokens, and what it decodes the latter to. Each
 * text is also decoded as a stream.
 */
#include "tests/unit/tokenizer_files.h"
#include "util/json_writer.h"
#include "util/utf8.h"

static void check_ids(const Tokenizer *tokenizer, const json_t *vector, const char *key,
                      bool add_special) {
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    const json_t *text = json_object_get(vector, "text"), *expected = json_object_get(vector, key);
    const json_t *id;
    size_t n = json_array_size(expected), i;

    assert_int_equal(
        tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                         &(EncodeOptions){ .add_special = add_special, .parse_special = true },
                         &ids),
        0);
    json_array_foreach(expected, i, id) {
        if (i < ids.n && ids.ids[i] != json_integer_value(id))
            fail_msg("\"%s\": %s[%zu] is %u, not %s", json_string_value(text), key, i, ids.ids[i],
                     json_number_text(id));
    }
    if (ids.n != n)
        fail_msg("\"%s\": %s are %zu, not %zu", json_string_value(text), key, ids.n, n);
}

static TokenIds ids_of(const json_t *vector) {
    const json_t *array = json_object_get(vector, "ids_no_special"), *id;
    TokenIds ids = TOKEN_IDS_NULL;
    size_t i;

    assert_int_equal(token_ids_reserve(&ids, json_array_size(array) + 1), 0);
    json_array_foreach(array, i, id) {
        token_ids_push(&ids, (uint32_t)json_integer_value(id));
    }
    return ids;
}

static void assert_text(const Buffer *text, const json_t *expected, const char *how) {
    if (text->size != json_string_length(expected) ||
        memcmp(buffer_text(text), json_string_value(expected), text->size) != 0)
        fail_msg("%s \"%s\", not \"%s\"", how, buffer_text(text), json_string_value(expected));
}

static void check_text(const Tokenizer *tokenizer, const json_t *vector) {
    CLEANUP(token_ids_deinit) TokenIds ids = ids_of(vector);
    CLEANUP(buffer_deinit) Buffer whole = BUFFER_NULL, streamed = BUFFER_NULL;
    CLEANUP(text_stream_free) TextStream *stream = NULL;
    const json_t *expected = json_object_get(vector, "decoded");

    if (!expected)
        return;
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.n, false, &whole), 0);
    assert_text(&whole, expected, "decoded");
    assert_int_equal(text_stream_new(&stream, tokenizer, false), 0);
    for (size_t i = 0; i < ids.n; i++) {
        assert_int_equal(text_stream_push(stream, ids.ids[i], &streamed), 0);
        assert_true(utf8_is_valid(buffer_text(&streamed), streamed.size));
        assert_true(streamed.size <= whole.size);
        assert_memory_equal(buffer_text(&streamed), buffer_text(&whole), streamed.size);
    }
    assert_int_equal(text_stream_finish(stream, &streamed), 0);
    assert_text(&streamed, expected, "streamed");
}

static void check_vector(const Tokenizer *tokenizer, const json_t *vector) {
    check_ids(tokenizer, vector, "ids", true);
    check_ids(tokenizer, vector, "ids_no_special", false);
    check_text(tokenizer, vector);
}

/* Calls `check` for every line of a file of JSON objects; how many there are. */
static size_t each_line(const char *path, void (*check)(void *ctx, const json_t *object),
                        void *ctx) {
    CLEANUP(fclose) FILE *file = fopen(path, "rb");
    CLEANUP(free) char *line = NULL;
    size_t capacity = 0, n = 0;
    ssize_t size;

    assert_non_null(file);
    for (; (size = getline(&line, &capacity, file)) > 0; n++) {
        CLEANUP(json_unref) json_t *object = NULL;

        assert_int_equal(json_parse(&object, line, (size_t)size, 0, NULL), 0);
        check(ctx, object);
    }
    return n;
}

static void check_line(void *ctx, const json_t *vector) {
    check_vector(ctx, vector);
}

static void check_file(const char *model, const char *vectors, size_t n) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = tokenizer_must_open(model);

    assert_int_equal(each_line(vectors, check_line, tokenizer), n);
}

static void check_kept(const char *family) {
    char packed[128];

    snprintf(packed, sizeof(packed), "%s/tokenizer.json.xz", family);
    tokenizer_unpack(packed, "tokenizer.json");
    snprintf(packed, sizeof(packed), "%s/vectors.jsonl.xz", family);
    check_file(model_path("tokenizer.json"), tokenizer_unpack(packed, "vectors.jsonl"), 396);
    snprintf(packed, sizeof(packed), "%s/hard.jsonl.xz", family);
    check_file(model_path("tokenizer.json"), tokenizer_unpack(packed, "hard.jsonl"), 1500);
}

static void test_qwen3(void **state) {
    (void)state;
    check_kept("qwen3");
}

static void test_mistral_nemo(void **state) {
    (void)state;
    check_kept("mistral_nemo");
}

static void test_deepseek_v3(void **state) {
    (void)state;
    check_kept("deepseek_v3");
}

/* From the model's GGUF file. */
static void test_smollm2(void **state) {
    const char *model = getenv("KVASIR_MODEL");

    (void)state;
    if (!model || access(model, R_OK) != 0) {
        print_message("KVASIR_MODEL names no model\n");
        skip();
    }
    check_file(model, tokenizer_unpack("smollm2/vectors.jsonl.xz", "vectors.jsonl"), 396);
}

static void check_shared(const char *family) {
    char model[512], vectors[512], name[128];

    snprintf(name, sizeof(name), "tokenizers/%s/tokenizer.json", family);
    if (!tokenizer_shared(name, model, sizeof(model))) {
        print_message("%s: not there\n", model);
        skip();
    }
    snprintf(name, sizeof(name), "fixtures/tokenizer-vectors/%s.jsonl", family);
    if (!tokenizer_shared(name, vectors, sizeof(vectors))) {
        print_message("%s: not there\n", vectors);
        skip();
    }
    check_file(model, vectors, 396);
}

static void test_llama2(void **state) {
    (void)state;
    check_shared("llama2");
}

static void test_llama3_2(void **state) {
    (void)state;
    check_shared("llama3_2");
}

static void test_qwen2_5(void **state) {
    (void)state;
    check_shared("qwen2_5");
}

/* GGUF's "llama": joins by score. */
static void test_scores(void **state) {
    (void)state;
    tokenizer_unpack("spm.gguf.xz", "spm.gguf");
    check_file(model_path("spm.gguf"), tokenizer_unpack("spm.jsonl.xz", "spm.jsonl"), 1500);
}

/* A line of components.jsonl: a whole tokenizer.json and its vectors. */
static void check_component(void *ctx, const json_t *line) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    const json_t *cases = json_object_get(line, "cases"), *vector;
    Reason why = REASON_NULL;
    size_t i;

    (void)ctx;
    json_write(json_object_get(line, "tokenizer"), &text);
    print_message("%s\n", json_string_value(json_object_get(line, "name")));
    if (tokenizer_open_text(&tokenizer, text.data, text.size, &why))
        fail_msg("%s", why.text);
    assert_int_equal(json_array_size(cases), 150);
    json_array_foreach(cases, i, vector) {
        check_vector(tokenizer, vector);
    }
}

static void test_components(void **state) {
    (void)state;
    assert_int_equal(each_line(tokenizer_unpack("components.jsonl.xz", "components.jsonl"),
                               check_component, NULL),
                     16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen3),       cmocka_unit_test(test_mistral_nemo),
        cmocka_unit_test(test_deepseek_v3), cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_llama2),      cmocka_unit_test(test_llama3_2),
        cmocka_unit_test(test_qwen2_5),     cmocka_unit_test(test_scores),
        cmocka_unit_test(test_components),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
