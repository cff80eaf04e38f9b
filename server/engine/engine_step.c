/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One step: view the queues, plan, move sequences and pages as planned, run the decoder, sample
 * the rows whose logits are wanted, and take what came of them.
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
                               .cost = e->row_cost,
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

/* Pages for the step, and for a sequence that starts a slot, what it can share and its sinks. A
 * plan never hands out more pages than are free, and there is a slot and a sink slot for every
 * sequence that runs. */
static int take_pages(Engine *e, Sequence *s, StepItem *item) {
    bool starts = !s->n_pages && !s->n_computed, has_sinks = e->store.n_sinks;
    SlotState slot;
    int r;

    if (starts)
        engine_prefix_adopt(e, s, item);
    sequence_take(s, &e->pool, item->n_new_pages);
    if (!starts)
        return 0;
    if (has_sinks && page_pool_sink(&e->pool, s->pages[0]) == PAGE_POOL_NONE) {
        r = page_pool_take_sink(&e->pool, s->pages[0]);
        assert(!r);
    }
    slot = sequence_slot_state(s);
    return e->options.ops->slot_set(e->options.backend, s->slot, &slot);
}

static int take_all_pages(Engine *e) {
    int r = 0;

    for (uint32_t i = 0; !r && i < e->n_running; i++)
        if (e->items[i].n_tokens || e->items[i].n_new_pages)
            r = take_pages(e, e->running[i], &e->items[i]);
    return r;
}

/* run */

static void add_sequence(Engine *e, StepInput *input, Sequence *s, uint32_t n_tokens) {
    uint32_t i = input->n_sequences++, at = e->page_indptr[i];

    e->step_sequences[i] = (StepSequence){ .first_row = input->n_rows,
                                           .n_rows = n_tokens,
                                           .n_past = s->n_computed,
                                           .slot = s->slot,
                                           .sink = page_pool_sink(&e->pool, s->pages[0]) };
    assert(s->n_pages <= e->n_step_pages_max - at);
    memcpy(e->page_indices + at, s->pages, s->n_pages * sizeof(*s->pages));
    e->page_indptr[i + 1] = at + s->n_pages;
    for (uint32_t j = 0; j < n_tokens; j++)
        e->tokens[input->n_rows++] = sequence_token_source(s, s->n_computed + j);
}

/* The rows whose logits are wanted: those that draw, which one call takes, then those that are
 * scored. */
static void add_draws(Engine *e) {
    const StepSequence *step = e->step_sequences;

    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];
        uint32_t n = e->items[i].n_tokens, i_token = s->n_computed + n - 1;

        if (!n)
            continue;
        if (sequence_wants_token(s, i_token)) {
            e->rows[e->n_rows] = (EngineRow){ .sequence = s, .i_token = i_token };
            e->logit_rows[e->n_rows++] = sequence_draw_row(s, step->first_row + n - 1);
        }
        step++;
    }
    e->n_draws = e->n_rows;
}

static void add_scores(Engine *e) {
    const StepSequence *step = e->step_sequences;

    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];
        uint32_t n = e->items[i].n_tokens;

        for (uint32_t j = 0; s->prompt_logprobs && j < n; j++) {
            uint32_t i_token = s->n_computed + j;

            if (!sequence_wants_score(s, i_token))
                continue;
            e->rows[e->n_rows] = (EngineRow){ .sequence = s, .i_token = i_token };
            e->logit_rows[e->n_rows++] = sequence_score_row(s, step->first_row + j, i_token);
        }
        step += n != 0;
    }
}

static StepInput fill_input(Engine *e) {
    StepInput input = { .tokens = e->tokens,
                        .sequences = e->step_sequences,
                        .page_indptr = e->page_indptr,
                        .page_indices = e->page_indices,
                        .logit_rows = e->logit_rows };

    e->n_rows = 0;
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->items[i].n_tokens)
            add_sequence(e, &input, e->running[i], e->items[i].n_tokens);
    add_draws(e);
    add_scores(e);
    input.n_logit_rows = e->n_rows;
    return input;
}

static void fail_step(Engine *e, int error) {
    log_line(LOG_LEVEL_ERROR, "a step of the model failed; its requests end with an error",
             "error=%s", strerror(-error));
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->items[i].n_tokens && e->running[i]->finish == FINISH_NONE)
            sequence_finish(e->running[i], FINISH_ERROR, STEP_FAILED);
}

/* logits */

/* Prompt logprobs go in slices of what the buffer of logits holds. */
static int sample(Engine *e, const SampleResult **resultsp) {
    uint32_t max = e->n_logit_rows_max;
    int r = e->n_draws ? decoder_sample(e->decoder, 0, e->n_draws) : 0;

    for (uint32_t i = e->n_draws; !r && i < e->n_rows; i += max)
        r = decoder_sample(e->decoder, i, e->n_rows - i < max ? e->n_rows - i : max);
    return r ? r : e->options.ops->step_wait(e->options.backend, resultsp);
}

/* Prompt logprobs first: they go with the event of the first token. */
static void take_results(Engine *e, const SampleResult *results) {
    uint64_t now_ns = engine_now_ns();

    for (uint32_t i = e->n_draws; i < e->n_rows; i++)
        sequence_scored(e->rows[i].sequence, e->rows[i].i_token, &results[i]);
    for (uint32_t i = 0; i < e->n_draws; i++) {
        EngineEvent *event;

        sequence_sampled(e->rows[i].sequence, &results[i], now_ns, &event);
        atomic_fetch_add_explicit(&e->stats.generation_tokens, 1, memory_order_relaxed);
        if (event)
            mailbox_send(e->options.events, &event->link);
    }
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

static int run_step(Engine *e, const StepInput *input) {
    const SampleResult *results;
    int r;

    r = decoder_step(e->decoder, &e->store, input);
    if (r)
        return r;
    advance(e);
    r = sample(e, &results);
    if (r)
        return r;
    take_results(e, results);
    finish_scored(e);
    return 0;
}

int engine_step(Engine *e) {
    StepPlan plan = plan_step(e);
    StepInput input;
    int r;

    move_sequences(e, &plan);
    r = take_all_pages(e);
    if (r) {
        fail_step(e, r);
        return r;
    }
    input = fill_input(e);
    assert(input.n_rows <= plan.n_tokens);
    if (!input.n_rows) /* there was no memory to start any of them */
        return 0;
    r = run_step(e, &input);
    if (r)
        fail_step(e, r);
    count_step(&e->stats, input.n_rows);
    return r;
}
