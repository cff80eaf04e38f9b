/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates of real models: which family they show, and that calls as they write them into a
 * prompt are calls to that family's parser.
 */
#include "tests/unit/chat_model.h"
#include "tests/unit/tool_texts.h"

#define USER "{\"role\": \"user\", \"content\": \"Hi\"}"
#define CALL(_name, _arguments)                                                         \
    "{\"id\": \"call00001\", \"type\": \"function\", \"function\": {\"name\": \"" _name \
    "\", \"arguments\": \"" _arguments "\"}}"

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"F.\", "
    "\"parameters\": {\"type\": \"object\", \"properties\": {}}}}]";

static ChatTemplate *open_model(const char *model) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    ChatTemplate *chat_template = NULL;
    Reason why = REASON_NULL;
    char path[512];

    snprintf(path, sizeof(path), "%s/tests/data/chat/%s", root ? root : ".", model);
    if (chat_template_open(&chat_template, path, NULL, &why))
        fail_msg("%s", why.text);
    return chat_template;
}

static void render(ChatTemplate *chat_template, const Buffer *request, Buffer *out) {
    Reason why = REASON_NULL;

    if (chat_template_render(chat_template, request->data, request->size, NULL, out, &why))
        fail_msg("%s", why.text);
}

/* What the template writes behind a user's message for an assistant that calls. */
static void render_calls(ChatTemplate *chat_template, const char *calls, const char *shown,
                         Buffer *out) {
    CLEANUP(buffer_deinit) Buffer before = BUFFER_NULL, all = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer first = BUFFER_NULL, second = BUFFER_NULL;
    size_t n = 0;

    buffer_printf(&first,
                  "{\"messages\": [" USER "], \"add_generation_prompt\": true, \"tools\": %s, "
                  "\"tell_tools\": true}",
                  shown);
    render(chat_template, &first, &before);
    buffer_printf(&second,
                  "{\"messages\": [" USER ", {\"role\": \"assistant\", \"content\": null, "
                  "\"tool_calls\": [%s]}], \"tools\": %s, "
                  "\"tell_tools\": true}",
                  calls, shown);
    render(chat_template, &second, &all);
    while (n < before.size && before.data[n] == all.data[n])
        n++;
    buffer_append(out, all.data + n, all.size - n);
}

static void check_calls(const char *model, const char *family, const char *shown, const char *calls,
                        const char *expected) {
    OutputForms forms = { .tools = tool_family_find(family) };
    CLEANUP(chat_template_free) ChatTemplate *chat_template = open_model(model);
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };

    render_calls(chat_template, calls, shown, &text);
    output_parser_init(&parser, &forms, NULL);
    assert_int_equal(output_parser_push(&parser, text.data, text.size, collect, &c), 0);
    assert_int_equal(output_parser_finish(&parser, collect, &c), 0);
    collected_close(&c);
    if (!strstr(c.json.data, expected))
        fail_msg("%s: %s is read as %s", model, text.data, c.json.data);
}

static void test_families_of_real_templates(void **state) {
    static const char *const models[][3] = { { "qwen3", "hermes", "think" },
                                             { "mistral_nemo", "mistral", NULL },
                                             { "deepseek_v3", "smollm", NULL },
                                             { "smollm2", "smollm", NULL } };

    (void)state;
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        CLEANUP(chat_template_free) ChatTemplate *chat_template = open_model(models[i][0]);
        CLEANUP(buffer_deinit) Buffer sources = BUFFER_NULL;
        const ReasoningFamily *reasoning;

        assert_int_equal(chat_template_sources(chat_template, &sources), 0);
        reasoning = reasoning_family_detect(sources.data);
        assert_string_equal(tool_family_detect(sources.data)->name, models[i][1]);
        assert_int_equal(!reasoning, !models[i][2]);
        if (reasoning)
            assert_string_equal(reasoning->name, models[i][2]);
    }
}

static void test_templates_write_what_parsers_read(void **state) {
    static const char two[] = CALL("f", "{\\\"a\\\": 1}") ", " CALL("g", "{\\\"b\\\": [2]}");
    static const char read[] =
        "[\"call\", \"f\"], [\"arguments\", \"{\\\"a\\\": 1}\"], [\"end\", \"\"], "
        "[\"call\", \"g\"], [\"arguments\", \"{\\\"b\\\": [2]}\"], [\"end\", \"\"]";

    (void)state;
    check_calls("qwen3", "hermes", tools, two, read);
    check_calls("mistral_nemo", "mistral", tools, two, read);
    check_calls("smollm2", "smollm", tools, two, read);
    /* It writes calls, but shows no tools: where they are told in other words, calls are, too. */
    check_calls("deepseek_v3", "deepseek", "null", two, read);
    check_calls("deepseek_v3", "smollm", tools, two, read);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_of_real_templates),
        cmocka_unit_test(test_templates_write_what_parsers_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
