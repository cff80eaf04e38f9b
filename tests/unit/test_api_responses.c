/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a body of /v1/responses is as a chat, and how errors of the chat name places of the body.
 * What is refused, and answers, are in tests/e2e/test_responses.py. Texts here have ' for ".
 */
#include "server/api/api_responses_translate.h"

#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define USER "{'role': 'user', 'content': 'Hi'}"
#define SAID(_text) "{'role': 'assistant', 'content': '" _text "'}"
#define PARTS(_one, _two)                                                          \
    "{'type': 'message', 'role': 'assistant', 'id': 'm', 'status': 'completed', "  \
    "'content': [{'type': 'output_text', 'text': '" _one "', 'annotations': []}, " \
    "{'type': 'refusal', 'refusal': '" _two "'}]}"
#define CALL(_id) \
    "{'type': 'function_call', 'id': 'x', 'call_id': '" _id "', 'name': 'f', 'arguments': '{}'}"
#define OUTPUT(_id) "{'type': 'function_call_output', 'call_id': '" _id "', 'output': 'r'}"
#define THOUGHT "{'type': 'reasoning', 'id': 'r', 'summary': [{'type': 'summary_text', "
#define THOUGHT_TEXT(_text)                                                \
    THOUGHT "'text': 'not this'}], 'encrypted_content': null, 'content': " \
            "[{'type': 'reasoning_text', 'text': '" _text "'}]}"
#define THOUGHT_SUMMARY(_text) THOUGHT "'text': '" _text "'}], 'content': []}"

#define CHAT_CALL(_id) \
    "{'id': '" _id "', 'type': 'function', 'function': {'name': 'f', 'arguments': '{}'}}"
#define CHAT_OUTPUT(_id) "{'role': 'tool', 'tool_call_id': '" _id "', 'content': 'r'}"

static const GenerationDefaults no_defaults;

typedef struct Body {
    json_t *root;
    ApiParams params;
    ApiError error;
    int result;
} Body;

static json_t *parse(const char *text) {
    CLEANUP(buffer_deinit) Buffer json = BUFFER_NULL;
    Reason why = REASON_NULL;
    json_t *root = NULL;

    for (; *text; text++)
        buffer_append_char(&json, *text == '\'' ? '"' : *text);
    if (json_parse(&root, buffer_text(&json), json.size, JSON_DECODE_ANY, &why))
        fail_msg("%s: %s", buffer_text(&json), why.text);
    return root;
}

static Body read_with(const char *text, bool has_grammar, Account *account) {
    ApiParamsContext context = { .endpoint = API_RESPONSES,
                                 .limits = { .choices_max = 1, .stops_max = 1 },
                                 .n_vocab = 100,
                                 .defaults = &no_defaults,
                                 .has_grammar = has_grammar,
                                 .translate = api_responses_translate,
                                 .account = account };
    Body body = { .root = parse(text), .error = API_ERROR_NULL };

    body.result = api_params_read(&body.params, body.root, &context, &body.error);
    if (body.result == -EINVAL)
        api_responses_name_places(&body.params, &body.error);
    return body;
}

static void done(Body *body) {
    api_params_deinit(&body->params);
    json_unref(body->root);
}

/* What the body comes to as a chat. */
static void check(const char *text, const char *expected) {
    Body body = read_with(text, true, NULL);
    json_t *chat = parse(expected);

    if (body.result)
        fail_msg("%s: %s", text, body.error.why.text);
    if (!json_equal(body.params.translated, chat)) {
        CLEANUP(buffer_deinit) Buffer got = BUFFER_NULL;

        json_write(body.params.translated, &got);
        fail_msg("%s became %s", text, buffer_text(&got));
    }
    assert_ptr_equal(body.params.messages, json_object_get(body.params.translated, "messages"));
    json_unref(chat);
    done(&body);
}

static void check_input(const char *items, const char *messages) {
    char text[4096], expected[4096];

    snprintf(text, sizeof(text), "{'input': [%s]}", items);
    snprintf(expected, sizeof(expected), "{'messages': [%s]}", messages);
    check(text, expected);
}

/* messages */

static void test_texts(void **state) {
    (void)state;
    check("{'input': 'Hi'}", "{'messages': [" USER "]}");
    check("{'input': 'Hi', 'instructions': 'Be brief.'}",
          "{'messages': [{'role': 'system', 'content': 'Be brief.'}, " USER "]}");
    check("{'input': [{'role': 'developer', 'content': 'x'}, " USER "], 'instructions': ''}",
          "{'messages': [{'role': 'system', 'content': ''}, {'role': 'developer', 'content': 'x'}, "
          "" USER "]}");
    check_input("{'type': null, 'role': 'user', 'id': 'msg_1', 'content': [{'type': 'input_text', "
                "'text': 'a'}, {'type': 'input_text', 'text': 'b'}]}",
                "{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}, "
                "{'type': 'text', 'text': 'b'}]}");
}

static void test_turns(void **state) {
    (void)state;
    check_input(USER ", " SAID("a") ", " SAID("b"),
                USER ", {'role': 'assistant', 'content': 'a', 'tool_calls': []}, "
                     "{'role': 'assistant', 'content': 'b', 'tool_calls': []}");
    check_input(SAID("a") ", " CALL("1") ", " CALL("2") ", " OUTPUT("1") ", " OUTPUT("2"),
                "{'role': 'assistant', 'content': 'a', 'tool_calls': [" CHAT_CALL(
                    "1") ", " CHAT_CALL("2") "]}, " CHAT_OUTPUT("1") ", " CHAT_OUTPUT("2"));
    check_input(CALL("1") ", " OUTPUT("1") ", " CALL("2"),
                "{'role': 'assistant', 'tool_calls': [" CHAT_CALL("1") "]}, " CHAT_OUTPUT(
                    "1") ", {'role': 'assistant', 'tool_calls': [" CHAT_CALL("2") "]}");
    check_input(
        CALL("1") ", " SAID("behind") ", " USER,
        "{'role': 'assistant', 'content': 'behind', 'tool_calls': [" CHAT_CALL("1") "]}, " USER);
    check_input(
        PARTS("a", "b") ", " CALL("1") ", " SAID("c"),
        "{'role': 'assistant', 'content': [{'type': 'text', 'text': 'a'}, {'type': 'text', "
        "'text': 'b'}, {'type': 'text', 'text': 'c'}], 'tool_calls': [" CHAT_CALL("1") "]}");
}

static void test_reasoning(void **state) {
    (void)state;
    check_input(THOUGHT_TEXT("hm") ", " SAID("a") ", " CALL("1"),
                "{'role': 'assistant', 'reasoning_content': 'hm', 'reasoning': 'hm', "
                "'content': 'a', 'tool_calls': [" CHAT_CALL("1") "]}");
    check_input(THOUGHT_SUMMARY("short") ", " THOUGHT_TEXT("hm") ", " CALL("1"),
                "{'role': 'assistant', 'reasoning_content': 'short\\nhm', "
                "'reasoning': 'short\\nhm', 'tool_calls': [" CHAT_CALL("1") "]}");
    check_input(SAID("a") ", " THOUGHT_TEXT("hm") ", " SAID("b"),
                "{'role': 'assistant', 'content': 'a', 'tool_calls': []}, {'role': 'assistant', "
                "'reasoning_content': 'hm', 'reasoning': 'hm', 'content': 'b', 'tool_calls': []}");
    check_input("{'type': 'reasoning', 'summary': []}, " USER,
                "{'role': 'assistant', 'tool_calls': []}, " USER);
}

/* tools and the rest */

static void test_tools(void **state) {
    (void)state;
    check("{'input': 'Hi', 'tools': [{'type': 'function', 'name': 'f', 'description': 'd', "
          "'parameters': {'type': 'object'}, 'strict': true, 'async': false}, {'type': 'function', "
          "'name': 'g', 'parameters': null, 'strict': null}], 'tool_choice': {'type': 'function', "
          "'name': 'g'}}",
          "{'messages': [" USER "], 'tools': [{'type': 'function', 'function': {'name': 'f', "
          "'description': 'd', 'parameters': {'type': 'object'}, 'strict': true}}, {'type': "
          "'function', 'function': {'name': 'g'}}], 'tool_choice': {'type': 'function', "
          "'function': {'name': 'g'}}}");
    check("{'input': 'Hi', 'tools': [], 'tool_choice': 'none'}",
          "{'messages': [" USER "], 'tools': []}");
}

static void test_parameters(void **state) {
    Body body = read_with(
        "{'input': 'Hi', 'max_output_tokens': 7, 'reasoning': {'effort': 'low'}, 'include': "
        "['message.output_text.logprobs'], 'top_logprobs': 3, 'text': {'format': {'type': "
        "'json_schema', 'name': 'n', 'schema': {'type': 'object'}, 'strict': true}}}",
        true, NULL);
    const ApiParams *p = &body.params;

    (void)state;
    assert_int_equal(body.result, 0);
    assert_int_equal(p->max_tokens, 7);
    assert_true(json_string_is(p->reasoning_effort, "low"));
    assert_int_equal(p->n_logprobs, 3);
    assert_string_equal(p->grammar.param, "text.format");
    assert_int_equal(p->grammar.kind, GRAMMAR_JSON_SCHEMA);
    assert_true(json_string_is(json_object_get(p->grammar.value, "type"), "object"));
    done(&body);
    body = read_with("{'input': 'Hi', 'text': {'format': {'type': 'text'}}}", true, NULL);
    assert_int_equal(body.result, 0);
    assert_null(body.params.grammar.param);
    assert_int_equal(body.params.n_logprobs, -1);
    done(&body);
}

static void test_nothing_is_kept_of_a_body_that_goes(void **state) {
    Body body =
        read_with("{'input': 'Hi', 'instructions': 'x', 'text': {}, 'reasoning': {'effort': "
                  "'low'}, 'include': [], 'metadata': {}, 'tools': []}",
                  true, NULL);
    const ApiParams *p = &body.params;

    (void)state;
    assert_int_equal(body.result, 0);
    assert_true(p->input && p->instructions && p->text && p->reasoning && p->include &&
                p->metadata && p->messages && p->tools && p->reasoning_effort && p->translated);
    api_params_let_go(&body.params);
    assert_false(p->input || p->instructions || p->text || p->reasoning || p->include ||
                 p->metadata || p->messages || p->tools || p->reasoning_effort || p->translated);
    done(&body);
}

/* words */

static void check_place(const Body *body, const char *from, const char *expected) {
    ApiError error = API_ERROR_NULL;
    char words[256];

    api_refuse(&error, from, "`%s` is wrong, as `%s` is; `other` is not.", from, from);
    api_responses_name_places(&body->params, &error);
    snprintf(words, sizeof(words), "`%s` is wrong, as `%s` is; `other` is not.", expected,
             expected);
    assert_string_equal(error.param, expected);
    assert_string_equal(error.why.text, words);
}

static void test_places(void **state) {
    Body body = read_with("{'instructions': 'x', 'input': [" USER ", " THOUGHT_TEXT("hm") ", " SAID(
                              "a") ", " CALL("1") ", " CALL("2") ", " OUTPUT("1") ", " USER "]}",
                          true, NULL);

    (void)state;
    assert_int_equal(body.result, 0);
    check_place(&body, "messages", "input");
    check_place(&body, "messages[0].content", "input");
    check_place(&body, "messages[1].content[0]", "input[0].content[0]");
    check_place(&body, "messages[2]", "input[1]");
    check_place(&body, "messages[2].tool_calls[0].function.arguments", "input[3].arguments");
    check_place(&body, "messages[2].tool_calls[1].function.arguments", "input[4].arguments");
    check_place(&body, "messages[3].content", "input[5].content");
    check_place(&body, "messages[4]", "input[6]");
    check_place(&body, "messages[5]", "input");
    check_place(&body, "tools[3].function.parameters", "tools[3].parameters");
    check_place(&body, "tools", "tools");
    done(&body);
    body = read_with("{'input': 'Hi'}", true, NULL);
    check_place(&body, "messages[0].content", "input");
    done(&body);
}

static void test_words_that_are_none_of_ours_stay(void **state) {
    static const char *const texts[] = { "", "`", "a `messages", "``", "`messages` `", "x `` y" };
    Body body = read_with("{'input': 'Hi'}", true, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        ApiError error = API_ERROR_NULL;

        api_refuse(&error, NULL, "%s", texts[i]);
        api_responses_name_places(&body.params, &error);
        assert_string_equal(error.why.text, i == 4 ? "`input` `" : texts[i]);
        assert_string_equal(error.param, "");
    }
    done(&body);
}

static void test_tools_that_need_a_grammar(void **state) {
    Body body = read_with("{'input': 'Hi', 'tools': [{'type': 'function', 'name': 'f', 'strict': "
                          "true}]}",
                          false, NULL);

    (void)state;
    assert_int_equal(body.result, -EINVAL);
    assert_string_equal(body.error.param, "tools[0]");
    assert_non_null(strstr(body.error.why.text, "`tools[0].strict`"));
    done(&body);
}

/* memory */

static void test_an_account_that_refuses(void **state) {
    static const char text[] =
        "{'input': [" THOUGHT_TEXT("hm") ", " SAID("a") ", " CALL("1") "], 'tools': [{'type': "
                                                                       "'function', 'name': 'f'}]}";
    unsigned n_refused = 0;
    bool taken = false;

    (void)state;
    for (uint64_t limit = 0; !taken; limit += 16) {
        Account account;
        Body body;

        account_init(&account, NULL, limit, "limit");
        body = read_with(text, true, &account);
        taken = !body.result;
        n_refused += body.result == -ENOMEM;
        assert_true(taken || (body.result == -ENOMEM && body.error.status == 503));
        done(&body);
        account_deinit(&account);
    }
    assert_true(n_refused > 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_reasoning),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_nothing_is_kept_of_a_body_that_goes),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_words_that_are_none_of_ours_stay),
        cmocka_unit_test(test_tools_that_need_a_grammar),
        cmocka_unit_test(test_an_account_that_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
