/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One request on its way through the engine: its tokens, what it holds of the cache, and what of
 * its text is certain. The engine decides when it computes; this says what a computed token means:
 * text, stop, length. Engine thread only.
 */

#include "kvcache/page_pool.h"
#include "server/engine/engine.h"
#include "server/engine/scheduler.h"
#include "server/engine/stop_matcher.h"

typedef struct EngineClient EngineClient;

typedef struct Sequence {
    List link;                  /* in its client's line of waiting ones */
    EngineClient *client;       /* the engine's */
    EngineRequest *request;     /* owned until the last event */
    const Tokenizer *tokenizer; /* borrowed from the engine */
    TextStream *stream;         /* owned; NULL: never started */
    StopMatcher stops;
    const uint32_t *eos; /* [n_eos], borrowed from the engine */
    uint32_t n_eos;
    MaskWork *mask; /* the request's; owned; NULL: none. Busy from a token on until it is applied */
    bool mask_waits;  /* it began, and what comes of it is not applied */
    uint32_t *banned; /* [n_banned] ids that end a sequence; owned; only before min_tokens */
    uint32_t n_banned;

    uint32_t *output; /* [n_output] of n_output_max, which grows; owned */
    uint32_t n_output, n_output_max;
    uint32_t n_drawn;     /* tokens of the output that steps were launched to draw; the last ones
                             may still be in flight, so it is n_output or more */
    uint32_t n_computed;  /* tokens, of prompt then output, that launched steps put in the cache */
    uint32_t n_collected; /* of them, by steps that have been collected */
    uint32_t *pages;      /* [n_pages], owned; the pages are the pool's; NULL: never started */
    uint32_t n_pages;
    PrefixLink chain; /* of its first n_chained pages, in the prefix index's terms */
    uint32_t n_chained;
    uint32_t n_cached; /* tokens it found there when it was first admitted */
    bool was_admitted;
    uint32_t slot; /* the pool's tail of this number is in it */
    bool has_slot;
    bool prompt_done; /* counted; stays so when it is computed again */

    TokenLogprob *prompt_logprobs; /* [n_prompt] from its start until its event takes them, owned */
    uint32_t n_scored;             /* prompt tokens whose logprob is there; 0 is there from start */
    uint64_t admitted_ns;          /* when it first ran; 0: never yet */
    uint64_t first_token_ns;
    FinishReason finish;
    const char *error;  /* static */
    EngineEvent *event; /* the last one, from `finish` until it is sent; owned */
} Sequence;

/* Consumes the request on success; on failure (-ENOMEM) it stays the caller's. */
int sequence_new(Sequence **outp, EngineRequest *request, const Tokenizer *tokenizer,
                 const uint32_t *eos, uint32_t n_eos);
/* Its pages must have been released, and its request taken by its last event. */
Sequence *sequence_free(Sequence *sequence);
CLEANUP_DEFINE(Sequence, sequence_free);

/* Tokens that exist, if only in its slot: prompt and what was drawn. */
uint32_t sequence_n_known(const Sequence *sequence);
/* One that has been collected. */
uint32_t sequence_token(const Sequence *sequence, uint32_t i);
/* Tokens a request may ever put in the cache; UINT32_MAX if they cannot be counted. */
uint32_t sequence_n_max(const EngineRequest *request);
SchedulerSequence sequence_view(const Sequence *sequence);

/* Makes what only a sequence that runs needs; before its first pages, and again is nothing.
 * -ENOMEM: it cannot run. */
int sequence_start(Sequence *sequence);
/* Takes what the plan gave it: the plan counted, so the pool has it. */
void sequence_take(Sequence *sequence, PagePool *pool, uint32_t n_pages);
/* Gives everything back; what was computed is forgotten. A step that is in flight may still use it:
 * whatever takes it next is launched later, and steps run in order. */
void sequence_release(Sequence *sequence, PagePool *pool);

/* Whether the row of token i is asked for its prompt logprob, or for the next token. */
bool sequence_wants_score(const Sequence *sequence, uint32_t i);
bool sequence_wants_token(const Sequence *sequence, uint32_t i);
/* What is asked of those rows, of token i, as the `row`th of a step. One that draws counts as drawn
 * from here on. */
StepLogits sequence_score_row(const Sequence *sequence, uint32_t row, uint32_t i);
StepLogits sequence_draw_row(Sequence *sequence, uint32_t row);
/* Where token i comes from, as backend/step.h says: the token drawn last is in the slot. */
uint32_t sequence_token_source(const Sequence *sequence, uint32_t i);
/* What its slot begins with; borrows from the sequence, of which nothing is in flight. */
SlotState sequence_slot_state(const Sequence *sequence);

void sequence_scored(Sequence *sequence, uint32_t i, const SampleResult *result);
/* Takes the next token that was drawn. Sets *eventp to an event to send now, or to NULL and
 * `finish` when the sequence ended: its last event then waits in `event`. */
void sequence_sampled(Sequence *sequence, const SampleResult *result, uint64_t now_ns,
                      EngineEvent **eventp);
/* Begins the search for the mask of the token after the last; nothing where there is none. */
void sequence_begin_mask(Sequence *sequence, MaskPool *pool);
/* Takes what came of that, once it is there: its tokens that were forced, with an event for them as
 * sequence_sampled has it; *n_forcedp of them. Those are in no slot: it is to be set again. */
void sequence_take_mask(Sequence *sequence, uint64_t now_ns, uint32_t *n_forcedp,
                        EngineEvent **eventp);
/* Ends it without a token; the first reason given stays. */
void sequence_finish(Sequence *sequence, FinishReason reason, const char *error);
/* The last event of a finished sequence, with the request; the caller's. */
EngineEvent *sequence_last_event(Sequence *sequence, uint64_t now_ns);
