/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Plans of one step for tests of the scheduler, whose arrays lie here, and sequences to plan for.
 */

#include "server/engine/scheduler.h"
#include "util/integer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MANY 64

static StepItem items[2 * MANY];
static uint32_t admitted[MANY], by_client[MANY];
static SchedulerClient clients[2 * MANY];
static uint32_t newcomers[2 * MANY];

/* What the header promises of a step's work: decodes are not refused, prompts exceed what those
 * leave, or a turn's if that is more, by less than one row, and leave none of it while they could
 * use it, unless there are newcomers. */
static inline void check_work(const SchedulerView *view, const SchedulerLimits *limits,
                              const StepPlan *plan) {
    const RowCost *cost = &limits->cost;
    int64_t work_left = scheduler_work(limits), prompt_work = 0, costliest = 0;
    bool wants = false, admits_newcomers = view->n_newcomers && plan->n_admitted;

    for (uint32_t i = 0; i < view->n_running + plan->n_admitted; i++) {
        bool is_running = i < view->n_running;
        const SchedulerSequence *s =
            is_running ? &view->running[i] : &view->waiting[plan->admitted[i - view->n_running]];
        uint32_t n = plan->items[i].n_tokens, n_rest = s->n_known - s->n_computed;
        int64_t work = 0;

        if (plan->items[i].preempted)
            continue;
        for (uint32_t j = 0; j < n; j++)
            work += row_cost_work(cost, s->n_computed + j, 1);
        if (is_running && n_rest == 1) {
            assert_int_equal(n, 1);
            work_left -= work;
            continue;
        }
        prompt_work += work;
        if (n && row_cost_work(cost, s->n_computed + n - 1, 1) > costliest)
            costliest = row_cost_work(cost, s->n_computed + n - 1, 1);
        if (limits->page_exact)
            n_rest = min_u32(n_rest, 64 - s->n_computed % 64);
        wants = wants || n < n_rest;
    }
    if (work_left < scheduler_quantum(limits))
        work_left = scheduler_quantum(limits);
    assert_true(prompt_work == 0 || prompt_work - costliest < work_left);
    if (wants && !admits_newcomers && plan->n_tokens < limits->max_batched_tokens)
        assert_true(prompt_work >= work_left);
}

/* Arrays as the header says; waiting sequences come client by client. */
static inline StepPlan plan_view(SchedulerView view, const SchedulerLimits *limits) {
    StepPlan plan = { .items = items, .admitted = admitted, .by_client = by_client };

    view.clients = clients;
    view.newcomers = newcomers;
    for (uint32_t i = 0, at = 0; i < view.n_clients; i++) {
        clients[i].i_waiting = at;
        while (at < view.n_waiting && view.waiting[at].client == i)
            at++;
        clients[i].n_waiting = at - clients[i].i_waiting;
    }
    memset(items, 0xAB, sizeof(items));
    scheduler_plan(&view, limits, &plan);
    check_work(&view, limits, &plan);
    return plan;
}

static inline bool runs(const SchedulerSequence *running, uint32_t n_running, uint32_t client) {
    for (uint32_t i = 0; i < n_running; i++)
        if (running[i].client == client)
            return true;
    return false;
}

/* Newcomers in the order of their turns. */
static inline StepPlan plan_of_clients(const SchedulerSequence *running, uint32_t n_running,
                                       const SchedulerSequence *waiting, uint32_t n_waiting,
                                       uint32_t n_clients, uint32_t n_pages_free,
                                       const SchedulerLimits *limits) {
    SchedulerView view = { .running = running,
                           .waiting = waiting,
                           .n_running = n_running,
                           .n_waiting = n_waiting,
                           .n_clients = n_clients,
                           .n_pages_free = n_pages_free };

    for (uint32_t i = 0; i < n_clients; i++)
        if (!runs(running, n_running, i))
            newcomers[view.n_newcomers++] = i;
    return plan_view(view, limits);
}

/* In the middle of its answer, `n` tokens in the cache. */
static inline SchedulerSequence decoding(uint32_t n, uint32_t n_max) {
    return (SchedulerSequence){
        .n_known = n + 1, .n_computed = n, .n_max = n_max, .n_pages = (n + 63) / 64
    };
}

static inline SchedulerSequence prefilling(uint32_t n_known, uint32_t n_computed) {
    return (SchedulerSequence){ .n_known = n_known,
                                .n_computed = n_computed,
                                .n_max = n_known,
                                .n_pages = (n_known + 63) / 64 };
}

static inline SchedulerSequence arriving(uint32_t n_known, uint32_t n_max) {
    return (SchedulerSequence){ .n_known = n_known, .n_max = n_max };
}

static inline uint32_t random_below(uint32_t n) {
    return (uint32_t)rand() % n;
}

/* Every row alike, or attention from hardly anything to nearly everything; with and without a
 * window. */
static inline RowCost random_cost(void) {
    if (random_below(3) == 0)
        return ROW_COST_EQUAL;
    return (RowCost){ .products = 1 + random_below(random_below(2) ? 2000 : 50),
                      .n_full_layers = random_below(4),
                      .n_sliding_layers = random_below(4),
                      .window = random_below(300) };
}

static inline SchedulerSequence of(uint32_t client, SchedulerSequence s) {
    s.client = client;
    return s;
}
