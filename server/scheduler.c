/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass per rule of the header, in that order, over a draft that carries what is left of rows
 * and pages.
 */

#include "server/scheduler.h"

#include "kvcache/kv_layout.h"

typedef struct Draft {
    const SchedulerView *view;
    StepPlan *plan;
    uint32_t n_kept; /* running sequences that stay */
    uint32_t n_rows_left, n_pages_left;
    bool page_exact;
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
static bool may_grow(const SchedulerSequence *s, const StepItem *item) {
    return pages_of(s->n_max) > s->n_pages + item->n_new_pages;
}

static void give(Draft *d, uint32_t i_item, uint32_t n_rows, uint32_t n_new_pages) {
    d->plan->items[i_item] = (StepItem){ .n_tokens = n_rows, .n_new_pages = n_new_pages };
    d->plan->n_tokens += n_rows;
    d->n_rows_left -= n_rows;
    d->n_pages_left -= n_new_pages;
}

static uint32_t chunk_of(const Draft *d, const SchedulerSequence *s) {
    uint32_t n_rest = s->n_known - s->n_computed;

    if (d->page_exact && n_rest > KV_PAGE_TOKENS - s->n_computed % KV_PAGE_TOKENS)
        n_rest = KV_PAGE_TOKENS - s->n_computed % KV_PAGE_TOKENS;
    return n_rest < d->n_rows_left ? n_rest : d->n_rows_left;
}

static void preempt_youngest(Draft *d) {
    const SchedulerSequence *s = &d->view->running[--d->n_kept];

    d->n_pages_left += s->n_pages - s->n_shared_pages;
    d->plan->n_preempted++;
}

static void plan_decodes(Draft *d) {
    for (uint32_t i = 0; i < d->n_kept; i++) {
        const SchedulerSequence *s = &d->view->running[i];
        uint32_t n_missing = missing_pages(s, s->n_computed + 1);

        if (!decodes(s) || !d->n_rows_left)
            continue;
        while (n_missing > d->n_pages_left && d->n_kept > i)
            preempt_youngest(d);
        if (i < d->n_kept)
            give(d, i, 1, n_missing);
    }
}

static void plan_prompts(Draft *d) {
    for (uint32_t i = 0; i < d->n_kept; i++)
        if (!decodes(&d->view->running[i]))
            give(d, i, chunk_of(d, &d->view->running[i]), 0);
}

static uint32_t count_growing(const Draft *d) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->n_kept; i++)
        n += may_grow(&d->view->running[i], &d->plan->items[i]);
    return n;
}

static void plan_admissions(Draft *d, uint32_t max_seqs) {
    uint32_t n_growing = count_growing(d);

    for (uint32_t i = 0; i < d->view->n_waiting; i++) {
        const SchedulerSequence *s = &d->view->waiting[i];
        uint32_t i_item = d->n_kept + i, n_missing = missing_pages(s, s->n_known);
        uint32_t n_headroom;

        if (i_item >= max_seqs || !d->n_rows_left)
            return;
        n_growing += may_grow(s, &(StepItem){ .n_new_pages = n_missing });
        n_headroom = i_item ? n_growing : 0;
        if ((uint64_t)n_missing + n_headroom > d->n_pages_left)
            return;
        give(d, i_item, chunk_of(d, s), n_missing);
        d->plan->n_admitted++;
    }
}

void scheduler_plan(const SchedulerView *view, const SchedulerLimits *limits, StepPlan *plan) {
    Draft d = { .view = view,
                .plan = plan,
                .n_kept = view->n_running,
                .n_rows_left = limits->max_batched_tokens,
                .page_exact = limits->page_exact,
                .n_pages_left = view->n_pages_free };

    plan->n_preempted = plan->n_admitted = plan->n_tokens = 0;
    for (uint32_t i = 0; i < view->n_running; i++)
        plan->items[i] = (StepItem){ 0 };
    plan_decodes(&d);
    plan_prompts(&d);
    if (!plan->n_preempted)
        plan_admissions(&d, limits->max_num_seqs < limits->max_batched_tokens
                                ? limits->max_num_seqs
                                : limits->max_batched_tokens);
}
