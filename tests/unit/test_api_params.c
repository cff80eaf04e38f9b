/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parameter table by itself. That wrong values are refused is tested end to end
 * (tests/e2e/test_parameters.py); here is where right ones go, and what defaults are.
 */
#include "server/api_params.h"

#include "util/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const GenerationDefaults no_defaults;

typedef struct Case {
    json_t *body;
    ApiParams params;
    ApiError error;
    int result;
} Case;

static Case read_with(const char *text, unsigned endpoint, const GenerationDefaults *defaults) {
    ApiParamsContext context = {
        .endpoint = endpoint,
        .limits = { .choices_max = 16, .prompts_max = 4, .stops_max = 4 },
        .n_vocab = 100,
        .defaults = defaults,
    };
    Case c = { .error = API_ERROR_NULL };
    Reason why;

    if (json_parse(&c.body, text, strlen(text), JSON_DECODE_ANY, &why))
        fail_msg("%s: %s", text, why.text);
    c.result = api_params_read(&c.params, c.body, &context, &c.error);
    assert_int_equal(c.result != 0, c.error.status != 0);
    return c;
}

static Case read_completion(const char *text) {
    return read_with(text, API_COMPLETIONS, &no_defaults);
}

static void done(Case *c) {
    api_params_deinit(&c->params);
    json_decref(c->body);
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
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;
    CLEANUP(json_unref) json_t *parsed = NULL;

    (void)state;
    for (size_t lead = 0; lead < 4; lead++) {
        Case c;

        buffer_clear(&body);
        buffer_append_text(&body, "{\"");
        buffer_append(&body, "aaaa", lead);
        for (int i = 0; i < 2000; i++)
            buffer_append_text(&body, "\xe2\x82\xac");
        buffer_append_text(&body, "\": 1}");
        c = read_completion(buffer_text(&body));
        assert_int_equal(c.error.status, 400);
        buffer_clear(&answer);
        api_error_write(&answer, &c.error);
        assert_int_equal(json_parse(&parsed, answer.data, answer.size, 0, NULL), 0);
        json_decref(TAKE(parsed));
        done(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_the_model_has_defaults_of_its_own),
        cmocka_unit_test(test_values_go_where_they_belong),
        cmocka_unit_test(test_the_last_digit_of_a_seed_counts),
        cmocka_unit_test(test_chat_has_a_switch_for_logprobs),
        cmocka_unit_test(test_stops_are_copied),
        cmocka_unit_test(test_long_names_are_cut_between_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
