/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU's sampler where it promises more than the op (tests/unit/conformance), and where fixed
 * seeds show more than fresh ones: draws are compared by chi-square with a distribution computed
 * with a full sort in f64, and a pass is a pass every time.
 */

#include "cpu/sample.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state = 88172645463325252u;

static uint32_t random_u32(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static float random_normal(void) {
    double a = (random_u32() + 1.0) / 4294967297.0, b = random_u32() / 4294967296.0;

    return (float)(sqrt(-2 * log(a)) * cos(6.283185307179586 * b));
}

/* A slot's state and what a row asks of it, in one. */
typedef struct SampleRow {
    const SampleParams *params;
    const uint32_t *prompt, *output, *banned;
    uint32_t n_prompt, n_output, n_banned;
    int n_top_logprobs;
} SampleRow;

static SlotState slot_state(const SampleRow *row) {
    return (SlotState){ .params = row->params,
                        .prompt = row->prompt,
                        .output = row->output,
                        .banned = row->banned,
                        .n_prompt = row->n_prompt,
                        .n_output = row->n_output,
                        .n_banned = row->n_banned,
                        .min_output = UINT32_MAX };
}

/* Fills slot i by row i, and samples them all. */
static void sample_rows(CpuSampler *sampler, CpuTeam *team, const float *logits, uint32_t n_vocab,
                        const SampleRow *rows, uint32_t n_rows, SampleResult *results) {
    StepLogits *asked = calloc(n_rows, sizeof(*asked));

    for (uint32_t i = 0; i < n_rows; i++) {
        SlotState state = slot_state(&rows[i]);

        cpu_sampler_set(sampler, i, &state);
        asked[i] = (StepLogits){
            .row = i, .slot = i, .target = STEP_DRAW, .n_top_logprobs = rows[i].n_top_logprobs
        };
    }
    cpu_sample(sampler, team, logits, n_vocab, asked, n_rows, results);
    free(asked);
}

static SampleResult sample_one(const float *logits, uint32_t n_vocab, const SampleRow *row) {
    CLEANUP(cpu_sampler_free) CpuSampler *sampler = NULL;
    SampleResult result;
    size_t bytes = 0;

    memset(&result, 0xAB, sizeof(result));
    assert_int_equal(cpu_sampler_new(&sampler, 1, 1, n_vocab, &bytes), 0);
    assert_true(bytes >= 20 * (size_t)n_vocab);
    sample_rows(sampler, NULL, logits, n_vocab, row, 1, &result);
    assert_true(result.token < n_vocab);
    return result;
}

static uint32_t sample_token(const float *logits, uint32_t n_vocab, const SampleParams *params) {
    return sample_one(logits, n_vocab, &(SampleRow){ .params = params, .n_top_logprobs = -1 })
        .token;
}

/* the reference */

typedef struct Entry {
    double z;
    uint32_t token;
} Entry;

static int entry_order(const void *a, const void *b) {
    const Entry *x = a, *y = b;

    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

static uint32_t count_of(uint32_t token, const uint32_t *tokens, uint32_t n) {
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i++)
        count += tokens[i] == token;
    return count;
}

static void reference_logits(const float *logits, uint32_t n, const SampleRow *row, double *z) {
    const SampleParams *p = row->params;

    for (uint32_t t = 0; t < n; t++) {
        uint32_t in_output = count_of(t, row->output, row->n_output);

        z[t] = logits[t];
        for (uint32_t i = 0; i < p->n_logit_bias; i++)
            if (p->logit_bias[i].token == t)
                z[t] += p->logit_bias[i].bias;
        if (count_of(t, row->banned, row->n_banned))
            z[t] = -INFINITY;
        if (in_output || count_of(t, row->prompt, row->n_prompt))
            z[t] = z[t] > 0 ? z[t] / p->repetition_penalty : z[t] * p->repetition_penalty;
        z[t] -= (double)p->frequency_penalty * in_output;
        z[t] -= in_output ? p->presence_penalty : 0;
    }
}

/* probabilities[n]: of every token to be drawn. */
static void reference_distribution(const float *logits, uint32_t n, const SampleRow *row,
                                   double *probabilities) {
    const SampleParams *p = row->params;
    double *z = calloc(n, sizeof(*z)), total = 0, sum = 0, kept = 0;
    Entry *sorted = calloc(n, sizeof(*sorted));
    uint32_t n_kept = n;

    reference_logits(logits, n, row, z);
    for (uint32_t t = 0; t < n; t++)
        sorted[t] = (Entry){ z[t], t };
    qsort(sorted, n, sizeof(*sorted), entry_order);
    for (uint32_t i = 0; i < n; i++) {
        z[i] = exp((sorted[i].z - sorted[0].z) / p->temperature);
        if (z[i] < p->min_p || !(z[i] > 0))
            n_kept = i < n_kept ? i : n_kept;
    }
    if (p->top_k && p->top_k < n_kept)
        n_kept = p->top_k;
    for (uint32_t i = 0; i < n_kept; i++)
        total += z[i];
    for (uint32_t i = 0; i < n_kept; i++) {
        if (sum >= p->top_p * total)
            n_kept = i;
        else
            sum += z[i];
    }
    for (uint32_t i = 0; i < n_kept; i++)
        kept += z[i];
    memset(probabilities, 0, n * sizeof(*probabilities));
    for (uint32_t i = 0; i < n_kept; i++)
        probabilities[sorted[i].token] = z[i] / kept;
    free(sorted);
    free(z);
}

/* Chi-square of `n_draws` draws; tokens expected fewer than 5 times are one class. The bound is 6
 * standard deviations above the mean of the statistic. */
static void check_distribution(const float *logits, uint32_t n, SampleRow row,
                               const SampleParams *params, uint32_t n_draws) {
    double *probabilities = calloc(n, sizeof(*probabilities));
    uint32_t *counts = calloc(n, sizeof(*counts));
    double chi2 = 0, rare_expected = 0, rare_count = 0, n_classes = 0;
    SampleParams p = *params;

    row.params = &p;
    row.n_top_logprobs = -1;
    reference_distribution(logits, n, &row, probabilities);
    for (uint32_t i = 0; i < n_draws; i++) {
        p.seed = params->seed + i;
        counts[sample_one(logits, n, &row).token]++;
    }
    for (uint32_t t = 0; t < n; t++) {
        double expected = probabilities[t] * n_draws;

        if (probabilities[t] == 0)
            assert_int_equal(counts[t], 0);
        if (expected < 5) {
            rare_expected += expected;
            rare_count += counts[t];
            continue;
        }
        chi2 += (counts[t] - expected) * (counts[t] - expected) / expected;
        n_classes++;
    }
    if (rare_expected >= 5) {
        chi2 += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
        n_classes++;
    }
    if (n_classes > 1)
        assert_true(chi2 < n_classes - 1 + 6 * sqrt(2 * n_classes) + 6);
    free(counts);
    free(probabilities);
}

static void random_logits(float *z, uint32_t n, float scale) {
    for (uint32_t i = 0; i < n; i++)
        z[i] = scale * random_normal();
}

/* tests */

static void test_nothing_out_of_range_from_nan_and_infinity(void **state) {
    enum { N = 37 };
    SampleParams params[4] = { SAMPLE_PARAMS_GREEDY, SAMPLE_PARAMS_GREEDY, SAMPLE_PARAMS_GREEDY,
                               SAMPLE_PARAMS_GREEDY };
    float z[N];

    (void)state;
    params[1].temperature = 1;
    params[2].temperature = 0.7f;
    params[2].top_k = 5;
    params[3].temperature = FLT_MIN;
    params[3].top_p = 0.5f;
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < N; j++)
            z[j] = NAN;
        assert_int_equal(sample_token(z, N, &params[i]), 0);
        z[21] = -3; /* the only number is drawn */
        assert_int_equal(sample_token(z, N, &params[i]), 21);
        z[30] = INFINITY;
        assert_int_equal(sample_token(z, N, &params[i]), 30);
        for (int j = 0; j < N; j++)
            z[j] = -INFINITY;
        assert_int_equal(sample_token(z, N, &params[i]), 0);
        z[N - 1] = -FLT_MAX;
        assert_int_equal(sample_token(z, N, &params[i]), N - 1);
    }
}

static void test_logprobs_of_degenerate_rows_are_defined(void **state) {
    SampleParams greedy = SAMPLE_PARAMS_GREEDY;
    SampleRow row = { .params = &greedy, .n_top_logprobs = 5 };
    float z[4] = { NAN, NAN, NAN, -INFINITY };
    SampleResult r = sample_one(z, 4, &row);

    (void)state;
    assert_true(r.logprob == -INFINITY);
    assert_int_equal(r.n_top, 0);
    z[2] = 1;
    r = sample_one(z, 4, &row);
    assert_int_equal(r.n_top, 1);
    assert_int_equal(r.top_tokens[0], 2);
    assert_true(r.logprob == 0 && r.top_logprobs[0] == 0);
    z[0] = INFINITY;
    r = sample_one(z, 4, &row);
    assert_int_equal(r.token, 0);
    assert_false(isnan(r.logprob) || isnan(r.top_logprobs[0]));
}

static void test_banned_ids_are_never_drawn(void **state) {
    static const uint32_t some[] = { 2, 0 }, all[] = { 3, 2, 1, 0 };
    float z[4] = { 50, 1, 40, 2 };
    SampleParams p = SAMPLE_PARAMS_GREEDY;
    SampleRow row = { .params = &p, .banned = some, .n_banned = 2, .n_top_logprobs = -1 };

    (void)state;
    for (int hot = 0; hot < 2; hot++) {
        p.temperature = (float)hot;
        row.banned = some;
        row.n_banned = 2;
        for (p.seed = 0; p.seed < 200; p.seed++)
            assert_int_equal(sample_one(z, 4, &row).token % 2, 1);
        row.banned = all;
        row.n_banned = 3;
        for (p.seed = 0; p.seed < 20; p.seed++)
            assert_int_equal(sample_one(z, 4, &row).token, 0);
        row.n_banned = 4;
        assert_int_equal(sample_one(z, 4, &row).token, 0);
    }
    /* Nothing left to draw: the lowest id that is not banned. */
    z[1] = z[3] = -INFINITY;
    row.banned = some;
    row.n_banned = 2;
    assert_int_equal(sample_one(z, 4, &row).token, 1);
}

static void test_logit_bias_of_100_decides(void **state) {
    static const LogitBias force[] = { { 7, 100 }, { 400, 100 } }, forbid[] = { { 3, -100 } };
    SampleParams p = SAMPLE_PARAMS_GREEDY;
    float z[16];

    (void)state;
    random_logits(z, 16, 3);
    z[3] = 20;
    for (int hot = 0; hot < 2; hot++) {
        p.temperature = (float)hot;
        p.logit_bias = force;
        p.n_logit_bias = 2; /* an id outside the vocabulary changes nothing */
        for (p.seed = 0; p.seed < 50; p.seed++)
            assert_int_equal(sample_token(z, 16, &p), 7);
        p.logit_bias = forbid;
        p.n_logit_bias = 1;
        for (p.seed = 0; p.seed < 50; p.seed++)
            assert_int_not_equal(sample_token(z, 16, &p), 3);
    }
}

static void test_penalties_follow_the_formula(void **state) {
    enum { N = 40 };
    uint32_t prompt[20], output[30];
    double want[N];
    float z[N];

    (void)state;
    for (int round = 0; round < 2000; round++) {
        SampleParams p = SAMPLE_PARAMS_GREEDY;
        SampleRow row = { .params = &p,
                          .prompt = prompt,
                          .output = output,
                          .n_prompt = random_u32() % 21,
                          .n_output = random_u32() % 31,
                          .n_top_logprobs = -1 };
        double best = -INFINITY;

        for (int i = 0; i < 20; i++)
            prompt[i] = random_u32() % N;
        for (int i = 0; i < 30; i++)
            output[i] = random_u32() % N;
        random_logits(z, N, 1);
        p.repetition_penalty = round % 2 ? 0.5f + (float)(random_u32() % 100) / 50 : 1;
        p.presence_penalty = round % 3 ? (float)(random_u32() % 401) / 100 - 2 : 0;
        p.frequency_penalty = round % 5 ? (float)(random_u32() % 401) / 100 - 2 : 0;
        reference_logits(z, N, &row, want);
        for (int t = 0; t < N; t++)
            best = want[t] > best ? want[t] : best;
        assert_true(want[sample_one(z, N, &row).token] >= best - 1e-5);
    }
}

/* Rows that share a thread's scratch, and slots that are filled again. */
static void test_penalties_leave_nothing_behind(void **state) {
    enum { N = 8, ROWS = 4 };
    static const uint32_t tokens[] = { 5, 5, 5 }, banned[] = { 5 };
    static const LogitBias bias[] = { { 5, -100 } };
    SampleParams harsh = SAMPLE_PARAMS_GREEDY, plain = SAMPLE_PARAMS_GREEDY;
    CLEANUP(cpu_sampler_free) CpuSampler *sampler = NULL;
    SampleRow rows[ROWS];
    SampleResult results[ROWS];
    float z[ROWS * N] = { 0 };
    size_t bytes = 0;

    (void)state;
    harsh.frequency_penalty = 2;
    plain.frequency_penalty = 0.001f;
    for (int i = 0; i < ROWS; i++)
        z[i * N + 5] = 4;
    assert_int_equal(cpu_sampler_new(&sampler, 1, ROWS, N, &bytes), 0);
    for (int round = 0; round < 6; round++) {
        harsh.logit_bias = bias;
        harsh.n_logit_bias = round == 2;
        for (int i = 0; i < ROWS; i++) {
            bool is_harsh = (i + round) % 2 == 0;

            rows[i] = (SampleRow){ .params = is_harsh ? &harsh : &plain,
                                   .output = tokens,
                                   .n_output = is_harsh ? 3 : 0,
                                   .banned = banned,
                                   .n_banned = is_harsh && round == 4,
                                   .n_top_logprobs = -1 };
        }
        sample_rows(sampler, NULL, z, N, rows, ROWS, results);
        for (int i = 0; i < ROWS; i++)
            assert_int_equal(results[i].token, (i + round) % 2 ? 5 : 0);
    }
}

static void test_draws_follow_the_distribution(void **state) {
    enum { N = 120 };
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
    } cases[] = {
        { 1, 1, 0, 0 },         { 0.3f, 1, 0, 0 },        { 2.5f, 1, 0, 0 },
        { 1, 0.9f, 0, 0 },      { 1, 0.3f, 0, 0 },        { 1, 0.0001f, 0, 0 },
        { 1, 1, 0.1f, 0 },      { 1, 1, 1, 0 },           { 1, 1, 0, 1 },
        { 1, 1, 0, 7 },         { 1, 1, 0, N - 1 },       { 1, 1, 0, N },
        { 1, 1, 0, 100000 },    { 0.8f, 0.8f, 0, 12 },    { 1, 0.95f, 0.05f, 40 },
        { 1.7f, 0.999f, 0, 0 }, { 1.2f, 0.7f, 0.02f, 0 },
    };
    float z[N];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        SampleParams p = SAMPLE_PARAMS_GREEDY;

        p.temperature = cases[i].temperature;
        p.top_p = cases[i].top_p;
        p.min_p = cases[i].min_p;
        p.top_k = cases[i].top_k;
        p.seed = i << 40;
        random_logits(z, N, 2);
        check_distribution(z, N, (SampleRow){ 0 }, &p, 20000);
    }
}

static void test_draws_from_a_large_vocabulary_stay_in_the_set(void **state) {
    enum { N = 50000 };
    double *probabilities = calloc(N, sizeof(*probabilities));
    float *z = calloc(N, sizeof(*z));

    (void)state;
    for (int k = 0; k < 4; k++) {
        SampleParams p = SAMPLE_PARAMS_GREEDY;
        double drawn = 0;

        p.temperature = k == 3 ? 3 : 1;
        p.top_p = k ? 0.9f : 0.5f;
        p.top_k = k == 2 ? 700 : 0;
        random_logits(z, N, 3);
        reference_distribution(z, N, &(SampleRow){ .params = &p }, probabilities);
        for (p.seed = 0; p.seed < 300; p.seed++) {
            double probability = probabilities[sample_token(z, N, &p)];

            assert_true(probability > 0);
            drawn += log(probability);
        }
        /* The mean of log p over draws is minus the entropy, within what chance allows. */
        for (uint32_t t = 0; t < N; t++)
            if (probabilities[t] > 0)
                drawn -= 300 * probabilities[t] * log(probabilities[t]);
        assert_true(fabs(drawn / 300) < 0.5);
    }
    free(z);
    free(probabilities);
}

static void test_ties_at_the_cut_keep_the_lowest_ids(void **state) {
    enum { N = 50 };
    bool seen[N] = { false };
    SampleParams p = SAMPLE_PARAMS_GREEDY;
    float z[N] = { 0 };

    (void)state;
    p.temperature = 1;
    p.top_k = 4;
    z[20] = 1;
    for (p.seed = 0; p.seed < 500; p.seed++)
        seen[sample_token(z, N, &p)] = true;
    for (int t = 0; t < N; t++)
        assert_int_equal(seen[t], t < 3 || t == 20);

    memset(seen, 0, sizeof(seen));
    z[20] = 0;
    p.top_k = 0;
    p.top_p = 0.099f; /* five of fifty equal ones */
    for (p.seed = 0; p.seed < 500; p.seed++)
        seen[sample_token(z, N, &p)] = true;
    for (int t = 0; t < N; t++)
        assert_int_equal(seen[t], t < 5);
}

/* The streams of two seeds, and of two positions of one seed, are independent; one key gives one
 * number. Known answer: Random123's kat_vectors, philox4x32 10 rounds, counter and key zero. */
static void test_draw_is_a_function_of_seed_and_position(void **state) {
    enum { N = 1 << 16 };
    float *z = calloc(N, sizeof(*z));
    uint32_t tokens[64] = { 0 };
    SampleParams p = SAMPLE_PARAMS_GREEDY;
    SampleRow row = { .params = &p, .output = tokens, .n_top_logprobs = -1 };
    uint32_t n_equal = 0;

    (void)state;
    p.temperature = 1;
    /* Words e169c58d 6627e8d5: of 65,536 equal tokens, the top 16 bits name the one drawn. */
    assert_int_equal(sample_one(z, N, &row).token, 0xe169);
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t a, b;

        row.n_output = i;
        p.seed = 1;
        a = sample_one(z, N, &row).token;
        assert_int_equal(sample_one(z, N, &row).token, a);
        p.seed = 2;
        b = sample_one(z, N, &row).token;
        p.seed = UINT64_C(1) << 32;
        n_equal += a == b || sample_one(z, N, &row).token == a;
        row.n_output = i + 1;
        p.seed = 1;
        n_equal += sample_one(z, N, &row).token == a;
    }
    assert_true(n_equal <= 1);
    free(z);
}

/* A row's answer does not depend on its neighbours, nor on who computes it, nor on how wide the
 * sampler's widest row may be. */
static void test_rows_are_independent_of_the_batch_and_the_team(void **state) {
    enum { ROWS = 33, N = 3000 };
    CLEANUP(cpu_sampler_free) CpuSampler *sampler = NULL;
    CLEANUP(cpu_team_free) CpuTeam *team = NULL;
    float *z = malloc(ROWS * N * sizeof(*z));
    static SampleParams params[ROWS];
    static SampleRow rows[ROWS];
    static SampleResult results[ROWS];
    size_t bytes = 0;

    (void)state;
    assert_int_equal(cpu_team_new(&team, 3, NULL), 0);
    assert_int_equal(cpu_sampler_new(&sampler, 3, ROWS, N + 77, &bytes), 0);
    random_logits(z, ROWS * N, 3);
    for (uint32_t i = 0; i < ROWS; i++) {
        params[i] = (SampleParams){ .temperature = (float)(i % 4),
                                    .top_p = i % 3 ? 0.9f : 1,
                                    .top_k = i % 5 ? 0 : 40,
                                    .repetition_penalty = 1,
                                    .seed = i };
        rows[i] = (SampleRow){ .params = &params[i], .n_top_logprobs = (int)(i % 7) - 1 };
    }
    sample_rows(sampler, team, z, N, rows, ROWS, results);
    for (uint32_t i = 0; i < ROWS; i++) {
        SampleResult alone = sample_one(z + i * N, N, &rows[i]);

        assert_int_equal(results[i].token, alone.token);
        assert_memory_equal(&results[i].logprob, &alone.logprob, sizeof(float));
        assert_int_equal(results[i].n_top, alone.n_top);
        assert_memory_equal(results[i].top_logprobs, alone.top_logprobs,
                            alone.n_top * sizeof(float));
    }
    free(z);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_out_of_range_from_nan_and_infinity),
        cmocka_unit_test(test_logprobs_of_degenerate_rows_are_defined),
        cmocka_unit_test(test_banned_ids_are_never_drawn),
        cmocka_unit_test(test_logit_bias_of_100_decides),
        cmocka_unit_test(test_penalties_follow_the_formula),
        cmocka_unit_test(test_penalties_leave_nothing_behind),
        cmocka_unit_test(test_draws_follow_the_distribution),
        cmocka_unit_test(test_draws_from_a_large_vocabulary_stay_in_the_set),
        cmocka_unit_test(test_ties_at_the_cut_keep_the_lowest_ids),
        cmocka_unit_test(test_draw_is_a_function_of_seed_and_position),
        cmocka_unit_test(test_rows_are_independent_of_the_batch_and_the_team),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
