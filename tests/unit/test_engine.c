/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine with a real, tiny model on the CPU backend: texts that do not depend on company,
 * chunking or preemption, endings of every kind, and pages that always come back.
 */

#include "server/engine/engine.h"
#include "tests/unit/tiny_model.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MAX_BATCHED_TOKENS 512

/* an engine under test */

typedef struct Bench {
    Mailbox events;
    Engine *engine;
} Bench;

typedef struct BenchOptions {
    uint32_t n_pages, max_num_seqs, max_batched_tokens;
    const BackendOps *ops;
} BenchOptions;

static void bench_open(Bench *bench, BenchOptions options) {
    EngineOptions engine_options = { .ops = options.ops ? options.ops : &model.ops,
                                     .backend = model.backend,
                                     .steps_in_flight = model.steps_in_flight,
                                     .checkpoint = model.checkpoint,
                                     .tokenizer = model.tokenizer,
                                     .kv_tokens = UINT64_C(64) * options.n_pages,
                                     .max_num_seqs = options.max_num_seqs,
                                     .max_batched_tokens = options.max_batched_tokens,
                                     .events = &bench->events };
    Reason why = REASON_NULL;

    assert_int_equal(mailbox_init(&bench->events, NULL, NULL), 0);
    if (engine_new(&bench->engine, &engine_options, &why))
        fail_msg("%s", why.text);
}

static void bench_start(Bench *bench, BenchOptions options) {
    bench_open(bench, options);
    assert_int_equal(engine_start(bench->engine), 0);
}

/* No sequence may be left. */
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
    uint32_t ids[2048];
    float logprobs[2048];
    uint32_t n_ids;
    Buffer text;
    TokenLogprob *prompt_logprobs;
    uint32_t n_prompt_logprobs;
    FinishReason finish; /* FINISH_NONE while it runs */
    char stop_text[64];
    uint32_t stop_token;
    const char *error;
} Answer;

static Answer *answer_new(void) {
    Answer *answer = calloc(1, sizeof(*answer));

    assert_non_null(answer);
    return answer;
}

static Answer *answer_free(Answer *answer) {
    buffer_deinit(&answer->text);
    free(answer->prompt_logprobs);
    free(answer);
    return NULL;
}
CLEANUP_DEFINE(Answer, answer_free);

/* Requests borrow; here each has what it borrows to itself. */
static void request_free(EngineRequest *request) {
    StopSet *stops = (StopSet *)(uintptr_t)request->stops;

    if (stops)
        stop_set_deinit(stops);
    free(stops);
    free((void *)(uintptr_t)request->prompt);
    free((void *)(uintptr_t)request->stop_tokens);
    free((void *)(uintptr_t)request->params.logit_bias);
    engine_request_free(request);
}

static void take_event(EngineEvent *event) {
    Answer *answer = event->request->owner;

    assert_int_equal(answer->finish, FINISH_NONE);
    for (uint32_t i = 0; i < event->n_tokens; i++) {
        if (event->logprobs) {
            assert_int_equal(event->logprobs[i].token, event->tokens[i]);
            answer->logprobs[answer->n_ids] = event->logprobs[i].logprob;
        }
        answer->ids[answer->n_ids++] = event->tokens[i];
    }
    if (event->n_prompt_logprobs) {
        assert_null(answer->prompt_logprobs);
        assert_true(answer->n_ids <= 1);
        answer->prompt_logprobs = TAKE(event->prompt_logprobs);
        answer->n_prompt_logprobs = event->n_prompt_logprobs;
    }
    assert_int_equal(event->n_output, answer->n_ids);
    assert_int_equal(event->first_token_ns != 0, answer->n_ids != 0);
    assert_true(event->event_ns >= event->first_token_ns);
    buffer_append(&answer->text, buffer_text(&event->text), event->text.size);
    if (event->stop_text)
        snprintf(answer->stop_text, sizeof(answer->stop_text), "%s", event->stop_text);
    answer->finish = event->finish;
    answer->stop_token = event->stop_token;
    answer->error = event->error;
    if (event->finish != FINISH_NONE)
        request_free(event->request);
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

static EngineRequest *request_new(Answer *answer, uint32_t n_prompt, uint32_t max_tokens,
                                  uint32_t variety) {
    EngineRequest *request = engine_request_new();
    uint32_t *prompt = calloc(n_prompt ? n_prompt : 1, sizeof(*prompt));

    assert_non_null(request);
    request->owner = answer;
    request->n_prompt = n_prompt;
    request->prompt = prompt;
    for (uint32_t i = 0; i < n_prompt; i++)
        prompt[i] = 2 + (i * 31 + variety * 977 + i * i * (variety + 3)) % 500;
    request->max_tokens = max_tokens;
    request->ignore_eos = true;
    return request;
}

static void add_stops(EngineRequest *request, const char *one, const char *other) {
    StopSet *stops = calloc(1, sizeof(*stops));

    assert_null(request->stops);
    assert_int_equal(stop_set_init(stops, 2, strlen(one) + strlen(other), NULL), 0);
    stop_set_add(stops, one, strlen(one));
    stop_set_add(stops, other, strlen(other));
    request->stops = stops;
}

static void add_stop_token(EngineRequest *request, uint32_t token) {
    uint32_t *tokens = realloc((void *)(uintptr_t)request->stop_tokens,
                               (request->n_stop_tokens + 1) * sizeof(*tokens));

    tokens[request->n_stop_tokens++] = token;
    request->stop_tokens = tokens;
}

static void set_bias(EngineRequest *request, uint32_t token, float bias) {
    LogitBias *logit_bias = calloc(1, sizeof(*logit_bias));

    *logit_bias = (LogitBias){ .token = token, .bias = bias };
    request->params.logit_bias = logit_bias;
    request->params.n_logit_bias = 1;
}

static Answer *run_alone(Bench *bench, EngineRequest *request) {
    Answer *answer = request->owner;

    engine_submit(bench->engine, request);
    bench_wait(bench, answer);
    return answer;
}

/* The text of the first n ids of an answer. The model's vocabulary is padded: ids that the
 * tokenizer does not know have none. */
static void decode(const Answer *answer, uint32_t n, Buffer *text) {
    uint32_t ids[2048], n_known = 0;

    for (uint32_t i = 0; i < n; i++)
        if (answer->ids[i] < tokenizer_size(model.tokenizer))
            ids[n_known++] = answer->ids[i];
    assert_int_equal(tokenizer_decode(model.tokenizer, ids, n_known, true, text), 0);
}

static const BenchOptions roomy = { .n_pages = 200,
                                    .max_num_seqs = 16,
                                    .max_batched_tokens = MAX_BATCHED_TOKENS };

/* company, chunks, preemption */

enum { N_COMPANY = 16 };

static EngineRequest *company_request(Answer *answer, uint32_t i) {
    EngineRequest *request = request_new(answer, 1 + i * i * 13 % 260, 20 + i * 7, i);

    request->n_top_logprobs = 0;
    if (i % 3 == 1) {
        request->params.temperature = 0.8f + (float)i / 20;
        request->params.top_p = i % 2 ? 0.95f : 1;
        request->params.seed = 1000 + i;
    }
    if (i % 4 == 2) {
        request->params.repetition_penalty = 1.2f;
        request->params.frequency_penalty = 0.3f;
    }
    if (i % 5 == 3) {
        set_bias(request, 40 + i, 3);
        add_stop_token(request, 50 + i);
        request->min_tokens = request->max_tokens;
    }
    return request;
}

static void run_company(BenchOptions options, Answer **answers, unsigned long long *n_preemptions) {
    Bench bench;

    bench_start(&bench, options);
    for (uint32_t i = 0; i < N_COMPANY; i++) {
        answers[i] = answer_new();
        engine_submit(bench.engine, company_request(answers[i], i));
    }
    for (uint32_t i = 0; i < N_COMPANY; i++)
        bench_wait(&bench, answers[i]);
    *n_preemptions = engine_stats(bench.engine)->preemptions;
    bench_close(&bench);
}

static void test_an_answer_does_not_depend_on_company_chunks_or_preemption(void **state) {
    BenchOptions settings[] = {
        { .n_pages = 200, .max_num_seqs = 1, .max_batched_tokens = MAX_BATCHED_TOKENS },
        { .n_pages = 200, .max_num_seqs = 16, .max_batched_tokens = MAX_BATCHED_TOKENS },
        { .n_pages = 200, .max_num_seqs = 16, .max_batched_tokens = 64 },
        { .n_pages = 200, .max_num_seqs = 5, .max_batched_tokens = 7 },
        { .n_pages = 9, .max_num_seqs = 16, .max_batched_tokens = 100 },
        { .n_pages = 6, .max_num_seqs = 16, .max_batched_tokens = 33 },
    };
    Answer *alone[N_COMPANY], *answers[N_COMPANY];
    unsigned long long n_preemptions, n_forced = 0;

    (void)state;
    need_row_exact();
    run_company(settings[0], alone, &n_preemptions);
    assert_int_equal(n_preemptions, 0);
    for (size_t k = 1; k < sizeof(settings) / sizeof(settings[0]); k++) {
        run_company(settings[k], answers, &n_preemptions);
        n_forced += n_preemptions;
        for (uint32_t i = 0; i < N_COMPANY; i++) {
            assert_int_equal(answers[i]->finish, FINISH_LENGTH);
            assert_int_equal(answers[i]->n_ids, alone[i]->n_ids);
            assert_memory_equal(answers[i]->ids, alone[i]->ids, 4 * alone[i]->n_ids);
            assert_memory_equal(answers[i]->logprobs, alone[i]->logprobs, 4 * alone[i]->n_ids);
            assert_string_equal(buffer_text(&answers[i]->text), buffer_text(&alone[i]->text));
            answer_free(answers[i]);
        }
    }
    assert_true(n_forced > 0);
    for (uint32_t i = 0; i < N_COMPANY; i++)
        answer_free(alone[i]);
}

/* endings */

static void test_length_ends_and_text_is_the_decoded_ids(void **state) {
    CLEANUP(answer_free) Answer *a = answer_new();
    CLEANUP(buffer_deinit) Buffer whole = BUFFER_NULL;
    Bench bench;

    (void)state;
    bench_start(&bench, roomy);
    run_alone(&bench, request_new(a, 20, 100, 1));
    assert_int_equal(a->finish, FINISH_LENGTH);
    assert_int_equal(a->n_ids, 100);
    assert_int_equal(a->stop_token, TOKEN_NONE);
    decode(a, a->n_ids, &whole);
    assert_string_equal(buffer_text(&a->text), buffer_text(&whole));
    assert_int_equal(engine_stats(bench.engine)->prompt_tokens, 20);
    assert_int_equal(engine_stats(bench.engine)->generation_tokens, 100);
    bench_close(&bench);
}

static void test_eos_ends_unless_ignored_or_too_early(void **state) {
    uint32_t eos = checkpoint_generation(model.checkpoint)->eos_ids[0];
    Bench bench;

    (void)state;
    bench_start(&bench, roomy);
    for (uint32_t min_tokens = 0; min_tokens < 8; min_tokens += 5) {
        CLEANUP(answer_free) Answer *a = answer_new();
        EngineRequest *request = request_new(a, 10, 20, 1);

        request->ignore_eos = false;
        request->min_tokens = min_tokens;
        set_bias(request, eos, 100);
        run_alone(&bench, request);
        assert_int_equal(a->finish, FINISH_STOP);
        assert_int_equal(a->stop_token, TOKEN_NONE);
        assert_int_equal(a->n_ids, min_tokens + 1);
        assert_int_equal(a->ids[min_tokens], eos);
    }
    for (int with_min = 0; with_min < 2; with_min++) {
        CLEANUP(answer_free) Answer *a = answer_new();
        EngineRequest *request = request_new(a, 10, 20, 1);

        request->min_tokens = with_min ? 3 : 0;
        set_bias(request, eos, 100);
        run_alone(&bench, request);
        assert_int_equal(a->finish, FINISH_LENGTH);
        assert_int_equal(a->n_ids, 20);
        assert_int_equal(a->ids[0], eos);
    }
    bench_close(&bench);
}

static void test_a_stop_token_ends_and_is_named(void **state) {
    CLEANUP(answer_free) Answer *whole = answer_new(), *a = answer_new(), *late = answer_new();
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    EngineRequest *request;
    uint32_t i_first = 0;
    Bench bench;

    (void)state;
    bench_start(&bench, roomy);
    run_alone(&bench, request_new(whole, 10, 40, 2));
    request = request_new(a, 10, 40, 2);
    add_stop_token(request, whole->ids[12]);
    run_alone(&bench, request);
    while (whole->ids[i_first] != whole->ids[12])
        i_first++;
    assert_int_equal(a->finish, FINISH_STOP);
    assert_int_equal(a->stop_token, whole->ids[12]);
    assert_int_equal(a->n_ids, i_first + 1);
    decode(a, i_first, &text);
    assert_string_equal(buffer_text(&a->text), buffer_text(&text)); /* without the stop token */

    request = request_new(late, 10, 40, 2);
    add_stop_token(request, whole->ids[12]);
    request->min_tokens = 20;
    run_alone(&bench, request);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_not_equal(late->ids[i], whole->ids[12]);
    bench_close(&bench);
}

/* Where the text of the first n ids ends. */
static size_t text_size_of(const Answer *a, uint32_t n) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    decode(a, n, &text);
    return text.size;
}

/* A stop string that spans three tokens of an answer of plain ASCII there. */
static bool pick_stop(const Answer *whole, char *stop, size_t *startp, size_t *endp) {
    const char *text = buffer_text(&whole->text);

    for (uint32_t i = 5; i + 4 < whole->n_ids; i++) {
        size_t start = text_size_of(whole, i) - 1, end = text_size_of(whole, i + 2) + 1;
        bool plain = end > start + 3 && end < start + 60;

        for (size_t j = start; plain && j < end; j++)
            plain = text[j] >= ' ' && text[j] < 127;
        if (!plain)
            continue;
        memcpy(stop, text + start, end - start);
        stop[end - start] = 0;
        *startp = (size_t)(strstr(text, stop) - text);
        *endp = *startp + end - start;
        return true;
    }
    return false;
}

static void test_a_stop_string_may_span_tokens(void **state) {
    bool found = false;
    Bench bench;

    (void)state;
    bench_start(&bench, roomy);
    for (uint32_t variety = 0; variety < 20 && !found; variety++) {
        CLEANUP(answer_free) Answer *whole = answer_new();
        size_t start, end;
        char stop[64];

        run_alone(&bench, request_new(whole, 15, 120, variety));
        if (!pick_stop(whole, stop, &start, &end))
            continue;
        found = true;
        for (int include = 0; include < 2; include++) {
            CLEANUP(answer_free) Answer *a = answer_new();
            EngineRequest *request = request_new(a, 15, 120, variety);

            add_stops(request, "never to be seen", stop);
            request->include_stop_text = include;
            run_alone(&bench, request);
            assert_int_equal(a->finish, FINISH_STOP);
            assert_string_equal(a->stop_text, stop);
            assert_int_equal(a->text.size, include ? end : start);
            assert_memory_equal(buffer_text(&a->text), buffer_text(&whole->text), a->text.size);
            assert_true(a->n_ids < whole->n_ids);
        }
    }
    assert_true(found);
    bench_close(&bench);
}

static void test_prompt_logprobs_are_the_same_in_every_chunking(void **state) {
    static const uint32_t chunks[] = { 512, 64, 7, 1 };
    TokenLogprob *first = NULL;

    (void)state;
    need_row_exact();
    for (size_t k = 0; k < 4; k++) {
        CLEANUP(answer_free) Answer *a = answer_new();
        BenchOptions options = { .n_pages = 50,
                                 .max_num_seqs = 4,
                                 .max_batched_tokens = chunks[k] };
        EngineRequest *request = request_new(a, 201, k % 2, 4);
        Bench bench;

        request->n_prompt_logprobs = 3;
        request->n_top_logprobs = k % 2 ? 0 : -1;
        bench_start(&bench, options);
        run_alone(&bench, request);
        bench_close(&bench);
        assert_int_equal(a->finish, FINISH_LENGTH);
        assert_int_equal(a->n_ids, k % 2);
        assert_int_equal(a->n_prompt_logprobs, 201);
        assert_true(isnan(a->prompt_logprobs[0].logprob));
        assert_int_equal(a->prompt_logprobs[0].n_top, 0);
        for (uint32_t i = 1; i < 201; i++) {
            assert_int_equal(a->prompt_logprobs[i].n_top, 3);
            assert_true(a->prompt_logprobs[i].logprob <= 0);
            assert_true(a->prompt_logprobs[i].logprob <= a->prompt_logprobs[i].top_logprobs[0]);
        }
        if (!first)
            first = TAKE(a->prompt_logprobs);
        else
            assert_memory_equal(&a->prompt_logprobs[1], &first[1], 200 * sizeof(*first));
    }
    free(first);
}

static void test_a_single_token_can_be_scored(void **state) {
    CLEANUP(answer_free) Answer *a = answer_new();
    EngineRequest *request = request_new(a, 1, 0, 1);
    Bench bench;

    (void)state;
    request->n_prompt_logprobs = 0;
    bench_start(&bench, roomy);
    run_alone(&bench, request);
    assert_int_equal(a->finish, FINISH_LENGTH);
    assert_int_equal(a->n_prompt_logprobs, 1);
    bench_close(&bench);
}

/* cancellation */

/* Steps wait for a token each, so that the test knows which step is running. */
static sem_t gate;
static atomic_int n_begun;

static int gated_embed(Backend *backend, const EmbedArgs *args) {
    atomic_fetch_add(&n_begun, 1);
    sem_wait(&gate);
    return model.ops.embed(backend, args);
}

/* The step that is collected when this many have begun is so many before the last. */
static uint32_t n_steps_behind(void) {
    return model.steps_in_flight - 1;
}

static void test_cancellation_ends_with_the_step_that_begins_and_pages_come_back(void **state) {
    uint32_t n_begun_wanted = 6 + n_steps_behind();
    CLEANUP(answer_free) Answer *a = answer_new();
    EngineRequest *request = request_new(a, 300, 1500, 1);
    BackendOps ops = model.ops;
    BenchOptions options = roomy;
    Bench bench;

    (void)state;
    sem_init(&gate, 0, n_begun_wanted - 1);
    atomic_store(&n_begun, 0);
    ops.embed = gated_embed;
    options.ops = &ops;
    bench_start(&bench, options);
    engine_submit(bench.engine, request);
    while (a->n_ids < 5)
        bench_wait_events(&bench);
    while (atomic_load(&n_begun) < (int)n_begun_wanted)
        sched_yield();
    assert_int_equal(engine_stats(bench.engine)->pages_used, 5);
    engine_cancel(bench.engine, request);
    sem_post(&gate);
    bench_wait(&bench, a);
    assert_int_equal(a->finish, FINISH_CANCELLED);
    assert_int_equal(a->n_ids, 6);
    assert_int_equal(atomic_load(&n_begun), n_begun_wanted);
    /* They were back before the event told of the end. */
    assert_int_equal(engine_stats(bench.engine)->pages_used, 0);
    bench_close(&bench);
    sem_destroy(&gate);
}

static void test_a_waiting_request_can_be_cancelled(void **state) {
    BenchOptions options = { .n_pages = 20, .max_num_seqs = 1, .max_batched_tokens = 64 };
    CLEANUP(answer_free) Answer *a = answer_new(), *b = answer_new();
    EngineRequest *first = request_new(a, 10, 1000, 1), *second = request_new(b, 10, 10, 2);
    Bench bench;

    (void)state;
    bench_start(&bench, options);
    engine_submit(bench.engine, first);
    engine_submit(bench.engine, second);
    while (!a->n_ids)
        bench_wait_events(&bench);
    engine_cancel(bench.engine, second);
    bench_wait(&bench, b);
    assert_int_equal(b->finish, FINISH_CANCELLED);
    assert_int_equal(b->n_ids, 0);
    assert_int_equal(a->finish, FINISH_NONE);
    engine_cancel(bench.engine, first);
    bench_wait(&bench, a);
    bench_close(&bench);
}

static void test_random_cancellations_leave_nothing_behind(void **state) {
    enum { N = 60 };
    BenchOptions options = { .n_pages = 10, .max_num_seqs = 8, .max_batched_tokens = 50 };
    EngineRequest *requests[N];
    Answer *answers[N];
    Bench bench;

    (void)state;
    bench_start(&bench, options);
    for (uint32_t i = 0; i < N; i++) {
        answers[i] = answer_new();
        requests[i] = request_new(answers[i], 1 + i * 37 % 200, 1 + i * 53 % 200, i);
        engine_submit(bench.engine, requests[i]);
        if (i % 3 == 0)
            bench_wait_events(&bench);
        if (i % 2 && answers[i / 2]->finish == FINISH_NONE)
            engine_cancel(bench.engine, requests[i / 2]);
    }
    for (uint32_t i = 0; i < N; i++) {
        bench_wait(&bench, answers[i]);
        assert_true(answers[i]->finish == FINISH_LENGTH || answers[i]->finish == FINISH_CANCELLED);
        answer_free(answers[i]);
    }
    bench_close(&bench);
}

/* failures */

static atomic_int n_steps_to_failure;

static int failing_embed(Backend *backend, const EmbedArgs *args) {
    return atomic_fetch_sub(&n_steps_to_failure, 1) == 1 ? -EIO : model.ops.embed(backend, args);
}

static int failing_sample(Backend *backend, const SampleArgs *args) {
    return atomic_fetch_sub(&n_steps_to_failure, 1) == 1 ? -EIO : model.ops.sample(backend, args);
}

/* The device says so when the step is waited for. */
static int failing_wait(Backend *backend, const SampleResult **resultsp) {
    int r = model.ops.step_wait(backend, resultsp);

    return atomic_fetch_sub(&n_steps_to_failure, 1) == 1 ? -EIO : r;
}

static void test_a_failed_step_ends_its_requests_and_the_engine_goes_on(void **state) {
    enum { IN_EMBED, IN_SAMPLING, IN_WAIT, PLACES };

    (void)state;
    for (int place = 0; place < PLACES; place++) {
        CLEANUP(answer_free) Answer *a = answer_new(), *b = answer_new();
        BackendOps ops = model.ops;
        BenchOptions options = roomy;
        Bench bench;

        if (place == IN_EMBED)
            ops.embed = failing_embed;
        else if (place == IN_SAMPLING)
            ops.sample = failing_sample;
        else
            ops.step_wait = failing_wait;
        options.ops = &ops;
        atomic_store(&n_steps_to_failure, 7);
        bench_start(&bench, options);
        run_alone(&bench, request_new(a, 70, 50, 1));
        assert_int_equal(a->finish, FINISH_ERROR);
        assert_non_null(a->error);
        assert_int_equal(a->n_ids, 6);
        run_alone(&bench, request_new(b, 70, 50, 1));
        assert_int_equal(b->finish, FINISH_LENGTH);
        bench_close(&bench);
    }
}

static int losing_embed(Backend *backend, const EmbedArgs *args) {
    return atomic_fetch_sub(&n_steps_to_failure, 1) <= 1 ? -ENODEV : model.ops.embed(backend, args);
}

/* The device says so when a step is waited for, while others may be on their way. */
static int losing_wait(Backend *backend, const SampleResult **resultsp) {
    int r = model.ops.step_wait(backend, resultsp);

    return atomic_fetch_sub(&n_steps_to_failure, 1) <= 1 ? -ENODEV : r;
}

static void lose_backend(BackendOps ops) {
    enum { N = 6 };
    BenchOptions options = { .n_pages = 20, .max_num_seqs = 2, .max_batched_tokens = 64 };
    Answer *answers[N];
    Bench bench;

    options.ops = &ops;
    atomic_store(&n_steps_to_failure, 8);
    bench_open(&bench, options);
    for (uint32_t i = 0; i < N; i++) {
        answers[i] = answer_new();
        if (i < N - 1)
            engine_submit(bench.engine, request_new(answers[i], 40, 200, i));
    }
    assert_false(engine_is_lost(bench.engine));
    assert_int_equal(engine_start(bench.engine), 0);
    for (uint32_t i = 0; i < N; i++) {
        if (i == N - 1)
            engine_submit(bench.engine, request_new(answers[i], 40, 200, i));
        bench_wait(&bench, answers[i]);
        assert_true(engine_is_lost(bench.engine));
        assert_int_equal(answers[i]->finish, FINISH_ERROR);
        assert_non_null(strstr(answers[i]->error, "lost"));
        answer_free(answers[i]);
    }
    /* Nobody tried again. */
    assert_int_equal(atomic_load(&n_steps_to_failure), 0);
    bench_close(&bench);
}

static void test_a_lost_backend_ends_every_request_and_those_to_come(void **state) {
    BackendOps ops = model.ops;

    (void)state;
    ops.embed = losing_embed;
    lose_backend(ops);
    ops = model.ops;
    ops.step_wait = losing_wait;
    lose_backend(ops);
}

static void test_impossible_requests_end_with_an_error(void **state) {
    BenchOptions options = { .n_pages = 3, .max_num_seqs = 4, .max_batched_tokens = 64 };
    EngineRequest *request;
    Bench bench;

    (void)state;
    bench_start(&bench, options);
    assert_int_equal(engine_max_sequence_tokens(bench.engine), 192);
    for (int i = 0; i < 5; i++) {
        CLEANUP(answer_free) Answer *a = answer_new();

        request = request_new(a, i == 0 ? 0 : 100, 92, 1);
        if (i == 1)
            request->max_tokens = 93;
        if (i == 2)
            ((uint32_t *)(uintptr_t)request->prompt)[50] = 512;
        if (i == 3)
            request->max_tokens = 0;
        run_alone(&bench, request);
        assert_int_equal(a->finish, i == 4 ? FINISH_LENGTH : FINISH_ERROR);
        assert_int_equal(a->error == NULL, i == 4);
    }
    bench_close(&bench);
}

static void test_bad_options_are_refused_with_words(void **state) {
    EngineOptions options = { .ops = &model.ops,
                              .backend = model.backend,
                              .steps_in_flight = model.steps_in_flight,
                              .checkpoint = model.checkpoint,
                              .tokenizer = model.tokenizer,
                              .kv_memory_bytes = 1000,
                              .max_num_seqs = 4,
                              .max_batched_tokens = 64 };
    Reason why = REASON_NULL;
    Engine *engine = NULL;

    (void)state;
    assert_int_equal(engine_new(&engine, &options, &why), -ENOSPC);
    assert_non_null(strstr(why.text, "kv_memory"));
    options.max_model_len = 1u << 30;
    assert_int_equal(engine_new(&engine, &options, &why), -EINVAL);
    assert_non_null(strstr(why.text, "max_model_len"));
    options.max_batched_tokens = 0;
    assert_int_equal(engine_new(&engine, &options, &why), -EINVAL);
    assert_non_null(strstr(why.text, "max_batched_tokens"));
    options = (EngineOptions){ .ops = &model.ops,
                               .backend = model.backend,
                               .checkpoint = model.checkpoint,
                               .kv_memory_bytes = UINT64_MAX / 2,
                               .max_batched_tokens = 64 };
    assert_int_equal(engine_new(&engine, &options, &why), -ENOSPC);
    assert_non_null(strstr(why.text, "lower kv_memory"));
    assert_null(engine);
}

/* A quarter of the cache may be tails; at most 64, at least one, and no more than rows of a step.
 */
static void test_sequences_follow_from_the_memory(void **state) {
    static const struct {
        uint64_t tails_of_memory; /* as many would fill it */
        uint32_t max_batched_tokens, expected;
    } cases[] = { { 2, 256, 1 },      { 40, 256, 10 }, { 43, 256, 10 },
                  { 10000, 256, 64 }, { 10000, 7, 7 }, { UINT64_MAX, 256, 64 } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        EngineOptions options = { .checkpoint = model.checkpoint,
                                  .max_model_len = 128,
                                  .max_batched_tokens = cases[i].max_batched_tokens };
        EngineOptions one = options;
        Reason why = REASON_NULL;
        Ledger ledger;

        one.max_num_seqs = 1;
        assert_int_equal(engine_plan(&one, &ledger, &why), 0);
        options.kv_default_bytes = cases[i].tails_of_memory == UINT64_MAX
                                       ? 0
                                       : cases[i].tails_of_memory * ledger.tail_bytes;
        assert_int_equal(engine_plan(&options, &ledger, &why), 0);
        assert_int_equal(options.max_num_seqs, cases[i].expected);
        assert_int_equal(ledger.n_tails, cases[i].expected);
    }
}

/* A plan is made before weights are, and must leave room for them on a device of its own memory. */
static void test_weights_to_come_are_counted(void **state) {
    EngineOptions options = { .ops = &model.ops,
                              .backend = model.backend,
                              .checkpoint = model.checkpoint,
                              .max_batched_tokens = 64 };
    EngineCacheDemand before, after;
    Reason why = REASON_NULL;
    MemoryInfo info;

    (void)state;
    assert_int_equal(model.ops.memory_info(model.backend, &info), 0);
    assert_int_equal(engine_cache_demand(&options, &before, &why), 0);
    options.weights_are_made = true;
    assert_int_equal(engine_cache_demand(&options, &after, &why), 0);
    assert_true(after.bytes_max && after.bytes_max <= info.total_bytes);
    if (info.cache_bytes < info.free_bytes) /* a share of the total, which does not move */
        assert_int_equal(before.bytes_max < after.bytes_max, model.ops.is_async);
}

static void test_what_a_cache_must_hold(void **state) {
    EngineOptions options = { .checkpoint = model.checkpoint, .max_batched_tokens = 64 };
    EngineCacheDemand demand;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(engine_cache_demand(&options, &demand, &why), 0);
    assert_true(!demand.tokens_are_demanded && demand.bytes_are_default && demand.seqs_are_default);
    assert_int_equal(demand.n_tokens, (options.max_model_len + 63) / 64 * 64 * UINT64_C(64));
    options = (EngineOptions){ .checkpoint = model.checkpoint,
                               .max_batched_tokens = 64,
                               .kv_memory_bytes = 1 << 20,
                               .max_model_len = 100,
                               .max_num_seqs = 3 };
    assert_int_equal(engine_cache_demand(&options, &demand, &why), 0);
    assert_true(demand.tokens_are_demanded && !demand.bytes_are_default &&
                !demand.seqs_are_default);
    assert_int_equal(demand.n_tokens, 128 * 3);
    assert_int_equal(demand.bytes_max, 1 << 20);
    options.max_num_seqs = 0;
    assert_int_equal(engine_cache_demand(&options, &demand, &why), 0);
    assert_false(demand.tokens_are_demanded);
    options.kv_tokens = 77;
    assert_int_equal(engine_cache_demand(&options, &demand, &why), 0);
    assert_true(demand.tokens_are_demanded);
    assert_int_equal(demand.n_tokens, 77);
}

static void test_a_cache_of_no_given_size_fits_the_memory(void **state) {
    EngineOptions options = { .checkpoint = model.checkpoint,
                              .max_model_len = 100,
                              .max_num_seqs = 4,
                              .max_batched_tokens = 64 };
    uint64_t roomy_bytes;
    Reason why = REASON_NULL;
    Ledger ledger;

    (void)state;
    assert_int_equal(engine_plan(&options, &ledger, &why), 0);
    assert_int_equal(ledger.n_pages, 4 * 2);
    roomy_bytes = ledger.kv_bytes;
    options.kv_default_bytes = roomy_bytes;
    assert_int_equal(engine_plan(&options, &ledger, &why), 0);
    assert_int_equal(ledger.n_pages, 8);
    options.kv_default_bytes = roomy_bytes - 1;
    assert_int_equal(engine_plan(&options, &ledger, &why), 0);
    assert_int_equal(ledger.n_pages, 7);
    options.kv_tokens = 4096; /* who names a size gets it */
    assert_int_equal(engine_plan(&options, &ledger, &why), 0);
    assert_int_equal(ledger.n_pages, 64);
}

/* stopping */

static void test_stop_drains_or_cancels(void **state) {
    (void)state;
    for (int drain = 0; drain < 2; drain++) {
        BenchOptions options = { .n_pages = 20, .max_num_seqs = 2, .max_batched_tokens = 64 };
        Answer *answers[6];
        Bench bench;

        bench_start(&bench, options);
        for (uint32_t i = 0; i < 6; i++) {
            answers[i] = answer_new();
            engine_submit(bench.engine, request_new(answers[i], 100, 100, i));
        }
        bench_wait_events(&bench);
        engine_stop(bench.engine, drain);
        for (uint32_t i = 0; i < 6; i++) {
            bench_wait(&bench, answers[i]);
            assert_int_equal(answers[i]->finish, drain ? FINISH_LENGTH : FINISH_CANCELLED);
            answer_free(answers[i]);
        }
        bench_close(&bench);
    }
}

static void test_an_engine_that_never_started_gives_requests_back(void **state) {
    CLEANUP(answer_free) Answer *a = answer_new();
    Bench bench;

    (void)state;
    bench_open(&bench, roomy);
    engine_submit(bench.engine, request_new(a, 10, 10, 1));
    engine_stop(bench.engine, true);
    bench_wait(&bench, a);
    assert_int_equal(a->finish, FINISH_CANCELLED);
    bench_close(&bench);
}

static uint64_t process_time_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void test_an_idle_engine_sleeps(void **state) {
    CLEANUP(answer_free) Answer *a = answer_new();
    uint64_t before_ns;
    Bench bench;

    (void)state;
    bench_start(&bench, roomy);
    run_alone(&bench, request_new(a, 10, 10, 1));
    usleep(20000);
    before_ns = process_time_ns();
    usleep(200000);
    assert_true(process_time_ns() - before_ns < 50000000);
    bench_close(&bench);
}

static void test_the_ledger_names_every_byte(void **state) {
    const Ledger *ledger;
    Bench bench;

    (void)state;
    bench_open(&bench, roomy);
    ledger = engine_ledger(bench.engine);
    assert_int_equal(ledger->n_pages, 200);
    assert_int_equal(ledger->n_tails, 16);
    assert_true(ledger->weights_bytes > 0 && ledger->workspace_bytes > 0);
    assert_int_equal(ledger->kv_bytes,
                     ledger->pages_bytes + ledger->tails_bytes + ledger->padding_bytes);
    bench_close(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_answer_does_not_depend_on_company_chunks_or_preemption),
        cmocka_unit_test(test_length_ends_and_text_is_the_decoded_ids),
        cmocka_unit_test(test_eos_ends_unless_ignored_or_too_early),
        cmocka_unit_test(test_a_stop_token_ends_and_is_named),
        cmocka_unit_test(test_a_stop_string_may_span_tokens),
        cmocka_unit_test(test_prompt_logprobs_are_the_same_in_every_chunking),
        cmocka_unit_test(test_a_single_token_can_be_scored),
        cmocka_unit_test(test_cancellation_ends_with_the_step_that_begins_and_pages_come_back),
        cmocka_unit_test(test_a_waiting_request_can_be_cancelled),
        cmocka_unit_test(test_random_cancellations_leave_nothing_behind),
        cmocka_unit_test(test_a_failed_step_ends_its_requests_and_the_engine_goes_on),
        cmocka_unit_test(test_a_lost_backend_ends_every_request_and_those_to_come),
        cmocka_unit_test(test_impossible_requests_end_with_an_error),
        cmocka_unit_test(test_bad_options_are_refused_with_words),
        cmocka_unit_test(test_sequences_follow_from_the_memory),
        cmocka_unit_test(test_weights_to_come_are_counted),
        cmocka_unit_test(test_what_a_cache_must_hold),
        cmocka_unit_test(test_a_cache_of_no_given_size_fits_the_memory),
        cmocka_unit_test(test_stop_drains_or_cancels),
        cmocka_unit_test(test_an_engine_that_never_started_gives_requests_back),
        cmocka_unit_test(test_an_idle_engine_sleeps),
        cmocka_unit_test(test_the_ledger_names_every_byte),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
