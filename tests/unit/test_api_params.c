/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parameter table by itself. That wrong values are refused is tested end to end
 * (tests/e2e/test_parameters.py); here is where right ones go, and what defaults are.
 */
#include "server/api/api_params.h"

#include "util/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const GenerationDefaults no_defaults;

static bool unknown_taken; /* of the next cases */

typedef struct Case {
    json_t *body;
    ApiParams params;
    ApiError error;
    int result;
} Case;

static Case read_with(const char *text, unsigned endpoint, const GenerationDefaults *defaults) {
    ApiParamsContext context = {
        .endpoint = endpoint,
        .limits = { .choices_max = 16,
                    .prompts_max = 4,
                    .stops_max = 4,
                    .unknown_taken = unknown_taken },
        .n_vocab = 100,
        .defaults = defaults,
    };
    Case c = { .error = API_ERROR_NULL };
    Reason why;

    if (json_parse(&c.body, text, strlen(text), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &why))
        fail_msg("%s: %s", text, why.text);
    c.result = api_params_read(&c.params, c.body, &context, &c.error);
    assert_int_equal(c.result != 0, c.error.status != 0);
    return c;
}

static Case read_completion(const char *text) {
    return read_with(text, API_COMPLETIONS, &no_defaults);
}

static Case read_chat(const char *text) {
    return read_with(text, API_CHAT, &no_defaults);
}

static void done(Case *c) {
    api_params_deinit(&c->params);
    json_unref(c->body);
}

static void test_defaults(void **state) {
    Case c = read_completion("{}");

    (void)state;
    assert_int_equal(c.result, 0);
    assert_int_equal(c.params.n, 1);
    assert_int_equal(c.params.max_tokens, -1);
    assert_true(c.params.sample.temperature == 1);
    assert_true(c.params.sample.top_p == 1);
    assert_true(c.params.sample.repetition_penalty == 1);
    assert_int_equal(c.params.sample.top_k, 0);
    assert_int_equal(c.params.n_logprobs, -1);
    assert_true(c.params.skip_special_tokens);
    assert_false(c.params.stream);
    done(&c);
}

static void test_the_model_has_defaults_of_its_own(void **state) {
    GenerationDefaults defaults = { .has_temperature = true,
                                    .temperature = 0.6f,
                                    .has_top_p = true,
                                    .top_p = 0.95f,
                                    .has_top_k = true,
                                    .top_k = 20,
                                    .has_min_p = true,
                                    .min_p = 0.1f,
                                    .has_repetition_penalty = true,
                                    .repetition_penalty = 1.05f };
    Case c = read_with("{\"top_k\": -1, \"top_p\": null}", API_CHAT, &defaults);

    (void)state;
    assert_int_equal(c.result, 0);
    assert_true(c.params.sample.temperature == 0.6f);
    assert_true(c.params.sample.top_p == 0.95f);
    assert_int_equal(c.params.sample.top_k, 0);
    assert_true(c.params.sample.min_p == 0.1f);
    assert_true(c.params.sample.repetition_penalty == 1.05f);
    done(&c);
}

static void test_values_go_where_they_belong(void **state) {
    Case c = read_completion(
        "{\"temperature\": 0.5, \"top_p\": 0.25, \"top_k\": 7, \"min_p\": 0.125, \"seed\": -3,"
        " \"presence_penalty\": -2, \"frequency_penalty\": 2, \"repetition_penalty\": 1.5,"
        " \"max_tokens\": 9, \"min_tokens\": 4, \"n\": 3, \"stop_token_ids\": [99, 0],"
        " \"logit_bias\": {\"99\": -100, \"0\": 1}, \"logprobs\": 0, \"echo\": true,"
        " \"stream\": true, \"stream_options\": {\"include_usage\": true}, \"ignore_eos\": true}");
    const SampleParams *s = &c.params.sample;

    (void)state;
    assert_int_equal(c.result, 0);
    assert_true(s->temperature == 0.5f && s->top_p == 0.25f && s->min_p == 0.125f);
    assert_true(s->presence_penalty == -2 && s->frequency_penalty == 2);
    assert_true(s->repetition_penalty == 1.5f);
    assert_int_equal(s->top_k, 7);
    assert_true(c.params.has_seed);
    assert_true(s->seed == (uint64_t)-3);
    assert_int_equal(c.params.max_tokens, 9);
    assert_int_equal(c.params.min_tokens, 4);
    assert_int_equal(c.params.n, 3);
    assert_int_equal(c.params.n_stop_tokens, 2);
    assert_int_equal(c.params.stop_tokens[0], 99);
    assert_int_equal(s->n_logit_bias, 2);
    assert_ptr_equal(s->logit_bias, c.params.logit_bias);
    assert_int_equal(c.params.n_logprobs, 0);
    assert_true(c.params.echo && c.params.stream && c.params.include_usage && c.params.ignore_eos);
    done(&c);
}

static void test_what_chats_say_of_tools_and_reasoning(void **state) {
    Case none = read_chat("{}");
    Case some = read_chat("{\"parallel_tool_calls\": false, \"tool_call_parser\": \"hermes\","
                          " \"reasoning_parser\": \"auto\", \"reasoning_effort\": \"low\","
                          " \"separate_reasoning\": false, \"include_reasoning\": false}");

    (void)state;
    assert_int_equal(none.result, 0);
    assert_true(none.params.parallel_tool_calls && none.params.separate_reasoning &&
                none.params.include_reasoning);
    assert_null(none.params.tool_call_parser);
    assert_int_equal(some.result, 0);
    assert_false(some.params.parallel_tool_calls || some.params.separate_reasoning ||
                 some.params.include_reasoning);
    assert_string_equal(some.params.tool_call_parser, "hermes");
    assert_string_equal(some.params.reasoning_parser, "auto");
    assert_true(json_string_is(some.params.reasoning_effort, "low"));
    done(&none);
    done(&some);
}

static void test_the_last_digit_of_a_seed_counts(void **state) {
    Case c = read_completion("{\"seed\": 9223372036854775807}");

    (void)state;
    assert_true(c.params.sample.seed == INT64_MAX);
    done(&c);
}

static void test_chat_has_a_switch_for_logprobs(void **state) {
    Case with = read_with("{\"logprobs\": true, \"top_logprobs\": 5}", API_CHAT, &no_defaults);
    Case without = read_with("{\"logprobs\": false, \"top_logprobs\": 0}", API_CHAT, &no_defaults);
    Case alone = read_with("{\"top_logprobs\": 1}", API_CHAT, &no_defaults);

    (void)state;
    assert_int_equal(with.params.n_logprobs, 5);
    assert_int_equal(without.params.n_logprobs, -1);
    assert_string_equal(alone.error.param, "top_logprobs");
    done(&with);
    done(&without);
    done(&alone);
}

static void refuse_both(const char *text, const char *param, const char *words) {
    Case cases[] = { read_completion(text), read_chat(text) };

    for (size_t i = 0; i < 2; i++) {
        if (cases[i].error.status != 400 || strcmp(cases[i].error.param, param) != 0 ||
            !strstr(cases[i].error.why.text, words))
            fail_msg("%s: %u, %s, %s", text, cases[i].error.status, cases[i].error.param,
                     cases[i].error.why.text);
        done(&cases[i]);
    }
}

static void take_both(const char *text) {
    Case cases[] = { read_completion(text), read_chat(text) };

    for (size_t i = 0; i < 2; i++) {
        if (cases[i].result)
            fail_msg("%s: %s", text, cases[i].error.why.text);
        done(&cases[i]);
    }
}

static void test_null_is_absent_whatever_the_name(void **state) {
    static const unsigned endpoints[] = { API_COMPLETIONS, API_CHAT, API_TOKENIZE, API_DETOKENIZE };

    (void)state;
    for (size_t i = 0; i < sizeof(endpoints) / sizeof(*endpoints); i++) {
        Case c = read_with("{\"model\": null, \"n\": null, \"mm_processor_kwargs\": null, "
                           "\"messages\": null, \"prompt\": null, \"\": null}",
                           endpoints[i], &no_defaults);

        assert_int_equal(c.result, 0);
        assert_int_equal(c.params.n, 1);
        done(&c);
    }
    take_both("{\"stream\": true, \"stream_options\": {\"include_usage\": null, \"x\": null}}");
    take_both("{\"stream\": false, \"stream_options\": null, \"response_format\": null}");
}

static void test_an_unknown_name_is_answered_with_the_nearest(void **state) {
    (void)state;
    refuse_both("{\"max_token\": 5}", "max_token", "did you mean `max_tokens`?");
    refuse_both("{\"maxTokens\": 5}", "maxTokens", "did you mean `max_tokens`?");
    refuse_both("{\"temprature\": 5}", "temprature", "did you mean `temperature`?");
    refuse_both("{\"top-p\": 0.5}", "top-p", "did you mean `top_p`?");
    refuse_both("{\"frequency_penality\": 0}", "frequency_penality", "`frequency_penalty`?");
    refuse_both("{\"reasoning_efort\": \"low\"}", "reasoning_efort", "`reasoning_effort`?");
    refuse_both("{\"zzzzzz\": 5}", "zzzzzz", "unknown_parameters");
    refuse_both("{\"x\": 5}", "x", "unknown_parameters");
    refuse_both("{\"\": 5}", "", "unknown_parameters");
    /* What is known and refused is no help. */
    refuse_both("{\"bad_word\": 5}", "bad_word", "unknown_parameters");
    refuse_both("{\"stream\": true, \"stream_options\": {\"include_usages\": true}}",
                "stream_options.include_usages", "did you mean `include_usage`?");
}

static void test_a_name_with_nul_is_another_name(void **state) {
    (void)state;
    refuse_both("{\"max_tokens\\u0000\": 5}", "max_tokens",
                "\"max_tokens\\u0000\" here; did you mean `max_tokens`?");
    refuse_both("{\"model\\u0000x\": 5}", "model", "\"model\\u0000x\" here");
    refuse_both("{\"logit_bias\": {\"5\\u0000\": 1}}", "logit_bias", "is \"5\\u0000\";");
    refuse_both("{\"stream\": true, \"stream_options\": {\"include_usage\\u0000\": true}}",
                "stream_options.include_usage", "did you mean `include_usage`?");
    take_both("{\"max_tokens\\u0000\": null, \"max_tokens\": 5}");
}

static void test_nearest_is_of_this_endpoint(void **state) {
    Case completion = read_completion("{\"mesages\": []}");
    Case chat = read_chat("{\"mesages\": []}");

    (void)state;
    assert_null(strstr(completion.error.why.text, "did you mean"));
    assert_non_null(strstr(chat.error.why.text, "did you mean `messages`?"));
    done(&completion);
    done(&chat);
}

static void test_unknown_names_may_pass_with_a_warning(void **state) {
    (void)state;
    unknown_taken = true;
    take_both("{\"max_token\": 5, \"x\": [], \"\": {}}");
    take_both("{\"stream\": true, \"stream_options\": {\"x\": {}, \"y\": true}}");
    /* What is known to be wrong stays so. */
    refuse_both("{\"bad_words\": [\"x\"]}", "bad_words", "not supported");
    refuse_both("{\"max_tokens\": \"5\"}", "max_tokens", "a whole number");
    unknown_taken = false;
}

static void test_hints_are_taken_and_their_types_checked(void **state) {
    static const struct {
        const char *name, *good, *bad[4];
    } hints[] = {
        { "user", "\"u\"", { "1", "{}", "true" } },
        { "safety_identifier", "\"u\"", { "1", "[]" } },
        { "request_id", "\"u\"", { "1", "[]" } },
        { "metadata", "{\"a\": \"b\"}", { "[]", "\"x\"", "1" } },
        { "store", "true", { "\"true\"", "1", "0" } },
        { "service_tier", "\"flex\"", { "1", "true" } },
        { "prompt_cache_key", "\"k\"", { "1", "{}" } },
        { "prompt_cache_retention", "\"24h\"", { "24", "{}" } },
        { "cache_prompt", "true", { "1" } },
        { "prediction", "{\"type\": \"content\", \"content\": \"x\"}", { "\"x\"", "[]" } },
        { "reasoning_effort", "\"high\"", { "1", "{}", "true" } },
        { "reasoning", "{\"effort\": \"low\"}", { "\"low\"", "true" } },
        { "verbosity", "\"low\"", { "1", "[]" } },
        { "include_reasoning", "false", { "\"no\"", "0" } },
        { "separate_reasoning", "true", { "1" } },
        { "stream_reasoning", "false", { "1" } },
        { "parallel_tool_calls", "true", { "1", "\"true\"" } },
    };
    char body[256];

    (void)state;
    for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); i++) {
        snprintf(body, sizeof(body), "{\"%s\": %s}", hints[i].name, hints[i].good);
        take_both(body);
        for (size_t j = 0; hints[i].bad[j]; j++) {
            snprintf(body, sizeof(body), "{\"%s\": %s}", hints[i].name, hints[i].bad[j]);
            refuse_both(body, hints[i].name, "must be");
        }
    }
}

static void take_grammar(const char *body, GrammarKind kind, const char *param) {
    Case c = read_chat(body), d = read_completion(body);

    assert_int_equal(c.error.status, 0);
    assert_int_equal(d.error.status, 0);
    assert_string_equal(c.params.grammar.param, param);
    assert_int_equal(c.params.grammar.kind, kind);
    done(&c);
    done(&d);
}

static void test_what_asks_for_a_grammar(void **state) {
    (void)state;
    take_both("{\"response_format\": {\"type\": \"text\", \"json_schema\": null}}");
    take_grammar("{\"response_format\": {\"type\": \"json_object\"}}", GRAMMAR_JSON,
                 "response_format");
    take_grammar("{\"response_format\": {\"type\": \"json_schema\", \"json_schema\": {\"name\": "
                 "\"a\", \"strict\": true, \"schema\": {\"type\": \"object\"}}}}",
                 GRAMMAR_JSON_SCHEMA, "response_format");
    take_grammar("{\"structured_outputs\": {\"json\": {}, \"regex\": null}}", GRAMMAR_JSON_SCHEMA,
                 "structured_outputs");
    take_grammar("{\"structured_outputs\": {\"regex\": \"a\"}}", GRAMMAR_REGEX,
                 "structured_outputs");
    take_grammar("{\"structured_outputs\": {\"choice\": [\"a\"]}}", GRAMMAR_CHOICE,
                 "structured_outputs");
    take_grammar("{\"structured_outputs\": {\"grammar\": \"root ::= [a]\"}}", GRAMMAR_EBNF,
                 "structured_outputs");
    take_grammar("{\"structured_outputs\": {\"json_object\": true}}", GRAMMAR_JSON,
                 "structured_outputs");
    take_grammar("{\"guided_json\": \"{}\"}", GRAMMAR_JSON_SCHEMA, "guided_json");
    take_grammar("{\"guided_regex\": \"a\"}", GRAMMAR_REGEX, "guided_regex");
    take_grammar("{\"guided_choice\": [\"a\", \"b\"]}", GRAMMAR_CHOICE, "guided_choice");
    take_grammar("{\"guided_grammar\": \"root ::= [a]\"}", GRAMMAR_EBNF, "guided_grammar");
}

static void test_what_asks_for_no_grammar_is_refused(void **state) {
    static const char *const formats[] = {
        "{}",
        "\"text\"",
        "{\"type\": \"text\\u0000\"}",
        "{\"type\": \"xml\"}",
        "{\"type\": \"json_schema\"}",
        "{\"type\": \"json_schema\", \"json_schema\": {}}",
        "{\"type\": \"json_schema\", \"json_schema\": {\"schema\": \"x\"}}",
        "{\"type\": \"json_schema\", \"json_schema\": {\"schema\": {}, \"strict\": 1}}"
    };
    char body[256];

    (void)state;
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        Case c;

        snprintf(body, sizeof(body), "{\"response_format\": %s}", formats[i]);
        c = read_chat(body);
        assert_int_equal(c.error.status, 400);
        assert_memory_equal(c.error.param, "response_format", 15);
        assert_non_null(strstr(c.error.why.text, "must be"));
        done(&c);
    }
    refuse_both("{\"response_format\": {\"type\": \"text\", \"json_schema\": {}}}",
                "response_format", "other members");
    refuse_both("{\"response_format\": {\"type\": \"json_object\", \"json_schema\": {}}}",
                "response_format", "other members");
    refuse_both("{\"structured_outputs\": {}}", "structured_outputs", "must be");
    refuse_both("{\"structured_outputs\": {\"jsn\": {}}}", "structured_outputs.jsn", "one of");
    refuse_both("{\"structured_outputs\": {\"regex\": \"\"}}", "structured_outputs.regex",
                "must be");
    refuse_both("{\"structured_outputs\": {\"regex\": \"a\", \"json\": {}}}", "structured_outputs",
                "one can");
    refuse_both("{\"guided_regex\": \"a\", \"guided_choice\": [\"b\"]}", "guided_choice",
                "`guided_regex`");
    refuse_both("{\"guided_choice\": []}", "guided_choice", "must be");
    refuse_both("{\"guided_choice\": [\"\"]}", "guided_choice", "must be");
    refuse_both("{\"guided_choice\": [1]}", "guided_choice", "must be");
    refuse_both("{\"guided_json\": 5}", "guided_json", "must be");
    refuse_both("{\"guided_grammar\": {}}", "guided_grammar", "must be");
}

static void test_tool_choice_is_auto_or_none(void **state) {
    static const char *const wrong[] = { "\"required\"", "\"none\\u0000x\"", "\"auto\\u0000\"",
                                         "{}" };
    char body[64];

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        Case c;

        snprintf(body, sizeof(body), "{\"tool_choice\": %s}", wrong[i]);
        c = read_chat(body);
        assert_string_equal(c.error.param, "tool_choice");
        done(&c);
    }
}

static void test_usage_in_a_stream(void **state) {
    Case c = read_chat("{\"stream\": true, \"stream_options\": {\"include_usage\": true, "
                       "\"continuous_usage_stats\": true, \"include_obfuscation\": false}}");
    Case off = read_chat("{\"stream\": true, \"stream_options\": {\"include_usage\": false, "
                         "\"continuous_usage_stats\": false, \"include_obfuscation\": true}}");

    (void)state;
    assert_int_equal(c.result, 0);
    assert_true(c.params.include_usage && c.params.continuous_usage);
    assert_int_equal(off.result, 0);
    assert_false(off.params.include_usage || off.params.continuous_usage);
    done(&c);
    done(&off);
    refuse_both("{\"stream\": true, \"stream_options\": {\"continuous_usage_stats\": 1}}",
                "stream_options.continuous_usage_stats", "true or false");
    refuse_both("{\"stream\": true, \"stream_options\": {\"include_obfuscation\": \"x\"}}",
                "stream_options.include_obfuscation", "true or false");
}

static void test_the_smallest_set_is_one_token(void **state) {
    static const char *const bodies[] = { "{\"top_p\": 0}", "{\"top_p\": 0.0, \"temperature\": 2}",
                                          "{\"top_p\": 1e-60, \"top_k\": 5}" };

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
        Case c = read_completion(bodies[i]);

        assert_int_equal(c.result, 0);
        assert_true(c.params.sample.temperature == 0);
        done(&c);
    }
    refuse_both("{\"top_p\": -1e-9}", "top_p", "a number");
    refuse_both("{\"top_p\": 1.0001}", "top_p", "a number");
}

static void test_best_of(void **state) {
    Case absent = read_completion("{\"n\": 3}");
    Case more = read_chat("{\"n\": 2, \"best_of\": 16}");
    Case streamed = read_completion("{\"n\": 2, \"best_of\": 2, \"stream\": true}");

    (void)state;
    assert_int_equal(absent.params.best_of, 3);
    assert_int_equal(more.result, 0);
    assert_int_equal(more.params.n, 2);
    assert_int_equal(more.params.best_of, 16);
    assert_int_equal(streamed.result, 0);
    done(&absent);
    done(&more);
    done(&streamed);
    refuse_both("{\"n\": 3, \"best_of\": 2}", "best_of", "less than `n`");
    refuse_both("{\"best_of\": 17}", "best_of", "max_choices");
    refuse_both("{\"best_of\": 0}", "best_of", "max_choices");
    refuse_both("{\"best_of\": true}", "best_of", "max_choices");
    refuse_both("{\"best_of\": 2, \"stream\": true}", "best_of", "streamed");
}

static void test_each_token_has_one_key_in_logit_bias(void **state) {
    static const char *const wrong[] = { "05",
                                         "005",
                                         "00",
                                         "+5",
                                         "-0",
                                         " 5",
                                         "5 ",
                                         "5.0",
                                         "5e0",
                                         "0x5",
                                         "",
                                         "100",
                                         "18446744073709551617" };
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    Case c = read_completion("{\"logit_bias\": {\"0\": 1, \"5\": -1, \"50\": 2.5, \"99\": 0}}");

    (void)state;
    assert_int_equal(c.result, 0);
    assert_int_equal(c.params.sample.n_logit_bias, 4);
    done(&c);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        char words[64];

        buffer_clear(&body);
        buffer_printf(&body, "{\"logit_bias\": {\"%s\": 1}}", wrong[i]);
        snprintf(words, sizeof(words), "is \"%s\";", wrong[i]);
        refuse_both(buffer_text(&body), "logit_bias", words);
    }
    buffer_clear(&body);
    buffer_append_text(&body, "{\"logit_bias\": {\"0\": 1");
    for (int i = 1; i <= 100; i++)
        buffer_printf(&body, ", \"%d\": 1", i);
    buffer_append_text(&body, "}}");
    refuse_both(buffer_text(&body), "logit_bias", "101 entries");
}

static void test_booleans_are_no_numbers(void **state) {
    (void)state;
    take_both("{\"max_tokens\": 5.0, \"n\": 2.0, \"seed\": 7.0, \"best_of\": 3.0}");
    refuse_both("{\"max_tokens\": true}", "max_tokens", "a whole number");
    refuse_both("{\"n\": true}", "n", "a whole number");
    refuse_both("{\"temperature\": false}", "temperature", "a number");
    refuse_both("{\"seed\": true}", "seed", "a whole number");
    refuse_both("{\"logit_bias\": {\"5\": true}}", "logit_bias", "numbers");
    refuse_both("{\"stream\": 1}", "stream", "true or false");
}

static void test_stops_are_copied(void **state) {
    Case one = read_completion("{\"stop\": \"end\"}");
    Case two = read_completion("{\"stop\": [\"a\", \"\\u20ac\"]}");
    CLEANUP(stop_set_deinit) StopSet stops = STOP_SET_NULL;
    CLEANUP(stop_set_deinit) StopSet more_stops = STOP_SET_NULL;

    (void)state;
    assert_int_equal(api_params_stops(&one.params, NULL, &stops), 0);
    assert_int_equal(stops.n_stops, 1);
    assert_string_equal(stops.stops[0].text, "end");
    assert_int_equal(api_params_stops(&two.params, NULL, &more_stops), 0);
    assert_int_equal(more_stops.n_stops, 2);
    assert_string_equal(more_stops.stops[0].text, "a");
    assert_string_equal(more_stops.stops[1].text, "\xe2\x82\xac");
    done(&one);
    done(&two);
}

/* An error is a text in one piece, whatever was sent. */
static void test_long_names_are_cut_between_characters(void **state) {
    static const char *const around[][2] = {
        { "{\"", "\": 1}" },
        { "{\"logit_bias\": {\"", "\": 1}}" },
        { "{\"stream\": true, \"stream_options\": {\"", "\": true}}" },
        { "{\"stream\": true, \"stream_options\": {\"include_usage", "\": {}}}" },
    };
    static const char *const chars[] = { "\xe2\x82\xac", "\xc3\xbc", "\xf0\x9f\x98\x80" };
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;
    CLEANUP(json_unref) json_t *parsed = NULL;

    (void)state;
    for (size_t k = 0; k < 4 * 3 * 4; k++) {
        const char *const *sides = around[k / 12];
        Case c;

        buffer_clear(&body);
        buffer_append_text(&body, sides[0]);
        buffer_append(&body, "aaaa", k % 4);
        for (int i = 0; i < 2000; i++)
            buffer_append_text(&body, chars[k / 4 % 3]);
        buffer_append_text(&body, sides[1]);
        c = read_completion(buffer_text(&body));
        assert_int_equal(c.error.status, 400);
        buffer_clear(&answer);
        api_error_write(&answer, &c.error);
        assert_int_equal(json_parse(&parsed, answer.data, answer.size, 0, NULL), 0);
        assert_true(answer.size < 512);
        json_unref(TAKE(parsed));
        done(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_the_model_has_defaults_of_its_own),
        cmocka_unit_test(test_values_go_where_they_belong),
        cmocka_unit_test(test_the_last_digit_of_a_seed_counts),
        cmocka_unit_test(test_what_chats_say_of_tools_and_reasoning),
        cmocka_unit_test(test_chat_has_a_switch_for_logprobs),
        cmocka_unit_test(test_null_is_absent_whatever_the_name),
        cmocka_unit_test(test_an_unknown_name_is_answered_with_the_nearest),
        cmocka_unit_test(test_a_name_with_nul_is_another_name),
        cmocka_unit_test(test_nearest_is_of_this_endpoint),
        cmocka_unit_test(test_unknown_names_may_pass_with_a_warning),
        cmocka_unit_test(test_hints_are_taken_and_their_types_checked),
        cmocka_unit_test(test_what_asks_for_a_grammar),
        cmocka_unit_test(test_what_asks_for_no_grammar_is_refused),
        cmocka_unit_test(test_tool_choice_is_auto_or_none),
        cmocka_unit_test(test_usage_in_a_stream),
        cmocka_unit_test(test_the_smallest_set_is_one_token),
        cmocka_unit_test(test_best_of),
        cmocka_unit_test(test_each_token_has_one_key_in_logit_bias),
        cmocka_unit_test(test_booleans_are_no_numbers),
        cmocka_unit_test(test_stops_are_copied),
        cmocka_unit_test(test_long_names_are_cut_between_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
