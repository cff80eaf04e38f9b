/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the text of /metrics says of figures that only the server's other parts know: refusals and
 * memory. The rest is tested end to end (tests/e2e/test_metrics.py).
 */
#include "server/api/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void expect(const Metrics *metrics, Account *requests, const char *line, bool there) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    HttpServer http = { .n_connections = 0 };

    metrics_write(&text, metrics,
                  &(MetricsSources){ .model_name = "m", .http = &http, .requests = requests });
    if (!strstr(buffer_text(&text), line) == there)
        fail_msg("%s is %s in %s", line, there ? "not" : "", buffer_text(&text));
}

static void test_refusals_are_counted_by_limit(void **state) {
    static const char queue[] = "kvasir_requests_refused_total{model_name=\"m\",limit="
                                "\"max_waiting_requests\"}";
    static const char other[] = "kvasir_requests_refused_total{model_name=\"m\",limit=\"other\"}";
    char line[128], name[] = "other";
    Metrics metrics;

    (void)state;
    metrics_init(&metrics);
    snprintf(line, sizeof(line), "%s 0\n", queue);
    expect(&metrics, NULL, line, true);
    expect(&metrics, NULL, other, false);
    metrics_count_refusal(&metrics, "max_waiting_requests");
    metrics_count_refusal(&metrics, "other");
    metrics_count_refusal(&metrics, name);
    snprintf(line, sizeof(line), "%s 1\n", queue);
    expect(&metrics, NULL, line, true);
    snprintf(line, sizeof(line), "%s 2\n", other);
    expect(&metrics, NULL, line, true);
}

static void test_memory_of_requests(void **state) {
    static const char name[] = "kvasir_requests_memory_bytes{model_name=\"m\"}";
    char line[96];
    Account account;
    Metrics metrics;

    (void)state;
    metrics_init(&metrics);
    expect(&metrics, NULL, name, false);
    account_init(&account, NULL, 1000, "max_requests_memory");
    assert_int_equal(account_charge(&account, 700), 0);
    snprintf(line, sizeof(line), "%s 700\n", name);
    expect(&metrics, &account, line, true);
    account_release(&account, 700);
    snprintf(line, sizeof(line), "%s 0\n", name);
    expect(&metrics, &account, line, true);
    account_deinit(&account);
}

static void test_what_the_profile_rests_on(void **state) {
    const Profile cut = { .n_tokens = 768, .n_tokens_wanted = 4300 };
    CLEANUP(buffer_deinit) Buffer with = BUFFER_NULL, without = BUFFER_NULL;
    HttpServer http = { .n_connections = 0 };
    MetricsSources sources = { .model_name = "m", .profile = &cut, .http = &http };
    Metrics metrics;

    (void)state;
    metrics_init(&metrics);
    metrics_write(&with, &metrics, &sources);
    assert_non_null(strstr(buffer_text(&with), "kvasir_profile_tokens{model_name=\"m\"} 768\n"));
    assert_non_null(
        strstr(buffer_text(&with), "kvasir_profile_tokens_wanted{model_name=\"m\"} 4300\n"));
    sources.profile = NULL;
    metrics_write(&without, &metrics, &sources);
    assert_null(strstr(buffer_text(&without), "kvasir_profile"));
}

/* Dashboards select buckets by the text of their bound. */
static void test_bounds_are_written_as_pythons_client_does(void **state) {
    static const char *const bounds[] = { "0.001", "0.25", "1.0", "2.5", "10.0", "2560.0" };
    char line[128];
    Metrics metrics;

    (void)state;
    metrics_init(&metrics);
    histogram_observe(&metrics.first_token_s, 0.0005);
    for (size_t i = 0; i < sizeof(bounds) / sizeof(*bounds); i++) {
        snprintf(line, sizeof(line),
                 "vllm:time_to_first_token_seconds_bucket{model_name=\"m\",engine=\"0\",le=\"%s\"} "
                 "1\n",
                 bounds[i]);
        expect(&metrics, NULL, line, true);
    }
}

/* A sequence without a token was read and no more; one token has no time between tokens. */
static void test_times_of_short_sequences(void **state) {
    Metrics m;

    (void)state;
    metrics_init(&m);
    metrics_count_sequence(&m, &(SequenceFigures){ .arrival_ns = 1000000000,
                                                   .admitted_ns = 3000000000,
                                                   .end_ns = 7000000000,
                                                   .n_prompt = 5,
                                                   .n_cached = 2 });
    assert_true(m.queue_s.sum == 2 && m.prefill_s.sum == 4 && m.inference_s.sum == 4);
    assert_true(m.decode_s.sum == 0 && m.mean_token_s.sum == 0 && m.request_s.sum == 6);
    assert_true(m.prompt_tokens.sum == 5 && m.computed_tokens.sum == 3);
    metrics_count_sequence(&m, &(SequenceFigures){ .arrival_ns = 1000000000,
                                                   .admitted_ns = 1000000000,
                                                   .first_token_ns = 2000000000,
                                                   .end_ns = 2000000000,
                                                   .n_prompt = 1,
                                                   .n_output = 1,
                                                   .max_tokens = 1 });
    assert_true(m.prefill_s.sum == 5 && m.decode_s.sum == 0 && m.mean_token_s.sum == 0);
    assert_int_equal(m.mean_token_s.counts[0], 2);
    metrics_count_sequence(&m, &(SequenceFigures){ .first_token_ns = 1000000000,
                                                   .end_ns = 4000000000,
                                                   .n_prompt = 1,
                                                   .n_output = 4,
                                                   .max_tokens = 9 });
    assert_true(m.decode_s.sum == 3 && m.mean_token_s.sum == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_are_counted_by_limit),
        cmocka_unit_test(test_memory_of_requests),
        cmocka_unit_test(test_what_the_profile_rests_on),
        cmocka_unit_test(test_bounds_are_written_as_pythons_client_does),
        cmocka_unit_test(test_times_of_short_sequences),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
