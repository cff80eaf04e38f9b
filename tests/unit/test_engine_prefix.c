/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's prefix cache with a real, tiny model: answers that do not depend on what was cached,
 * hits that are told, pages and sinks that always come back.
 */

#include "kvcache/kv_spec.h"
#include "server/engine/engine_state.h"
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOKENS_MAX 512

/* an engine under test */

typedef struct Setting {
    uint32_t n_pages, max_num_seqs, max_batched_tokens;
    bool prefix_caching, page_exact;
    bool has_equal_hashes; /* of all pages, as an enemy would have them */
    const char *kv;        /* NULL: f16 */
} Setting;

typedef struct Bench {
    Mailbox events;
    Engine *engine;
    KvPlan plan;
} Bench;

static Hash128 equal_hash(const HashKey *key, const void *data, size_t size) {
    (void)key;
    (void)data;
    (void)size;
    return (Hash128){ .low = 7, .high = 9 };
}

static void bench_start(Bench *bench, const Setting *setting) {
    EngineOptions options = { .ops = &model.ops,
                              .backend = model.backend,
                              .steps_in_flight = model.steps_in_flight,
                              .checkpoint = model.checkpoint,
                              .tokenizer = model.tokenizer,
                              .kv_tokens = UINT64_C(64) * setting->n_pages,
                              .max_num_seqs = setting->max_num_seqs,
                              .max_batched_tokens = setting->max_batched_tokens,
                              .prefix_caching = setting->prefix_caching,
                              .page_exact = setting->page_exact,
                              .plan = &bench->plan,
                              .events = &bench->events };
    uint32_t n_layers = checkpoint_config(model.checkpoint)->n_layers;
    Reason why = REASON_NULL;

    assert_int_equal(mailbox_init(&bench->events, NULL, NULL), 0);
    if (kv_spec_parse(&bench->plan, setting->kv ? setting->kv : "f16", n_layers, &why) ||
        engine_new(&bench->engine, &options, &why))
        fail_msg("%s", why.text);
    if (setting->has_equal_hashes)
        bench->engine->prefixes.hash = equal_hash;
    assert_int_equal(engine_start(bench->engine), 0);
}

/* No sequence and no page may be left. */
static void bench_close(Bench *bench) {
    EngineStats *stats = engine_stats(bench->engine);

    engine_stop(bench->engine, true);
    assert_int_equal(stats->n_running, 0);
    assert_int_equal(stats->n_waiting, 0);
    assert_int_equal(stats->pages_used, 0);
    engine_free(bench->engine);
    mailbox_deinit(&bench->events);
}

/* what a request came to */

typedef struct Answer {
    uint32_t ids[TOKENS_MAX];
    uint32_t n_ids, n_cached;
    TokenLogprob *prompt_logprobs;
    uint32_t n_prompt_logprobs;
    FinishReason finish; /* FINISH_NONE while it runs */
} Answer;

static void answer_deinit(Answer *answer) {
    free(answer->prompt_logprobs);
}
CLEANUP_DEINIT_DEFINE(Answer, answer_deinit);

static void take_event(EngineEvent *event) {
    Answer *answer = event->request->owner;

    for (uint32_t i = 0; i < event->n_tokens; i++)
        answer->ids[answer->n_ids++] = event->tokens[i];
    if (event->n_prompt_logprobs) {
        answer->prompt_logprobs = TAKE(event->prompt_logprobs);
        answer->n_prompt_logprobs = event->n_prompt_logprobs;
    }
    /* How much was cached is known from the first event on, and is about the prompt. */
    if (answer->n_ids > 1)
        assert_int_equal(event->n_cached, answer->n_cached);
    answer->n_cached = event->n_cached;
    assert_true(event->n_cached < event->request->n_prompt);
    answer->finish = event->finish;
    if (event->error)
        fail_msg("%s", event->error);
    if (event->finish != FINISH_NONE) {
        free((void *)(uintptr_t)event->request->prompt);
        engine_request_free(event->request);
    }
    engine_event_free(event);
}

static void bench_wait_events(Bench *bench) {
    List mail = LIST_INIT(mail), *link;

    mailbox_wait(&bench->events, &mail);
    while ((link = list_pop_front(&mail)))
        take_event(container_of(link, EngineEvent, link));
}

static void bench_wait(Bench *bench, const Answer *answer) {
    while (answer->finish == FINISH_NONE)
        bench_wait_events(bench);
}

/* requests */

/* The first n_shared tokens are those of every prompt with that `prefix`. */
static EngineRequest *request_new(Answer *answer, uint32_t prefix, uint32_t n_shared,
                                  uint32_t n_own, uint32_t max_tokens) {
    static uint32_t n_requests;
    EngineRequest *request = engine_request_new();
    uint32_t own = n_requests++ % 401;
    uint32_t *prompt;

    assert_non_null(request);
    request->owner = answer;
    request->n_prompt = n_shared + n_own;
    prompt = calloc(request->n_prompt, sizeof(*prompt));
    request->prompt = prompt;
    for (uint32_t i = 0; i < n_shared; i++)
        prompt[i] = 2 + (i * 31 + prefix * 977 + i * i * (prefix + 3)) % 500;
    for (uint32_t i = n_shared; i < request->n_prompt; i++)
        prompt[i] = 2 + (i * 17 + own * 71 + i * i) % 500;
    request->max_tokens = max_tokens;
    request->ignore_eos = true;
    return request;
}

/* The prompt, which the request only borrows. */
static uint32_t *prompt_of(const EngineRequest *request) {
    return (uint32_t *)(uintptr_t)request->prompt;
}

static void run_alone(Bench *bench, EngineRequest *request) {
    Answer *answer = request->owner;

    engine_submit(bench->engine, request);
    bench_wait(bench, answer);
    assert_int_equal(answer->finish, FINISH_LENGTH);
}

/* answers that do not depend on caching */

enum { N_PREFIXES = 3, N_FAMILY = 8, N_CROWD = N_PREFIXES * N_FAMILY };

typedef struct Crowd {
    Answer answers[N_CROWD];
    unsigned long long n_preemptions, n_hit_tokens;
} Crowd;

/* Own parts of no length in particular, and some of none. */
static EngineRequest *crowd_request(Crowd *crowd, uint32_t i) {
    static const uint32_t n_shared[N_PREFIXES] = { 130, 64, 200 };
    uint32_t prefix = i % N_PREFIXES, member = i / N_PREFIXES;
    EngineRequest *request = request_new(&crowd->answers[i], prefix, n_shared[prefix],
                                         member * member * 5 % 71, 60 + i * 29 % 67);

    for (uint32_t j = n_shared[prefix]; j < request->n_prompt; j++)
        prompt_of(request)[j] = 2 + (j * 17 + i * 71 + j * j) % 500; /* the same in every run */
    return request;
}

/* One of each prefix goes ahead, so that the others can share it with each other. */
static void run_crowd(const Setting *setting, Crowd *crowd) {
    EngineStats *stats;
    Bench bench;

    memset(crowd, 0, sizeof(*crowd));
    bench_start(&bench, setting);
    stats = engine_stats(bench.engine);
    for (uint32_t i = 0; i < N_PREFIXES; i++)
        run_alone(&bench, crowd_request(crowd, i));
    for (uint32_t i = N_PREFIXES; i < N_CROWD; i++)
        engine_submit(bench.engine, crowd_request(crowd, i));
    for (uint32_t i = N_PREFIXES; i < N_CROWD; i++)
        bench_wait(&bench, &crowd->answers[i]);
    crowd->n_preemptions = stats->preemptions;
    crowd->n_hit_tokens = stats->prefix_hit_tokens;
    bench_close(&bench);
}

static void assert_same_answers(const Crowd *a, const Crowd *b) {
    for (uint32_t i = 0; i < N_CROWD; i++) {
        assert_int_equal(b->answers[i].finish, FINISH_LENGTH);
        assert_int_equal(b->answers[i].n_ids, a->answers[i].n_ids);
        assert_memory_equal(b->answers[i].ids, a->answers[i].ids, 4 * a->answers[i].n_ids);
    }
}

static void check_settings(const char *kv, const Setting *settings, size_t n_settings) {
    static Crowd plain, other;
    unsigned long long n_preemptions = 0;
    Setting first = { .n_pages = 150,
                      .max_num_seqs = N_CROWD,
                      .max_batched_tokens = 512,
                      .page_exact = settings[0].page_exact,
                      .kv = kv };

    run_crowd(&first, &plain);
    assert_int_equal(plain.n_hit_tokens, 0);
    for (size_t k = 0; k < n_settings; k++) {
        Setting setting = settings[k];

        setting.kv = kv;
        run_crowd(&setting, &other);
        assert_same_answers(&plain, &other);
        n_preemptions += other.n_preemptions;
        assert_int_equal(other.n_hit_tokens > 0, setting.prefix_caching);
    }
    assert_true(n_preemptions > 0);
}

static void test_in_16_bits_an_answer_does_not_depend_on_the_prefix_cache(void **state) {
    static const Setting settings[] = {
        { .n_pages = 150, .max_num_seqs = 24, .max_batched_tokens = 512, .prefix_caching = true },
        { .n_pages = 12, .max_num_seqs = 24, .max_batched_tokens = 100, .prefix_caching = true },
        { .n_pages = 8, .max_num_seqs = 24, .max_batched_tokens = 33, .prefix_caching = true },
        { .n_pages = 12, .max_num_seqs = 3, .max_batched_tokens = 7, .prefix_caching = true },
    };

    (void)state;
    need_row_exact();
    check_settings("f16", settings, sizeof(settings) / sizeof(settings[0]));
    check_settings("bf16", settings, sizeof(settings) / sizeof(settings[0]));
}

static void test_forged_hashes_change_no_answer(void **state) {
    static const Setting settings[] = {
        { .n_pages = 150,
          .max_num_seqs = 24,
          .max_batched_tokens = 512,
          .prefix_caching = true,
          .has_equal_hashes = true },
        { .n_pages = 8,
          .max_num_seqs = 24,
          .max_batched_tokens = 33,
          .prefix_caching = true,
          .has_equal_hashes = true },
    };

    (void)state;
    check_settings("f16", settings, sizeof(settings) / sizeof(settings[0]));
}

static void test_page_exact_answers_depend_on_neither_chunks_nor_the_cache(void **state) {
    static const Setting settings[] = {
        { .n_pages = 150, .max_num_seqs = 24, .max_batched_tokens = 64, .page_exact = true },
        { .n_pages = 150,
          .max_num_seqs = 24,
          .max_batched_tokens = 512,
          .page_exact = true,
          .prefix_caching = true },
        { .n_pages = 12,
          .max_num_seqs = 5,
          .max_batched_tokens = 100,
          .page_exact = true,
          .prefix_caching = true },
        { .n_pages = 9,
          .max_num_seqs = 24,
          .max_batched_tokens = 33,
          .page_exact = true,
          .prefix_caching = true },
    };
    static const char *const specs[] = { "k4v2", "k2v3", "k16v6" };

    (void)state;
    need_row_exact();
    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++)
        check_settings(specs[i], settings, sizeof(settings) / sizeof(settings[0]));
}

/* hits */

static const Setting roomy = {
    .n_pages = 60, .max_num_seqs = 8, .max_batched_tokens = 512, .prefix_caching = true
};

static void test_hits_are_told_and_counted(void **state) {
    static const struct {
        uint32_t prefix, n_shared, n_own, n_cached;
    } wishes[] = {
        { 1, 200, 0, 0 },   { 1, 200, 0, 192 }, { 1, 192, 0, 128 },
        { 1, 193, 0, 192 }, { 1, 130, 9, 128 }, { 1, 63, 70, 0 },
        { 1, 64, 1, 64 },   { 2, 200, 0, 0 },   { 1, 20, 0, 0 },
    };
    unsigned long long n_queries = 0, n_hits = 0;
    Bench bench;

    (void)state;
    bench_start(&bench, &roomy);
    for (size_t i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++) {
        Answer answer = { .n_ids = 0 };

        run_alone(&bench,
                  request_new(&answer, wishes[i].prefix, wishes[i].n_shared, wishes[i].n_own, 3));
        assert_int_equal(answer.n_cached, wishes[i].n_cached);
        n_queries += wishes[i].n_shared + wishes[i].n_own;
        n_hits += wishes[i].n_cached;
    }
    assert_int_equal(engine_stats(bench.engine)->prefix_query_tokens, n_queries);
    assert_int_equal(engine_stats(bench.engine)->prefix_hit_tokens, n_hits);
    bench_close(&bench);
}

static void test_without_the_cache_nothing_is_found(void **state) {
    Setting setting = roomy;
    Bench bench;

    (void)state;
    setting.prefix_caching = false;
    bench_start(&bench, &setting);
    for (int i = 0; i < 2; i++) {
        Answer answer = { .n_ids = 0 };

        run_alone(&bench, request_new(&answer, 1, 200, 0, 3));
        assert_int_equal(answer.n_cached, 0);
    }
    assert_int_equal(engine_stats(bench.engine)->prefix_query_tokens, 0);
    bench_close(&bench);
}

static void test_the_next_turn_finds_the_answer_too(void **state) {
    Answer first = { .n_ids = 0 }, next = { .n_ids = 0 };
    EngineRequest *request;
    Bench bench;

    (void)state;
    bench_start(&bench, &roomy);
    run_alone(&bench, request_new(&first, 1, 100, 0, 40)); /* 139 tokens in the cache */
    request = request_new(&next, 1, 100, 60, 3);
    memcpy(prompt_of(request) + 100, first.ids, 40 * sizeof(*first.ids));
    run_alone(&bench, request);
    assert_int_equal(next.n_cached, 128);
    bench_close(&bench);
}

static void test_running_sequences_share_pages(void **state) {
    Answer first = { .n_ids = 0 }, next = { .n_ids = 0 };
    Bench bench;

    (void)state;
    bench_start(&bench, &roomy);
    engine_submit(bench.engine, request_new(&first, 1, 200, 0, 300));
    while (!first.n_ids)
        bench_wait_events(&bench);
    run_alone(&bench, request_new(&next, 1, 200, 10, 3));
    assert_int_equal(next.n_cached, 192);
    bench_wait(&bench, &first);
    bench_close(&bench);
}

/* Eight sequences on the same two pages reach the end of a page in the same step. Whoever is
 * preempted then gives back only what nobody else holds. */
static void test_preemption_does_not_count_on_shared_pages(void **state) {
    enum { N = 8 };
    Setting setting = {
        .n_pages = 20, .max_num_seqs = N, .max_batched_tokens = 512, .prefix_caching = true
    };
    Answer first = { .n_ids = 0 };
    static Answer answers[N];
    Bench bench;

    (void)state;
    memset(answers, 0, sizeof(answers));
    bench_start(&bench, &setting);
    run_alone(&bench, request_new(&first, 1, 138, 0, 1));
    for (uint32_t i = 0; i < N; i++)
        engine_submit(bench.engine, request_new(&answers[i], 1, 138, 0, 200));
    for (uint32_t i = 0; i < N; i++) {
        bench_wait(&bench, &answers[i]);
        assert_int_equal(answers[i].n_cached, 128);
        assert_memory_equal(answers[i].ids, answers[0].ids, 200 * sizeof(uint32_t));
    }
    assert_true(engine_stats(bench.engine)->preemptions > 0);
    bench_close(&bench);
}

static void test_salts_never_share(void **state) {
    static const struct {
        const char *salt;
        uint32_t n_cached;
    } wishes[] = {
        { NULL, 0 },         { "tenant a", 0 }, { "tenant b", 0 },   { "tenant", 0 },
        { "tenant a", 128 }, { "", 128 },       { "tenant b", 128 }, { NULL, 128 },
    };
    Answer answers[8] = { { .n_ids = 0 } };
    Bench bench;

    (void)state;
    bench_start(&bench, &roomy);
    for (size_t i = 0; i < sizeof(wishes) / sizeof(wishes[0]); i++) {
        EngineRequest *request = request_new(&answers[i], 1, 150, 0, 5);

        request->cache_salt = engine_salt(bench.engine, wishes[i].salt ? wishes[i].salt : "",
                                          wishes[i].salt ? strlen(wishes[i].salt) : 0);
        run_alone(&bench, request);
        assert_int_equal(answers[i].n_cached, wishes[i].n_cached);
        assert_memory_equal(answers[i].ids, answers[0].ids, 5 * sizeof(uint32_t));
    }
    bench_close(&bench);
}

static void test_a_prompt_with_logprobs_is_computed_whole(void **state) {
    CLEANUP(answer_deinit) Answer first = { .n_ids = 0 }, again = { .n_ids = 0 };
    Answer after = { .n_ids = 0 };
    Bench bench;

    (void)state;
    bench_start(&bench, &roomy);
    for (int i = 0; i < 2; i++) {
        Answer *answer = i ? &again : &first;
        EngineRequest *request = request_new(answer, 1, 200, 0, 2);

        request->n_prompt_logprobs = 1;
        run_alone(&bench, request);
        assert_int_equal(answer->n_cached, 0);
        assert_int_equal(answer->n_prompt_logprobs, 200);
        for (uint32_t k = 1; k < 200; k++)
            assert_true(answer->prompt_logprobs[k].logprob <= 0);
    }
    assert_memory_equal(&first.prompt_logprobs[1], &again.prompt_logprobs[1],
                        199 * sizeof(*again.prompt_logprobs));
    run_alone(&bench, request_new(&after, 1, 200, 0, 2));
    assert_int_equal(after.n_cached, 192);
    bench_close(&bench);
}

/* sinks */

/* Two slots for each that may run: first pages that are only cached have to give theirs up. */
static void test_sinks_do_not_run_out(void **state) {
    enum { N_ROUNDS = 3, N_TEXTS = 12 };
    Setting setting = { .n_pages = 60,
                        .max_num_seqs = 2,
                        .max_batched_tokens = 512,
                        .prefix_caching = true,
                        .page_exact = true,
                        .kv = "k2v2" };
    static Answer answers[N_ROUNDS][N_TEXTS];
    Bench bench;

    (void)state;
    memset(answers, 0, sizeof(answers));
    bench_start(&bench, &setting);
    assert_int_equal(engine_ledger(bench.engine)->n_sinks, 4);
    for (uint32_t round = 0; round < N_ROUNDS; round++) {
        for (uint32_t i = 0; i < N_TEXTS; i++)
            engine_submit(bench.engine, request_new(&answers[round][i], i, 70 + i * 7, 0, 8));
        for (uint32_t i = 0; i < N_TEXTS; i++) {
            bench_wait(&bench, &answers[round][i]);
            assert_memory_equal(answers[round][i].ids, answers[0][i].ids, 8 * sizeof(uint32_t));
        }
    }
    /* The one that just ran still has its sinks, and is found with them. */
    answers[0][0].finish = FINISH_NONE;
    answers[0][0].n_ids = 0;
    run_alone(&bench, request_new(&answers[0][0], N_TEXTS - 1, 70 + (N_TEXTS - 1) * 7, 0, 8));
    assert_int_equal(answers[0][0].n_cached, 128);
    assert_memory_equal(answers[0][0].ids, answers[1][N_TEXTS - 1].ids, 8 * sizeof(uint32_t));
    bench_close(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_16_bits_an_answer_does_not_depend_on_the_prefix_cache),
        cmocka_unit_test(test_forged_hashes_change_no_answer),
        cmocka_unit_test(test_page_exact_answers_depend_on_neither_chunks_nor_the_cache),
        cmocka_unit_test(test_hits_are_told_and_counted),
        cmocka_unit_test(test_without_the_cache_nothing_is_found),
        cmocka_unit_test(test_the_next_turn_finds_the_answer_too),
        cmocka_unit_test(test_running_sequences_share_pages),
        cmocka_unit_test(test_preemption_does_not_count_on_shared_pages),
        cmocka_unit_test(test_salts_never_share),
        cmocka_unit_test(test_a_prompt_with_logprobs_is_computed_whole),
        cmocka_unit_test(test_sinks_do_not_run_out),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
