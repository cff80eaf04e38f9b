/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside the engine: its state, shared by the files engine*.c and by nobody else. All of it but
 * the inbox, the quota, the statistics, `n_cancels`, `stop` and `lost` belongs to the engine's
 * thread once that runs.
 */

#include "model/decoder.h"
#include "server/engine/engine.h"
#include "server/engine/sequence.h"
#include "server/engine/wait_quota.h"
#include "text/end_of_turn.h"

/* Logits of one call: as many as sequences run, or this many, which bounds the memory that prompt
 * logprobs take. */
#define ENGINE_SCORE_ROWS 64
#define ENGINE_CLIENT_BITS 10 /* of the table of clients: 2^bits buckets */

typedef enum EngineStop {
    ENGINE_STOP_NOT,
    ENGINE_STOP_DRAIN,  /* what is there finishes */
    ENGINE_STOP_CANCEL, /* what is there is cancelled */
} EngineStop;

/* A row of a step whose logits are wanted: of token i of a sequence, for the next token or for
 * the logprob of the prompt's next. */
typedef struct EngineRow {
    Sequence *sequence; /* NULL: it has ended since, and the row's result is thrown away */
    uint32_t i_token;
} EngineRow;

/* A sequence of a step. */
typedef struct EngineMember {
    Sequence *sequence;  /* NULL: it has ended since */
    uint32_t n_computed; /* its tokens in the cache once the step is done */
} EngineMember;

/* What is to be done when a step that was launched is collected. */
typedef struct EngineLaunch {
    EngineMember *members; /* [n_members] of max_num_seqs */
    EngineRow *rows;       /* [n_rows] of max_batched_tokens: first those that draw, n_draws */
    uint32_t n_members, n_rows, n_draws;
} EngineLaunch;

struct Engine {
    EngineOptions options;
    EndOfTurn ends;
    uint32_t n_vocab;
    RowCost row_cost;

    MaskPool *masks; /* NULL until a request has a grammar */
    Decoder *decoder;
    Ledger ledger;
    KvStore store; /* base is the engine's to free */
    PagePool pool;
    PrefixIndex prefixes;             /* empty where options.prefix_caching is off */
    uint32_t *page_holders;           /* [n_pages] of engine_prefix_count_shared */
    char identity[HASH128_HEX_BYTES]; /* of the model */
    Hash128 profile_hash;
    EngineStats stats;
    WaitQuota quota;

    Mailbox inbox;
    bool has_inbox;
    pthread_t thread;
    bool has_thread;
    atomic_int stop;  /* EngineStop */
    atomic_bool lost; /* the backend is */
    List stop_message;
    atomic_uint n_cancels; /* engine_cancel's calls that nobody has looked at */

    Sequence **running; /* [n_running] of max_num_seqs, in the order of their admission */
    uint32_t n_running;
    List turns, newcomers; /* of clients: engine_queue.c */
    List client_buckets[1 << ENGINE_CLIENT_BITS];
    uint32_t n_waiting; /* sequences in all clients' lines */
    List ended;         /* Sequence.link: cancelled while they waited, to be told */

    /* Of the step at hand; all allocated at start. */
    SchedulerSequence *view_running; /* [max_num_seqs] */
    SchedulerSequence *view_waiting; /* [2 * max_num_seqs] and the four below */
    Sequence **waiting_in_view;
    SchedulerClient *view_clients;
    EngineClient **clients_in_view;
    StepItem *items;
    uint32_t *view_newcomers;       /* [max_num_seqs] */
    uint32_t *admitted, *by_client; /* [max_num_seqs], the scheduler's */
    uint64_t n_tokens_begun;        /* prompt tokens of those that run for the first time */
    StepSequence *step_sequences;   /* [max_num_seqs] */
    uint32_t *page_indptr;          /* [max_num_seqs + 1] */
    uint32_t *page_indices;         /* [n_step_pages_max] */
    uint32_t *tokens;               /* [max_batched_tokens] and the one below */
    StepLogits *logit_rows;         /* as the launch's rows */
    uint32_t n_logit_rows_max, n_step_pages_max;

    /* Steps that were launched and not yet collected: n_in_flight from i_oldest on, in a ring. */
    EngineLaunch launches[STEPS_IN_FLIGHT_MAX];
    uint32_t i_oldest, n_in_flight;
};

/* Takes what of a sequence's tokens is in the prefix cache already, at its admission; lessens what
 * `item` asks for by that. */
void engine_prefix_adopt(Engine *engine, Sequence *sequence, StepItem *item);
/* Fills n_shared_pages in the view of the running sequences, where it will be read: has_newcomers
 * says whether somebody may be preempted for more than the pages of this step's decodes. */
void engine_prefix_count_shared(Engine *engine, bool has_newcomers);
/* Makes the pages that a sequence has filled findable. */
void engine_prefix_publish(Engine *engine, Sequence *sequence);

void engine_queue_init(Engine *engine);
/* A new sequence, last in its client's line. -ENOMEM: it is not there. */
int engine_queue_add(Engine *engine, Sequence *sequence);
/* From its line to those that run; back again, first in its line, and its client first among the
 * newcomers if nothing of it runs: so those that a step puts back go youngest first. */
void engine_queue_admit(Engine *engine, Sequence *sequence);
void engine_queue_put_back(Engine *engine, Sequence *sequence);
/* It ran and has ended; its client is forgotten if that has nothing else. */
void engine_queue_end_running(Engine *engine, Sequence *sequence);
/* Finishes the waiting sequences whose request was cancelled, or all, and moves them to `ended`. */
void engine_queue_cancel_waiting(Engine *engine, bool all, List *ended);
/* Finishes all waiting sequences with an error, static text, and moves them to `ended`. */
void engine_queue_fail_waiting(Engine *engine, const char *error, List *ended);
/* Fills the engine's arrays for the next step's plan. */
void engine_queue_view(Engine *engine, SchedulerView *view);
/* Keeps what the plan left of turns. */
void engine_queue_pass_turns(Engine *engine, const SchedulerView *view, const StepPlan *plan);

/* Ends what the request has reserved, if anything. */
void engine_unreserve_request(Engine *engine, EngineRequest *request);

/* Plans a step and launches it, then collects the oldest one where as many as may be are in flight,
 * or nothing was launched. Sequences that ended have `finish` set and are still in place. Returns
 * 0, or the -errno with which the backend failed: the step's sequences have ended with an error. */
int engine_step(Engine *engine);
/* Before sequences that have `finish` set go: the steps in flight forget them. */
void engine_step_forget_finished(Engine *engine);
