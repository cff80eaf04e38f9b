/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What models write, taken apart: recorded and made texts of every family, whole, cut in two at
 * every byte, and byte by byte; then what a parser holds, and what it does without memory.
 */
#include "config/config.h"
#include "tests/unit/tool_texts.h"

#include <errno.h>

static OutputTrust trust_of(const json_t *word) {
    if (json_string_is(word, "all"))
        return OUTPUT_TRUST_ALL;
    return json_string_is(word, "marked") ? OUTPUT_TRUST_MARKED : OUTPUT_TRUST_NONE;
}

static OutputForms forms_of(const char *family, const json_t *text) {
    const char *reasoning = json_string_value(json_object_get(text, "reasoning"));
    OutputForms forms = { .tools = tool_family_find(family),
                          .reasoning_begun = json_is_true(json_object_get(text, "begun")),
                          .trust = trust_of(json_object_get(text, "trust")) };

    if (reasoning) {
        forms.reasoning = reasoning_family_find(reasoning);
        assert_non_null(forms.reasoning);
    }
    return forms;
}

/* What comes of the text in pieces of `size` bytes, the first one of `first`. */
static void parse(Collected *c, const OutputForms *forms, const json_t *text, size_t first,
                  size_t size) {
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;
    const char *bytes = json_string_value(text);
    size_t left = json_string_length(text), n = first < left ? first : left;

    output_parser_init(&parser, forms, NULL);
    for (; left; n = size < left ? size : left) {
        assert_int_equal(output_parser_push(&parser, bytes, n, collect, c), 0);
        bytes += n;
        left -= n;
    }
    assert_int_equal(output_parser_finish(&parser, collect, c), 0);
    assert_int_equal(parser.held.size, 0);
    collected_close(c);
}

static void check(const char *family, int line, const json_t *text, size_t first, size_t size) {
    OutputForms forms = forms_of(family, text);
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };
    CLEANUP(buffer_deinit) Buffer expected = BUFFER_NULL, got = BUFFER_NULL;
    CLEANUP(json_unref) json_t *events = NULL;

    parse(&c, &forms, json_object_get(text, "text"), first, size);
    buffer_printf(&got, "[%s]", buffer_text(&c.json));
    assert_int_equal(json_parse(&events, got.data, got.size, 0, NULL), 0);
    if (json_equal(events, json_object_get(text, "events")))
        return;
    json_write(json_object_get(text, "events"), &expected);
    fail_msg("%s line %d, cut at %zu, pieces of %zu: expected\n%s\nnot\n%s", family, line, first,
             size, buffer_text(&expected), buffer_text(&got));
}

static void check_whole(const char *family, int line, const json_t *text) {
    check(family, line, text, SIZE_MAX, SIZE_MAX);
}

static void check_cuts(const char *family, int line, const json_t *text) {
    size_t n = json_string_length(json_object_get(text, "text"));

    for (size_t cut = 0; cut < n; cut++)
        check(family, line, text, cut, SIZE_MAX);
    for (size_t size = 1; size < 6; size++)
        check(family, line, text, size, size);
}

static const char *const families[] = { "hermes",      "smollm",   "granite", "mistral",
                                        "llama3_json", "deepseek", "none" };

static void test_texts_of_every_family(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
        each_tool_text(families[i], check_whole);
    for (size_t i = 0; tool_family_at(i); i++)
        assert_ptr_equal(tool_family_find(tool_family_at(i)->name), tool_family_at(i));
}

static void test_texts_cut_anywhere(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
        each_tool_text(families[i], check_cuts);
}

static int push(OutputParser *parser, Collected *c, const char *text) {
    return output_parser_push(parser, text, strlen(text), collect, c);
}

static void test_text_is_given_out_at_once(void **state) {
    const OutputForms forms = { .tools = tool_family_find("hermes"),
                                .reasoning = reasoning_family_find("think") };
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };

    (void)state;
    output_parser_init(&parser, &forms, NULL);
    assert_int_equal(push(&parser, &c, "<think>"), 0);
    assert_true(output_parser_is_reasoning(&parser));
    assert_int_equal(push(&parser, &c, "\nHm"), 0);
    assert_string_equal(buffer_text(&c.text), "Hm");
    assert_int_equal(push(&parser, &c, ".\n</think>\n\nSo <tool"), 0);
    assert_false(output_parser_is_reasoning(&parser));
    assert_string_equal(c.kind, "content");
    assert_string_equal(buffer_text(&c.text), "So ");
    assert_int_equal(push(&parser, &c, "s>"), 0);
    assert_string_equal(buffer_text(&c.text), "So <tools>");
    assert_int_equal(parser.held.size, 0);
}

static void test_trusted_calls_come_in_pieces(void **state) {
    OutputForms forms = { .tools = tool_family_find("hermes"), .trust = OUTPUT_TRUST_ALL };
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };

    (void)state;
    output_parser_init(&parser, &forms, NULL);
    assert_int_equal(push(&parser, &c, "<tool_call>{\"name\": \"f\", \"arguments\""), 0);
    assert_int_equal(c.n_calls, 0);
    assert_int_equal(push(&parser, &c, ": {\"a\""), 0);
    assert_int_equal(c.n_calls, 1);
    assert_string_equal(buffer_text(&c.text), "{\"a\"");
    assert_int_equal(push(&parser, &c, ": 1"), 0);
    assert_int_equal(push(&parser, &c, "}"), 0);
    assert_string_equal(buffer_text(&c.text), "{\"a\": 1}");
    assert_int_equal(c.n_pieces, 3);
    assert_int_equal(push(&parser, &c, "}"), 0);
    assert_string_equal(c.kind, "end");
}

/* White space that goes with a call is gone, and a call that is not trusted comes whole. */
static void test_other_calls_come_whole(void **state) {
    OutputForms forms = { .tools = tool_family_find("hermes") };
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };

    (void)state;
    output_parser_init(&parser, &forms, NULL);
    assert_int_equal(push(&parser, &c, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}"),
                     0);
    assert_null(c.kind);
    assert_int_equal(push(&parser, &c, "}"), 0);
    assert_string_equal(c.kind, "end");
    assert_int_equal(c.n_pieces, 1);
}

static void test_what_is_held_is_charged(void **state) {
    OutputForms forms = { .tools = tool_family_find("hermes") };
    CLEANUP(collected_deinit) Collected c = { .kind = NULL };
    OutputParser parser = OUTPUT_PARSER_NULL;
    Account account;
    int r = 0;

    (void)state;
    account_init(&account, NULL, 4096, "limit");
    output_parser_init(&parser, &forms, &account);
    r = push(&parser, &c, "<tool_call>{\"name\": \"");
    assert_int_equal(r, 0);
    assert_true(atomic_load(&account.used) > 0);
    for (int i = 0; !r && i < 8192; i++)
        r = push(&parser, &c, "xxxx");
    assert_int_equal(r, -ENOMEM);
    output_parser_deinit(&parser);
    output_parser_init(&parser, &forms, &account);
    account_close(&account);
    assert_int_equal(push(&parser, &c, "text"), -ECANCELED);
    output_parser_deinit(&parser);
    account_deinit(&account);
}

static int refuse(void *userdata, const OutputEvent *event) {
    (void)userdata;
    (void)event;
    return -EPIPE;
}

static void test_what_the_sink_says_is_passed_on(void **state) {
    OutputForms forms = { .tools = NULL };
    CLEANUP(output_parser_deinit) OutputParser parser = OUTPUT_PARSER_NULL;

    (void)state;
    output_parser_init(&parser, &forms, NULL);
    assert_int_equal(output_parser_push(&parser, "x", 1, refuse, NULL), -EPIPE);
}

static void test_families_are_found_by_their_templates(void **state) {
    static const char *const templates[][3] = {
        { "tools <\xef\xbd\x9ctool\xe2\x96\x81"
          "calls\xe2\x96\x81"
          "begin\xef\xbd\x9c> </think>",
          "deepseek_v31", "think" },
        { "tools <\xef\xbd\x9ctool\xe2\x96\x81"
          "calls\xe2\x96\x81"
          "begin\xef\xbd\x9c> ```json",
          "deepseek", NULL },
        { "tools [TOOL_CALLS] [ARGS]", "mistral_args", NULL },
        { "tools [TOOL_CALLS]", "mistral", NULL },
        { "tools [THINK] [TOOL_CALLS]", "mistral", "mistral" },
        { "tools <think> <tool_call>", "hermes", "think" },
        { "tools Here is my thought process: <|tool_call|> <tool_call>", "granite", "granite" },
        { "tools Environment: ipython", "llama3_json", NULL },
        { "<|im_start|>", "smollm", NULL },
        { "[TOOL_CALLS] alone", "smollm", NULL },
        { "tools <|im_start|>", NULL, NULL },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(templates) / sizeof(*templates); i++) {
        const ToolFamily *tools = tool_family_detect(templates[i][0]);
        const ReasoningFamily *reasoning = reasoning_family_detect(templates[i][0]);

        assert_int_equal(!tools, !templates[i][1]);
        assert_int_equal(!reasoning, !templates[i][2]);
        if (tools)
            assert_string_equal(tools->name, templates[i][1]);
        if (reasoning)
            assert_string_equal(reasoning->name, templates[i][2]);
    }
}

/* The options' values and the families are the same, whatever their order. */
static void test_options_have_the_families_names(void **state) {
    size_t n = 2, n_reasoning = 2; /* auto and none */

    (void)state;
    for (; tool_call_parser_names[n]; n++)
        assert_non_null(tool_family_find(tool_call_parser_names[n]));
    for (; reasoning_parser_names[n_reasoning]; n_reasoning++)
        assert_non_null(reasoning_family_find(reasoning_parser_names[n_reasoning]));
    assert_non_null(tool_family_at(n - 3));
    assert_null(tool_family_at(n - 2));
    assert_non_null(reasoning_family_at(n_reasoning - 3));
    assert_null(reasoning_family_at(n_reasoning - 2));
    assert_null(tool_family_find("none"));
    assert_int_equal(TOOL_CALL_PARSER_SMOLLM, n - 1);
    assert_int_equal(REASONING_PARSER_GRANITE, n_reasoning - 1);
}

static void test_prompts_may_begin_reasoning(void **state) {
    const ReasoningFamily *think = reasoning_family_find("think");

    (void)state;
    assert_true(reasoning_is_begun(think, "User<think>\n", 12));
    assert_true(reasoning_is_begun(think, "<think>", 7));
    assert_false(reasoning_is_begun(think, "<think>\n\n</think>\n\n", 19));
    assert_false(reasoning_is_begun(think, "think>", 6));
    assert_false(reasoning_is_begun(think, "", 0));
    assert_false(reasoning_is_begun(think, "<think>\nLet", 11));
    assert_true(reasoning_is_open(think, "<think>\nLet", 11));
    assert_true(reasoning_is_open(think, "<think>A</think>B<think>C", 25));
    assert_false(reasoning_is_open(think, "<think>A</think>B", 17));
    assert_false(reasoning_is_open(think, "</think>B", 9));
    assert_false(reasoning_is_open(think, "", 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_of_every_family),
        cmocka_unit_test(test_texts_cut_anywhere),
        cmocka_unit_test(test_text_is_given_out_at_once),
        cmocka_unit_test(test_trusted_calls_come_in_pieces),
        cmocka_unit_test(test_other_calls_come_whole),
        cmocka_unit_test(test_what_is_held_is_charged),
        cmocka_unit_test(test_what_the_sink_says_is_passed_on),
        cmocka_unit_test(test_families_are_found_by_their_templates),
        cmocka_unit_test(test_options_have_the_families_names),
        cmocka_unit_test(test_prompts_may_begin_reasoning),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
