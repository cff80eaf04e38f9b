/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a device waits between steps, with one step in flight and with two.
 *
 *     bench_steps [MODEL [SEQUENCES [TOKENS]]]
 *
 * The device is the CPU behind a queue with a thread of its own (tests/unit/async_backend.h), with
 * one computing thread, so that the engine's thread has a core to itself where there are two.
 * SEQUENCES (16) requests of TOKENS (64) tokens each, with stop strings, run at once. Both ways
 * take turns; printed are medians: the time of a step, and the share of it in which the device had
 * nothing to do.
 */
#include "cpu/cpu_backend.h"
#include "server/engine/engine.h"
#include "tests/unit/async_backend.h"
#include "util/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 7
#define PROMPT_TOKENS 32

typedef struct Bench {
    Checkpoint *checkpoint;
    Tokenizer *tokenizer;
    Backend *backend;
    BackendOps ops;
    StopSet stops;
    uint32_t n_sequences, n_tokens;
    uint32_t *prompts; /* [n_sequences, PROMPT_TOKENS] */
} Bench;

typedef struct Figures {
    double step_us, idle_share;
} Figures;

static void check(int r, const Reason *why) {
    if (!r)
        return;
    fprintf(stderr, "bench_steps: %s\n", why->text[0] ? why->text : strerror(-r));
    exit(1);
}

static void bench_open(Bench *b, const char *model) {
    CpuBackendOptions cpu = { .n_threads = 1 };
    AsyncBackendOptions async = { .ops = &cpu_ops };
    Reason why = REASON_NULL;

    check(checkpoint_open(&b->checkpoint, model, &why), &why);
    check(tokenizer_open(&b->tokenizer, model, &why), &why);
    check(cpu_backend_new(&async.backend, &cpu, &why), &why);
    check(async_backend_new(&b->backend, &async, &why), &why);
    b->ops = async_backend_ops(&cpu_ops);
    check(stop_set_init(&b->stops, 2, 32, NULL), &why);
    stop_set_add(&b->stops, "\nQuestion:", 10);
    stop_set_add(&b->stops, "<never said>", 12);
    b->prompts = calloc((size_t)b->n_sequences * PROMPT_TOKENS, sizeof(*b->prompts));
    check(b->prompts ? 0 : -12, &why);
    for (uint32_t i = 0; i < b->n_sequences * PROMPT_TOKENS; i++)
        b->prompts[i] = i * 7919 % 400;
}

static void submit(Bench *b, Engine *engine, uint32_t i) {
    EngineRequest *request = engine_request_new();
    Reason why = REASON_NULL;

    check(request ? 0 : -12, &why);
    request->prompt = b->prompts + i * PROMPT_TOKENS;
    request->n_prompt = PROMPT_TOKENS;
    request->max_tokens = b->n_tokens;
    request->ignore_eos = true;
    request->stops = &b->stops;
    engine_submit(engine, request);
}

/* Takes events until n more sequences have their first token, or have ended. */
static void wait_for(Mailbox *events, uint32_t n, bool ends) {
    while (n) {
        List mail = LIST_INIT(mail), *link;

        mailbox_wait(events, &mail);
        while ((link = list_pop_front(&mail))) {
            EngineEvent *event = container_of(link, EngineEvent, link);

            n -= ends ? event->finish != FINISH_NONE : event->n_output == 1;
            if (event->finish != FINISH_NONE)
                engine_request_free(event->request);
            engine_event_free(event);
        }
    }
}

/* From when all have their first token on: then every step is a decode of all. */
static Figures run(Bench *b, uint32_t steps_in_flight) {
    Mailbox events;
    EngineOptions options = { .ops = &b->ops,
                              .backend = b->backend,
                              .checkpoint = b->checkpoint,
                              .tokenizer = b->tokenizer,
                              .kv_tokens =
                                  (uint64_t)b->n_sequences * (PROMPT_TOKENS + b->n_tokens + 64),
                              .max_num_seqs = b->n_sequences,
                              .max_batched_tokens = b->n_sequences * PROMPT_TOKENS,
                              .steps_in_flight = steps_in_flight,
                              .events = &events };
    uint64_t start_ns, elapsed_ns, idle_ns;
    Reason why = REASON_NULL;
    Engine *engine;

    mailbox_init(&events, NULL, NULL);
    check(engine_new(&engine, &options, &why), &why);
    for (uint32_t i = 0; i < b->n_sequences; i++)
        submit(b, engine, i);
    check(engine_start(engine), &why);
    wait_for(&events, b->n_sequences, false);
    async_backend_idle_ns(b->backend);
    start_ns = clock_ns();
    wait_for(&events, b->n_sequences, true);
    elapsed_ns = clock_ns() - start_ns;
    idle_ns = async_backend_idle_ns(b->backend);
    engine_stop(engine, true);
    engine_free(engine);
    mailbox_deinit(&events);
    return (Figures){ .step_us = (double)elapsed_ns * 1e-3 / (b->n_tokens - 1),
                      .idle_share = (double)idle_ns / (double)elapsed_ns };
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values) {
    qsort(values, RUNS, sizeof(*values), compare);
    return values[RUNS / 2];
}

int main(int argc, char **argv) {
    const char *model = argc > 1 ? argv[1] : getenv("KVASIR_MODEL");
    Bench b = { .n_sequences = argc > 2 ? (uint32_t)atoi(argv[2]) : 16,
                .n_tokens = argc > 3 ? (uint32_t)atoi(argv[3]) : 64 };
    double step_us[STEPS_IN_FLIGHT_MAX][RUNS], idle_shares[STEPS_IN_FLIGHT_MAX][RUNS];

    if (!model || !b.n_sequences || b.n_tokens < 2) {
        fprintf(stderr, "usage: bench_steps MODEL [SEQUENCES [TOKENS]]\n");
        return 2;
    }
    bench_open(&b, model);
    for (uint32_t i = 0; i < RUNS; i++)
        for (uint32_t n = 1; n <= STEPS_IN_FLIGHT_MAX; n++) {
            Figures figures = run(&b, n);

            step_us[n - 1][i] = figures.step_us;
            idle_shares[n - 1][i] = figures.idle_share;
        }
    printf("%u sequences, %u tokens each\n", b.n_sequences, b.n_tokens);
    for (uint32_t n = 1; n <= STEPS_IN_FLIGHT_MAX; n++)
        printf("%u in flight: %.0f us a step, the device idle for %.2f%% of it\n", n,
               median(step_us[n - 1]), 100 * median(idle_shares[n - 1]));
    b.ops.free(b.backend);
    free(b.prompts);
    stop_set_deinit(&b.stops);
    tokenizer_free(b.tokenizer);
    checkpoint_free(b.checkpoint);
    return 0;
}
