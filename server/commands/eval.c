/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/eval.h"

#include "cpu/cpu_backend.h"
#include "cpu/vector_kernels.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What rows of two chunks are asked for, each by whatever thread comes to it. */
typedef struct RowSums {
    const EvalChunk *reference; /* NULL: log_sums alone */
    const EvalChunk *chunk;
    uint32_t n_vocab;
    double *log_sums, *klds;                   /* [n] or NULL */
    double *error_squares, *reference_squares; /* alike */
    bool *is_same_top;
} RowSums;

static double divergence(const RowSums *s, uint32_t row) {
    const float *p = s->reference->logits + (size_t)row * s->n_vocab;
    const float *q = s->chunk->logits + (size_t)row * s->n_vocab;
    double kld = p == q ? 0
                        : cpu_vector_kernels()->divergence(p, s->reference->log_sums[row], q,
                                                           s->chunk->log_sums[row], s->n_vocab);

    /* A divergence is never negative; the rounding of a tiny one can be. */
    return kld < 0 ? 0 : kld;
}

static void add_squares(const RowSums *s, uint32_t row) {
    const float *reference = s->reference->logits + (size_t)row * s->n_vocab;
    const float *logits = s->chunk->logits + (size_t)row * s->n_vocab;
    double error = 0, all = 0;

    for (uint32_t i = 0; i < s->n_vocab; i++) {
        double e = (double)logits[i] - reference[i];

        error += e * e;
        all += (double)reference[i] * reference[i];
    }
    s->error_squares[row] = error;
    s->reference_squares[row] = all;
    s->is_same_top[row] =
        session_argmax(reference, s->n_vocab) == session_argmax(logits, s->n_vocab);
}

static void sum_row(void *arg, uint32_t i_task, uint32_t i_thread) {
    const RowSums *s = arg;

    (void)i_thread;
    if (s->log_sums)
        s->log_sums[i_task] = cpu_vector_kernels()->log_sum_exp(
            s->chunk->logits + (size_t)i_task * s->n_vocab, s->n_vocab);
    if (s->klds)
        s->klds[i_task] = divergence(s, i_task);
    if (s->error_squares)
        add_squares(s, i_task);
}

int eval_chunk_read(EvalChunk *chunk, Session *session, CpuTeam *team, uint32_t first, uint32_t n) {
    RowSums sums = { .chunk = chunk,
                     .n_vocab = session->config->n_vocab,
                     .log_sums = chunk->log_sums };
    int r = session_logits(session, first, n, chunk->logits);

    chunk->n = n;
    if (!r)
        cpu_team_run(team, sum_row, &sums, n);
    return r;
}

void eval_chunk_divergences(const EvalChunk *reference, const EvalChunk *chunk, CpuTeam *team,
                            uint32_t n_vocab, double klds[KV_PAGE_TOKENS]) {
    RowSums sums = { .reference = reference, .chunk = chunk, .n_vocab = n_vocab, .klds = klds };

    cpu_team_run(team, sum_row, &sums, chunk->n);
}

uint32_t eval_bin(uint32_t position) {
    uint32_t bin = 0;

    while (position >= eval_bin_end(bin))
        bin++;
    return bin;
}

uint32_t eval_bin_end(uint32_t bin) {
    return EVAL_BIN_TOKENS << bin;
}

double eval_bin_kld(const EvalStats *stats, uint32_t bin) {
    return stats->bins[bin].kld / (double)stats->bins[bin].n_tokens;
}

static int keep_kld(EvalStats *stats, double kld, uint32_t position) {
    EvalBin *bin = &stats->bins[eval_bin(position)];

    if (stats->n_tokens == stats->klds_capacity) {
        size_t capacity = stats->klds_capacity ? stats->klds_capacity * 2 : 4096;
        float *klds = realloc(stats->klds, capacity * sizeof(*klds));

        if (!klds)
            return -ENOMEM;
        stats->klds = klds;
        stats->klds_capacity = capacity;
    }
    stats->klds[stats->n_tokens] = (float)kld;
    stats->kld += kld;
    stats->kld_squares += kld * kld;
    stats->n_tokens++;
    bin->kld += kld;
    bin->n_tokens++;
    return 0;
}

/* `at`: position of the first row; `next`: the tokens after each row; the last row of a window has
 * none. */
static int compare(EvalStats *stats, const EvalChunk *reference, const EvalChunk *chunk,
                   CpuTeam *team, uint32_t at, const uint32_t *next, uint32_t n_next,
                   uint32_t n_vocab) {
    double klds[KV_PAGE_TOKENS], errors[KV_PAGE_TOKENS], references[KV_PAGE_TOKENS];
    bool is_same_top[KV_PAGE_TOKENS];
    RowSums sums = { .reference = reference,
                     .chunk = chunk,
                     .n_vocab = n_vocab,
                     .klds = klds,
                     .error_squares = errors,
                     .reference_squares = references,
                     .is_same_top = is_same_top };

    cpu_team_run(team, sum_row, &sums, chunk->n);
    for (uint32_t i = 0; i < chunk->n; i++) {
        int r = keep_kld(stats, klds[i], at + i);

        if (r)
            return r;
        stats->error_squares += errors[i];
        stats->reference_squares += references[i];
        stats->n_same_top += is_same_top[i];
        if (i < n_next) {
            stats->log_loss += chunk->log_sums[i] - chunk->logits[(size_t)i * n_vocab + next[i]];
            stats->n_predictions++;
        }
    }
    return 0;
}

static int run_chunk(Session *session, CpuTeam *team, EvalRun *runs, uint32_t n_runs,
                     EvalChunk chunks[2], uint32_t at, const uint32_t *tokens, uint32_t n,
                     uint32_t n_next) {
    for (uint32_t i = 0; i < n_runs; i++) {
        EvalChunk *chunk = i ? &chunks[1] : &chunks[0];
        int r;

        if (runs[i].is_reference)
            continue;
        r = session_step(&runs[i].cache, tokens, n);
        if (!r)
            r = eval_chunk_read(chunk, session, team, 0, n);
        if (!r)
            r = compare(&runs[i].stats, &chunks[0], chunk, team, at, tokens + 1, n_next,
                        session->config->n_vocab);
        if (r)
            return r;
    }
    return 0;
}

int eval_run(Session *session, EvalRun *runs, uint32_t n_runs, const uint32_t *tokens, size_t n,
             uint32_t window, EvalProgressFn progress, void *userdata) {
    size_t logits_bytes = (size_t)KV_PAGE_TOKENS * session->config->n_vocab * sizeof(float);
    CLEANUP(free) float *reference = malloc(logits_bytes);
    CLEANUP(free) float *other = malloc(logits_bytes);
    CLEANUP(cpu_team_free) CpuTeam *team = NULL;
    EvalChunk chunks[2] = { { .logits = reference }, { .logits = other } };
    size_t n_all = n / window * window;
    Reason unused = REASON_NULL;

    if (!reference || !other || cpu_team_new(&team, session->options.n_threads, &unused))
        return -ENOMEM;
    for (size_t first = 0; first < n_all; first += window) {
        for (uint32_t i = 0; i < n_runs; i++)
            if (!runs[i].is_reference)
                session_cache_reset(&runs[i].cache);
        for (uint32_t at = 0; at < window; at += KV_PAGE_TOKENS) {
            uint32_t n_now = window - at < KV_PAGE_TOKENS ? window - at : KV_PAGE_TOKENS;
            uint32_t n_next = at + n_now < window ? n_now : n_now - 1;
            int r = run_chunk(session, team, runs, n_runs, chunks, at, tokens + first + at, n_now,
                              n_next);

            if (r)
                return r;
            if (progress)
                progress(userdata, first + at + n_now, n_all);
        }
    }
    return 0;
}

void eval_stats_deinit(EvalStats *stats) {
    free(stats->klds);
    memset(stats, 0, sizeof(*stats));
}

double eval_perplexity(const EvalStats *stats) {
    return exp(stats->log_loss / (double)stats->n_predictions);
}

double eval_kld(const EvalStats *stats) {
    return stats->kld / (double)stats->n_tokens;
}

double eval_kld_error(const EvalStats *stats) {
    double n = (double)stats->n_tokens, mean = eval_kld(stats);

    return sqrt(fmax(stats->kld_squares / n - mean * mean, 0) / n);
}

static int float_order(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? -1 : x > y;
}

double eval_kld_percentile(EvalStats *stats, double share) {
    size_t i = (size_t)(share * (double)stats->n_tokens);

    qsort(stats->klds, stats->n_tokens, sizeof(*stats->klds), float_order);
    return stats->klds[i < stats->n_tokens ? i : stats->n_tokens - 1];
}

double eval_same_top(const EvalStats *stats) {
    return (double)stats->n_same_top / (double)stats->n_tokens;
}

double eval_logit_error(const EvalStats *stats) {
    return stats->reference_squares > 0 ? sqrt(stats->error_squares / stats->reference_squares) : 0;
}

double eval_bits_with_tails(const KvStore *store, uint32_t window) {
    const KvGeometry *g = &store->geometry;
    double bytes = (double)(window / KV_PAGE_TOKENS) * (double)kv_store_page_bytes(store) +
                   (double)kv_store_tail_bytes(store) +
                   (store->n_sinks ? (double)kv_store_sink_bytes(store) : 0);

    return 8 * bytes / ((double)window * g->n_layers * KV_SIDES * g->n_kv_heads * g->head_dim);
}
