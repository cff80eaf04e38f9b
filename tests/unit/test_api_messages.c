/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bodies of Anthropic's messages become as chats, and what is said of those that are none.
 */
#include "server/api/api_messages_input.h"

#include "server/api/api_messages.h"
#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define ACCOUNT_BYTES_MAX (1 << 20)

typedef struct Case {
    Account account;
    json_t *body;
    ApiParams params;
    ApiError error;
    int result;
} Case;

/* JSON as it is written here, with ' for ". */
static json_t *parse(const char *quoted) {
    char text[16 << 10];
    size_t size = strlen(quoted);
    json_t *tree = NULL;
    Reason why = REASON_NULL;

    assert_true(size < sizeof(text));
    for (size_t i = 0; i <= size; i++)
        text[i] = quoted[i] == '\'' ? '"' : quoted[i];
    if (json_parse(&tree, text, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &why))
        fail_msg("%s: %s", text, why.text);
    return tree;
}

/* `members` of a body that has `max_tokens`. */
static void begin(Case *c, const char *members, uint64_t limit) {
    static const GenerationDefaults no_defaults;
    char text[4096];
    ApiParamsContext context = {
        .endpoint = API_MESSAGES,
        .limits = { .choices_max = 16, .prompts_max = 4, .stops_max = 4 },
        .n_vocab = 100,
        .defaults = &no_defaults,
        .has_grammar = true,
        .translate = api_messages_translate,
        .account = &c->account,
    };

    *c = (Case){ .error = API_ERROR_NULL };
    account_init(&c->account, NULL, limit, "max_request_memory");
    snprintf(text, sizeof(text), "{'max_tokens': 5000, %s}", members);
    c->body = parse(text);
    c->result = api_params_read(&c->params, c->body, &context, &c->error);
    assert_int_equal(c->result != 0, c->error.status != 0);
    if (c->result)
        api_messages_name_places(&c->params, &c->error);
}

static void end(Case *c) {
    api_params_deinit(&c->params);
    json_unref(c->body);
    account_deinit(&c->account); /* all was released */
}

static void expect_json(const json_t *found, const char *expected) {
    CLEANUP(json_unref) json_t *tree = parse(expected);
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    if (found)
        json_write(found, &text);
    if (!json_equal(found, tree))
        fail_msg("%s\nis not\n%s", buffer_text(&text), expected);
}

static void expect_messages(const char *messages, const char *expected) {
    char members[2048];
    Case c;

    snprintf(members, sizeof(members), "'messages': %s", messages);
    begin(&c, members, ACCOUNT_BYTES_MAX);
    if (c.result)
        fail_msg("%s: %s", messages, c.error.why.text);
    expect_json(c.params.messages, expected);
    end(&c);
}

#define USER "{'role': 'user', 'content': 'a'}"

static void test_texts(void **state) {
    (void)state;
    expect_messages("[{'role': 'user', 'content': 'a'}]", "[{'role': 'user', 'content': 'a'}]");
    expect_messages("[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}]",
                    "[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}]");
    expect_messages("[{'role': 'user', 'content': []}]", "[{'role': 'user', 'content': []}]");
    expect_messages("[{'role': 'user', 'content': '\\u0000\\n\\u00fc\\\"'}]",
                    "[{'role': 'user', 'content': '\\u0000\\n\\u00fc\\\"'}]");
    expect_messages("[{'role': 'system', 'content': 's'}, " USER "]",
                    "[{'role': 'system', 'content': 's'}, " USER "]");
    expect_messages("[" USER ", {'role': 'assistant', 'content': 'b'}]",
                    "[" USER ", {'role': 'assistant', 'content': 'b'}]");
    expect_messages("[{'role': 'user', 'content': [{'type': 'text', 'text': 'a', 'citations': "
                    "null, 'cache_control': {'type': 'ephemeral'}}]}]",
                    "[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}]");
}

static void test_turns_of_one_role_are_one_message(void **state) {
    (void)state;
    expect_messages("[{'role': 'user', 'content': 'a'}, "
                    "{'role': 'user', 'content': [{'type': 'text', 'text': 'b'}, "
                    "{'type': 'text', 'text': 'c'}]}, "
                    "{'role': 'assistant', 'content': 'd'}, "
                    "{'role': 'assistant', 'content': 'e'}, "
                    "{'role': 'user', 'content': 'f'}]",
                    "[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}, "
                    "{'type': 'text', 'text': 'b'}, {'type': 'text', 'text': 'c'}]}, "
                    "{'role': 'assistant', 'content': [{'type': 'text', 'text': 'd'}, "
                    "{'type': 'text', 'text': 'e'}]}, "
                    "{'role': 'user', 'content': 'f'}]");
}

static void test_calls_and_thoughts(void **state) {
    (void)state;
    expect_messages("[{'role': 'assistant', 'content': ["
                    "{'type': 'thinking', 'thinking': 't', 'signature': 's'}, "
                    "{'type': 'thinking', 'thinking': 'u'}, {'type': 'text', 'text': 'a'}, "
                    "{'type': 'tool_use', 'id': 't1', 'name': 'f', "
                    "'input': {'x': 1.50, 'y': ['\\u00fc']}}]}, " USER "]",
                    "[{'role': 'assistant', 'content': [{'type': 'text', 'text': 'a'}], "
                    "'reasoning_content': 't\\nu', 'tool_calls': [{'id': 't1', "
                    "'type': 'function', 'function': {'name': 'f', "
                    "'arguments': '{\\\"x\\\":1.50,\\\"y\\\":[\\\"\\u00fc\\\"]}'}}]}, " USER "]");
    expect_messages("[{'role': 'assistant', 'content': [{'type': 'tool_use', 'id': 't1', "
                    "'name': 'f', 'input': {}, 'caller': {'type': 'direct'}}]}, " USER "]",
                    "[{'role': 'assistant', 'content': null, 'tool_calls': [{'id': 't1', "
                    "'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}]}, " USER
                    "]");
}

static void test_results_are_messages_of_their_own(void **state) {
    (void)state;
    expect_messages("[{'role': 'user', 'content': [{'type': 'tool_result', 'tool_use_id': 't1'}, "
                    "{'type': 'tool_result', 'tool_use_id': 't2', 'content': 'r'}]}]",
                    "[{'role': 'tool', 'tool_call_id': 't1', 'content': ''}, "
                    "{'role': 'tool', 'tool_call_id': 't2', 'content': 'r'}]");
    expect_messages("[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}, "
                    "{'type': 'tool_result', 'tool_use_id': 't1', 'content': "
                    "[{'type': 'text', 'text': 'r'}]}, {'type': 'text', 'text': 'b'}]}, "
                    "{'role': 'user', 'content': 'c'}]",
                    "[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}, "
                    "{'role': 'tool', 'tool_call_id': 't1', 'content': "
                    "[{'type': 'text', 'text': 'r'}]}, "
                    "{'role': 'user', 'content': [{'type': 'text', 'text': 'b'}, "
                    "{'type': 'text', 'text': 'c'}]}]");
}

static void test_results_say_that_a_tool_failed(void **state) {
    static const char *const cases[][2] = {
        { "'is_error': true, 'content': 'r'", "'Error: r'" },
        { "'is_error': true", "'Error: '" },
        { "'is_error': true, 'content': [{'type': 'text', 'text': 'r'}, {'type': 'text', 'text': "
          "'s'}]",
          "'Error: r\\ns'" },
        { "'is_error': false, 'content': 'r'", "'r'" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char sent[512], told[512];

        snprintf(sent, sizeof(sent),
                 "[{'role': 'user', 'content': [{'type': 'tool_result', 'tool_use_id': 't', %s}]}]",
                 cases[i][0]);
        snprintf(told, sizeof(told), "[{'role': 'tool', 'tool_call_id': 't', 'content': %s}]",
                 cases[i][1]);
        expect_messages(sent, told);
    }
}

static void test_the_system_prompt_comes_first(void **state) {
    static const char *const cases[][2] = {
        { "'s'", "[{'role': 'system', 'content': 's'}, " USER "]" },
        { "[{'type': 'text', 'text': 's'}, {'type': 'text', 'text': 't'}]",
          "[{'role': 'system', 'content': [{'type': 'text', 'text': 's'}, "
          "{'type': 'text', 'text': 't'}]}, " USER "]" },
        { "''", "[" USER "]" },
        { "[]", "[" USER "]" },
        { "null", "[" USER "]" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char members[512];
        Case c;

        snprintf(members, sizeof(members), "'system': %s, 'messages': [" USER "]", cases[i][0]);
        begin(&c, members, ACCOUNT_BYTES_MAX);
        assert_int_equal(c.result, 0);
        expect_json(c.params.messages, cases[i][1]);
        end(&c);
    }
}

#define ONE "'messages': [" USER "], "
#define TOOL "'tools': [{'name': 'f', 'input_schema': {'type': 'object'}}]"

static void test_tools(void **state) {
    static const struct {
        const char *choice, *expected;
        bool is_single;
    } cases[] = {
        { "{'type': 'auto'}", "'auto'", false },
        { "{'type': 'any', 'disable_parallel_tool_use': true}", "'required'", true },
        { "{'type': 'none'}", "'none'", false },
        { "{'type': 'tool', 'name': 'f', 'disable_parallel_tool_use': false}",
          "{'type': 'function', 'function': {'name': 'f'}}", false },
    };
    Case c;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char members[512];

        snprintf(members, sizeof(members), ONE TOOL ", 'tool_choice': %s", cases[i].choice);
        begin(&c, members, ACCOUNT_BYTES_MAX);
        assert_int_equal(c.result, 0);
        expect_json(c.params.tool_choice, cases[i].expected);
        assert_int_equal(c.params.parallel_tool_calls, !cases[i].is_single);
        end(&c);
    }
    begin(&c,
          ONE "'tools': [{'type': 'custom', 'name': 'f', 'description': 'd', 'input_schema': "
              "{'x': 1e2}, 'strict': true, 'cache_control': {}, 'eager_input_streaming': true}]",
          ACCOUNT_BYTES_MAX);
    assert_int_equal(c.result, 0);
    expect_json(c.params.tools,
                "[{'type': 'function', 'function': {'name': 'f', 'description': 'd', "
                "'parameters': {'x': 1e2}, 'strict': true}}]");
    assert_null(c.params.tool_choice);
    end(&c);
}

static void test_what_has_parameters_of_its_own(void **state) {
    Case c;

    (void)state;
    begin(&c,
          ONE "'thinking': {'type': 'enabled', 'budget_tokens': 1024}, 'top_k': 7, "
              "'stop_sequences': ['x'], 'output_config': {'effort': 'high', 'format': "
              "{'type': 'json_schema', 'schema': {'type': 'null'}}}",
          ACCOUNT_BYTES_MAX);
    assert_int_equal(c.result, 0);
    expect_json(c.params.template_kwargs,
                "{'enable_thinking': true, 'thinking': true, 'thinking_budget': 1024}");
    expect_json(c.params.reasoning_effort, "'high'");
    expect_json(c.params.grammar.value, "{'type': 'null'}");
    assert_int_equal(c.params.grammar.kind, GRAMMAR_JSON_SCHEMA);
    assert_int_equal(c.params.max_tokens, 5000);
    assert_int_equal(c.params.sample.top_k, 7);
    assert_int_equal(json_array_size(c.params.stops), 1);
    assert_true(c.params.include_reasoning);
    assert_false(c.params.continue_final_message);
    end(&c);

    begin(&c, ONE "'thinking': {'type': 'disabled'}", ACCOUNT_BYTES_MAX);
    expect_json(c.params.template_kwargs, "{'enable_thinking': false, 'thinking': false}");
    assert_false(c.params.include_reasoning);
    end(&c);

    begin(&c, "'messages': [{'role': 'assistant', 'content': 'a'}]", ACCOUNT_BYTES_MAX);
    assert_true(c.params.continue_final_message);
    assert_null(c.params.template_kwargs);
    end(&c);
}

/* what is none */

static void expect_refusal(const char *members, const char *words) {
    Case c;

    begin(&c, members, ACCOUNT_BYTES_MAX);
    if (!c.result || !strstr(c.error.why.text, words))
        fail_msg("%s: \"%s\" is not in \"%s\"", members, words, c.error.why.text);
    assert_int_equal(c.error.status, 400);
    end(&c);
}

/* As the second block of the second of three messages. */
static void expect_block(const char *role, const char *block, const char *words) {
    char members[1024];

    snprintf(members, sizeof(members),
             "'messages': [" USER ", {'role': '%s', 'content': [{'type': 'text', 'text': 'b'}, "
             "%s]}, " USER "]",
             role, block);
    expect_refusal(members, words);
}

static void test_blocks_that_are_not_supported(void **state) {
    static const char *const types[] = {
        "image",           "document",         "search_result",          "redacted_thinking",
        "server_tool_use", "container_upload", "web_search_tool_result", "mcp_tool_use",
    };
    char block[512];

    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        snprintf(block, sizeof(block), "{'type': '%s', 'source': {}}", types[i]);
        expect_block("user", block, "`messages[1].content[1]` is of type \"");
        expect_block("assistant", block, "here it may be \"text\", \"thinking\" or \"tool_use\"");
    }
    expect_block("user",
                 "{'type': 'tool_result', 'tool_use_id': 't', 'content': [{'type': 'image'}]}",
                 "`messages[1].content[1].content[0]` is of type \"image\"");
    expect_block("user", "{'type': 'tool_use', 'id': 'i', 'name': 'n', 'input': {}}",
                 "may be \"text\" or \"tool_result\"");
    expect_block("assistant", "{'type': 'tool_result', 'tool_use_id': 't'}",
                 "`messages[1].content[1]`");
    expect_block("system", "{'type': 'tool_result', 'tool_use_id': 't'}", "may be \"text\"");
}

static void test_blocks_that_cannot_be(void **state) {
    (void)state;
    expect_block("user", "5", "`messages[1].content[1]` must be an object");
    expect_block("user", "{}", "must have a `type`");
    expect_block("user", "{'type': 5}", "must have a `type`");
    expect_block("user", "{'type': 'text'}", "`messages[1].content[1].text` is missing");
    expect_block("user", "{'type': 'text', 'text': 5}", "must be a string");
    expect_block("user", "{'type': 'text', 'text': '', 'x': 1}", "a member \"x\"");
    expect_block("user", "{'type': 'tool_result', 'tool_use_id': 't', 'is_error': 1}",
                 ".is_error` must be true or false");
    expect_block("user", "{'type': 'tool_result', 'tool_use_id': 't', 'content': 1}",
                 ".content` must be a string or an array");
    expect_block("assistant", "{'type': 'tool_use', 'id': 'i', 'name': 'n', 'input': '{}'}",
                 ".input` must be an object");
    expect_block("assistant", "{'type': 'tool_use', 'id': 'i', 'name': null, 'input': {}}",
                 ".name` is missing");
}

static void test_messages_that_cannot_be(void **state) {
    (void)state;
    expect_refusal("'model': null", "`messages` is missing");
    expect_refusal("'messages': []", "at least one");
    expect_refusal("'messages': {}", "`messages` must be an array");
    expect_refusal("'messages': [5]", "`messages[0]` must be an object");
    expect_refusal("'messages': [{'content': 'a'}]", "`messages[0]` must have a `role`");
    expect_refusal("'messages': [{'role': 'tool', 'content': 'a'}]",
                   "may be \"user\", \"assistant\" or \"system\"");
    expect_refusal("'messages': [{'role': 'user'}]", "`messages[0].content` is missing");
    expect_refusal("'messages': [{'role': 'user', 'content': 5}]",
                   "`messages[0].content` must be a string or an array");
    expect_refusal("'messages': [" USER ", {'role': 'assistant', 'content': [{'type': 'tool_use', "
                   "'id': 'i', 'name': 'n', 'input': {}}]}]",
                   "`messages[1]` is the last one");
    expect_refusal("'messages': [{'role': 'assistant', 'content': []}]",
                   "`messages[0]` is the last one");
    expect_refusal("'system': 5, 'messages': [" USER "]", "`system` must be");
    expect_refusal("'system': [{'type': 'image'}], 'messages': [" USER "]",
                   "`system[0]` is of type");
}

static void test_tools_that_cannot_be(void **state) {
    (void)state;
    expect_refusal(ONE "'tools': [{'type': 'web_search_20250305', 'name': 'f'}]",
                   "`tools[0]` is of type \"web_search_20250305\"");
    expect_refusal(ONE "'tools': [{'name': 'f'}]", "`tools[0].input_schema` is missing");
    expect_refusal(ONE "'tools': [{'name': 'f', 'input_schema': 1}]", "must be an object");
    expect_refusal(ONE "'tools': [{'name': 'f', 'input_schema': {}, 'defer_loading': true}]",
                   "`tools[0]` has a member \"defer_loading\"");
    expect_refusal(ONE "'tools': [{'name': 'a b', 'input_schema': {}}]",
                   "`tools[0].name` must have");
    expect_refusal(ONE "'tool_choice': {'type': 'any'}", "there are no `tools`");
    expect_refusal(ONE TOOL ", 'tool_choice': {'type': 'tool'}", "`tool_choice.name` is missing");
    expect_refusal(ONE TOOL ", 'tool_choice': {'type': 'tool', 'name': 'g'}", "not in `tools`");
    expect_refusal(ONE TOOL ", 'tool_choice': {'type': 'required'}",
                   "\"auto\", \"any\", \"tool\" or \"none\"");
    expect_refusal(ONE TOOL ", 'tool_choice': {'type': 'auto', 'name': 'f'}", "a member \"name\"");
    expect_refusal(ONE TOOL ", 'tool_choice': 'auto'", "`tool_choice` must be an object");
}

static void test_settings_that_cannot_be(void **state) {
    (void)state;
    expect_refusal(ONE "'thinking': {'type': 'enabled'}", "`thinking.budget_tokens` is missing");
    expect_refusal(ONE "'thinking': {'type': 'enabled', 'budget_tokens': 1023}", "at least 1024");
    expect_refusal(ONE "'thinking': {'type': 'enabled', 'budget_tokens': 5000}",
                   "less than `max_tokens`");
    expect_refusal(ONE "'thinking': {'type': 'on'}", "`thinking` is of type \"on\"");
    expect_refusal(ONE "'output_config': {'format': {'type': 'text'}}",
                   "`output_config.format` is of type");
    expect_refusal(ONE "'output_config': {'format': {'type': 'json_schema'}}",
                   "`output_config.format.schema` is missing");
    expect_refusal(ONE "'output_config': {'effort': 1}", "`output_config.effort` must be");
    expect_refusal(ONE "'output_config': {'x': 1}", "`output_config` has a member \"x\"");
    expect_refusal(ONE TOOL ", 'tool_choice': {'type': 'any'}, 'output_config': {'format': "
                            "{'type': 'json_schema', 'schema': {}}}",
                   "`output_config.format`");
}

/* A body whose `value`, nested so deep, stands between the two texts. */
static int read_nested(const char *before, const char *after, size_t n_levels, ApiError *error) {
    static const GenerationDefaults no_defaults;
    ApiParamsContext context = { .endpoint = API_MESSAGES,
                                 .defaults = &no_defaults,
                                 .has_grammar = true,
                                 .translate = api_messages_translate };
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(json_unref) json_t *body = NULL;
    CLEANUP(api_params_deinit) ApiParams params = API_PARAMS_NULL;

    buffer_append_text(&text, before);
    for (size_t i = 0; i < n_levels; i++)
        buffer_append_text(&text, "{'a':");
    buffer_append_char(&text, '1');
    for (size_t i = 0; i < n_levels; i++)
        buffer_append_char(&text, '}');
    buffer_append_text(&text, after);
    *error = (ApiError)API_ERROR_NULL;
    body = parse(buffer_text(&text));
    return api_params_read(&params, body, &context, error);
}

static void test_what_is_nested_too_deeply(void **state) {
    static const char call[] = "{'max_tokens': 1, 'messages': [{'role': 'assistant', 'content': "
                               "[{'type': 'tool_use', 'id': 'i', 'name': 'n', 'input': ";
    static const char call_end[] = "}]}, " USER "]}";
    static const char tool[] = "{'max_tokens': 1, 'messages': [" USER "], 'tools': "
                               "[{'name': 'f', 'input_schema': ";
    ApiError error;

    (void)state;
    assert_int_equal(read_nested(call, call_end, 500, &error), 0);
    assert_true(read_nested(call, call_end, 501, &error) < 0);
    assert_non_null(strstr(error.why.text, "`messages[0].content[0].input` is nested more than"));
    assert_int_equal(read_nested(tool, "}]}", JSON_DEPTH_MAX - 4, &error), 0);
    assert_true(read_nested(tool, "}]}", JSON_DEPTH_MAX - 3, &error) < 0);
    assert_non_null(strstr(error.why.text, "`tools` are nested too deeply"));
}

static void test_memory_is_counted(void **state) {
    size_t n_failed = 0;

    (void)state;
    for (uint64_t limit = 0; limit < 8192; limit += 64) {
        Case c;

        begin(&c,
              "'system': 's', 'messages': [{'role': 'assistant', 'content': [{'type': 'tool_use', "
              "'id': 'i', 'name': 'n', 'input': {'x': 1}}]}, {'role': 'user', 'content': "
              "[{'type': 'tool_result', 'tool_use_id': 'i', 'is_error': true}]}]",
              limit);
        if (c.result) {
            assert_int_equal(c.result, -ENOMEM);
            assert_int_equal(c.error.status, 413);
            n_failed++;
        }
        end(&c);
    }
    assert_in_range(n_failed, 1, 127);
}

static void test_errors_have_a_form(void **state) {
    static const struct {
        unsigned status;
        const char *code, *type;
    } cases[] = {
        { 400, NULL, "invalid_request_error" },    { 404, "model_not_found", "not_found_error" },
        { 413, NULL, "request_too_large" },        { 415, NULL, "invalid_request_error" },
        { 429, "queue_full", "rate_limit_error" }, { 500, NULL, "api_error" },
        { 503, NULL, "overloaded_error" },         { 503, "timeout", "timeout_error" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
        CLEANUP(json_unref) json_t *tree = NULL;
        ApiError error = API_ERROR_NULL;
        char expected[256];

        api_fail(&error, cases[i].status, NULL, cases[i].code, "It \"failed\".");
        api_messages_put_error(&out, &error);
        snprintf(expected, sizeof(expected),
                 "{'type': 'error', 'error': {'type': '%s', 'message': 'It \\\"failed\\\".'}}",
                 cases[i].type);
        assert_int_equal(json_parse(&tree, buffer_text(&out), out.size, 0, NULL), 0);
        expect_json(tree, expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_turns_of_one_role_are_one_message),
        cmocka_unit_test(test_calls_and_thoughts),
        cmocka_unit_test(test_results_are_messages_of_their_own),
        cmocka_unit_test(test_results_say_that_a_tool_failed),
        cmocka_unit_test(test_the_system_prompt_comes_first),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_what_has_parameters_of_its_own),
        cmocka_unit_test(test_blocks_that_are_not_supported),
        cmocka_unit_test(test_blocks_that_cannot_be),
        cmocka_unit_test(test_messages_that_cannot_be),
        cmocka_unit_test(test_tools_that_cannot_be),
        cmocka_unit_test(test_settings_that_cannot_be),
        cmocka_unit_test(test_what_is_nested_too_deeply),
        cmocka_unit_test(test_memory_is_counted),
        cmocka_unit_test(test_errors_have_a_form),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
