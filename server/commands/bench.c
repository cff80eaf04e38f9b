/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole model: decoding and prompts. One thread, besides the backend's own. The cache's formats
 * by themselves are in bench_cache.c.
 */
#include "server/commands/bench.h"

#include "util/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *values, uint32_t n) {
    qsort(values, n, sizeof(*values), compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* A device that computes in 16 bits keeps all weights so; the CPU as the file has them. */
static void add_matrix(BenchWork *work, const Session *session, const TensorView *matrix) {
    work->weight_bytes += session->ops->act_bytes == 2 ? 2.0 * matrix->shape[0] * matrix->shape[1]
                                                       : (double)matrix->size_bytes;
    work->parameters += (double)matrix->shape[0] * matrix->shape[1];
}

BenchWork bench_work(const Session *session) {
    static const TensorRole roles[] = { TENSOR_Q,    TENSOR_K,  TENSOR_V,   TENSOR_O,
                                        TENSOR_GATE, TENSOR_UP, TENSOR_DOWN };
    const ModelConfig *c = session->config;
    BenchWork work = { .attended_madds = 2.0 * c->n_layers * c->n_heads * c->head_dim };

    add_matrix(&work, session,
               checkpoint_tensor(session->checkpoint,
                                 c->tied_embeddings ? TENSOR_EMBED : TENSOR_OUTPUT, 0));
    work.head_parameters = work.parameters;
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++)
            add_matrix(&work, session, checkpoint_tensor(session->checkpoint, roles[i], l));
    return work;
}

/* Any ids will do, as long as they are not all the same row of the embedding table. */
static uint32_t some_token(const Session *session, uint32_t i) {
    return (i * 2654435761u >> 7) % session->config->n_vocab;
}

/* A step in which each sequence gets n tokens, and the greedy choice after each sequence's last. */
static int step(BenchCache *cache, uint32_t n, const uint32_t *tokens, uint32_t *next) {
    Session *s = cache->session;
    StepInput input = bench_cache_step(cache, n);
    const SampleResult *results;
    int r;

    input.tokens = tokens;
    r = decoder_step(s->decoder, cache->store, &input);
    cache->n_tokens += n;
    if (!next)
        return r ? r : s->ops->sync(s->backend);
    if (!r)
        r = decoder_sample(s->decoder, 0, input.n_sequences);
    if (!r)
        r = s->ops->step_end(s->backend);
    if (!r)
        r = s->ops->step_wait(s->backend, &results);
    for (uint32_t i = 0; !r && i < input.n_sequences; i++)
        next[i] = results[i].token;
    return r;
}

static int generate(BenchCache *cache, uint32_t n_prompt, uint32_t n_tokens, double *step_sp) {
    uint32_t n = cache->n_sequences;
    CLEANUP(free) uint32_t *prompts = calloc((size_t)n * n_prompt, sizeof(*prompts));
    CLEANUP(free) uint32_t *next = calloc(n, sizeof(*next));
    double start_s;
    int r;

    if (!prompts || !next)
        return -ENOMEM;
    for (uint32_t i = 0; i < n * n_prompt; i++)
        prompts[i] = some_token(cache->session, i);
    cache->n_tokens = 0;
    r = step(cache, n_prompt, prompts, next);
    start_s = clock_s();
    for (uint32_t i = 0; !r && i < n_tokens; i++)
        r = step(cache, 1, next, next);
    *step_sp = (clock_s() - start_s) / n_tokens;
    return r;
}

int bench_decode(Session *session, const KvPlan *plan, uint32_t n_sequences, uint32_t n_prompt,
                 uint32_t n_tokens, double *step_sp, Reason *why) {
    CLEANUP(bench_cache_deinit) BenchCache cache = BENCH_CACHE_NULL;
    double seconds[BENCH_REPETITIONS];
    int r;

    r = bench_cache_init(&cache, session, n_sequences, n_prompt + n_tokens, plan, why);
    if (r)
        return r;
    for (uint32_t i = 0; !r && i < BENCH_REPETITIONS; i++)
        r = generate(&cache, n_prompt, n_tokens, &seconds[i]);
    if (r)
        return reason_set(why, r, "the model could not be run: %s", strerror(-r));
    *step_sp = bench_median(seconds, BENCH_REPETITIONS);
    return 0;
}

static int read_prompt(BenchCache *cache, const uint32_t *tokens, uint32_t n_tokens) {
    uint32_t chunk = cache->session->options.max_step_tokens, n_now, next;
    int r = 0;

    cache->n_tokens = 0;
    for (uint32_t at = 0; !r && at < n_tokens; at += n_now) {
        n_now = n_tokens - at < chunk ? n_tokens - at : chunk;
        r = step(cache, n_now, tokens + at, at + n_now == n_tokens ? &next : NULL);
    }
    return r;
}

int bench_prefill(Session *session, const KvPlan *plan, uint32_t n_tokens, double *prompt_sp,
                  Reason *why) {
    CLEANUP(bench_cache_deinit) BenchCache cache = BENCH_CACHE_NULL;
    CLEANUP(free) uint32_t *tokens = calloc(n_tokens, sizeof(*tokens));
    double seconds[BENCH_REPETITIONS];
    int r;

    if (!tokens)
        return reason_set(why, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n_tokens; i++)
        tokens[i] = some_token(session, i);
    r = bench_cache_init(&cache, session, 1, n_tokens, plan, why);
    if (r)
        return r;
    for (uint32_t i = 0; !r && i < BENCH_REPETITIONS; i++) {
        double start_s = clock_s();

        r = read_prompt(&cache, tokens, n_tokens);
        seconds[i] = clock_s() - start_s;
    }
    if (r)
        return reason_set(why, r, "the model could not be run: %s", strerror(-r));
    *prompt_sp = bench_median(seconds, BENCH_REPETITIONS);
    return 0;
}
