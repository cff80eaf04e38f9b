/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several clients of one engine with a real, tiny model: a newcomer beside a hog, answers that do
 * not depend on who else is there, and what may wait.
 */

#include "server/engine/engine.h"
#include "server/engine/sequence.h"
#include "tests/unit/tiny_model.h"

#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TOKENS_MAX 256

typedef struct Bench {
    Mailbox events;
    Engine *engine;
} Bench;

typedef struct Answer {
    uint32_t ids[TOKENS_MAX];
    uint32_t n_ids;
    uint64_t arrival_ns, admitted_ns, first_token_ns;
    FinishReason finish; /* FINISH_NONE while it runs */
} Answer;

/* Steps wait for a token each, so that a test knows which step is running. */
static sem_t gate;
static atomic_uint n_begun;

static int gated_embed(Backend *backend, const EmbedArgs *args) {
    atomic_fetch_add(&n_begun, 1);
    sem_wait(&gate);
    return model.ops.embed(backend, args);
}

static EngineOptions options_of(uint32_t n_pages, uint32_t max_num_seqs, uint32_t n_rows) {
    return (EngineOptions){ .ops = &model.ops,
                            .backend = model.backend,
                            .steps_in_flight = model.steps_in_flight,
                            .checkpoint = model.checkpoint,
                            .tokenizer = model.tokenizer,
                            .kv_tokens = UINT64_C(64) * n_pages,
                            .max_num_seqs = max_num_seqs,
                            .max_batched_tokens = n_rows };
}

static void bench_open(Bench *bench, EngineOptions options) {
    Reason why = REASON_NULL;

    options.events = &bench->events;
    assert_int_equal(mailbox_init(&bench->events, NULL, NULL), 0);
    if (engine_new(&bench->engine, &options, &why))
        fail_msg("%s", why.text);
}

static void bench_close(Bench *bench) {
    EngineStats *stats = engine_stats(bench->engine);

    engine_stop(bench->engine, true);
    assert_int_equal(stats->n_running + stats->n_waiting + stats->pages_used, 0);
    engine_free(bench->engine);
    mailbox_deinit(&bench->events);
}

static void take_event(EngineEvent *event) {
    Answer *answer = event->request->owner;

    for (uint32_t i = 0; i < event->n_tokens; i++)
        answer->ids[answer->n_ids++] = event->tokens[i];
    answer->admitted_ns = event->admitted_ns;
    answer->first_token_ns = event->first_token_ns;
    answer->finish = event->finish;
    if (event->finish != FINISH_NONE) {
        free((void *)(uintptr_t)event->request->prompt);
        engine_request_free(event->request);
    }
    engine_event_free(event);
}

static void bench_take_events(Bench *bench, bool wait) {
    List mail = LIST_INIT(mail), *link;

    if (wait)
        mailbox_wait(&bench->events, &mail);
    else
        mailbox_take(&bench->events, &mail);
    while ((link = list_pop_front(&mail)))
        take_event(container_of(link, EngineEvent, link));
}

static void bench_wait(Bench *bench, const Answer *answers, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        while (answers[i].finish == FINISH_NONE)
            bench_take_events(bench, true);
}

static EngineRequest *request_new(Answer *answer, uint64_t client, uint32_t n_prompt,
                                  uint32_t max_tokens, uint32_t variety) {
    EngineRequest *request = engine_request_new();
    uint32_t *prompt = calloc(n_prompt ? n_prompt : 1, sizeof(*prompt));

    assert_non_null(request);
    request->owner = answer;
    request->client = client;
    request->n_prompt = n_prompt;
    request->prompt = prompt;
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = 2 + (i * 31 + variety * 977 + i * i * (variety + 3)) % 500;
    request->max_tokens = max_tokens;
    request->ignore_eos = true;
    return request;
}

/* a hog */

enum { N_HOG = 200 };

/* Steps from the arrival of a request to its first token, where a hog has everything. */
static uint32_t steps_to_first_token(EngineOptions options, uint64_t client, uint32_t n_prompt) {
    static Answer hog[N_HOG], answer;
    BackendOps ops = model.ops;
    uint32_t n_steps = 0;
    Bench bench;

    memset(hog, 0, sizeof(hog));
    answer = (Answer){ .n_ids = 0 };
    sem_init(&gate, 0, 10);
    atomic_store(&n_begun, 0);
    ops.embed = gated_embed;
    options.ops = &ops;
    bench_open(&bench, options);
    for (uint32_t i = 0; i < N_HOG; i++)
        engine_submit(bench.engine, request_new(&hog[i], 7, 100, 100, i));
    assert_int_equal(engine_start(bench.engine), 0);
    while (atomic_load(&n_begun) < 11)
        sched_yield();
    engine_submit(bench.engine, request_new(&answer, client, n_prompt, 5, 1));
    while (!answer.n_ids && n_steps < 50) {
        uint32_t n_before = atomic_load(&n_begun);

        sem_post(&gate);
        while (atomic_load(&n_begun) == n_before)
            sched_yield();
        bench_take_events(&bench, false);
        n_steps++;
    }
    for (uint32_t i = 0; i < 100000; i++)
        sem_post(&gate);
    engine_stop(bench.engine, false);
    bench_wait(&bench, hog, N_HOG);
    bench_wait(&bench, &answer, 1);
    bench_close(&bench);
    sem_destroy(&gate);
    return n_steps;
}

static void test_a_newcomer_has_its_first_token_within_four_steps(void **state) {
    (void)state;
    /* The first of the steps was planned before it came. */
    assert_true(steps_to_first_token(options_of(400, 16, 256), 8, 200) <= 1 + 4);
    /* No slot, no page. */
    assert_true(steps_to_first_token(options_of(30, 16, 256), 8, 200) <= 1 + 4);
    assert_true(steps_to_first_token(options_of(30, 64, 256), 8, 200) <= 1 + 4);
    /* One of the hog's own waits for its turn. */
    assert_true(steps_to_first_token(options_of(400, 16, 256), 7, 200) > 20);
}

/* answers */

enum { N_CROWD = 40 };

static unsigned long long run_crowd(EngineOptions options, uint32_t n_clients, Answer *answers) {
    unsigned long long n_preemptions;
    Bench bench;

    memset(answers, 0, N_CROWD * sizeof(*answers));
    bench_open(&bench, options);
    assert_int_equal(engine_start(bench.engine), 0);
    for (uint32_t i = 0; i < N_CROWD; i++) {
        engine_submit(bench.engine, request_new(&answers[i], i * i % n_clients,
                                                1 + i * i * 13 % 260, 20 + i * 5, i / 3));
        if (i % 8 == 7)
            bench_take_events(&bench, true);
    }
    bench_wait(&bench, answers, N_CROWD);
    n_preemptions = engine_stats(bench.engine)->preemptions;
    bench_close(&bench);
    return n_preemptions;
}

static void test_an_answer_does_not_depend_on_other_clients(void **state) {
    static const uint32_t settings[][3] = { { 200, 3, 300 }, { 12, 8, 70 }, { 8, 40, 33 } };
    static Answer alone[N_CROWD], answers[N_CROWD];
    unsigned long long n_preemptions = 0;

    (void)state;
    assert_int_equal(run_crowd(options_of(200, 1, 512), 1, alone), 0);
    for (size_t k = 0; k < 6; k++) {
        EngineOptions options =
            options_of(settings[k / 2][0], settings[k / 2][1], settings[k / 2][2]);

        options.prefix_caching = k % 2;
        n_preemptions += run_crowd(options, 5, answers);
        for (uint32_t i = 0; i < N_CROWD; i++) {
            assert_int_equal(answers[i].finish, FINISH_LENGTH);
            assert_int_equal(answers[i].n_ids, alone[i].n_ids);
            assert_memory_equal(answers[i].ids, alone[i].ids, 4 * alone[i].n_ids);
            assert_true(answers[i].admitted_ns > 0);
            assert_true(answers[i].admitted_ns < answers[i].first_token_ns);
        }
    }
    assert_true(n_preemptions > 0);
}

/* what may wait */

static void reserve_and_submit(Bench *bench, EngineRequest *request) {
    EngineWait wait;

    assert_int_equal(engine_reserve(bench->engine, 1, request->n_prompt, &wait), 0);
    request->reserved = true;
    engine_submit(bench->engine, request);
}

static void assert_nothing_reserved(Bench *bench, uint32_t n_sequences, uint64_t n_tokens) {
    EngineWait wait;

    assert_int_equal(engine_reserve(bench->engine, n_sequences, n_tokens, &wait), 0);
    engine_unreserve(bench->engine, n_sequences, n_tokens);
}

static void test_limits_of_the_queue_are_named(void **state) {
    EngineOptions options = options_of(20, 1, 64);
    EngineWait wait = { .limit = 0 };
    Bench bench;

    (void)state;
    options.max_waiting_requests = 10;
    bench_open(&bench, options);
    assert_int_equal(engine_reserve(bench.engine, 11, 11, &wait), ENGINE_E_NEVER);
    assert_string_equal(wait.limit_name, "max_waiting_requests");
    assert_int_equal(wait.limit, 10);
    assert_int_equal(wait.asked, 11);
    /* Where no limit is given: sixteen caches full. */
    assert_int_equal(engine_reserve(bench.engine, 1, 16 * 20 * 64 + 1, &wait), ENGINE_E_NEVER);
    assert_string_equal(wait.limit_name, "max_waiting_tokens");
    assert_int_equal(wait.limit, 16 * 20 * 64);
    assert_int_equal(engine_reserve(bench.engine, 8, 16 * 20 * 64 - 5, &wait), 0);
    assert_int_equal(engine_reserve(bench.engine, 3, 3, &wait), ENGINE_E_REQUESTS);
    assert_string_equal(wait.limit_name, "max_waiting_requests");
    assert_int_equal(wait.used, 8);
    assert_int_equal(engine_reserve(bench.engine, 2, 6, &wait), ENGINE_E_TOKENS);
    assert_string_equal(wait.limit_name, "max_waiting_tokens");
    engine_unreserve(bench.engine, 8, 16 * 20 * 64 - 5);
    assert_nothing_reserved(&bench, 10, 16 * 20 * 64);
    bench_close(&bench);
}

static void test_room_comes_back_when_a_sequence_runs_or_ends(void **state) {
    EngineOptions options = options_of(20, 1, 64);
    static Answer answers[12];
    EngineRequest *requests[12];
    BackendOps ops = model.ops;
    EngineWait wait;
    Bench bench;

    (void)state;
    memset(answers, 0, sizeof(answers));
    sem_init(&gate, 0, model.steps_in_flight); /* the first one's results come */
    ops.embed = gated_embed;
    options.ops = &ops;
    options.max_waiting_requests = 11;
    options.max_waiting_tokens = 500;
    bench_open(&bench, options);
    assert_int_equal(engine_start(bench.engine), 0);
    for (uint32_t i = 0; i < 12; i++) { /* one that runs, and ten that wait; one is no request */
        requests[i] = request_new(&answers[i], 1, i == 11 ? 0 : 40, i ? 5 : 240, i);
        reserve_and_submit(&bench, requests[i]);
        while (i == 0 && !answers[0].n_ids)
            bench_take_events(&bench, true);
    }
    sem_post(&gate);
    bench_wait(&bench, &answers[11], 1);
    assert_int_equal(answers[11].finish, FINISH_ERROR);
    assert_int_equal(engine_reserve(bench.engine, 2, 80, &wait), ENGINE_E_REQUESTS);
    assert_int_equal(engine_reserve(bench.engine, 1, 101, &wait), ENGINE_E_TOKENS);
    for (uint32_t i = 1; i < 11; i++)
        engine_cancel(bench.engine, requests[i]);
    sem_post(&gate);
    bench_wait(&bench, answers + 1, 10);
    for (uint32_t i = 1; i < 11; i++) {
        assert_int_equal(answers[i].finish, FINISH_CANCELLED);
        assert_int_equal(answers[i].admitted_ns, 0);
    }
    assert_nothing_reserved(&bench, 11, 500);
    assert_int_equal(answers[0].finish, FINISH_NONE);
    engine_cancel(bench.engine, requests[0]);
    sem_post(&gate);
    bench_wait(&bench, answers, 1);
    bench_close(&bench);
    sem_destroy(&gate);
}

static void test_a_request_cancelled_before_it_came_ends_at_once(void **state) {
    Answer answer = { .n_ids = 0 };
    EngineRequest *request = request_new(&answer, 1, 40, 100, 1);
    Bench bench;

    (void)state;
    bench_open(&bench, options_of(20, 1, 64));
    assert_int_equal(engine_start(bench.engine), 0);
    engine_cancel(bench.engine, request);
    reserve_and_submit(&bench, request);
    bench_wait(&bench, &answer, 1);
    assert_int_equal(answer.finish, FINISH_CANCELLED);
    assert_int_equal(answer.n_ids, 0);
    assert_nothing_reserved(&bench, 1, 16 * 20 * 64);
    bench_close(&bench);
}

/* Memory that grows with max_tokens or the prompt is made by those that run. */
static void test_a_waiting_sequence_is_light(void **state) {
    Answer answer = { .n_ids = 0 };
    EngineRequest *request = request_new(&answer, 1, 40, 100000, 1);
    Sequence *s;

    (void)state;
    request->n_prompt_logprobs = 0;
    assert_int_equal(sequence_new(&s, request, model.tokenizer, NULL, 0), 0);
    assert_true(!s->output && !s->pages && !s->prompt_logprobs);
    assert_int_equal(sequence_start(s), 0);
    assert_true(s->pages && s->prompt_logprobs);
    assert_null(s->output);
    s->request = NULL;
    sequence_free(s);
    free((void *)(uintptr_t)request->prompt);
    engine_request_free(request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_newcomer_has_its_first_token_within_four_steps),
        cmocka_unit_test(test_an_answer_does_not_depend_on_other_clients),
        cmocka_unit_test(test_limits_of_the_queue_are_named),
        cmocka_unit_test(test_room_comes_back_when_a_sequence_runs_or_ends),
        cmocka_unit_test(test_a_request_cancelled_before_it_came_ends_at_once),
        cmocka_unit_test(test_a_waiting_sequence_is_light),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
