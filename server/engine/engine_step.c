/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One step: view the queues, plan, move sequences and pages as planned, run the decoder, then
 * sample the rows whose logits are wanted, in slices of what the logits buffer holds.
 */

#include "server/engine/engine_state.h"

#include "util/log.h"

#include <assert.h>
#include <string.h>
#include <time.h>

/* vLLM's, of iteration_tokens_total. */
const uint32_t engine_step_bounds[ENGINE_STEP_BOUNDS] = { 1,   8,    16,   32,   64,   128,  256,
                                                          512, 1024, 2048, 4096, 8192, 16384 };

#define STEP_FAILED "a step of the model failed; the server's log says why"

uint64_t engine_now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* plan */

static StepPlan plan_step(Engine *e) {
    SchedulerLimits limits = { .max_num_seqs = e->options.max_num_seqs,
                               .max_batched_tokens = e->options.max_batched_tokens,
                               .page_exact = e->options.page_exact };
    StepPlan plan = { .items = e->items, .admitted = e->admitted, .by_client = e->by_client };
    SchedulerView view;

    engine_queue_view(e, &view);
    scheduler_plan(&view, &limits, &plan);
    engine_queue_pass_turns(e, &view, &plan);
    return plan;
}

/* Of those that were put back, the youngest first: so the oldest is first in line. */
static void put_back(Engine *e) {
    uint32_t n_left = 0;

    for (uint32_t i = e->n_running; i--;)
        if (e->items[i].preempted) {
            sequence_release(e->running[i], &e->pool);
            engine_queue_put_back(e, e->running[i]);
            atomic_fetch_add_explicit(&e->stats.preemptions, 1, memory_order_relaxed);
        }
    for (uint32_t i = 0; i < e->n_running; i++)
        if (!e->items[i].preempted) {
            e->running[n_left] = e->running[i];
            e->items[n_left++] = e->items[i];
        }
    e->n_running = n_left;
}

/* A sequence for which there is no memory ends where it would have begun. */
static void start(Engine *e, Sequence *s, StepItem *item, uint64_t now_ns) {
    if (!s->admitted_ns) {
        s->admitted_ns = now_ns;
        e->n_tokens_begun += s->request->n_prompt;
        engine_unreserve_request(e, s->request);
    }
    if (sequence_start(s)) {
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
        *item = (StepItem){ 0 };
    }
}

static void move_sequences(Engine *e, const StepPlan *plan) {
    uint32_t i_item = e->n_running;
    uint64_t now_ns = plan->n_admitted ? engine_now_ns() : 0;

    for (uint32_t i = 0; i < plan->n_admitted; i++)
        engine_queue_admit(e, e->waiting_in_view[plan->admitted[i]]);
    if (plan->n_preempted)
        put_back(e);
    for (uint32_t i = 0; i < plan->n_admitted; i++) {
        Sequence *s = e->waiting_in_view[plan->admitted[i]];

        e->items[e->n_running] = e->items[i_item + i];
        start(e, s, &e->items[e->n_running], now_ns);
        e->running[e->n_running++] = s;
    }
}

/* Pages for the step, and for a sequence that starts what it can share and its sinks. A plan never
 * hands out more pages than are free, and there is a sink slot for every sequence that runs. */
static void take_pages(Engine *e, Sequence *s, StepItem *item) {
    bool starts = !s->n_pages && !s->n_computed, has_sinks = e->store.n_sinks;
    int r;

    if (starts)
        engine_prefix_adopt(e, s, item);
    sequence_take(s, &e->pool, item->n_new_pages);
    if (starts && has_sinks && page_pool_sink(&e->pool, s->pages[0]) == PAGE_POOL_NONE) {
        r = page_pool_take_sink(&e->pool, s->pages[0]);
        assert(!r);
    }
}

/* run */

static StepBatch fill_batch(Engine *e) {
    StepBatch batch = { .sequences = e->batch };

    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];
        uint32_t n = e->items[i].n_tokens;

        if (!n)
            continue;
        e->batch[batch.n_sequences++] =
            (StepSequence){ .i_token = batch.n_tokens,
                            .n_tokens = n,
                            .n_past = s->n_computed,
                            .tail = s->tail,
                            .sink = page_pool_sink(&e->pool, s->pages[0]),
                            .pages = s->pages };
        for (uint32_t j = 0; j < n; j++)
            e->tokens[batch.n_tokens++] = sequence_token(s, s->n_computed + j);
    }
    return batch;
}

static void fail_step(Engine *e, int error) {
    log_line(LOG_LEVEL_ERROR, "a step of the model failed; its requests end with an error",
             "error=%s", strerror(-error));
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->items[i].n_tokens && e->running[i]->finish == FINISH_NONE)
            sequence_finish(e->running[i], FINISH_ERROR, STEP_FAILED);
}

/* logits */

static void take_result(Engine *e, const EngineRow *row, const SampleResult *result,
                        uint64_t now_ns) {
    EngineEvent *event;

    if (row->is_score) {
        sequence_scored(row->sequence, row->i_token, result);
        return;
    }
    sequence_sampled(row->sequence, result, now_ns, &event);
    atomic_fetch_add_explicit(&e->stats.generation_tokens, 1, memory_order_relaxed);
    if (event)
        mailbox_send(e->options.events, &event->link);
}

/* Logits, samples and consequences of the rows collected so far. */
static int flush_rows(Engine *e) {
    SampleArgs args = { .n_rows = e->n_rows,
                        .n_vocab = e->n_vocab,
                        .rows = e->sample_rows,
                        .results = e->sample_results };
    uint64_t now_ns;
    int r;

    e->n_rows = 0;
    if (!args.n_rows)
        return 0;
    r = decoder_logits(e->decoder, e->row_indices, args.n_rows, &args.logits);
    if (!r)
        r = e->options.ops->sample(e->options.backend, &args);
    if (r)
        return r;
    now_ns = engine_now_ns();
    for (uint32_t i = 0; i < args.n_rows; i++)
        take_result(e, &e->rows[i], &e->sample_results[i], now_ns);
    return 0;
}

static int add_row(Engine *e, Sequence *s, uint32_t i_row, uint32_t i_token, bool is_score) {
    uint32_t i = e->n_rows++;

    e->rows[i] = (EngineRow){ .sequence = s, .i_token = i_token, .is_score = is_score };
    e->row_indices[i] = i_row;
    e->sample_rows[i] = is_score ? sequence_score_row(s, i_token) : sequence_token_row(s);
    return e->n_rows == e->n_logit_rows_max ? flush_rows(e) : 0;
}

static int add_rows_of(Engine *e, Sequence *s, const StepSequence *step) {
    uint32_t n = step->n_tokens;
    int r = 0;

    for (uint32_t j = s->prompt_logprobs ? 0 : n - 1; !r && j < n; j++) {
        uint32_t i_token = step->n_past + j;

        if (sequence_wants_score(s, i_token))
            r = add_row(e, s, step->i_token + j, i_token, true);
        else if (sequence_wants_token(s, i_token))
            r = add_row(e, s, step->i_token + j, i_token, false);
    }
    return r;
}

static int sample_step(Engine *e, const StepBatch *batch) {
    const StepSequence *step = batch->sequences;
    int r = 0;

    e->n_rows = 0;
    for (uint32_t i = 0; !r && i < e->n_running; i++)
        if (e->items[i].n_tokens)
            r = add_rows_of(e, e->running[i], step++);
    return r ? r : flush_rows(e);
}

/* After the cache has the step's tokens. */
static void advance(Engine *e) {
    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];

        s->n_computed += e->items[i].n_tokens;
        engine_prefix_publish(e, s);
        if (!s->prompt_done && s->n_computed >= s->request->n_prompt) {
            s->prompt_done = true;
            atomic_fetch_add_explicit(&e->stats.prompt_tokens, s->request->n_prompt,
                                      memory_order_relaxed);
        }
    }
}

/* A request for prompt logprobs alone ends with its prompt. */
static void finish_scored(Engine *e) {
    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];

        if (!s->request->max_tokens && s->n_computed == s->request->n_prompt)
            sequence_finish(s, FINISH_LENGTH, NULL);
    }
}

static void count_step(EngineStats *stats, uint32_t n_tokens) {
    uint32_t i = 0;

    while (i < ENGINE_STEP_BOUNDS && n_tokens > engine_step_bounds[i])
        i++;
    atomic_fetch_add_explicit(&stats->steps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->steps_by_tokens[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->step_tokens, n_tokens, memory_order_relaxed);
}

void engine_step(Engine *e) {
    StepPlan plan = plan_step(e);
    StepBatch batch;
    int r;

    move_sequences(e, &plan);
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->items[i].n_tokens || e->items[i].n_new_pages)
            take_pages(e, e->running[i], &e->items[i]);
    batch = fill_batch(e);
    assert(batch.n_tokens <= plan.n_tokens);
    if (!batch.n_tokens) /* there was no memory to start any of them */
        return;

    r = decoder_step(e->decoder, &e->store, &batch, e->tokens);
    if (!r) {
        advance(e);
        r = sample_step(e, &batch);
    }
    if (r)
        fail_step(e, r);
    else
        finish_scored(e);
    count_step(&e->stats, batch.n_tokens);
}
