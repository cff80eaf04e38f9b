/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the next step does: a pure function from the queues, the free pages and the limits to a
 * plain struct, which the engine then runs. Time is not among the arguments: order is the only
 * clock these policies read.
 *
 *   1. Every running sequence that decodes gets its one token first, oldest first.
 *   2. If pages run out for that, a running sequence is preempted: it gives back all it holds and
 *      waits, first in its client's line, to be computed again. It is the youngest one of the
 * client that runs most; among clients that run equally many, the one admitted last. Nobody is
 *      admitted in a step that preempts for pages.
 *   3. A client that waits with nothing running is a newcomer. Newcomers are admitted first, one
 *      sequence each, in the order in which they became newcomers. Where a slot or pages are
 * missing for that, sequences of clients that run at least two are preempted, chosen as in 2, until
 * it fits; nobody is, if even all of those would not suffice. A newcomer that does not fit stops
 *      all admissions of the step.
 *   4. What is left of the step goes to prompts by deficit round robin: the clients that run
 *      something take turns of a quantum of work. A client uses its turn for rows of its running
 *      prompts, oldest first, then for what it has waiting, which is admitted in the order of its
 *      line. If the next one does not fit, it waits by itself. A client that can use no more rows
 *      passes. The end of a step may cut a turn short; it goes on in the next. The last row of a
 *      turn may cost more than the turn has left; the client's next turns are less by that. A step
 *      that admits newcomers while others run ends when the newcomers have all rows that they can
 *      use and every client has had a turn: a first token does not wait for what others can have in
 *      the next step.
 *
 * A step has max_batched_tokens rows, and the work (server/engine/row_cost.h) of as many rows at
 * the start of a prompt: what costs more, because it attends to more, makes a step of fewer rows,
 * not a longer one. Decodes come out of the same work, and are never refused for it; what they
 * leave prompts is at least a quantum. A prompt has rows until the work is used up, so a step
 * exceeds it by less than one row. Without decodes, a step with one prompt's first rows is the
 * longest there is. Turns are work, and not rows, as it is time that clients take from each other:
 * a prompt far into a long context has fewer rows a turn than one that begins.
 *
 * An admitted sequence takes pages for all its tokens at once. Headroom: one page stays free for
 * every sequence that may still grow. It does not apply to a sequence that would run alone.
 *
 * With a single client this is first come, first served.
 *
 * Why the oldest advances: rule 2 takes the oldest running sequence only where no other runs, and
 * then it fits, since no sequence may need more than all pages; rule 3 never takes the oldest of a
 * client. If the oldest decodes it has a row in this step; if it is a prompt, it is the first that
 * its client's turn serves, and turns come round: a client in debt by a row that costs more than a
 * quantum passes some, and each of them lessens the debt.
 *
 * Why nobody starves: a client's sequences begin in the order of its line, since a preempted one
 * goes to the front, and whoever is preempted is the client's youngest. So the client's oldest
 * either runs, or waits at the front with its client a newcomer. The first of the newcomers is
 * overtaken by nobody: while it does not fit nobody is admitted, those that run come to their ends
 * one after another, oldest first at the latest, and one that is alone fits. Once it runs, it is
 * the oldest of its client: only rule 2 can take it, only while every client runs one and it is the
 * youngest of all; its client then becomes the first newcomer again, so that those ahead of it only
 * grow fewer, and at last it is the oldest of all. When it has ended the client's next is its
 * oldest.
 *
 * How long a newcomer waits: where it finds room, or victims, it is admitted in its first step.
 * With w the work of its prompt and of the debt of its client, both end in that client's turn
 * number w / quantum, rounded up: it was given less than w + quantum. Each of k clients was given
 * as much, and exceeded it by less than one row. So prompts have used less than
 * k * (w + quantum + one row) by then, however long those of others are. Where that is less than a
 * step, the newcomer's step ends with it.
 */

#include "server/engine/row_cost.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct SchedulerSequence {
    uint32_t n_known;        /* its tokens, prompt and output */
    uint32_t n_computed;     /* of them in the cache; all of them where its end is on its way: it
                                has no more rows, and keeps place and pages until it is gone */
    uint32_t n_max;          /* tokens it may ever put in the cache; no more than all pages hold */
    uint32_t n_pages;        /* pages it holds; a running one holds pages for its whole prompt */
    uint32_t n_shared_pages; /* of them, those that may not come free with it: an older running one
                                holds them too, or one of another client. Not read while there are
                                as many free pages as running sequences and no newcomer waits: then
                                none is preempted */
    uint32_t client;         /* index in the view's clients; read of running ones */
} SchedulerSequence;

typedef struct SchedulerClient {
    int64_t deficit;               /* work left of its turn; 0: its next turn is a whole one; less:
                                      its debt, by which its next turns are less. What is left
                                      here by scheduler_plan belongs to the next step's view */
    uint32_t i_waiting, n_waiting; /* its waiting sequences in the view, first in its line first */

    /* The scheduler's own. */
    uint32_t i_running, n_running; /* those that stay: by_client[i_running ..], oldest first */
    uint32_t n_served;             /* of them, those that can use no more rows in this step */
    uint32_t n_admitted;
    uint32_t i_open; /* item of its last admitted sequence */
    uint32_t next;   /* whose turn is after its own, among those that can use rows */
    bool lost;       /* it had a sequence preempted in this step */
} SchedulerClient;

typedef struct SchedulerLimits {
    uint32_t max_num_seqs;       /* sequences that run at once */
    uint32_t max_batched_tokens; /* rows of a step; where it is less than max_num_seqs, it limits
                                    the sequences too */
    RowCost cost;                /* of each of them */
    bool page_exact;             /* a prompt's chunk ends where a page does, or with the prompt */
} SchedulerLimits;

typedef struct SchedulerView {
    const SchedulerSequence *running; /* [n_running], in the order of their admission */
    const SchedulerSequence *waiting; /* [n_waiting], client by client */
    SchedulerClient *clients;  /* [n_clients] in the order of their turns: those that run something,
                                  and newcomers, of whom the first max_num_seqs suffice */
    const uint32_t *newcomers; /* [n_newcomers] indices of clients, in the order of rule 3 */
    uint32_t n_running, n_waiting, n_clients, n_newcomers;
    uint32_t n_pages_free;
} SchedulerView;

typedef struct StepItem {
    uint32_t n_tokens;    /* rows it has in the step; 0: it sits this one out */
    uint32_t n_new_pages; /* to take before the step */
    bool preempted;       /* it is put back before anything is taken */
} StepItem;

typedef struct StepPlan {
    uint32_t n_preempted;
    uint32_t n_admitted;
    uint32_t n_tokens; /* rows of the step */
    uint32_t i_turn;   /* whose turn is next: index in the view's clients */

    /* The caller's arrays. */
    StepItem *items;    /* [2 * max_num_seqs] of all running sequences, then of the admitted ones */
    uint32_t *admitted; /* [max_num_seqs] indices in the view's waiting, in order of admission: of
                           one client in the order of its line, newcomers in their order */
    uint32_t *by_client; /* [max_num_seqs] room to work in */
} StepPlan;

/* Work of a step: of a prompt's first max_batched_tokens rows. */
int64_t scheduler_work(const SchedulerLimits *limits);
/* Work of one turn: of a prompt's first page, but never more rows than a quarter of a step. */
int64_t scheduler_quantum(const SchedulerLimits *limits);

/* Fills all of `plan` but the pointers. */
void scheduler_plan(const SchedulerView *view, const SchedulerLimits *limits, StepPlan *plan);
