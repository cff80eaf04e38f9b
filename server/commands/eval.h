/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a KV format costs in quality: the same tokens, teacher forced, through a reference cache
 * and through others, compared token by token. Windows are independent; each is fed in chunks of
 * one page, which is what decoding does and the hardest case.
 */

#include "cpu/team.h"
#include "kvcache/kv_layout.h"
#include "server/commands/session.h"

/* Logits of a chunk's rows. */
typedef struct EvalChunk {
    float *logits; /* [n][n_vocab], of room for KV_PAGE_TOKENS rows; the caller's */
    double log_sums[KV_PAGE_TOKENS]; /* of the logits' exponentials */
    uint32_t n;
} EvalChunk;

/* Logits of rows first .. first + n - 1 of the session's last step. `team` shares the sums of
 * rows, and so it does below. */
int eval_chunk_read(EvalChunk *chunk, Session *session, CpuTeam *team, uint32_t first, uint32_t n);
/* KL divergence, in nats, of what `chunk` predicts at each row from what `reference` does there. */
void eval_chunk_divergences(const EvalChunk *reference, const EvalChunk *chunk, CpuTeam *team,
                            uint32_t n_vocab, double klds[KV_PAGE_TOKENS]);

/* Rows by their position in the window: the first EVAL_BIN_TOKENS are bin 0, and each bin that
 * follows has as many as all before it. */
#define EVAL_BIN_TOKENS 512
#define EVAL_BINS 12 /* up to 2^20 tokens, the longest window */

typedef struct EvalBin {
    uint64_t n_tokens;
    double kld; /* sum over them */
} EvalBin;

typedef struct EvalStats {
    uint64_t n_tokens;       /* rows compared */
    uint64_t n_predictions;  /* rows with a next token in their window */
    uint64_t n_same_top;     /* rows whose most likely token is the reference's */
    double log_loss;         /* sum over predictions, nats */
    double kld, kld_squares; /* sums over rows */
    double error_squares;    /* of logits less the reference's, and of the reference's: sums */
    double reference_squares;
    float *klds; /* [n_tokens] of each row, owned; for percentiles */
    size_t klds_capacity;
    EvalBin bins[EVAL_BINS];
} EvalStats;

typedef struct EvalRun {
    const char *name;  /* the spec, borrowed */
    bool is_reference; /* another name of runs[0]: it is not run, and has that one's figures */
    SessionCache cache;
    EvalStats stats;
} EvalRun;

/* Called after each chunk; may be NULL. */
typedef void (*EvalProgressFn)(void *userdata, uint64_t n_done, uint64_t n_all);

/* runs[0] is the reference. Reads `n` tokens in windows of `window`; a rest shorter than a window
 * is left out. */
int eval_run(Session *session, EvalRun *runs, uint32_t n_runs, const uint32_t *tokens, size_t n,
             uint32_t window, EvalProgressFn progress, void *userdata);

void eval_stats_deinit(EvalStats *stats);

double eval_perplexity(const EvalStats *stats);
double eval_kld(const EvalStats *stats);
double eval_kld_error(const EvalStats *stats); /* standard error of the mean, rows as independent */
double eval_kld_percentile(EvalStats *stats, double share); /* sorts */
double eval_same_top(const EvalStats *stats);               /* share of rows */

uint32_t eval_bin(uint32_t position);
/* The position behind the bin's last. */
uint32_t eval_bin_end(uint32_t bin);
double eval_bin_kld(const EvalStats *stats, uint32_t bin); /* mean */

/* ||logits - reference|| / ||reference||: for models so sure of themselves, as made-up test models
 * are, that a divergence says nothing. */
double eval_logit_error(const EvalStats *stats);

/* Bits per element of what a sequence of a window's length holds: full pages, the tail it always
 * has, the sinks of its first page where there are any. */
double eval_bits_with_tails(const KvStore *store, uint32_t window);
