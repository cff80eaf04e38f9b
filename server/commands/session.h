/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One model and one backend for the commands that run token ids through it by themselves (logits,
 * generate, profile, eval, bench): no scheduler, one sequence a cache. Single-threaded use.
 */

#include "backend/ops.h"
#include "kvcache/profile.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "util/cleanup.h"
#include "util/reason.h"

typedef struct SessionOptions {
    const char *model_path;
    const char *device;        /* as for backend_open; NULL: the best there is */
    const BackendOps *ops;     /* what stands before the device's own; borrowed; NULL: those */
    uint32_t n_threads;        /* 0: one per core */
    uint64_t gpu_memory_bytes; /* 0: no limit */
    uint32_t max_step_tokens;  /* most rows of one step */
    uint32_t max_logit_rows;
    uint32_t max_sequences; /* of a step; 0: one */
} SessionOptions;

typedef struct Session {
    Checkpoint *checkpoint;
    const ModelConfig *config;
    const BackendOps *ops;
    Backend *backend;
    Decoder *decoder;
    uint32_t n_pages_reserved; /* of a step's page table */
    StepLogits *rows;          /* [max_step_tokens]: all rows of a step; owned */
    SessionOptions options;
} Session;

#define SESSION_NULL \
    { .checkpoint = NULL }

int session_init(Session *session, const SessionOptions *options, Reason *why);
void session_deinit(Session *session);
CLEANUP_DEINIT_DEFINE(Session, session_deinit);

/* Makes room for steps with page tables of n_pages; before the first step, and for a longer cache
 * again. */
int session_reserve(Session *session, uint32_t n_pages, Reason *why);

/* A cache of one sequence. */
typedef struct SessionCache {
    Session *session; /* borrowed */
    KvStore *store;   /* owned */
    uint32_t *pages;  /* owned: 0, 1, 2, ... */
    uint32_t n_tokens, n_tokens_max;
} SessionCache;

#define SESSION_CACHE_NULL \
    { .session = NULL }

/* Room for n_tokens_max tokens; plan NULL: f16; profile as for kv_cache_open. */
int session_cache_init(SessionCache *cache, Session *session, uint32_t n_tokens_max,
                       const KvPlan *plan, const Profile *profile, Reason *why);
void session_cache_deinit(SessionCache *cache);
CLEANUP_DEINIT_DEFINE(SessionCache, session_cache_deinit);

/* Forgets its tokens. */
void session_cache_reset(SessionCache *cache);

/* One step: n <= max_step_tokens tokens appended to the cache. -ENOSPC: they do not fit. */
int session_step(SessionCache *cache, const uint32_t *tokens, uint32_t n);
/* f32 logits [n, n_vocab] of rows first .. first + n - 1 of the last step, to host memory. */
int session_logits(Session *session, uint32_t first, uint32_t n, float *out);
/* The most likely token of one row of logits; the lowest id wins a tie. */
uint32_t session_argmax(const float *logits, uint32_t n_vocab);
