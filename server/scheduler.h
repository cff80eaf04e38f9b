/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the next step does: a pure function from the queues, the free pages and the limits to a
 * plain struct, which the engine then runs. Time is not among the arguments: order of arrival is
 * the only clock these policies read.
 *
 *   1. Every running sequence that decodes gets its one token first, oldest first.
 *   2. If pages run out for that, the youngest running sequence is preempted: it gives back all it
 *      holds and waits, first in line, to be computed again.
 *   3. What is left of max_batched_tokens goes to running prompts, oldest first.
 *   4. Then waiting sequences are admitted in order of arrival. The head of the queue takes pages
 *      for all its tokens at once; if they are not there, everyone behind it waits too, so nobody
 *      is overtaken forever. Headroom: one page stays free for every sequence that may still grow.
 *      It does not apply to a sequence that would run alone. Nobody is admitted in a step that
 *      preempts.
 *
 * Hence every running sequence arrived before every waiting one, and the oldest always advances.
 */

#include <stdbool.h>
#include <stdint.h>

typedef struct SchedulerSequence {
    uint32_t n_known;        /* its tokens, prompt and output */
    uint32_t n_computed;     /* of them in the cache; < n_known */
    uint32_t n_max;          /* tokens it may ever put in the cache; no more than all pages hold */
    uint32_t n_pages;        /* pages it holds; a running one holds pages for its whole prompt */
    uint32_t n_shared_pages; /* of them, those that an older running one holds too: they do not
                                come free with it. Not read while there are as many free pages as
                                running sequences: then none is preempted */
} SchedulerSequence;

typedef struct SchedulerLimits {
    uint32_t max_num_seqs;       /* sequences that run at once */
    uint32_t max_batched_tokens; /* rows of a step; where it is less than max_num_seqs, it limits
                                    the sequences too */
    bool page_exact;             /* a prompt's chunk ends where a page does, or with the prompt */
} SchedulerLimits;

typedef struct SchedulerView {
    const SchedulerSequence *running; /* [n_running], by arrival */
    const SchedulerSequence *waiting; /* [n_waiting], by arrival; the first max_num_seqs suffice */
    uint32_t n_running, n_waiting;
    uint32_t n_pages_free;
} SchedulerView;

typedef struct StepItem {
    uint32_t n_tokens;    /* rows it has in the step; 0: it sits this one out */
    uint32_t n_new_pages; /* to take before the step */
} StepItem;

typedef struct StepPlan {
    uint32_t n_preempted; /* the last ones of `running`: put back before anything is taken */
    uint32_t n_admitted;  /* the first ones of `waiting` */
    uint32_t n_tokens;    /* rows of the step */
    StepItem *items;      /* [max_num_seqs], the caller's; filled for the running sequences that
                             stay, then for the admitted ones */
} StepPlan;

/* Fills all of `plan` but the pointer. */
void scheduler_plan(const SchedulerView *view, const SchedulerLimits *limits, StepPlan *plan);
