/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside the engine: its state, shared by the files engine*.c and by nobody else. All of it but
 * the inbox, the statistics and `stop` belongs to the engine's thread once that runs.
 */

#include "model/decoder.h"
#include "model/end_of_turn.h"
#include "server/engine.h"
#include "server/sequence.h"

#define ENGINE_LOGIT_ROWS_MAX 64 /* of one call: bounds the memory that logits take */

typedef enum EngineStop {
    ENGINE_STOP_NOT,
    ENGINE_STOP_DRAIN,  /* what is there finishes */
    ENGINE_STOP_CANCEL, /* what is there is cancelled */
} EngineStop;

/* A row of the step whose logits are wanted: of token i of a sequence. */
typedef struct EngineRow {
    Sequence *sequence;
    uint32_t i_token;
    bool is_score; /* the prompt logprob of the token after it; else the next token */
} EngineRow;

struct Engine {
    EngineOptions options;
    EndOfTurn ends;
    uint32_t n_vocab;

    Decoder *decoder;
    Ledger ledger;
    KvStore store; /* base is the engine's to free */
    PagePool pool;
    PrefixIndex prefixes;             /* empty where options.prefix_caching is off */
    bool *pages_seen;                 /* [n_pages] of engine_prefix_count_shared */
    char identity[HASH128_HEX_BYTES]; /* of the model */
    Hash128 profile_hash;
    EngineStats stats;

    Mailbox inbox;
    bool has_inbox;
    pthread_t thread;
    bool has_thread;
    atomic_int stop; /* EngineStop */
    List stop_message;

    Sequence **running; /* [n_running] of max_num_seqs, by arrival */
    uint32_t n_running;
    List waiting; /* Sequence.link, by arrival */
    uint32_t n_waiting;

    /* Of the step at hand; all allocated at start. */
    SchedulerSequence *view_running, *view_waiting; /* [max_num_seqs] */
    StepItem *items;                                /* [max_num_seqs] */
    StepSequence *batch;                            /* [max_num_seqs] */
    uint32_t *tokens;                               /* [max_batched_tokens] */
    EngineRow *rows;                                /* [n_logit_rows_max] and the two below */
    uint32_t *row_indices;
    SampleRow *sample_rows;
    SampleResult *sample_results;
    uint32_t n_rows, n_logit_rows_max;
};

/* Takes what of a sequence's tokens is in the prefix cache already, at its admission; lessens what
 * `item` asks for by that. */
void engine_prefix_adopt(Engine *engine, Sequence *sequence, StepItem *item);
/* Fills n_shared_pages in the view of the running sequences, where it will be read. */
void engine_prefix_count_shared(Engine *engine);
/* Makes the pages that a sequence has filled findable. */
void engine_prefix_publish(Engine *engine, Sequence *sequence);

/* Plans one step and runs it. Sequences that ended have `finish` set and are still in place. */
void engine_step(Engine *engine);
uint64_t engine_now_ns(void);
