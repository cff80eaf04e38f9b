/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What `kvasird bench` measures, each beside the floor that the machine sets it: weights against
 * read bandwidth, prompts against the matrix library, the cache's formats against their bytes.
 * Token ids are random: speed does not depend on what a text says.
 */

#include "kvcache/profile.h"
#include "server/commands/session.h"

#define BENCH_REPETITIONS 5 /* every time is their median */

/* What a token costs at the least, whatever the program. */
typedef struct BenchWork {
    double weight_bytes;    /* of all matrices, the output head included: read for every step */
    double parameters;      /* of the same: multiply-adds of a token that gives logits */
    double head_parameters; /* of the output head, which a prompt's last token alone needs */
    double attended_madds;  /* multiply-adds for each earlier token that a token attends to */
} BenchWork;

BenchWork bench_work(const Session *session);

/* Several sequences of the same length in one store; page ids are the sequence's own, in order. */
typedef struct BenchCache {
    Session *session;        /* borrowed */
    KvStore *store;          /* owned */
    uint32_t *pages;         /* [n_sequences][pages of one]; owned */
    uint32_t *page_indptr;   /* [n_sequences + 1]; owned */
    StepSequence *sequences; /* [n_sequences]; owned */
    StepLogits *last_rows;   /* [n_sequences]; owned */
    uint32_t n_sequences;
    uint32_t n_tokens; /* in each */
} BenchCache;

#define BENCH_CACHE_NULL \
    { .session = NULL }

/* Room for n_tokens_max tokens in each of at most max_sequences (of the session). What the plan
 * quantizes is rounded against a made-up profile: the work is that of a real one. */
int bench_cache_init(BenchCache *cache, Session *session, uint32_t n_sequences,
                     uint32_t n_tokens_max, const KvPlan *plan, Reason *why);
void bench_cache_deinit(BenchCache *cache);
CLEANUP_DEINIT_DEFINE(BenchCache, bench_cache_deinit);

/* A step in which each sequence gets n_tokens more, without the tokens; each one's last row
 * draws, greedily. Lent by the cache. Add them to n_tokens once it ran. */
StepInput bench_cache_step(BenchCache *cache, uint32_t n_tokens);

double bench_median(double *values, uint32_t n);

/* Greedy generation: seconds a step, each with a token for every sequence, of n_tokens steps after
 * a prompt of n_prompt. */
int bench_decode(Session *session, const KvPlan *plan, uint32_t n_sequences, uint32_t n_prompt,
                 uint32_t n_tokens, double *step_sp, Reason *why);

/* Seconds a prompt takes until its first logits. */
int bench_prefill(Session *session, const KvPlan *plan, uint32_t n_tokens, double *prompt_sp,
                  Reason *why);

/* The attention op of one sequence over all layers. */
typedef struct BenchAttention {
    double seconds;      /* of its next token */
    double bytes;        /* of keys and values that one reads */
    double prompt_row_s; /* of one token of a prompt, in a step of as many as a step has */
} BenchAttention;

/* With n_context tokens in the KV cache, none of them in the device's own caches, the largest of
 * which has cache_bytes; of a prompt, with three quarters of them. */
int bench_attention(Session *session, KvFormat format, uint32_t n_context, size_t cache_bytes,
                    BenchAttention *out, Reason *why);

/* Seconds that one token of a prompt spends on being rotated, written and sealed, over all layers.
 */
int bench_sealing(Session *session, KvFormat format, double *token_sp, Reason *why);
