/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step is launched, and later collected. Launching: view the queues, plan, move sequences and
 * pages as planned, hand the decoder's work to the backend. Collecting: wait for the backend, then
 * take what came of it, which is tokens, text, ends, and pages that others may find.
 *
 * With two steps in flight, step n + 1 is launched before step n is collected, so that a device
 * always has work while the host looks at text. What a plan needs is known without the tokens: how
 * many there will be, and that a sequence's last one is the last. Three things follow:
 *   - A sequence may turn out to have ended when a later step has a row for it: that row is
 *     computed in vain and its result thrown away. What the sequence held is free at once, since
 *     the backend runs steps in order, and what is launched next comes after that row.
 *   - Who is put back waits with all its tokens: nothing is in flight then. A plan that preempts is
 *     thrown away until all steps are collected, and made again.
 *   - Pages are findable when the step that filled them was collected.
 *
 * A sequence within a grammar is never in two steps at once: what may follow a token is known when
 * the token is. It sits steps out until its mask is made, which threads do meanwhile; but a step
 * waits a little for masks that were begun just now, so that sequences that run together stay
 * together. Tokens that a grammar forces are taken without being drawn: the next step has rows for
 * them as it has for a prompt's.
 */

#include "server/engine/engine_state.h"

#include "util/clock.h"
#include "util/integer.h"
#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* vLLM's, of iteration_tokens_total. */
const uint32_t engine_step_bounds[ENGINE_STEP_BOUNDS] = { 1,   8,    16,   32,   64,   128,  256,
                                                          512, 1024, 2048, 4096, 8192, 16384 };

/* For masks that were begun just now; and where nothing else can be done, between looks at mail. */
#define MASK_WAIT_NS 3000000
#define MASK_IDLE_WAIT_NS 5000000
#define STEP_FAILED "a step of the model failed; the server's log says why"

/* plan */

static StepPlan plan_step(Engine *e, SchedulerView *view) {
    SchedulerLimits limits = { .max_num_seqs = e->options.max_num_seqs,
                               .max_batched_tokens = e->options.max_batched_tokens,
                               .cost = e->row_cost,
                               .page_exact = e->options.page_exact };
    StepPlan plan = { .items = e->items, .admitted = e->admitted, .by_client = e->by_client };

    engine_queue_view(e, view);
    scheduler_plan(view, &limits, &plan);
    return plan;
}

/* masks */

/* What its slot follows by itself is what it draws. */
static int tell_slot(Engine *e, const Sequence *s) {
    SlotState slot = sequence_slot_state(s);

    return e->options.ops->slot_set(e->options.backend, s->slot, &slot);
}

static void take_mask(Engine *e, Sequence *s) {
    uint32_t n_forced;
    EngineEvent *event;

    sequence_take_mask(s, clock_ns(), &n_forced, &event);
    atomic_fetch_add_explicit(&e->stats.generation_tokens, n_forced, memory_order_relaxed);
    if (event)
        mailbox_send(e->options.events, &event->link);
    if (n_forced && s->finish == FINISH_NONE && tell_slot(e, s))
        sequence_finish(s, FINISH_ERROR, STEP_FAILED);
}

/* Applies the masks that are there. Returns how many are not. */
static uint32_t take_masks(Engine *e) {
    uint32_t n_busy = 0;

    if (!e->masks)
        return 0;
    mask_pool_wait(e->masks, MASK_WAIT_NS);
    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];

        if (!s->mask_waits || s->finish != FINISH_NONE)
            continue;
        if (mask_work_is_busy(s->mask))
            n_busy++;
        else
            take_mask(e, s);
    }
    return n_busy;
}

static void begin_mask(Engine *e, Sequence *s) {
    if (!e->masks && mask_pool_new(&e->masks))
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
    else
        sequence_begin_mask(s, e->masks);
}

static int put_masks(Engine *e, const EngineLaunch *launch) {
    int r = 0;

    for (uint32_t i = 0; !r && i < launch->n_draws; i++) {
        Sequence *s = launch->rows[i].sequence;

        if (s->mask)
            r = e->options.ops->slot_mask(e->options.backend, s->slot, s->mask->mask);
    }
    return r;
}

/* moving */

/* It will be computed again, and have to know then what may come. */
static void settle_mask(Engine *e, Sequence *s) {
    if (!s->mask_waits)
        return;
    mask_work_wait(s->mask);
    take_mask(e, s);
}

/* Of those that were put back, the youngest first: so the oldest is first in line. */
static void put_back(Engine *e) {
    uint32_t n_left = 0;

    for (uint32_t i = e->n_running; i--;)
        if (e->items[i].preempted) {
            settle_mask(e, e->running[i]);
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
    uint64_t now_ns = plan->n_admitted ? clock_ns() : 0;

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
    return tell_slot(e, s);
}

static int take_all_pages(Engine *e) {
    int r = 0;

    for (uint32_t i = 0; !r && i < e->n_running; i++)
        if (e->items[i].n_tokens || e->items[i].n_new_pages)
            r = take_pages(e, e->running[i], &e->items[i]);
    return r;
}

/* the input */

static void add_sequence(Engine *e, StepInput *input, EngineLaunch *launch, Sequence *s,
                         uint32_t n_tokens) {
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
    launch->members[launch->n_members++] =
        (EngineMember){ .sequence = s, .n_computed = s->n_computed + n_tokens };
}

static void add_row(Engine *e, EngineLaunch *launch, EngineRow row, StepLogits asked) {
    launch->rows[launch->n_rows] = row;
    e->logit_rows[launch->n_rows++] = asked;
}

/* The rows whose logits are wanted: those that draw, which one call takes, then those that are
 * scored. */
static void add_draws(Engine *e, EngineLaunch *launch) {
    for (uint32_t i = 0; i < launch->n_members; i++) {
        const StepSequence *step = &e->step_sequences[i];
        Sequence *s = launch->members[i].sequence;
        uint32_t i_token = launch->members[i].n_computed - 1;

        if (sequence_wants_token(s, i_token))
            add_row(e, launch, (EngineRow){ .sequence = s, .i_token = i_token },
                    sequence_draw_row(s, step->first_row + step->n_rows - 1));
    }
    launch->n_draws = launch->n_rows;
}

static void add_scores(Engine *e, EngineLaunch *launch) {
    for (uint32_t i = 0; i < launch->n_members; i++) {
        const StepSequence *step = &e->step_sequences[i];
        Sequence *s = launch->members[i].sequence;

        for (uint32_t j = 0; s->prompt_logprobs && j < step->n_rows; j++) {
            uint32_t i_token = step->n_past + j;

            if (sequence_wants_score(s, i_token))
                add_row(e, launch, (EngineRow){ .sequence = s, .i_token = i_token },
                        sequence_score_row(s, step->first_row + j, i_token));
        }
    }
}

static StepInput fill_input(Engine *e, EngineLaunch *launch) {
    StepInput input = { .tokens = e->tokens,
                        .sequences = e->step_sequences,
                        .page_indptr = e->page_indptr,
                        .page_indices = e->page_indices,
                        .logit_rows = e->logit_rows };

    launch->n_members = launch->n_rows = 0;
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->items[i].n_tokens)
            add_sequence(e, &input, launch, e->running[i], e->items[i].n_tokens);
    add_draws(e, launch);
    add_scores(e, launch);
    input.n_logit_rows = launch->n_rows;
    return input;
}

/* failing */

static bool is_live(const Sequence *s) {
    return s && s->finish == FINISH_NONE;
}

static void fail_sequence(Sequence *s) {
    if (is_live(s))
        sequence_finish(s, FINISH_ERROR, STEP_FAILED);
}

static void log_failure(int error) {
    log_line(LOG_LEVEL_ERROR, "a step of the model failed; its requests end with an error",
             "error=%s", strerror(-error));
}

/* collecting */

static EngineLaunch *launch_at(Engine *e, uint32_t i) {
    return &e->launches[(e->i_oldest + i) % e->options.steps_in_flight];
}

void engine_step_forget_finished(Engine *e) {
    for (uint32_t i = 0; i < e->n_in_flight; i++) {
        EngineLaunch *launch = launch_at(e, i);

        for (uint32_t j = 0; j < launch->n_members; j++) {
            EngineMember *member = &launch->members[j];

            member->sequence = is_live(member->sequence) ? member->sequence : NULL;
        }
        for (uint32_t j = 0; j < launch->n_rows; j++) {
            EngineRow *row = &launch->rows[j];

            row->sequence = is_live(row->sequence) ? row->sequence : NULL;
        }
    }
}

/* The cache has the step's tokens. */
static void advance(Engine *e, const EngineLaunch *launch) {
    for (uint32_t i = 0; i < launch->n_members; i++) {
        Sequence *s = launch->members[i].sequence;

        if (!is_live(s))
            continue;
        s->n_collected = launch->members[i].n_computed;
        engine_prefix_publish(e, s);
        if (!s->prompt_done && s->n_collected >= s->request->n_prompt) {
            s->prompt_done = true;
            atomic_fetch_add_explicit(&e->stats.prompt_tokens, s->request->n_prompt,
                                      memory_order_relaxed);
        }
    }
}

/* Prompt logprobs first: they go with the event of the first token. */
static void take_results(Engine *e, const EngineLaunch *launch, const SampleResult *results) {
    uint64_t now_ns = clock_ns();

    for (uint32_t i = launch->n_draws; i < launch->n_rows; i++)
        if (is_live(launch->rows[i].sequence))
            sequence_scored(launch->rows[i].sequence, launch->rows[i].i_token, &results[i]);
    for (uint32_t i = 0; i < launch->n_draws; i++) {
        Sequence *s = launch->rows[i].sequence;
        EngineEvent *event;

        if (!is_live(s))
            continue;
        sequence_sampled(s, &results[i], now_ns, &event);
        atomic_fetch_add_explicit(&e->stats.generation_tokens, 1, memory_order_relaxed);
        if (event)
            mailbox_send(e->options.events, &event->link);
        if (s->mask && s->finish == FINISH_NONE)
            begin_mask(e, s);
    }
}

/* A request for prompt logprobs alone ends with its prompt. */
static void finish_scored(const EngineLaunch *launch) {
    for (uint32_t i = 0; i < launch->n_members; i++) {
        Sequence *s = launch->members[i].sequence;

        if (is_live(s) && !s->request->max_tokens && s->n_collected == s->request->n_prompt)
            sequence_finish(s, FINISH_LENGTH, NULL);
    }
}

/* A device that is lost answers for no step any more. */
static int collect_oldest(Engine *e) {
    const EngineLaunch *launch = launch_at(e, 0);
    const SampleResult *results;
    int r;

    r = e->options.ops->step_wait(e->options.backend, &results);
    e->i_oldest = (e->i_oldest + 1) % e->options.steps_in_flight;
    e->n_in_flight = r == -ENODEV ? 0 : e->n_in_flight - 1;
    if (r) {
        log_failure(r);
        for (uint32_t i = 0; i < launch->n_members; i++)
            fail_sequence(launch->members[i].sequence);
        return r;
    }
    advance(e, launch);
    take_results(e, launch, results);
    finish_scored(launch);
    return 0;
}

static int collect_all(Engine *e) {
    int r = 0;

    while (e->n_in_flight) {
        int r_now = collect_oldest(e);

        r = r ? r : r_now;
    }
    return r;
}

/* launching */

static void count_step(EngineStats *stats, uint32_t n_tokens) {
    uint32_t i = 0;

    while (i < ENGINE_STEP_BOUNDS && n_tokens > engine_step_bounds[i])
        i++;
    atomic_fetch_add_explicit(&stats->steps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->steps_by_tokens[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->step_tokens, n_tokens, memory_order_relaxed);
}

/* Prompt logprobs go in slices of what the buffer of logits holds. */
static int sample(Engine *e, const EngineLaunch *launch) {
    uint32_t max = e->n_logit_rows_max;
    int r = launch->n_draws ? decoder_sample(e->decoder, 0, launch->n_draws) : 0;

    for (uint32_t i = launch->n_draws; !r && i < launch->n_rows; i += max)
        r = decoder_sample(e->decoder, i, min_u32(launch->n_rows - i, max));
    return r;
}

static int run_step(Engine *e, EngineLaunch *launch, const StepInput *input) {
    int r;

    r = decoder_step(e->decoder, &e->store, input);
    if (!r)
        r = put_masks(e, launch);
    if (!r)
        r = sample(e, launch);
    if (!r)
        r = e->options.ops->step_end(e->options.backend);
    if (r)
        return r;
    for (uint32_t i = 0; i < launch->n_members; i++)
        launch->members[i].sequence->n_computed = launch->members[i].n_computed;
    e->n_in_flight++;
    count_step(&e->stats, input->n_rows);
    return 0;
}

/* Launches nothing where there was no memory to start any of the plan's sequences. */
static int launch_step(Engine *e, const StepPlan *plan) {
    EngineLaunch *launch = launch_at(e, e->n_in_flight);
    StepInput input;
    int r;

    r = take_all_pages(e);
    if (r)
        return r;
    input = fill_input(e, launch);
    assert(input.n_rows <= plan->n_tokens);
    return input.n_rows ? run_step(e, launch, &input) : 0;
}

/* What was launched before is collected first: who ended there has ended well. */
static void fail_step(Engine *e, int error) {
    collect_all(e);
    log_failure(error);
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->items[i].n_tokens)
            fail_sequence(e->running[i]);
}

int engine_step(Engine *e) {
    uint32_t n_before = e->n_in_flight, n_busy = take_masks(e);
    SchedulerView view;
    StepPlan plan;
    int r;

    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->finish != FINISH_NONE)
            return 0; /* a mask ended it: it goes before anything else is planned */
    plan = plan_step(e, &view);
    if (plan.n_preempted && e->n_in_flight)
        return collect_all(e);
    engine_queue_pass_turns(e, &view, &plan);
    move_sequences(e, &plan);
    r = launch_step(e, &plan);
    if (r) {
        fail_step(e, r);
        return r;
    }
    if (e->n_in_flight == n_before && !e->n_in_flight && n_busy)
        mask_pool_wait_for_one(e->masks, MASK_IDLE_WAIT_NS);
    if (e->n_in_flight == e->options.steps_in_flight || e->n_in_flight == n_before)
        return e->n_in_flight ? collect_oldest(e) : 0;
    return 0;
}
