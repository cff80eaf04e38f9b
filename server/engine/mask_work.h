/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A sequence within a grammar: where it is, and which tokens may come next. Following a token and
 * finding the next mask takes from microseconds to, with a grammar that was made for it, much
 * longer; so it is done on threads of a pool, while the engine runs other sequences.
 */

#include "grammar/grammar.h"
#include "server/engine/reasoning_watch.h"
#include "util/list.h"

typedef struct MaskPool MaskPool;
typedef struct MaskWork MaskWork;

/* Most tokens that are forced at once. */
#define MASK_FORCED_MAX 64

struct MaskWork {
    List link;      /* in the pool */
    MaskPool *pool; /* NULL: it never began */
    GrammarMatcher *matcher;
    ReasoningWatch reasoning; /* which may come before the grammar */
    Account *account;         /* reference; charged with `n_bytes` */
    uint64_t n_bytes;
    uint32_t n_vocab, n_words;
    uint32_t *mask; /* [n_words] of the next token; constant while it is not busy */

    /* What is to be done; constant while it is busy. */
    uint32_t token;           /* that came */
    uint32_t n_forced_max;    /* tokens that may follow it at once; <= MASK_FORCED_MAX */
    const uint32_t *stop_ids; /* [n_stop_ids] left out of the mask unless nothing else may come */
    uint32_t n_stop_ids;

    /* What came of it. */
    int result; /* 0; GRAMMAR_E_REJECTED, also where no token may come; -errno */
    uint32_t n_forced;
    uint32_t forced[MASK_FORCED_MAX]; /* tokens that can only come next, already followed */
    bool busy, dropped;               /* the pool's */
    uint64_t begin_ns;
};

/* A text's beginning, with its first mask; takes the time that takes. Holds the grammar, and a
 * reference to `account` (may be NULL); `reasoning` (NULL: there is none) is copied. 0,
 * GRAMMAR_E_REJECTED (no token can begin it), -ENOMEM, -ECANCELED. */
int mask_work_new(MaskWork **outp, GrammarEngine *engine, Grammar *grammar, Account *account,
                  const ReasoningForm *reasoning, const uint32_t *stop_ids, uint32_t n_stop_ids);
/* One that is busy goes when it no longer is. NULL is fine; returns NULL. */
MaskWork *mask_work_free(MaskWork *work);
CLEANUP_DEFINE(MaskWork, mask_work_free);

/* 0, -ENOMEM, or -errno of a thread that cannot be made. */
int mask_pool_new(MaskPool **outp);
/* All work must have been freed; waits for what is still busy. */
MaskPool *mask_pool_free(MaskPool *pool);
CLEANUP_DEFINE(MaskPool, mask_pool_free);

/* Begins it: what came of it is there once it is no longer busy. */
void mask_pool_begin(MaskPool *pool, MaskWork *work);
bool mask_work_is_busy(MaskWork *work);
/* Waits until it is not. */
void mask_work_wait(MaskWork *work);
/* Waits until something that is busy began less than so long ago, or nothing is: all that began at
 * about the same time is then done, or late. */
void mask_pool_wait(MaskPool *pool, uint64_t wait_ns);
/* Waits until one ends, or so long. */
void mask_pool_wait_for_one(MaskPool *pool, uint64_t wait_ns);
