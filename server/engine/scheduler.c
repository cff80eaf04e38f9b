/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass per rule of the header, in that order, over a draft that carries what is left of rows,
 * work, pages and slots. Its time is proportional to sequences and clients in the view, and for
 * each sequence that is preempted once more to the clients.
 */

#include "server/engine/scheduler.h"

#include "kvcache/kv_layout.h"
#include "util/integer.h"

#include <assert.h>

#define NO_ITEM UINT32_MAX

typedef struct Draft {
    const SchedulerView *view;
    StepPlan *plan;
    uint32_t n_kept;    /* running sequences that stay */
    uint32_t n_growing; /* of those that stay or are admitted, those that may need more pages after
                           this step */
    uint32_t n_rows_left, n_pages_left;
    int64_t work_left; /* less than 0 where the decodes take more than a step's */
    int64_t quantum;
    const RowCost *cost;
    uint32_t max_seqs;
    uint32_t n_newcomers; /* of those that are admitted; they come first */
    bool page_exact;
    bool admits; /* nobody stands in the way of admissions */
} Draft;

static uint32_t pages_of(uint32_t n_tokens) {
    return n_tokens / KV_PAGE_TOKENS + (n_tokens % KV_PAGE_TOKENS != 0);
}

static uint32_t missing_pages(const SchedulerSequence *s, uint32_t n_tokens) {
    uint32_t need = pages_of(n_tokens);

    return need > s->n_pages ? need - s->n_pages : 0;
}

static bool decodes(const SchedulerSequence *s) {
    return s->n_known - s->n_computed == 1;
}

/* Whether it may need more pages than it holds after this step. */
static bool may_grow(const SchedulerSequence *s, uint32_t n_new_pages) {
    return pages_of(s->n_max) > s->n_pages + n_new_pages;
}

static const SchedulerSequence *sequence_of(const Draft *d, uint32_t i_item) {
    const SchedulerView *view = d->view;

    return i_item < view->n_running ? &view->running[i_item]
                                    : &view->waiting[d->plan->admitted[i_item - view->n_running]];
}

static void give(Draft *d, uint32_t i_item, uint32_t n_rows, uint32_t n_new_pages) {
    const SchedulerSequence *s = sequence_of(d, i_item);
    StepItem *item = &d->plan->items[i_item];

    d->n_growing -= may_grow(s, item->n_new_pages);
    d->work_left -= row_cost_work(d->cost, s->n_computed + item->n_tokens, n_rows);
    item->n_tokens += n_rows;
    item->n_new_pages += n_new_pages;
    d->n_growing += may_grow(s, item->n_new_pages);
    d->plan->n_tokens += n_rows;
    d->n_rows_left -= n_rows;
    d->n_pages_left -= n_new_pages;
}

/* the start */

static void group_by_client(Draft *d) {
    const SchedulerView *view = d->view;
    uint32_t at = 0;

    for (uint32_t i = 0; i < view->n_running; i++)
        view->clients[view->running[i].client].n_running++;
    for (uint32_t i = 0; i < view->n_clients; i++) {
        SchedulerClient *c = &view->clients[i];

        c->i_running = at;
        at += c->n_running;
        c->n_running = 0;
    }
    for (uint32_t i = 0; i < view->n_running; i++) {
        SchedulerClient *c = &view->clients[view->running[i].client];

        d->plan->by_client[c->i_running + c->n_running++] = i;
    }
}

static void begin(Draft *d) {
    const SchedulerView *view = d->view;

    d->plan->n_preempted = d->plan->n_admitted = d->plan->n_tokens = d->plan->i_turn = 0;
    for (uint32_t i = 0; i < view->n_clients; i++) {
        const SchedulerClient *c = &view->clients[i];

        view->clients[i] = (SchedulerClient){ .deficit = c->deficit,
                                              .i_waiting = c->i_waiting,
                                              .n_waiting = c->n_waiting,
                                              .i_open = NO_ITEM };
    }
    group_by_client(d);
    for (uint32_t i = 0; i < view->n_running; i++) {
        d->plan->items[i] = (StepItem){ 0 };
        d->n_growing += may_grow(&view->running[i], 0);
    }
}

/* preempting */

static uint32_t youngest(const Draft *d, const SchedulerClient *c) {
    return d->plan->by_client[c->i_running + c->n_running - 1];
}

/* The client that runs most; of several the one whose youngest is younger. */
static SchedulerClient *find_victim(const Draft *d) {
    SchedulerClient *found = NULL;

    for (uint32_t i = 0; i < d->view->n_clients; i++) {
        SchedulerClient *c = &d->view->clients[i];

        if (c->n_running &&
            (!found || c->n_running > found->n_running ||
             (c->n_running == found->n_running && youngest(d, c) > youngest(d, found))))
            found = c;
    }
    return found;
}

/* What is left without it. */
static void count_out(Draft *d, uint32_t i) {
    const SchedulerSequence *s = &d->view->running[i];
    const StepItem *item = &d->plan->items[i];

    d->n_growing -= may_grow(s, item->n_new_pages);
    d->n_pages_left += s->n_pages - s->n_shared_pages + item->n_new_pages;
    d->n_rows_left += item->n_tokens;
    d->work_left += row_cost_work(d->cost, s->n_computed, item->n_tokens);
    d->n_kept--;
}

static void preempt_youngest(Draft *d, SchedulerClient *c) {
    uint32_t i = youngest(d, c);

    count_out(d, i);
    c->n_running--;
    c->lost = true;
    d->plan->n_preempted++;
    d->plan->n_tokens -= d->plan->items[i].n_tokens;
    d->plan->items[i] = (StepItem){ .preempted = true };
}

/* rules 1 and 2 */

static void plan_decodes(Draft *d) {
    for (uint32_t i = 0; i < d->view->n_running; i++) {
        const SchedulerSequence *s = &d->view->running[i];
        const StepItem *item = &d->plan->items[i];
        uint32_t n_missing = missing_pages(s, s->n_computed + 1);

        if (item->preempted || !decodes(s) || !d->n_rows_left)
            continue;
        while (n_missing > d->n_pages_left && d->n_kept > 1 && !item->preempted)
            preempt_youngest(d, find_victim(d));
        if (item->preempted)
            continue;
        if (n_missing > d->n_pages_left) /* alone: all that it does not hold is free */
            d->n_pages_left = n_missing;
        give(d, i, 1, n_missing);
    }
}

/* admitting */

static bool has_slot(const Draft *d) {
    return d->n_kept + d->plan->n_admitted < d->max_seqs;
}

static bool has_pages(const Draft *d, const SchedulerSequence *s) {
    uint32_t n_missing = missing_pages(s, s->n_known);
    bool alone = d->n_kept + d->plan->n_admitted == 0;
    uint32_t n_headroom = alone ? 0 : d->n_growing + may_grow(s, n_missing);

    return (uint64_t)n_missing + n_headroom <= d->n_pages_left;
}

static bool fits(const Draft *d, const SchedulerSequence *s) {
    return has_slot(d) && has_pages(d, s);
}

static const SchedulerSequence *next_waiting(const Draft *d, const SchedulerClient *c) {
    return &d->view->waiting[c->i_waiting + c->n_admitted];
}

static void admit(Draft *d, SchedulerClient *c) {
    const SchedulerSequence *s = next_waiting(d, c);

    c->i_open = d->view->n_running + d->plan->n_admitted;
    d->plan->admitted[d->plan->n_admitted++] = c->i_waiting + c->n_admitted++;
    d->plan->items[c->i_open] = (StepItem){ 0 };
    d->n_growing += may_grow(s, 0);
    give(d, c->i_open, 0, missing_pages(s, s->n_known));
}

/* rule 3 */

/* Whether it would fit if every client kept only its oldest. */
static bool would_fit(const Draft *d, const SchedulerSequence *s) {
    Draft rest = *d;

    for (uint32_t i = 0; i < d->view->n_clients; i++) {
        const SchedulerClient *c = &d->view->clients[i];

        for (uint32_t j = 1; j < c->n_running; j++)
            count_out(&rest, d->plan->by_client[c->i_running + j]);
    }
    return fits(&rest, s);
}

static bool make_room(Draft *d, const SchedulerSequence *s) {
    if (fits(d, s))
        return true;
    if (!would_fit(d, s))
        return false;
    while (!fits(d, s)) /* so whoever runs most runs more than one */
        preempt_youngest(d, find_victim(d));
    return true;
}

static void plan_newcomers(Draft *d) {
    for (uint32_t i = 0; d->admits && i < d->view->n_newcomers; i++) {
        SchedulerClient *c = &d->view->clients[d->view->newcomers[i]];

        d->admits = make_room(d, next_waiting(d, c));
        if (d->admits)
            admit(d, c);
    }
    d->n_newcomers = d->plan->n_admitted;
}

/* rule 4 */

/* Rows that it can still use in this step. */
static uint32_t rows_wanted(const Draft *d, uint32_t i_item) {
    const SchedulerSequence *s = sequence_of(d, i_item);
    uint32_t n_rest = s->n_known - s->n_computed;

    if (d->page_exact)
        n_rest = min_u32(n_rest, KV_PAGE_TOKENS - s->n_computed % KV_PAGE_TOKENS);
    return n_rest - d->plan->items[i_item].n_tokens;
}

static bool admit_next(Draft *d, SchedulerClient *c) {
    if (!d->admits || c->lost || c->n_admitted == c->n_waiting || !fits(d, next_waiting(d, c)))
        return false;
    admit(d, c);
    return true;
}

/* Whose rows the client's next ones are; NO_ITEM if it can use none. */
static uint32_t next_item(Draft *d, SchedulerClient *c) {
    for (; c->n_served < c->n_running; c->n_served++) {
        uint32_t i = d->plan->by_client[c->i_running + c->n_served];

        if (rows_wanted(d, i))
            return i;
    }
    if (c->i_open != NO_ITEM && rows_wanted(d, c->i_open))
        return c->i_open;
    return admit_next(d, c) ? c->i_open : NO_ITEM;
}

static bool has_rows(const Draft *d) {
    return d->n_rows_left && d->work_left > 0;
}

/* As many as the item can use, the step has and the turn allows; at least one. */
static void give_rows(Draft *d, SchedulerClient *c, uint32_t i_item) {
    uint32_t position = sequence_of(d, i_item)->n_computed + d->plan->items[i_item].n_tokens;
    uint32_t n_max = min_u32(rows_wanted(d, i_item), d->n_rows_left);
    int64_t work_before = d->work_left, work = min_i64(c->deficit, work_before);

    give(d, i_item, row_cost_rows(d->cost, position, n_max, work), 0);
    c->deficit -= work_before - d->work_left;
}

/* Returns whether the client may have use for another turn. */
static bool take_turn(Draft *d, SchedulerClient *c) {
    if (c->deficit <= 0)
        c->deficit += d->quantum;
    while (c->deficit > 0 && has_rows(d)) {
        uint32_t i_item = next_item(d, c);

        if (i_item == NO_ITEM) {
            c->deficit = 0;
            return false;
        }
        give_rows(d, c, i_item);
    }
    return true;
}

/* Links those that run something in a ring; returns its last, or n_clients if it is empty. */
static uint32_t link_turns(SchedulerClient *clients, uint32_t n_clients, uint32_t *n_linkedp) {
    uint32_t i_last = n_clients, i_next = n_clients;

    *n_linkedp = 0;
    for (uint32_t i = n_clients; i--;) {
        if (!clients[i].n_running && !clients[i].n_admitted)
            continue;
        if (i_last == n_clients)
            i_last = i;
        clients[i].next = i_next;
        i_next = i;
        ++*n_linkedp;
    }
    if (i_last < n_clients)
        clients[i_last].next = i_next;
    return i_last;
}

/* Newcomers that have all rows they can use in this step wait for its end only, and others run. */
static bool hurries(const Draft *d) {
    if (!d->n_kept || !d->n_newcomers)
        return false;
    for (uint32_t i = 0; i < d->n_newcomers; i++)
        if (rows_wanted(d, d->view->n_running + i))
            return false;
    return true;
}

/* Where no turn is cut short, the next one is that of the client after the last that had rows: so
 * clients also take turns at slots that come free one by one. */
static void plan_prompts(Draft *d) {
    SchedulerClient *clients = d->view->clients;
    uint32_t n_clients = d->view->n_clients, n_first_turns;
    uint32_t i_before = link_turns(clients, n_clients, &n_first_turns);
    bool wants = i_before < n_clients;

    d->work_left = max_i64(d->work_left, d->quantum);
    while (wants && has_rows(d) && (n_first_turns || !hurries(d))) {
        uint32_t i = clients[i_before].next, n_rows_before = d->n_rows_left;
        bool passes = !take_turn(d, &clients[i]);

        n_first_turns -= n_first_turns != 0;
        if (d->n_rows_left < n_rows_before)
            d->plan->i_turn = clients[i].deficit > 0 ? i : (i + 1) % n_clients;
        wants = !passes || i != i_before;
        if (passes)
            clients[i_before].next = clients[i].next;
        else
            i_before = i;
    }
}

int64_t scheduler_quantum(const SchedulerLimits *limits) {
    uint32_t quarter = limits->max_batched_tokens / 4;
    uint32_t n_rows = quarter ? min_u32(quarter, KV_PAGE_TOKENS) : 1;

    return row_cost_work(&limits->cost, 0, n_rows);
}

int64_t scheduler_work(const SchedulerLimits *limits) {
    return row_cost_work(&limits->cost, 0, limits->max_batched_tokens);
}

void scheduler_plan(const SchedulerView *view, const SchedulerLimits *limits, StepPlan *plan) {
    Draft d = { .view = view,
                .plan = plan,
                .n_kept = view->n_running,
                .n_rows_left = limits->max_batched_tokens,
                .n_pages_left = view->n_pages_free,
                .work_left = scheduler_work(limits),
                .cost = &limits->cost,
                .max_seqs = min_u32(limits->max_num_seqs, limits->max_batched_tokens),
                .quantum = scheduler_quantum(limits),
                .page_exact = limits->page_exact };

    assert(limits->cost.products);
    begin(&d);
    plan_decodes(&d);
    d.admits = !plan->n_preempted;
    plan_newcomers(&d);
    plan_prompts(&d);
}
