/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/session.h"

#include "model/kv_cache.h"
#include "server/commands/backend_open.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int session_reserve(Session *s, uint32_t n_pages, Reason *why) {
    int r;

    if (n_pages <= s->n_pages_reserved)
        return 0;
    r = decoder_reserve(s->decoder, s->options.max_sequences ? s->options.max_sequences : 1,
                        n_pages, why);
    s->n_pages_reserved = r ? 0 : n_pages;
    return r;
}

static int make_rows(Session *s, Reason *why) {
    s->rows = calloc(s->options.max_step_tokens, sizeof(*s->rows));
    if (!s->rows)
        return reason_set(why, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < s->options.max_step_tokens; i++)
        s->rows[i] = (StepLogits){ .row = i, .target = STEP_DRAW, .n_top_logprobs = -1 };
    return 0;
}

int session_init(Session *s, const SessionOptions *options, Reason *why) {
    BackendOptions backend = { .device = options->device,
                               .n_threads = options->n_threads,
                               .gpu_memory_bytes = options->gpu_memory_bytes };
    int r;

    *s = (Session){ .options = *options };
    r = checkpoint_open(&s->checkpoint, options->model_path, why);
    if (r)
        return r;
    s->config = checkpoint_config(s->checkpoint);
    r = backend_open(&s->backend, &s->ops, &backend, why);
    if (!r && options->ops)
        s->ops = options->ops;
    if (!r)
        r = decoder_new(&s->decoder, s->ops, s->backend, s->checkpoint,
                        &(DecoderLimits){ .max_batched_tokens = options->max_step_tokens,
                                          .max_logit_rows = options->max_logit_rows },
                        why);
    if (!r)
        r = make_rows(s, why);
    if (r)
        session_deinit(s);
    return r;
}

void session_deinit(Session *s) {
    s->decoder = decoder_free(s->decoder);
    if (s->backend)
        s->backend = s->ops->free(s->backend);
    s->checkpoint = checkpoint_free(s->checkpoint);
    free(s->rows);
    s->rows = NULL;
}

int session_cache_init(SessionCache *cache, Session *session, uint32_t n_tokens_max,
                       const KvPlan *plan, const Profile *profile, Reason *why) {
    uint32_t n_pages = n_tokens_max / KV_PAGE_TOKENS + (n_tokens_max % KV_PAGE_TOKENS != 0);
    int r;

    *cache = (SessionCache){ .session = session, .n_tokens_max = n_tokens_max };
    cache->store = calloc(1, sizeof(*cache->store));
    cache->pages = calloc(n_pages, sizeof(*cache->pages));
    if (!cache->store || !cache->pages) {
        session_cache_deinit(cache);
        return reason_set(why, -ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < n_pages; i++)
        cache->pages[i] = i;
    r = kv_cache_open(cache->store, session->ops, session->backend,
                      &(KvShape){ .geometry = decoder_kv_geometry(session->config),
                                  .plan = plan,
                                  .n_pages = n_pages,
                                  .n_tails = 1,
                                  .n_sinks = 1 },
                      profile, why);
    if (!r)
        r = session_reserve(session, n_pages, why);
    if (r)
        session_cache_deinit(cache);
    return r;
}

void session_cache_deinit(SessionCache *cache) {
    if (cache->store)
        kv_cache_close(cache->store, cache->session->ops, cache->session->backend);
    free(cache->store);
    free(cache->pages);
    *cache = (SessionCache)SESSION_CACHE_NULL;
}

void session_cache_reset(SessionCache *cache) {
    cache->n_tokens = 0;
}

int session_step(SessionCache *cache, const uint32_t *tokens, uint32_t n) {
    StepSequence sequence = { .n_rows = n, .n_past = cache->n_tokens };
    uint32_t page_indptr[2] = { 0, (cache->n_tokens + n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS };
    StepInput input = { .n_rows = n,
                        .n_sequences = 1,
                        .n_logit_rows = n,
                        .tokens = tokens,
                        .sequences = &sequence,
                        .page_indptr = page_indptr,
                        .page_indices = cache->pages,
                        .logit_rows = cache->session->rows };
    int r;

    assert(n && n <= cache->session->options.max_step_tokens);
    if (n > cache->n_tokens_max - cache->n_tokens)
        return -ENOSPC;
    r = decoder_step(cache->session->decoder, cache->store, &input);
    if (!r)
        cache->n_tokens += n;
    return r;
}

int session_logits(Session *s, uint32_t first, uint32_t n, float *out) {
    uint32_t max = s->options.max_logit_rows;
    size_t n_vocab = s->config->n_vocab;

    for (uint32_t i = 0; i < n; i += max) {
        uint32_t n_now = n - i < max ? n - i : max;
        DevAddr logits;
        int r;

        r = decoder_logits(s->decoder, first + i, n_now, &logits);
        if (!r)
            r = s->ops->download(s->backend, out + i * n_vocab, logits,
                                 n_now * n_vocab * sizeof(*out));
        if (r)
            return r;
    }
    return 0;
}

uint32_t session_argmax(const float *x, uint32_t n) {
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}
