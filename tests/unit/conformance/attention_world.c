/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/conformance/attention_world.h"

#include "kvcache/hadamard.h"
#include "kvcache/kv_format.h"
#include "tests/unit/conformance/seal.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX 1536 /* of a sequence */

static size_t q_size(const World *w) {
    return (size_t)w->shape.n_kv_heads * w->shape.group * w->shape.head_dim;
}

static size_t kv_size(const World *w) {
    return (size_t)w->shape.n_kv_heads * w->shape.head_dim;
}

static uint32_t n_pages_of(const World *w, uint32_t s) {
    return (w->shape.n_tokens[s] + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

static KvFormat tail_format(const World *w, uint32_t layer, KvSide side) {
    return w->shape.formats[layer][side] == KV_FORMAT_BF16 ? KV_FORMAT_BF16 : KV_FORMAT_F16;
}

WorldShape world_random_shape(Random *r, uint32_t head_dim, uint32_t n_tokens_max) {
    static const uint32_t windows[] = { 0, 0, 1, 2, 63, 64, 65, 100000 };
    WorldShape shape = { .n_kv_heads = 1 + random_below(r, 2),
                         .group = 1 + random_below(r, 4),
                         .head_dim = head_dim,
                         .is_compensated = head_dim <= 128 && !random_below(r, 3) };

    for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
        shape.windows[l] =
            random_below(r, 3) ? windows[random_below(r, 8)] : 1 + random_below(r, 200);
        for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
            shape.formats[l][side] =
                head_dim % 8 ? KV_FORMAT_F16 : KV_FORMAT_F16 + random_below(r, KV_FORMATS - 1);
    }
    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++)
        shape.n_tokens[s] = 65 + random_below(r, n_tokens_max - 64);
    return shape;
}

/* tokens */

/* Of bf16 the upper half, which is a number of its own. */
static uint16_t bits_of(KvFormat format, float x) {
    uint32_t u;

    if (format == KV_FORMAT_F16)
        return half_nearest(x);
    memcpy(&u, &x, sizeof(u));
    return (uint16_t)(u >> 16);
}

static float fill_value(Random *r, Fill fill, KvSide side, uint32_t channel) {
    float x = random_normal(r);

    switch (fill) {
    case FILL_ZEROS:
        return side == KV_SIDE_K ? 0 : x;
    case FILL_SPIKES:
        return channel == 1 ? 65504 : x;
    case FILL_DENORMAL:
        return x * 1e-6f;
    case FILL_LARGE:
        return x < 0 ? -65504 : 65504;
    default:
        return x;
    }
}

static void fill_side(World *w, WorldLayer *layer, KvFormat format, KvSide side, uint32_t s) {
    size_t size = kv_size(w), n = w->shape.n_tokens[s] * size;
    uint16_t *bits = host_new(w->d, n, sizeof(*bits));
    float *exact = host_new(w->d, n, sizeof(*exact));

    for (size_t i = 0; i < n; i++)
        bits[i] = w->shape.fill == FILL_EQUAL && i >= size
                      ? bits[i - size]
                      : bits_of(format, fill_value(&w->d->random, w->shape.fill, side,
                                                   i % w->shape.head_dim));
    if (s == 2) /* the shared page */
        memcpy(bits, layer->bits[side][0], KV_PAGE_TOKENS * size * sizeof(*bits));
    for (size_t i = 0; i < n; i++)
        exact[i] = kv_16bit_value(format, bits[i]);
    layer->bits[side][s] = bits;
    layer->exact[side][s] = exact;
}

static void fill_queries(World *w, WorldLayer *layer, uint32_t s) {
    size_t n = w->shape.n_tokens[s] * q_size(w);

    layer->q[s] = host_normals(w->d, n);
    for (size_t i = 0; i < n; i++)
        layer->q[s][i] *= w->shape.fill == FILL_LOUD     ? 20
                          : w->shape.fill >= FILL_SPIKES ? 1e-3f
                                                         : 1;
    acts_round(w->d, layer->q[s], n);
    layer->out[s] = host_new(w->d, n, sizeof(float));
}

/* sealing */

/* Whole pages of one side and sequence. */
static void seal_side(World *w, uint32_t l, KvSide side, uint32_t s) {
    WorldLayer *layer = &w->layers[l];
    uint32_t n = w->shape.head_dim;
    float page[KV_PAGE_TOKENS * KV_HEAD_DIM_MAX];

    layer->sealed[side][s] = host_new(w->d, w->shape.n_tokens[s] * kv_size(w), sizeof(float));
    for (uint32_t first = 0; first + KV_PAGE_TOKENS <= w->shape.n_tokens[s];
         first += KV_PAGE_TOKENS)
        for (uint32_t h = 0; h < w->shape.n_kv_heads; h++) {
            size_t at = first * kv_size(w) + (size_t)h * n;

            for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
                memcpy(page + (size_t)t * n, layer->exact[side][s] + at + t * kv_size(w), n * 4);
            sealed_values(w->shape.formats[l][side], side, n, page, layer->roundings[h]);
            for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
                memcpy(layer->sealed[side][s] + at + t * kv_size(w), page + (size_t)t * n, n * 4);
        }
}

/* A moment of queries, some channels of which are much louder than others. */
static void init_rounding(World *w, Rounding *rounding) {
    uint32_t n = w->shape.head_dim, n_paths = w->d->ops->rounding_paths;
    float *moment = host_new(w->d, (size_t)n * n, sizeof(*moment));
    float *loud = host_normals(w->d, n), *q = host_new(w->d, n, sizeof(*q));

    for (uint32_t k = 0; k < 2 * n; k++) {
        float common = 3 * random_normal(&w->d->random);

        for (uint32_t i = 0; i < n; i++)
            q[i] = (random_normal(&w->d->random) + common) * expf(loud[i]);
        for (size_t i = 0; i < (size_t)n * n; i++)
            moment[i] += q[i / n] * q[i % n];
    }
    if (random_below(&w->d->random, 4) == 0)
        n_paths = 1;
    assert_int_equal(rounding_init(rounding, moment, n, 0.03, n_paths), 0);
    assert_false(rounding->is_plain);
}

static void init_roundings(World *w, WorldLayer *layer) {
    layer->roundings = host_new(w->d, w->shape.n_kv_heads, sizeof(*layer->roundings));
    for (uint32_t h = 0; h < w->shape.n_kv_heads && w->store.rounding_bytes; h++) {
        layer->roundings[h] = host_new(w->d, 1, w->store.rounding_bytes);
        if (w->shape.is_compensated && !h)
            init_rounding(w, layer->roundings[h]);
        else
            rounding_init_plain(layer->roundings[h], w->shape.head_dim);
    }
}

static void init_layer(World *w, uint32_t l) {
    WorldLayer *layer = &w->layers[l];

    init_roundings(w, layer);
    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++) {
        fill_queries(w, layer, s);
        for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
            fill_side(w, layer, tail_format(w, l, side), side, s);
            if (kv_store_quantizes(&w->store, l, side))
                seal_side(w, l, side, s);
        }
    }
}

/* the store */

/* Pages, slots and sinks in no order; one sequence has no sink, but not one that shares its page.
 */
static uint32_t place_sequences(World *w) {
    uint32_t n_pages = 1, first = random_below(&w->d->random, WORLD_SEQUENCES);

    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++) {
        w->slots[s] = (first + s) % WORLD_SEQUENCES;
        w->sinks[s] = s == 1 ? KV_NO_SINK : WORLD_SEQUENCES - 1 - w->slots[s];
        w->pages[s] = host_new(w->d, n_pages_of(w, s), sizeof(*w->pages[s]));
        for (uint32_t p = n_pages_of(w, s); p--;)
            w->pages[s][p] = n_pages++;
    }
    w->sinks[2] = w->sinks[0];
    w->pages[2][0] = w->pages[0][0];
    return n_pages;
}

static void lay_out_store(World *w, uint32_t n_pages) {
    KvPlan *plan = host_new(w->d, 1, sizeof(*plan));
    KvShape shape = { .geometry = { .n_layers = WORLD_LAYERS,
                                    .n_kv_heads = w->shape.n_kv_heads,
                                    .head_dim = w->shape.head_dim },
                      .plan = plan,
                      .n_pages = n_pages,
                      .n_tails = WORLD_SEQUENCES,
                      .n_sinks = WORLD_SEQUENCES };

    memcpy(plan->formats, w->shape.formats, sizeof(w->shape.formats));
    assert_int_equal(kv_store_layout(&w->store, &shape), 0);
    w->store.base = device_new(w->d, w->store.size_bytes);
}

static void reserve(World *w, uint32_t n_rows, uint32_t n_pages) {
    uint32_t n_windows = w->shape.windows[0] == w->shape.windows[1] ? 1 : 2;
    ReserveArgs args = { .geometry = w->store.geometry,
                         .n_heads = w->shape.n_kv_heads * w->shape.group,
                         .n_cols_max = 32,
                         .n_vocab = 1,
                         .windows = w->shape.windows,
                         .n_windows = n_windows,
                         .max_rows = n_rows,
                         .max_sequences = WORLD_SEQUENCES,
                         .max_pages = n_pages + 1 };
    size_t bytes = 0;

    assert_int_equal(w->d->ops->reserve(w->d->backend, &args, &bytes, NULL), 0);
}

void world_init(World *w, Device *d, const WorldShape *shape) {
    uint32_t n_rows = 0, n_pages;

    memset(w, 0, sizeof(*w));
    w->d = d;
    w->shape = *shape;
    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++) {
        assert_true(shape->n_tokens[s] > KV_PAGE_TOKENS && shape->n_tokens[s] <= TOKENS_MAX);
        n_rows += shape->n_tokens[s];
    }
    n_pages = place_sequences(w);
    lay_out_store(w, n_pages);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++)
        init_layer(w, l);
    reserve(w, n_rows, n_pages);
    w->q = acts_new(d, n_rows * q_size(w));
    w->out = acts_new(d, n_rows * q_size(w));
    w->k = device_new(d, n_rows * kv_size(w) * sizeof(uint16_t));
    w->v = device_new(d, n_rows * kv_size(w) * sizeof(uint16_t));
    world_rewind(w);
}

void world_rewind(World *w) {
    uint8_t *nans = malloc(w->store.size_bytes);

    assert_non_null(nans);
    memset(nans, 0xff, w->store.size_bytes);
    assert_int_equal(w->d->ops->upload(w->d->backend, w->store.base, nans, w->store.size_bytes), 0);
    free(nans);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
        KvLayer layer = kv_store_layer(&w->store, l);

        for (uint32_t h = 0; h < w->shape.n_kv_heads && w->store.rounding_bytes; h++)
            assert_int_equal(w->d->ops->upload(w->d->backend, kv_layer_rounding(&layer, h),
                                               w->layers[l].roundings[h], w->store.rounding_bytes),
                             0);
    }
    memset(w->n_done, 0, sizeof(w->n_done));
}

/* the definition */

/* What a reader sees of the token at position p when n_past tokens were in the cache before the
 * step: pages that were full are sealed, but for the first tokens of a page with sinks. */
static const float *seen(const World *w, uint32_t l, KvSide side, uint32_t s, uint32_t p,
                         uint32_t n_past) {
    const WorldLayer *layer = &w->layers[l];
    bool is_sink = p < KV_SINK_TOKENS && w->sinks[s] != KV_NO_SINK;
    bool is_sealed = layer->sealed[side][s] && p / KV_PAGE_TOKENS < n_past / KV_PAGE_TOKENS;

    return (is_sealed && !is_sink ? layer->sealed : layer->exact)[side][s] + p * kv_size(w);
}

/* Scores of the keys that a row sees, n_keys of them, into `scores`; returns their size: the most
 * that one would be if nothing cancelled. Channel by channel: so sums are many at once. */
static double score_keys(const float *q, const float *const *keys, uint32_t n_keys, uint32_t n,
                         double *scores) {
    double sizes[TOKENS_MAX], scale = 1 / sqrt(n), most = 0;

    memset(scores, 0, n_keys * sizeof(*scores));
    memset(sizes, 0, n_keys * sizeof(*sizes));
    for (uint32_t c = 0; c < n; c++)
        for (uint32_t i = 0; i < n_keys; i++) {
            double term = (double)q[c] * keys[i][c] * scale;

            scores[i] += term;
            sizes[i] += fabs(term);
        }
    for (uint32_t i = 0; i < n_keys; i++)
        most = fmax(most, sizes[i]);
    return most;
}

static void softmax(double *scores, uint32_t n) {
    double max = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < n; i++)
        max = fmax(max, scores[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += scores[i] = exp(scores[i] - max);
    for (uint32_t i = 0; i < n; i++)
        scores[i] /= sum;
}

/* Attention of one row and query head. *sizep becomes the size of the scores, and *normp the norm
 * that the output would have if nothing cancelled. */
static void attend(const World *w, uint32_t l, uint32_t s, uint32_t p, uint32_t n_past,
                   uint32_t q_head, double *out, double *sizep, double *normp) {
    uint32_t n = w->shape.head_dim, window = w->shape.windows[l];
    uint32_t oldest = window && p >= window ? p - window + 1 : 0, n_keys = p - oldest + 1;
    size_t kv_at = (size_t)(q_head / w->shape.group) * n;
    const float *keys[TOKENS_MAX];
    double weights[TOKENS_MAX], sizes[KV_HEAD_DIM_MAX] = { 0 };

    for (uint32_t i = 0; i < n_keys; i++)
        keys[i] = seen(w, l, KV_SIDE_K, s, oldest + i, n_past) + kv_at;
    *sizep = score_keys(w->layers[l].q[s] + p * q_size(w) + (size_t)q_head * n, keys, n_keys, n,
                        weights);
    softmax(weights, n_keys);
    memset(out, 0, n * sizeof(*out));
    for (uint32_t i = 0; i < n_keys; i++) {
        const float *v = seen(w, l, KV_SIDE_V, s, oldest + i, n_past) + kv_at;

        for (uint32_t c = 0; c < n; c++) {
            out[c] += weights[i] * v[c];
            sizes[c] += weights[i] * fabs((double)v[c]);
        }
    }
    *normp = norm_of(sizes, n);
}

/* H x in double; H is its own inverse. */
static void undo_hadamard(double *x, uint32_t n) {
    uint32_t block = hadamard_block(n);

    for (uint32_t half = 1; half < block; half *= 2)
        for (uint32_t i = 0; i < n; i++)
            if (!(i & half)) {
                double a = x[i], b = x[i + half];

                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sqrt(block);
}

static void check_row(const World *w, uint32_t l, uint32_t s, uint32_t p, uint32_t n_past,
                      uint32_t q_head) {
    const WorldShape *shape = &w->shape;
    const float *got = w->layers[l].out[s] + p * q_size(w) + (size_t)q_head * shape->head_dim;
    double ref[KV_HEAD_DIM_MAX], size, norm, error;

    attend(w, l, s, p, n_past, q_head, ref, &size, &norm);
    if (kv_store_quantizes(&w->store, l, KV_SIDE_V))
        undo_hadamard(ref, shape->head_dim);
    error = error_of(got, ref, shape->head_dim, norm);
    if (!(error <= w->d->subject->tolerance->attention * (1 + size)))
        fail_msg("%s: layer %u (k %s, v %s, window %u), head_dim %u, %u query heads for each of "
                 "%u, fill %d: sequence %u, position %u after %u, head %u is off by %g",
                 w->d->subject->name, l, kv_formats[shape->formats[l][KV_SIDE_K]].name,
                 kv_formats[shape->formats[l][KV_SIDE_V]].name, shape->windows[l], shape->head_dim,
                 shape->group, shape->n_kv_heads, shape->fill, s, p, n_past, q_head, error);
}

/* steps */

/* Sequences of a step: those that have rows, in an order that changes. */
typedef struct WorldStep {
    uint32_t owners[WORLD_SEQUENCES];
    StepSequence sequences[WORLD_SEQUENCES];
    uint32_t n_sequences, n_rows;
} WorldStep;

static WorldStep plan_step(World *w, const uint32_t *n_now) {
    uint32_t first = random_below(&w->d->random, WORLD_SEQUENCES);
    WorldStep step = { .n_rows = 0 };

    for (uint32_t i = 0; i < WORLD_SEQUENCES; i++) {
        uint32_t s = (first + i) % WORLD_SEQUENCES;

        if (!n_now[s])
            continue;
        step.owners[step.n_sequences] = s;
        step.sequences[step.n_sequences++] = (StepSequence){ .first_row = step.n_rows,
                                                             .n_rows = n_now[s],
                                                             .n_past = w->n_done[s],
                                                             .slot = w->slots[s],
                                                             .sink = w->sinks[s] };
        step.n_rows += n_now[s];
    }
    return step;
}

static void begin_step(World *w, const WorldStep *step) {
    uint32_t indptr[WORLD_SEQUENCES + 1] = { 0 }, *tokens = calloc(step->n_rows, sizeof(*tokens));
    uint32_t *indices = malloc(TOKENS_MAX / KV_PAGE_TOKENS * WORLD_SEQUENCES * sizeof(*indices));
    StepInput input = { .n_rows = step->n_rows,
                        .n_sequences = step->n_sequences,
                        .tokens = tokens,
                        .sequences = step->sequences,
                        .page_indptr = indptr,
                        .page_indices = indices };

    assert_true(tokens && indices);
    for (uint32_t i = 0; i < step->n_sequences; i++) {
        const StepSequence *s = &step->sequences[i];
        uint32_t n = (s->n_past + s->n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;

        memcpy(indices + indptr[i], w->pages[step->owners[i]], n * sizeof(*indices));
        indptr[i + 1] = indptr[i] + n;
    }
    assert_int_equal(w->d->ops->step_begin(w->d->backend, &input), 0);
    free(tokens);
    free(indices);
}

static void upload_rows(World *w, const WorldStep *step, const WorldLayer *layer) {
    for (uint32_t i = 0; i < step->n_sequences; i++) {
        const StepSequence *s = &step->sequences[i];
        size_t q_at = s->first_row * q_size(w), kv_at = s->first_row * kv_size(w) * 2;
        size_t kv_bytes = s->n_rows * kv_size(w) * 2, kv_from = s->n_past * kv_size(w);
        uint32_t owner = step->owners[i];

        acts_upload(w->d, w->q + q_at * w->d->ops->act_bytes,
                    layer->q[owner] + s->n_past * q_size(w), s->n_rows * q_size(w));
        assert_int_equal(w->d->ops->upload(w->d->backend, w->k + kv_at,
                                           layer->bits[KV_SIDE_K][owner] + kv_from, kv_bytes),
                         0);
        assert_int_equal(w->d->ops->upload(w->d->backend, w->v + kv_at,
                                           layer->bits[KV_SIDE_V][owner] + kv_from, kv_bytes),
                         0);
    }
}

static void download_rows(World *w, const WorldStep *step, WorldLayer *layer) {
    uint32_t n_hosts = w->d->n_hosts;
    float *out = acts_get(w->d, w->out, step->n_rows * q_size(w));

    for (uint32_t i = 0; i < step->n_sequences; i++) {
        const StepSequence *s = &step->sequences[i];

        memcpy(layer->out[step->owners[i]] + s->n_past * q_size(w), out + s->first_row * q_size(w),
               s->n_rows * q_size(w) * sizeof(*out));
    }
    free(out);
    w->d->n_hosts = n_hosts;
}

static void run_layer(World *w, const WorldStep *step, uint32_t l, bool attends) {
    KvLayer layer = kv_store_layer(&w->store, l);

    upload_rows(w, step, &w->layers[l]);
    assert_int_equal(
        w->d->ops->attention(w->d->backend,
                             &(AttentionArgs){ .out = attends ? w->out : 0,
                                               .q = w->q,
                                               .k = w->k,
                                               .v = w->v,
                                               .layer = &layer,
                                               .n_heads = w->shape.n_kv_heads * w->shape.group,
                                               .window = w->shape.windows[l],
                                               .scale = 1 / sqrtf((float)w->shape.head_dim) }),
        0);
    if (attends)
        download_rows(w, step, &w->layers[l]);
}

static void check_step(const World *w, const WorldStep *step) {
    for (uint32_t i = 0; i < step->n_sequences; i++)
        for (uint32_t r = 0; r < step->sequences[i].n_rows; r++)
            for (uint32_t l = 0; l < WORLD_LAYERS; l++)
                for (uint32_t h = 0; h < w->shape.n_kv_heads * w->shape.group; h++)
                    check_row(w, l, step->owners[i], step->sequences[i].n_past + r,
                              step->sequences[i].n_past, h);
}

static void run_step(World *w, const uint32_t *n_now, bool attends, bool is_checked) {
    WorldStep step = plan_step(w, n_now);

    begin_step(w, &step);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++)
        run_layer(w, &step, l, attends);
    end_step(w->d);
    if (is_checked)
        check_step(w, &step);
    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++)
        w->n_done[s] += n_now[s];
    /* The third begins where the page it shares ends. */
    if (w->n_done[0] >= KV_PAGE_TOKENS && !w->n_done[2])
        w->n_done[2] = KV_PAGE_TOKENS;
}

void world_step(World *w, const uint32_t n_now[WORLD_SEQUENCES], bool attends) {
    run_step(w, n_now, attends, attends);
}

void world_step_unseen(World *w, const uint32_t n_now[WORLD_SEQUENCES]) {
    run_step(w, n_now, true, false);
}

void world_run(World *w) {
    static const uint32_t sizes[] = { 1, 1, 7, 64, 150 };

    for (;;) {
        uint32_t n_now[WORLD_SEQUENCES], n_left = 0, n_rows = 0;

        for (uint32_t s = 0; s < WORLD_SEQUENCES; s++) {
            uint32_t left = s == 2 && !w->n_done[2] ? 0 : w->shape.n_tokens[s] - w->n_done[s];

            n_now[s] = random_below(&w->d->random, 1 + sizes[random_below(&w->d->random, 5)]) + 1;
            n_now[s] = random_below(&w->d->random, 8) ? n_now[s] : 0;
            n_now[s] = n_now[s] < left ? n_now[s] : left;
            n_left += left;
            n_rows += n_now[s];
        }
        if (!n_left)
            return;
        if (n_rows)
            world_step(w, n_now, random_below(&w->d->random, 6) > 0);
    }
}
