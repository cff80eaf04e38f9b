/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/chat_model.h"
#include "tests/unit/model_files.h"
#include "util/json.h"

#include <errno.h>

/* A vector is a request with the reference's `text` or `error` beside it. The reference takes
 * messages as they are written; `extra` is a member that says so, or nothing. */
static void check_vector(ChatTemplate *chat_template, const char *line, size_t size,
                         const char *extra) {
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL, request = BUFFER_NULL;
    CLEANUP(json_unref) json_t *vector = NULL;
    const json_t *text;
    Reason why = REASON_NULL;
    int r;

    assert_int_equal(json_parse(&vector, line, size, 0, NULL), 0);
    text = json_object_get(vector, "text");
    assert_int_equal(line[0], '{');
    buffer_printf(&request, "{%s", extra);
    buffer_append(&request, line + 1, size - 1);
    r = chat_template_render(chat_template, request.data, request.size, NULL, &prompt, &why);
    if (text) {
        if (r)
            fail_msg("%s\n%s", line, why.text);
        if (prompt.size != json_string_length(text) ||
            memcmp(prompt.data, json_string_value(text), prompt.size) != 0)
            fail_msg("%s\ngot: %s", line, buffer_text(&prompt));
    } else if (r != CHAT_TEMPLATE_E_RAISED) {
        fail_msg("%s\ngot: %s", line, buffer_text(&prompt));
    }
}

#define AS_WRITTEN "\"as_written\": true, "

static bool check_vectors(const char *model_path, const char *vectors_path, const char *extra) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    CLEANUP(fclose) FILE *file = fopen(vectors_path, "rb");
    CLEANUP(free) char *line = NULL;
    Reason why = REASON_NULL;
    size_t capacity = 0;
    ssize_t size;
    int n = 0;

    if (!file)
        return false;
    if (chat_template_open(&chat_template, model_path, NULL, &why))
        fail_msg("%s", why.text);
    for (; (size = getline(&line, &capacity, file)) > 0; n++)
        check_vector(chat_template, line, (size_t)size, extra);
    assert_true(n >= 20);
    return true;
}

static void check_kept_vectors(const char *name) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    char model[512], vectors[512];

    assert_non_null(root);
    snprintf(model, sizeof(model), "%s/tests/data/chat/%s", root, name);
    snprintf(vectors, sizeof(vectors), "%s/tests/data/chat/%s/vectors.jsonl", root, name);
    assert_true(check_vectors(model, vectors, AS_WRITTEN));
}

static void test_vectors_of_qwen3(void **state) {
    (void)state;
    check_kept_vectors("qwen3");
}

static void test_vectors_of_mistral_nemo(void **state) {
    (void)state;
    check_kept_vectors("mistral_nemo");
}

static void test_vectors_of_deepseek_v3(void **state) {
    (void)state;
    check_kept_vectors("deepseek_v3");
}

static void test_vectors_of_smollm2(void **state) {
    (void)state;
    check_kept_vectors("smollm2");
}

/* Those of the models whose templates are not kept in the tree. */
/* Ordinary messages: in whichever form, they are shown alike. */
static void test_shared_vectors(void **state) {
    static const char *const names[] = { "llama3_2", "qwen2_5", "qwen3", "mistral_nemo",
                                         "deepseek_v3" };
    const char *given = getenv("KVASIR_SHARED"), *root = getenv("KVASIR_SOURCE_ROOT");
    char shared[256], model[512], vectors[512];

    (void)state;
    snprintf(shared, sizeof(shared), "%s%s", given ? given : root, given ? "" : "/../shared");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(model, sizeof(model), "%s/tokenizers/%s", shared, names[i]);
        snprintf(vectors, sizeof(vectors), "%s/fixtures/chat-vectors/%s.jsonl", shared, names[i]);
        if (!check_vectors(model, vectors, "") || !check_vectors(model, vectors, AS_WRITTEN)) {
            print_message("%s: not there\n", vectors);
            skip();
        }
    }
}

static void check_source(const char *source, const char *request, const char *expected) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = chat_template_make(source, NULL);

    assert_prompt(chat_template, request, expected);
}

static void test_environment_is_that_of_transformers(void **state) {
    (void)state;
    check_source("{% if true %}\n  a\n  {% endif %}\nb", HELLO, "  a\nb");
    check_source("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
                 "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                 HELLO, "02");
    check_source("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
                 "{% endfor %}",
                 HELLO, "Hello");
    check_source("{{ '<a href=\"\">é</a>' | tojson }}", HELLO, "\"<a href=\\\"\\\">é</a>\"");
    check_source("{{ {'b': 1, 'a': [1.5, none]} | tojson(indent=1, sort_keys=true) }}", HELLO,
                 "{\n \"a\": [\n  1.5,\n  null\n ],\n \"b\": 1\n}");
    check_source(
        "{{ 'é' | tojson(ensure_ascii=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}", HELLO,
        "\"\\u00e9\"[1,2]");
    check_source("{{ strftime_now('%Y') | length }}", HELLO, "4");
    check_source("{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ dict(b=2) }}",
                 HELLO, "2{'b': 2}");
    check_source("{{ messages[0].role }}{{ '<' }}", HELLO, "user<");
}

static void test_variables(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template =
        chat_template_make("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}"
                           " {{ x is defined }} {{ messages | length }}",
                           NULL);

    (void)state;
    assert_prompt(chat_template, HELLO, "True True False False 1");
    assert_prompt(chat_template,
                  "{\"messages\": [{}, {}], \"tools\": [], \"documents\": [{\"title\": \"t\"}],"
                  " \"add_generation_prompt\": true, \"kwargs\": {\"x\": null}, \"more\": 1}",
                  "False False True True 2");
    assert_prompt(chat_template,
                  "{\"messages\": [{}], \"tools\": null, \"kwargs\": {\"documents\": []}}",
                  "True False False False 1");
}

static void test_messages_lose_nulls_and_carry_reasoning_by_each_name(void **state) {
    static const char source[] = "{{ messages[0] | tojson }}";

    (void)state;
    check_source(source, "{\"messages\": [{\"content\": null, \"role\": \"user\", \"a\": [null]}]}",
                 "{\"role\": \"user\", \"a\": [null]}");
    check_source(source, "{\"messages\": [{\"reasoning\": \"r\"}]}",
                 "{\"thinking\": \"r\", \"reasoning\": \"r\", \"reasoning_content\": \"r\"}");
}

static void test_special_tokens(void **state) {
    static const char source[] =
        "{{ bos_token }} {{ eos_token }} {{ pad_token }} {{ image_token }} "
        "{{ audio }} {{ add_bos_token }} {{ unk_token is defined }}";
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    ChatModel model = chat_model_make();
    Reason why = REASON_NULL;

    (void)state;
    chat_model_put(&model, "chat_template.jinja", source);
    chat_model_put(&model, "tokenizer_config.json",
                   "{\"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"<b>\"},"
                   " \"unk_token\": null, \"image_token\": \"<i>\", \"add_bos_token\": true,"
                   " \"extra_special_tokens\": {\"audio\": \"<a>\"}, \"eos_token\": \"wrong\"}");
    chat_model_put(&model, "special_tokens_map.json",
                   "{\"eos_token\": {\"content\": \"<e>\"}, \"pad_token\": \"<p>\"}");
    assert_int_equal(chat_template_open(&chat_template, model.path, NULL, &why), 0);
    assert_prompt(chat_template, HELLO, "<b> <e> <p> <i> <a>  False");
    assert_prompt(chat_template,
                  "{\"messages\": [{}], \"kwargs\": {\"bos_token\": \"X\", \"unk_token\": 1}}",
                  "X <e> <p> <i> <a>  True");
    chat_model_remove(&model);
}

static void check_model(const ChatModel *model, const char *request, const char *expected) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    Reason why = REASON_NULL;

    if (chat_template_open(&chat_template, model->path, NULL, &why))
        fail_msg("%s", why.text);
    assert_prompt(chat_template, request, expected);
}

static void test_where_templates_are_found(void **state) {
    static const char with_tools[] = "{\"messages\": [{}], \"tools\": []}";
    static const char by_name[] = "{\"messages\": [{}], \"kwargs\": {\"chat_template\": \"rag\"}}";
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    ChatTemplateOptions options = CHAT_TEMPLATE_OPTIONS_DEFAULT;
    ChatModel model = chat_model_make();
    Reason why = REASON_NULL;
    char path[64];

    (void)state;
    chat_model_put(&model, "tokenizer_config.json", "{\"chat_template\": \"config\"}");
    check_model(&model, with_tools, "config");
    chat_model_put(&model, "tokenizer_config.json",
                   "{\"chat_template\": [{\"name\": \"default\", \"template\": \"plain\"},"
                   " {\"name\": \"tool_use\", \"template\": \"tools\"}]}");
    check_model(&model, HELLO, "plain");
    check_model(&model, with_tools, "tools");
    chat_model_put(&model, "chat_template.jinja", "file");
    check_model(&model, with_tools, "file");
    chat_model_put_folder(&model, "additional_chat_templates");
    chat_model_put(&model, "additional_chat_templates/rag.jinja", "rag file");
    check_model(&model, with_tools, "file");
    check_model(&model, by_name, "rag file");

    snprintf(path, sizeof(path), "%s/other", model.path);
    chat_model_put(&model, "other", "other {{ messages | length }}");
    options.source_path = path;
    assert_int_equal(chat_template_open(&chat_template, model.path, &options, &why), 0);
    assert_prompt(chat_template, with_tools, "other 1");
    assert_refused(chat_template, by_name, CHAT_TEMPLATE_E_RAISED, "it has: default");
    chat_model_remove(&model);
}

static void check_open_fails(const ChatModel *model, int outcome, const char *words) {
    ChatTemplate *chat_template = NULL;
    Reason why = REASON_NULL;

    assert_int_equal(chat_template_open(&chat_template, model->path, NULL, &why), outcome);
    if (!strstr(why.text, words))
        fail_msg("expected \"%s\" in \"%s\"", words, why.text);
    assert_null(chat_template);
}

static void test_broken_models(void **state) {
    ChatModel model = chat_model_make();

    (void)state;
    check_open_fails(&(ChatModel){ "/nonexistent" }, -ENOENT, "/nonexistent: No such file");
    check_open_fails(&model, CHAT_TEMPLATE_E_NONE, "no chat template");
    chat_model_put(&model, "tokenizer_config.json", "{\"chat_template\": ");
    check_open_fails(&model, -EINVAL, "tokenizer_config.json: not JSON");
    chat_model_put(&model, "tokenizer_config.json", "[1]");
    check_open_fails(&model, -EINVAL, "tokenizer_config.json: must hold a JSON object");
    chat_model_put(&model, "tokenizer_config.json", "{\"chat_template\": 7}");
    check_open_fails(&model, -EINVAL, "chat_template must be text");
    chat_model_put(&model, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"a\"}]}");
    check_open_fails(&model, -EINVAL, "chat_template must be text");
    chat_model_put(&model, "tokenizer_config.json",
                   "{\"chat_template\": [{\"name\": \"a\", \"template\": []}]}");
    check_open_fails(&model, -EINVAL, "template 'a' is not text");
    chat_model_put(&model, "tokenizer_config.json", "{}");
    check_open_fails(&model, CHAT_TEMPLATE_E_NONE, "no chat template");
    chat_model_put(&model, "chat_template.jinja", "a\n{{ b }}\n{% if %}\n");
    check_open_fails(&model, -EINVAL, "the chat template, line 3");
    chat_model_put(&model, "chat_template.jinja", "a\xff");
    check_open_fails(&model, -EINVAL, "chat_template.jinja: not UTF-8 at byte 1");
    chat_model_remove(&model);
}

/* A model without a "default": what Transformers refuses too. */
static void test_no_default(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    ChatModel model = chat_model_make();
    Reason why = REASON_NULL;

    (void)state;
    chat_model_put(&model, "tokenizer_config.json",
                   "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"tools\"}]}");
    assert_int_equal(chat_template_open(&chat_template, model.path, NULL, &why), 0);
    assert_refused(chat_template, HELLO, CHAT_TEMPLATE_E_RAISED, "it has: tool_use");
    chat_model_remove(&model);
}

static void test_config_cut_anywhere(void **state) {
    static const char config[] = "{\"chat_template\": [{\"name\": \"default\", \"template\": "
                                 "\"a{% if b %}c{% endif %}\"}], \"bos_token\": {\"content\": 1}}";
    ChatModel model = chat_model_make();

    (void)state;
    for (size_t size = 0; size < sizeof(config) - 1; size++) {
        chat_model_write(&model, "tokenizer_config.json", config, size);
        check_open_fails(&model, -EINVAL, "tokenizer_config.json");
    }
    chat_model_put(&model, "tokenizer_config.json", config);
    check_model(&model, HELLO, "a");
    chat_model_remove(&model);
}

static void check_raises(const char *source, const char *words) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = chat_template_make(source, NULL);

    assert_refused(chat_template, HELLO, CHAT_TEMPLATE_E_RAISED, words);
}

static void test_what_templates_raise(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ raise_exception('no ' ~ 'good') }}", NULL);
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(chat_template_render(chat_template, HELLO, strlen(HELLO), NULL, &prompt, &why),
                     CHAT_TEMPLATE_E_RAISED);
    assert_string_equal(why.text, "no good");
    check_raises("a\nb\n{{ 'a' + messages[0].contents }}", "at line 3: UndefinedError: ");
    check_raises("{{ 'a' + 1 }}", "TypeError: can only concatenate str");
    check_raises("{{ 1 / 0 }}", "ZeroDivisionError");
    check_raises("{% include 'x' %}", "no loader");
    check_raises("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply");
    check_raises("{{ raise_exception('\\ud800' ~ 'x' * 5000) }}", "?xxxx");
}

static void test_sandbox(void **state) {
    (void)state;
    check_raises("{{ ''.__class__.__mro__ }}", "SecurityError");
    check_raises("{{ self.__init__.__globals__ }}", "SecurityError");
    check_raises("{{ messages.append(1) }}", "SecurityError");
    check_raises("{% set ns = namespace() %}{% set ns._x = 1 %}", "SecurityError");
    check_raises("{{ namespace(__class__=1) }}", "SecurityError");
    check_source("{{ '{0.__class__}'.format(1) }}{{ dict.__class__ is undefined }}{{ "
                 "raise_exception.__globals__ is undefined }}",
                 HELLO, "TrueTrue");
}

static void test_bad_requests(void **state) {
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ messages[0].content }}", NULL);
    CLEANUP(buffer_deinit) Buffer deep = BUFFER_NULL;

    (void)state;
    assert_refused(chat_template, "", -EINVAL, "not JSON");
    assert_refused(chat_template, "{", -EINVAL, "not JSON");
    assert_refused(chat_template, "{\"messages\": [NaN]}", -EINVAL, "NaN is not JSON");
    assert_refused(chat_template, "\"\xff\"", -EINVAL, "not JSON");
    assert_refused(chat_template, "[]", -EINVAL, "must be a JSON object");
    assert_refused(chat_template, "{}", CHAT_TEMPLATE_E_RAISED, "'messages'");
    assert_refused(chat_template, "{\"messages\": []}", CHAT_TEMPLATE_E_RAISED, "'messages'");
    assert_refused(chat_template, "{\"messages\": {}}", CHAT_TEMPLATE_E_RAISED, "'messages'");
    assert_refused(chat_template, "{\"messages\": [1]}", CHAT_TEMPLATE_E_RAISED, "every message");
    assert_refused(chat_template, "{\"messages\": [{}], \"tools\": 1}", CHAT_TEMPLATE_E_RAISED,
                   "'tools'");
    assert_refused(chat_template, "{\"messages\": [{}], \"tools\": [1]}", CHAT_TEMPLATE_E_RAISED,
                   "'tools'");
    assert_refused(chat_template, "{\"messages\": [{}], \"kwargs\": [1]}", CHAT_TEMPLATE_E_RAISED,
                   "'kwargs'");
    assert_refused(chat_template, "{\"messages\": [{}], \"kwargs\": {\"tools\": 1}}",
                   CHAT_TEMPLATE_E_RAISED, "must not hold 'tools'");
    assert_refused(chat_template,
                   "{\"messages\": [{}], \"kwargs\": {\"chat_template\": \"{{ 1 }}\"}}",
                   CHAT_TEMPLATE_E_RAISED, "no chat template of that name");
    assert_refused(chat_template, "{\"messages\": [{\"content\": \"\\ud800\"}]}",
                   CHAT_TEMPLATE_E_RAISED, "surrogate");
    for (int i = 0; i < 100000; i++)
        buffer_append_char(&deep, '[');
    assert_refused(chat_template, buffer_text(&deep), -EINVAL, "nested too deeply");
}

static void test_text_may_hold_anything(void **state) {
    static const char request[] =
        "{\"messages\": [{\"content\": \"a\\u0000b \\ud83d\\ude00 \\u2028 {{ x }}\"}]}";
    static const char expected[] = "a\0b \xf0\x9f\x98\x80 \xe2\x80\xa8 {{ x }}";
    CLEANUP(chat_template_free)
    ChatTemplate *chat_template = chat_template_make("{{ messages[0].content }}", NULL);
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;
    Reason why = REASON_NULL;

    (void)state;
    buffer_append_text(&prompt, "kept:");
    assert_int_equal(
        chat_template_render(chat_template, request, strlen(request), NULL, &prompt, &why), 0);
    assert_int_equal(prompt.size, 5 + sizeof(expected) - 1);
    assert_memory_equal(prompt.data, "kept:", 5);
    assert_memory_equal(prompt.data + 5, expected, sizeof(expected) - 1);
}

static void put_texts(Buffer *out, const char *key, uint64_t n, const char *const *texts) {
    put_key_array(out, key, 8, n);
    for (uint64_t i = 0; i < n; i++)
        put_text(out, texts[i]);
}

/* A GGUF file of metadata alone. */
static void make_gguf(Buffer *out) {
    static const char *const tokens[] = { "<u>", "<b>", "\xff" }, *const names[] = { "tool_use" };

    put_gguf_head(out, 0, 7);
    put_texts(out, "tokenizer.ggml.tokens", 3, tokens);
    put_texts(out, "tokenizer.chat_templates", 1, names);
    put_key_text(out, "tokenizer.chat_template", "{{ bos_token }}{{ eos_token }}{{ pad_token }}");
    put_key_text(out, "tokenizer.chat_template.tool_use", "tools");
    put_key_u32(out, "tokenizer.ggml.bos_token_id", 1);
    put_key_u32(out, "tokenizer.ggml.eos_token_id", 2);
    put_key_u32(out, "tokenizer.ggml.padding_token_id", 77);
}

static void test_gguf(void **state) {
    CLEANUP(chat_template_free) ChatTemplate *chat_template = NULL;
    CLEANUP(buffer_deinit) Buffer gguf = BUFFER_NULL;
    ChatModel model = chat_model_make();
    Reason why = REASON_NULL;
    char path[64];

    (void)state;
    make_gguf(&gguf);
    snprintf(path, sizeof(path), "%s/model.gguf", model.path);
    chat_model_write(&model, "model.gguf", gguf.data, gguf.size);
    if (chat_template_open(&chat_template, path, NULL, &why))
        fail_msg("%s", why.text);
    assert_prompt(chat_template, HELLO, "<b>\xef\xbf\xbd");
    assert_prompt(chat_template, "{\"messages\": [{}], \"tools\": []}", "tools");

    /* Any byte may be wrong: an answer or an error, and nothing else. */
    for (size_t i = 0; i < gguf.size; i++) {
        ChatTemplate *other = NULL;

        gguf.data[i] ^= 0x55;
        chat_model_write(&model, "model.gguf", gguf.data, gguf.size);
        gguf.data[i] ^= 0x55;
        if (chat_template_open(&other, path, NULL, &why) == 0)
            chat_template_free(other);
    }
    chat_model_remove(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_of_qwen3),
        cmocka_unit_test(test_vectors_of_mistral_nemo),
        cmocka_unit_test(test_vectors_of_deepseek_v3),
        cmocka_unit_test(test_vectors_of_smollm2),
        cmocka_unit_test(test_shared_vectors),
        cmocka_unit_test(test_environment_is_that_of_transformers),
        cmocka_unit_test(test_variables),
        cmocka_unit_test(test_messages_lose_nulls_and_carry_reasoning_by_each_name),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_where_templates_are_found),
        cmocka_unit_test(test_broken_models),
        cmocka_unit_test(test_no_default),
        cmocka_unit_test(test_config_cut_anywhere),
        cmocka_unit_test(test_what_templates_raise),
        cmocka_unit_test(test_sandbox),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_text_may_hold_anything),
        cmocka_unit_test(test_gguf),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
