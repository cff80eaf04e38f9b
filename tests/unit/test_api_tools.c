/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What chats say about tools, where the model can be held to calls and where it cannot, and how
 * their answers are read. What is refused over HTTP is in tests/e2e/test_tool_calls.py.
 */
#include "server/api/api_tools.h"

#include "util/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define TOOLS "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]"

static const GenerationDefaults no_defaults;

typedef struct Chat {
    json_t *body;
    ApiParams params;
    ApiError error;
    int result;
} Chat;

static Chat read_chat(const char *text, bool has_grammar) {
    ApiParamsContext context = { .endpoint = API_CHAT,
                                 .limits = { .choices_max = 1, .stops_max = 1 },
                                 .n_vocab = 100,
                                 .defaults = &no_defaults,
                                 .has_grammar = has_grammar };
    Chat chat = { .error = API_ERROR_NULL };

    assert_int_equal(json_parse(&chat.body, text, strlen(text), 0, NULL), 0);
    chat.result = api_params_read(&chat.params, chat.body, &context, &chat.error);
    return chat;
}

static void done(Chat *chat) {
    api_params_deinit(&chat->params);
    json_unref(chat->body);
}

static ApiToolChoice choice_of(const char *text) {
    Chat chat = read_chat(text, true);
    const char *name = NULL;
    ApiToolChoice choice = api_tools_choice(&chat.params, &name);

    assert_int_equal(chat.result, 0);
    assert_int_equal(choice == API_TOOLS_NAMED, name && !strcmp(name, "f"));
    done(&chat);
    return choice;
}

static void test_choices(void **state) {
    (void)state;
    assert_int_equal(choice_of("{}"), API_TOOLS_NONE);
    assert_int_equal(choice_of("{\"tools\": [], \"tool_choice\": \"auto\"}"), API_TOOLS_NONE);
    assert_int_equal(choice_of("{" TOOLS "}"), API_TOOLS_AUTO);
    assert_int_equal(choice_of("{" TOOLS ", \"tool_choice\": null}"), API_TOOLS_AUTO);
    assert_int_equal(choice_of("{" TOOLS ", \"tool_choice\": \"auto\"}"), API_TOOLS_AUTO);
    assert_int_equal(choice_of("{" TOOLS ", \"tool_choice\": \"none\"}"), API_TOOLS_NONE);
    assert_int_equal(choice_of("{" TOOLS ", \"tool_choice\": \"required\"}"), API_TOOLS_REQUIRED);
    assert_int_equal(choice_of("{" TOOLS ", \"tool_choice\": {\"type\": \"function\", "
                               "\"function\": {\"name\": \"f\"}}}"),
                     API_TOOLS_NAMED);
}

static void test_what_needs_a_grammar(void **state) {
    static const char *const texts[] = {
        "{" TOOLS ", \"tool_choice\": \"required\"}",
        "{" TOOLS ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"f\"}}}",
        ("{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"strict\": "
         "true}}]}"),
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        Chat with = read_chat(texts[i], true), without = read_chat(texts[i], false);

        assert_int_equal(with.result, 0);
        assert_int_equal(without.error.status, 400);
        assert_non_null(strstr(without.error.why.text, "grammars"));
        done(&with);
        done(&without);
    }
}

static OutputForms forms_of(const char *text, const OutputForms *served, bool has_grammar,
                            unsigned status) {
    Chat chat = read_chat(text, has_grammar);
    ApiError error = API_ERROR_NULL;
    OutputForms forms;

    assert_int_equal(chat.result, 0);
    assert_int_equal(!api_tools_choose_forms(&forms, served, has_grammar, &chat.params, &error),
                     !status);
    assert_int_equal(error.status, status);
    done(&chat);
    return forms;
}

static void test_forms_are_the_servers_or_the_requests(void **state) {
    const OutputForms served = { .tools = tool_family_find("hermes"),
                                 .reasoning = reasoning_family_find("think") };
    const OutputForms nothing = { .tools = NULL };
    OutputForms forms = forms_of("{}", &served, false, 0);

    (void)state;
    assert_null(forms.tools);
    assert_ptr_equal(forms.reasoning, served.reasoning);
    forms = forms_of("{" TOOLS "}", &served, false, 0);
    assert_ptr_equal(forms.tools, served.tools);
    forms = forms_of("{" TOOLS ", \"tool_call_parser\": \"mistral\", \"reasoning_parser\": "
                     "\"granite\"}",
                     &served, false, 0);
    assert_string_equal(forms.tools->name, "mistral");
    assert_string_equal(forms.reasoning->name, "granite");
    forms = forms_of("{" TOOLS ", \"tool_call_parser\": \"auto\", \"separate_reasoning\": false}",
                     &served, false, 0);
    assert_ptr_equal(forms.tools, served.tools);
    assert_null(forms.reasoning);
    forms_of("{" TOOLS "}", &nothing, false, 400);
    forms_of("{" TOOLS ", \"tool_call_parser\": \"none\"}", &served, false, 400);
    forms_of("{" TOOLS ", \"tool_choice\": \"none\"}", &nothing, false, 0);
    forms_of("{" TOOLS ", \"tool_call_parser\": \"hermes\"}", &nothing, false, 0);
}

/* Calls are given out as they come where a grammar holds the model to them, and nowhere else. */
static void test_trust_needs_a_grammar(void **state) {
    const OutputForms served = { .tools = tool_family_find("hermes") };
    static const char required[] = "{" TOOLS ", \"tool_choice\": \"required\"}";

    (void)state;
    assert_int_equal(forms_of("{" TOOLS "}", &served, false, 0).trust, OUTPUT_TRUST_NONE);
    assert_int_equal(forms_of("{" TOOLS "}", &served, true, 0).trust, OUTPUT_TRUST_MARKED);
    assert_int_equal(forms_of(required, &served, true, 0).trust, OUTPUT_TRUST_ALL);
    assert_int_equal(forms_of("{}", &served, true, 0).trust, OUTPUT_TRUST_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_what_needs_a_grammar),
        cmocka_unit_test(test_forms_are_the_servers_or_the_requests),
        cmocka_unit_test(test_trust_needs_a_grammar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
