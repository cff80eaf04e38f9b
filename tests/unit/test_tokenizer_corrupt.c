/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Broken tokenizer files: cut at every length, every value of another type, every number out of
 * range, every key renamed, every byte changed. They either open, and then work, or are refused
 * with a sentence; with sanitizers on, without a stray read or a leak.
 */
#include "tests/unit/tokenizer_files.h"
#include "util/json_writer.h"

#include <errno.h>

/* Every kind of component once. */
static const char sample[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"added_tokens\":[{\"id\":9,\"content\":\"<s>\","
    "\"single_word\":false,\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":true},"
    "{\"id\":10,\"content\":\"ab\",\"single_word\":true,\"normalized\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Prepend\",\"prepend\":\"_\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":"
    "\"\\\\s+\"},\"content\":\" \"},{\"type\":\"Lowercase\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
    "{\"Regex\":\"\\\\p{L}+| [a-z]{1,3}\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"Metaspace\",\"replacement\":"
    "\"_\",\"prepend_scheme\":\"first\",\"split\":true}]},"
    "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
    ",{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","
    "\"ids\":[9],\"tokens\":[\"<s>\"]}}}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
    "{\"String\":\"_\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Metaspace\","
    "\"replacement\":\"_\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,"
    "\"stop\":1}]},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\","
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":\"\",\"fuse_unk\":true,"
    "\"byte_fallback\":true,\"ignore_merges\":false,\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,"
    "\"c\":3,\"_\":4,\"bc\":5,\"abc\":6,\"<0x41>\":7,\"_a\":8},\"merges\":[\"b c\",\"a bc\","
    "[\"_\",\"a\"]]}}";

static const char text[] = "abc <s> ab 12 \xc3\xa9 A\xe4\xb8\xad";

/* What opens must work. */
static void use(const Tokenizer *tokenizer) {
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    CLEANUP(buffer_deinit) Buffer back = BUFFER_NULL;

    assert_int_equal(
        tokenizer_encode(tokenizer, text, strlen(text),
                         &(EncodeOptions){ .add_special = true, .parse_special = true }, &ids),
        0);
    for (size_t i = 0; i < ids.n; i++)
        assert_true(ids.ids[i] < tokenizer_size(tokenizer));
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.n, false, &back), 0);
    for (uint32_t id = 0; id < tokenizer_size(tokenizer) && id < 64; id++)
        assert_int_equal(tokenizer_token_bytes(tokenizer, id, &back), 0);
}

/* Whether it opened. */
static bool survive(const char *name, const void *data, size_t size) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    Reason why = REASON_NULL;
    int r;

    model_file_write(name, data, size);
    r = tokenizer_open(&tokenizer, model_path(name), &why);
    if (!r) {
        use(tokenizer);
        return true;
    }
    assert_int_equal(r, -EINVAL);
    assert_null(tokenizer);
    assert_mentions(why.text, name);
    assert_mentions(why.text, ": ");
    return false;
}

static void test_the_sample_opens(void **state) {
    (void)state;
    assert_true(survive("tokenizer.json", sample, strlen(sample)));
}

static void test_every_cut_is_refused(void **state) {
    (void)state;
    for (size_t size = 0; size < strlen(sample); size++)
        assert_false(survive("tokenizer.json", sample, size));
}

static void test_every_changed_byte_is_survived(void **state) {
    static const char values[] = { 0, '0', '9', '"', '{', ']', ',', '\\', (char)0xff };
    char changed[sizeof(sample)];

    (void)state;
    for (size_t i = 0; i < strlen(sample); i++) {
        for (size_t v = 0; v < sizeof(values); v++) {
            memcpy(changed, sample, sizeof(sample));
            changed[i] = values[v];
            survive("tokenizer.json", changed, strlen(sample));
        }
    }
}

/* Writes `value`, but `new` where `old` stands in it. */
static void write_replaced(JsonWriter *w, const json_t *value, const json_t *old,
                           const json_t *new) {
    const json_t *key, *item;
    size_t i;

    if (value == old) {
        json_put_value(w, NULL, new);
    } else if (json_is_object(value)) {
        json_begin_object(w, NULL);
        json_object_foreach(value, key, item) {
            json_put_key(w, json_string_value(key), json_string_length(key));
            write_replaced(w, item, old, new);
        }
        json_end_object(w);
    } else if (json_is_array(value)) {
        json_begin_array(w, NULL);
        json_array_foreach(value, i, item) {
            write_replaced(w, item, old, new);
        }
        json_end_array(w);
    } else {
        json_put_value(w, NULL, value);
    }
}

static bool survive_replaced(const json_t *root, const json_t *old, const json_t *new) {
    CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&file);

    write_replaced(&w, root, old, new);
    return survive("tokenizer.json", file.data, file.size);
}

/* Puts every other kind of value in the place of `value`, and of what is in it. */
static size_t replace_all(const json_t *root, const json_t *value, const json_t *others) {
    const json_t *key, *item;
    size_t i, n = json_array_size(others);

    json_array_foreach(others, i, item) {
        survive_replaced(root, value, item);
    }
    json_object_foreach(value, key, item) {
        n += replace_all(root, item, others);
    }
    json_array_foreach(value, i, item) {
        n += replace_all(root, item, others);
    }
    return n;
}

static void test_every_value_of_another_type_is_survived(void **state) {
    static const char texts[] = "[null,true,-1,9223372036854775807,9223372036854775808,4000000,"
                                "0.5,\"\",\"\xef\xbf\xbd x\",\"\\u0000\",[],{},[[]],1]";
    CLEANUP(json_unref) json_t *root = NULL;
    CLEANUP(json_unref) json_t *others = NULL;

    (void)state;
    assert_int_equal(json_parse(&root, sample, strlen(sample), 0, NULL), 0);
    assert_int_equal(json_parse(&others, texts, strlen(texts), 0, NULL), 0);
    assert_true(replace_all(root, root, others) > 1000);
    assert_true(survive_replaced(root, NULL, NULL));
}

static void refuses(const char *old, const char *new, const char *part) {
    CLEANUP(buffer_deinit) Buffer changed = BUFFER_NULL;
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    const char *at = strstr(sample, old);
    Reason why = REASON_NULL;

    assert_non_null(at);
    buffer_append(&changed, sample, (size_t)(at - sample));
    buffer_append_text(&changed, new);
    buffer_append_text(&changed, at + strlen(old));
    assert_int_equal(tokenizer_open_text(&tokenizer, changed.data, changed.size, &why), -EINVAL);
    assert_mentions(why.text, part);
}

static void test_what_is_wrong_is_said(void **state) {
    (void)state;
    refuses("\"c\":3", "\"c\":2", "two tokens have this id");
    refuses("\"c\":3", "\"c\":3,\"c\":11", "duplicate object key");
    refuses("\"c\":3", "\"c\":4194304", "the id of \"c\"");
    refuses("\"c\":3", "\"c\":-1", "the id of \"c\"");
    refuses("\"c\":3", "\"c\":1e99", "the id of \"c\"");
    refuses("\"id\":9", "\"id\":3", "added_tokens[0]: token \"<s>\" with id 3");
    refuses("\"id\":10", "\"id\":99999999", "added_tokens[1]: key \"id\"");
    refuses("\"content\":\"ab\"", "\"content\":\"a\"", "added_tokens[1]: token \"a\" with id 10");
    refuses("\"content\":\"ab\"", "\"content\":\"\"", "added_tokens[1]");
    refuses("\"b c\"", "\"b x\"", "merge 0: \"x\"");
    refuses("\"b c\"", "\"c b\"", "merge 0: \"cb\"");
    refuses("\"b c\"", "\"bc\"", "merge 0: expected two tokens");
    refuses("\"b c\"", "\"b c a\"", "merge 0: expected two tokens");
    refuses("[\"_\",\"a\"]", "[\"_\"]", "merge 2: expected two tokens");
    refuses("\"ids\":[9]", "\"ids\":[11]", "special token \"<s>\"");
    refuses("\"unk_token\":\"<unk>\"", "\"unk_token\":\"<nix>\"", "unk_token \"<nix>\"");
    refuses("\"prepend\"", "\"append\"", "key \"prepend\"");
    refuses("\"replacement\":\"_\"", "\"replacement\":\"__\"", "replacement must be one");
    refuses("\"id\":\"A\"", "\"id\":\"B\"", "sequence A once");
}

static void nested(Buffer *out, size_t depth, const char *inner) {
    buffer_append_text(out, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                            "\"normalizer\":");
    for (size_t i = 0; i < depth; i++)
        buffer_append_text(out, "{\"type\":\"Sequence\",\"normalizers\":[");
    buffer_append_text(out, inner);
    for (size_t i = 0; i < depth; i++)
        buffer_append_text(out, "]}");
    buffer_append_text(out, "}");
}

static void test_deep_nesting_is_refused(void **state) {
    (void)state;
    for (size_t depth = 1; depth < 100000; depth *= 10) {
        CLEANUP(buffer_deinit) Buffer deep = BUFFER_NULL;

        nested(&deep, depth, "{\"type\":\"NFC\"}");
        assert_int_equal(survive("tokenizer.json", deep.data, deep.size), depth < 8);
    }
}

/* A GGUF file like a real one, small. */
static void put_small_gguf(Buffer *b, bool scores) {
    static const char *const bytes[] = { "<s>", "a", "b", "ab", "\xc4\xa0" };
    static const char *const pieces[] = { "<unk>", "<s>", "</s>", "\xe2\x96\x81\x61", "a" };
    const char *const *tokens = scores ? pieces : bytes;

    put_gguf_head(b, 0, scores ? 6 : 7);
    put_key_text(b, "general.architecture", "llama");
    put_key_text(b, "tokenizer.ggml.model", scores ? "llama" : "gpt2");
    put_key_array(b, "tokenizer.ggml.tokens", 8, 5);
    for (size_t i = 0; i < 5; i++)
        put_text(b, tokens[i]);
    put_key_array(b, "tokenizer.ggml.token_type", 5, 5);
    for (uint32_t i = 0; i < 5; i++)
        put_u32(b, i == 0 ? 3 : 1);
    put_key_u32(b, "tokenizer.ggml.bos_token_id", scores ? 1 : 0);
    if (scores) {
        put_key_array(b, "tokenizer.ggml.scores", 6, 5);
        for (uint32_t i = 0; i < 5; i++)
            put_f32(b, -(float)i);
    } else {
        put_key_text(b, "tokenizer.ggml.pre", "smollm");
        put_key_array(b, "tokenizer.ggml.merges", 8, 1);
        put_text(b, "a b");
    }
}

static void corrupt_gguf(bool scores) {
    static const char values[] = { 0, 1, 2, 7, 9, 0x20, 0x7f, (char)0x80, (char)0xff };
    CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL, changed = BUFFER_NULL;

    put_small_gguf(&file, scores);
    assert_true(survive("model.gguf", file.data, file.size));
    for (size_t size = 0; size < file.size; size++)
        assert_false(survive("model.gguf", file.data, size));
    for (size_t i = 0; i < file.size; i++) {
        for (size_t v = 0; v < sizeof(values); v++) {
            buffer_clear(&changed);
            buffer_append(&changed, file.data, file.size);
            changed.data[i] = values[v];
            survive("model.gguf", changed.data, changed.size);
        }
    }
}

static void test_broken_gguf_with_merges(void **state) {
    (void)state;
    corrupt_gguf(false);
}

static void test_broken_gguf_with_scores(void **state) {
    (void)state;
    corrupt_gguf(true);
}

static void test_unknown_gguf_kinds_are_named(void **state) {
    static const struct {
        const char *old, *new, *part;
    } cases[] = {
        { "gpt2", "bert", "model.gguf: tokenizer.ggml.model \"bert\" is not supported" },
        { "smollm", "smolln", "model.gguf: tokenizer.ggml.pre \"smolln\" is not supported" },
        { "ggml.pre", "ggml.prf", "tokenizer.ggml.pre" },
        { "a b", "a c", "model.gguf: merge 0: \"c\"" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;
        CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
        Reason why = REASON_NULL;

        put_small_gguf(&file, false);
        memcpy(memmem(file.data, file.size, cases[i].old, strlen(cases[i].old)), cases[i].new,
               strlen(cases[i].new));
        model_file_write("model.gguf", file.data, file.size);
        assert_int_equal(tokenizer_open(&tokenizer, model_path("model.gguf"), &why), -EINVAL);
        assert_mentions(why.text, cases[i].part);
    }
}

/* Every name of the table: its patterns must compile. */
static void test_known_pretokenizers_open(void **state) {
    static const char *const names[] = {
        "default",   "llama-bpe", "dbrx",        "qwen2",        "deepseek-r1-qwen",
        "qwen35",    "tekken",    "gpt-4o",      "gpt-2",        "smollm",
        "command-r", "falcon",    "deepseek-v3", "deepseek-llm", "deepseek-coder",
        "bloom",     "viking",    "bailingmoe",  "seed-coder",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;

        put_gguf_head(&file, 0, 5);
        put_key_text(&file, "tokenizer.ggml.model", "gpt2");
        put_key_text(&file, "tokenizer.ggml.pre", names[i]);
        put_key_array(&file, "tokenizer.ggml.tokens", 8, 1);
        put_text(&file, "a");
        put_key_array(&file, "tokenizer.ggml.merges", 8, 0);
        put_key_u32(&file, "tokenizer.ggml.bos_token_id", 0);
        if (!survive("model.gguf", file.data, file.size))
            fail_msg("%s: refused", names[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_sample_opens),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_every_changed_byte_is_survived),
        cmocka_unit_test(test_every_value_of_another_type_is_survived),
        cmocka_unit_test(test_what_is_wrong_is_said),
        cmocka_unit_test(test_deep_nesting_is_refused),
        cmocka_unit_test(test_broken_gguf_with_merges),
        cmocka_unit_test(test_broken_gguf_with_scores),
        cmocka_unit_test(test_unknown_gguf_kinds_are_named),
        cmocka_unit_test(test_known_pretokenizers_open),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
