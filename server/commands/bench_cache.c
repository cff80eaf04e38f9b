/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache by itself: attention over each format, and what writing it costs a prompt. Keys and
 * values are random numbers that went through the backend's own sealing.
 */
#include "server/commands/bench.h"

#include "model/kv_cache.h"
#include "util/clock.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EVICTED_BYTES_MIN ((size_t)64 << 20)
#define LINE_BYTES 64
#define OFF_DIAGONAL 0.01f /* of the moments that stand in for a profile's */

/* A profile that makes transforms and rounding do all of their work. */
static int made_up_profile(Profile **outp, const KvGeometry *geometry) {
    CLEANUP(profile_free) Profile *p = NULL;
    uint32_t n = geometry->head_dim;
    int r = profile_new(&p, geometry);

    if (r)
        return r;
    for (size_t i = 0; i < profile_moments_count(p); i++) {
        bool on_diagonal = i / n % n == i % n;

        p->q_moments[i] = p->k_covariances[i] = on_diagonal ? 1 : OFF_DIAGONAL;
    }
    *outp = TAKE(p);
    return 0;
}

static KvPlan uniform_plan(const Session *session, KvFormat format) {
    KvPlan plan = { 0 };

    for (uint32_t l = 0; l < session->config->n_layers; l++)
        plan.formats[l][KV_SIDE_K] = plan.formats[l][KV_SIDE_V] = format;
    return plan;
}

static int open_store(BenchCache *cache, uint32_t n_pages, const KvPlan *plan, Reason *why) {
    CLEANUP(profile_free) Profile *profile = NULL;
    Session *s = cache->session;
    KvGeometry geometry = decoder_kv_geometry(s->config);

    if (made_up_profile(&profile, &geometry))
        return reason_set(why, -ENOMEM, "out of memory");
    return kv_cache_open(cache->store, s->ops, s->backend,
                         &(KvShape){ .geometry = geometry,
                                     .plan = plan,
                                     .n_pages = n_pages,
                                     .n_tails = cache->n_sequences,
                                     .n_sinks = cache->n_sequences },
                         profile, why);
}

static int fill_slots(BenchCache *cache) {
    static const SampleParams greedy = SAMPLE_PARAMS_GREEDY;
    Session *s = cache->session;
    int r = 0;

    for (uint32_t i = 0; !r && i < cache->n_sequences; i++)
        r = s->ops->slot_set(s->backend, i, &(SlotState){ .params = &greedy });
    return r;
}

int bench_cache_init(BenchCache *cache, Session *session, uint32_t n_sequences,
                     uint32_t n_tokens_max, const KvPlan *plan, Reason *why) {
    uint32_t n_pages_each = (n_tokens_max + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    uint32_t n_pages = n_sequences * n_pages_each;
    int r;

    assert(n_sequences <= session->options.max_sequences);
    *cache = (BenchCache){ .session = session, .n_sequences = n_sequences };
    cache->store = calloc(1, sizeof(*cache->store));
    cache->pages = calloc(n_pages, sizeof(*cache->pages));
    cache->page_indptr = calloc((size_t)n_sequences + 1, sizeof(*cache->page_indptr));
    cache->sequences = calloc(n_sequences, sizeof(*cache->sequences));
    cache->last_rows = calloc(n_sequences, sizeof(*cache->last_rows));
    if (!cache->store || !cache->pages || !cache->page_indptr || !cache->sequences ||
        !cache->last_rows) {
        bench_cache_deinit(cache);
        return reason_set(why, -ENOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < n_pages; i++)
        cache->pages[i] = i;
    for (uint32_t i = 0; i < n_sequences; i++) {
        cache->sequences[i] = (StepSequence){ .slot = i, .sink = i };
        cache->page_indptr[i + 1] = (i + 1) * n_pages_each;
    }
    r = open_store(cache, n_pages, plan, why);
    if (!r)
        r = session_reserve(session, n_pages, why);
    if (!r && fill_slots(cache))
        r = reason_set(why, -EIO, "the slots of a benchmark could not be filled");
    if (r)
        bench_cache_deinit(cache);
    return r;
}

void bench_cache_deinit(BenchCache *cache) {
    if (cache->store)
        kv_cache_close(cache->store, cache->session->ops, cache->session->backend);
    free(cache->store);
    free(cache->pages);
    free(cache->page_indptr);
    free(cache->sequences);
    free(cache->last_rows);
    *cache = (BenchCache)BENCH_CACHE_NULL;
}

StepInput bench_cache_step(BenchCache *cache, uint32_t n_tokens) {
    for (uint32_t i = 0; i < cache->n_sequences; i++) {
        cache->sequences[i].first_row = i * n_tokens;
        cache->sequences[i].n_rows = n_tokens;
        cache->sequences[i].n_past = cache->n_tokens;
        cache->last_rows[i] = (StepLogits){
            .row = (i + 1) * n_tokens - 1, .slot = i, .target = STEP_DRAW, .n_top_logprobs = -1
        };
    }
    return (StepInput){ .n_rows = cache->n_sequences * n_tokens,
                        .n_sequences = cache->n_sequences,
                        .n_logit_rows = cache->n_sequences,
                        .sequences = cache->sequences,
                        .page_indptr = cache->page_indptr,
                        .page_indices = cache->pages,
                        .logit_rows = cache->last_rows };
}

/* operands of the cache's ops: random, for the most rows of a step */

typedef struct Operands {
    Session *session;            /* borrowed */
    DevAddr q, k, v, out;        /* act */
    DevAddr k_16bit, v_16bit;    /* bf16 or f16 */
    DevAddr inv_freq, rotations; /* f32 */
    uint32_t *tokens;            /* [rows]; owned */
} Operands;

static void operands_deinit(Operands *o) {
    const DevAddr all[] = { o->q,       o->k,       o->v,        o->out,
                            o->k_16bit, o->v_16bit, o->inv_freq, o->rotations };

    for (size_t i = 0; o->session && i < sizeof(all) / sizeof(*all); i++)
        if (all[i])
            o->session->ops->memory_free(o->session->backend, all[i]);
    free(o->tokens);
}

CLEANUP_DEINIT_DEFINE(Operands, operands_deinit);

/* 16-bit numbers: as bf16 roughly normal and at most 3 in size, as f16 about 1 in size. */
static void fill_random(uint16_t *x, size_t n) {
    uint64_t state = 88172645463325252u;

    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        uint32_t u;

        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (uint32_t k = 0; k < 4; k++)
            sum += (float)(state >> 16 * k & 0xffff) * 0x1p-16f - 0.5f;
        sum *= 1.5f;
        memcpy(&u, &sum, sizeof(u));
        x[i] = (uint16_t)(u >> 16);
    }
}

/* Makes an array of n values of `bytes` (4: f32, 2: bf16 or f16) on the device. */
static int make_operand(Operands *o, DevAddr *outp, size_t n, uint32_t bytes, Reason *why) {
    CLEANUP(free) uint16_t *narrow = malloc(n * sizeof(*narrow));
    CLEANUP(free) uint32_t *wide = malloc(n * sizeof(*wide));
    Session *s = o->session;
    int r;

    if (!narrow || !wide)
        return reason_set(why, -ENOMEM, "out of memory");
    fill_random(narrow, n);
    for (size_t i = 0; i < n; i++)
        wide[i] = (uint32_t)narrow[i] << 16;
    r = s->ops->memory_new(s->backend, outp, n * bytes, "operands of a benchmark", why);
    if (r)
        return r;
    r = s->ops->upload(s->backend, *outp, bytes == 2 ? (void *)narrow : wide, n * bytes);
    return r ? reason_set(why, r, "operands of a benchmark could not be copied") : 0;
}

static int operands_init(Operands *o, Session *session, Reason *why) {
    const ModelConfig *c = session->config;
    size_t rows = session->options.max_step_tokens, act = session->ops->act_bytes;
    size_t n_q = rows * c->n_heads * c->head_dim, n_kv = rows * c->n_kv_heads * c->head_dim;
    int r;

    o->session = session;
    o->tokens = calloc(rows, sizeof(*o->tokens));
    if (!o->tokens)
        return reason_set(why, -ENOMEM, "out of memory");
    r = make_operand(o, &o->q, n_q, (uint32_t)act, why);
    if (!r)
        r = make_operand(o, &o->out, n_q, (uint32_t)act, why);
    if (!r)
        r = make_operand(o, &o->k, n_kv, (uint32_t)act, why);
    if (!r)
        r = make_operand(o, &o->v, n_kv, (uint32_t)act, why);
    if (!r)
        r = make_operand(o, &o->k_16bit, n_kv, 2, why);
    if (!r)
        r = make_operand(o, &o->v_16bit, n_kv, 2, why);
    if (!r)
        r = make_operand(o, &o->inv_freq, c->head_dim / 2, 4, why);
    if (!r)
        r = make_operand(o, &o->rotations, rows * c->head_dim, 4, why);
    return r;
}

/* The ops, over all layers of one step */

/* The ops here read no token: any ids do. */
static int begin(const Operands *o, BenchCache *cache, uint32_t n_tokens) {
    StepInput input = bench_cache_step(cache, n_tokens);

    input.tokens = o->tokens;
    return o->session->ops->step_begin(o->session->backend, &input);
}

static int append_all(const Operands *o, BenchCache *cache, uint32_t n_tokens) {
    Session *s = o->session;
    int r = begin(o, cache, n_tokens);

    for (uint32_t l = 0; !r && l < s->config->n_layers; l++) {
        KvLayer kept = kv_store_layer(cache->store, l);

        r = s->ops->attention(s->backend, &(AttentionArgs){ .k = o->k_16bit,
                                                            .v = o->v_16bit,
                                                            .layer = &kept,
                                                            .n_heads = s->config->n_heads });
    }
    cache->n_tokens += n_tokens;
    return r ? r : s->ops->sync(s->backend);
}

static int attend_all(const Operands *o, BenchCache *cache, uint32_t n_tokens) {
    Session *s = o->session;
    const ModelConfig *c = s->config;
    int r = begin(o, cache, n_tokens);

    for (uint32_t l = 0; !r && l < c->n_layers; l++) {
        KvLayer kept = kv_store_layer(cache->store, l);

        r = s->ops->attention(
            s->backend, &(AttentionArgs){ .out = o->out,
                                          .q = o->q,
                                          .k = o->k_16bit,
                                          .v = o->v_16bit,
                                          .layer = &kept,
                                          .n_heads = c->n_heads,
                                          .window = c->layer_slides[l] ? c->sliding_window : 0,
                                          .scale = 1 / sqrtf((float)c->head_dim) });
    }
    return r ? r : s->ops->sync(s->backend);
}

static int rotate_all(const Operands *o, BenchCache *cache, uint32_t n_tokens) {
    Session *s = o->session;
    const ModelConfig *c = s->config;
    int r = 0;

    for (uint32_t l = 0; !r && l < c->n_layers; l++) {
        KvLayer kept = kv_store_layer(cache->store, l);

        r = s->ops->rope(s->backend, &(RopeArgs){ .q = o->q,
                                                  .k = o->k,
                                                  .v = o->v,
                                                  .k_out = o->k_16bit,
                                                  .v_out = o->v_16bit,
                                                  .table = o->rotations,
                                                  .n_tokens = n_tokens,
                                                  .n_heads = c->n_heads,
                                                  .n_kv_heads = c->n_kv_heads,
                                                  .head_dim = c->head_dim,
                                                  .n_freqs = c->head_dim / 2,
                                                  .layer = &kept });
    }
    return r ? r : s->ops->sync(s->backend);
}

/* cos^2 + sin^2 = 1, so that rotating again and again changes no magnitude. */
static int make_rotations(const Operands *o, BenchCache *cache) {
    int r = begin(o, cache, o->session->options.max_step_tokens);

    return r ? r
             : o->session->ops->rope_table(
                   o->session->backend,
                   &(RopeTableArgs){ .out = o->rotations,
                                     .inv_freq = o->inv_freq,
                                     .n_freqs = o->session->config->head_dim / 2,
                                     .scale = 1 });
}

/* measurements */

/* What makes the device's caches forget what they hold: other memory is read by the processor, or
 * written into the memory of a device that is not one. */
typedef struct Eviction {
    Session *session; /* borrowed */
    uint8_t *other;   /* [size_bytes]; owned */
    size_t size_bytes;
    DevAddr copy; /* of a device that computes by itself; owned */
} Eviction;

static void eviction_deinit(Eviction *e) {
    free(e->other);
    if (e->copy)
        e->session->ops->memory_free(e->session->backend, e->copy);
}
CLEANUP_DEINIT_DEFINE(Eviction, eviction_deinit);

static int eviction_init(Eviction *e, Session *session, size_t cache_bytes, Reason *why) {
    e->session = session;
    e->size_bytes = 2 * cache_bytes > EVICTED_BYTES_MIN ? 2 * cache_bytes : EVICTED_BYTES_MIN;
    e->other = malloc(e->size_bytes);
    if (!e->other)
        return reason_set(why, -ENOMEM, "out of memory");
    memset(e->other, 1, e->size_bytes);
    if (!session->ops->is_async)
        return 0;
    return session->ops->memory_new(session->backend, &e->copy, e->size_bytes,
                                    "what a benchmark's cache is evicted by", why);
}

static int evict(const Eviction *e) {
    const volatile uint8_t *line = e->other;
    uint32_t sum = 0;
    int r;

    for (size_t i = 0; !e->copy && i < e->size_bytes; i += LINE_BYTES)
        sum += line[i];
    (void)sum;
    if (!e->copy)
        return 0;
    r = e->session->ops->upload(e->session->backend, e->copy, e->other, e->size_bytes);
    return r ? r : e->session->ops->sync(e->session->backend);
}

/* Of one sequence: sealed pages, and the lanes of its tail that are filled. Sliding windows read
 * what they see. */
static double attended_bytes(const Session *s, const KvStore *store, uint32_t n_context) {
    const KvGeometry *g = &store->geometry;
    double bytes = 0;

    for (uint32_t l = 0; l < g->n_layers; l++) {
        uint32_t window = s->config->layer_slides[l] ? s->config->sliding_window : 0;
        uint32_t n = window && window < n_context ? window : n_context;

        for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
            bytes += (double)(n / KV_PAGE_TOKENS) * (double)store->regions[l][side].page_bytes +
                     (double)(n % KV_PAGE_TOKENS) * g->n_kv_heads * g->head_dim * 2;
    }
    return bytes;
}

/* Steps of n_tokens from where the cache is, again and again: what they add is forgotten. Each
 * begins with an eviction, if that is not NULL. */
static int time_attention(const Operands *o, BenchCache *cache, uint32_t n_tokens,
                          const Eviction *eviction, double *secondsp) {
    double seconds[BENCH_REPETITIONS];
    int r = 0;

    for (uint32_t i = 0; !r && i < BENCH_REPETITIONS; i++) {
        double start_s;

        r = eviction ? evict(eviction) : 0;
        start_s = clock_s();
        if (!r)
            r = attend_all(o, cache, n_tokens);
        seconds[i] = clock_s() - start_s;
    }
    *secondsp = r ? 0 : bench_median(seconds, BENCH_REPETITIONS);
    return r;
}

int bench_attention(Session *session, KvFormat format, uint32_t n_context, size_t cache_bytes,
                    BenchAttention *out, Reason *why) {
    uint32_t n_step = session->options.max_step_tokens;
    CLEANUP(bench_cache_deinit) BenchCache cache = BENCH_CACHE_NULL;
    CLEANUP(operands_deinit) Operands operands = { .session = NULL };
    KvPlan plan = uniform_plan(session, format);
    CLEANUP(eviction_deinit) Eviction eviction = { .session = NULL };
    int r = eviction_init(&eviction, session, cache_bytes, why);

    if (!r)
        r = bench_cache_init(&cache, session, 1, n_context + n_step, &plan, why);
    if (!r)
        r = operands_init(&operands, session, why);
    if (r)
        return r;
    while (!r && cache.n_tokens < n_context) {
        uint32_t n = n_context - cache.n_tokens;

        r = append_all(&operands, &cache, n < n_step ? n : n_step);
    }
    if (!r)
        r = time_attention(&operands, &cache, 1, &eviction, &out->seconds);
    cache.n_tokens = n_context / 4 * 3 / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    if (!r)
        r = time_attention(&operands, &cache, n_step, NULL, &out->prompt_row_s);
    if (r)
        return reason_set(why, r, "attention could not be run: %s", strerror(-r));
    out->prompt_row_s /= n_step;
    out->bytes = attended_bytes(session, cache.store, n_context);
    return 0;
}

int bench_sealing(Session *session, KvFormat format, double *token_sp, Reason *why) {
    CLEANUP(bench_cache_deinit) BenchCache cache = BENCH_CACHE_NULL;
    CLEANUP(operands_deinit) Operands operands = { .session = NULL };
    KvPlan plan = uniform_plan(session, format);
    uint32_t n = session->options.max_step_tokens;
    double seconds[BENCH_REPETITIONS];
    int r;

    r = bench_cache_init(&cache, session, 1, n, &plan, why);
    if (!r)
        r = operands_init(&operands, session, why);
    if (r)
        return r;
    r = make_rotations(&operands, &cache);
    for (uint32_t i = 0; !r && i < BENCH_REPETITIONS; i++) {
        double start_s = clock_s();

        cache.n_tokens = 0;
        r = rotate_all(&operands, &cache, n);
        if (!r)
            r = append_all(&operands, &cache, n);
        seconds[i] = (clock_s() - start_s) / n;
    }
    if (r)
        return reason_set(why, r, "sealing could not be run: %s", strerror(-r));
    *token_sp = bench_median(seconds, BENCH_REPETITIONS);
    return 0;
}
