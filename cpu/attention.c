/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys are met in blocks of 64, at the same block borders whatever the step: sealed pages first,
 * then the block the sequence's tail lies in (with the step's own tokens put into its free lanes),
 * then, for a long chunk, scratch blocks that hold the rest of the step's tokens. A softmax runs
 * over a segment of 8 blocks from scratch, and segments are merged in order. All borders are
 * multiples of absolute positions, so a row's result is the same to the bit for every chunking and
 * every batch, as long as what the pages hold is the same.
 *
 * State: scratch, sized once. Runs on the engine's thread and the team's.
 */
#include "cpu/attention.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT_BLOCKS 8
#define TILE_QUERIES 32 /* (token, head) pairs of one KV head that share the keys they read */

static_assert(ATTENTION_BLOCK_KEYS == KV_PAGE_TOKENS, "a block of keys is a page");

typedef struct TileScratch {
    KvScratch *kv;       /* of sealing, and of opened blocks */
    float *folded;       /* [TILE_QUERIES][head_dim]: queries times the scales of a block */
    float *queries;      /* [TILE_QUERIES][head_dim], times the scale */
    float *scores;       /* [TILE_QUERIES][64] */
    float *part, *total; /* [TILE_QUERIES][head_dim]: of the segment; of all before it */
    SoftmaxState *part_state, *total_state; /* [TILE_QUERIES] */
} TileScratch;

typedef struct Tile {
    uint32_t i_sequence;
    uint32_t first, end; /* rows of the sequence: first <= r < end */
} Tile;

struct Attention {
    Team *team;
    const VectorKernels *kernels;
    const KvKernels *kv_kernels;
    uint32_t head_dim, n_kv_heads;
    uint32_t tile_tokens; /* rows of a tile: TILE_QUERIES / group */

    void *memory;           /* owned; everything below lies in it */
    TileScratch *scratch;   /* [threads] */
    Tile *tiles;            /* [max_batched_tokens] */
    uint32_t *extra_first;  /* [n_tails] first extra block of each sequence of the step */
    uint16_t *extra_blocks; /* [n_extra_max][n_kv_heads][2 sides][64 * head_dim] */
    uint32_t n_extra_max;
};

/* What a parallel region needs to know. */
typedef struct Region {
    const Attention *attention;
    const AttentionArgs *args;
    uint32_t group; /* query heads a KV head serves */
} Region;

/* scratch */

typedef struct Placer {
    char *base; /* NULL: only counting */
    size_t used;
} Placer;

static void *place(Placer *p, size_t size_bytes) {
    void *at = p->base ? p->base + p->used : NULL;

    p->used += (size_bytes + 63) / 64 * 64;
    return at;
}

static size_t place_all(Attention *a, char *base, const ReserveArgs *reserve) {
    Placer p = { .base = base };
    size_t head_bytes = a->head_dim * sizeof(float);
    uint32_t n_threads = team_threads(a->team);

    a->scratch = place(&p, n_threads * sizeof(*a->scratch));
    for (uint32_t i = 0; i < n_threads; i++) {
        TileScratch s = {
            .kv = place(&p, sizeof(KvScratch)),
            .folded = place(&p, TILE_QUERIES * head_bytes),
            .queries = place(&p, TILE_QUERIES * head_bytes),
            .scores = place(&p, TILE_QUERIES * ATTENTION_BLOCK_KEYS * sizeof(float)),
            .part = place(&p, TILE_QUERIES * head_bytes),
            .total = place(&p, TILE_QUERIES * head_bytes),
            .part_state = place(&p, TILE_QUERIES * sizeof(SoftmaxState)),
            .total_state = place(&p, TILE_QUERIES * sizeof(SoftmaxState)),
        };

        if (base)
            a->scratch[i] = s;
    }
    a->tiles = place(&p, reserve->max_batched_tokens * sizeof(*a->tiles));
    a->extra_first = place(&p, reserve->store->n_tails * sizeof(*a->extra_first));
    a->extra_blocks = place(&p, (size_t)a->n_extra_max * a->n_kv_heads * KV_SIDES *
                                    reserve->store->tail_block_bytes);
    return p.used;
}

/* Blocks a sequence of the step touches beyond the one its tail lies in. */
static uint32_t extra_blocks(const StepSequence *s) {
    return (s->n_past % KV_PAGE_TOKENS + s->n_tokens - 1) / KV_PAGE_TOKENS;
}

int attention_new(Attention **outp, Team *team, const VectorKernels *kernels,
                  const KvKernels *kv_kernels, const ReserveArgs *reserve, size_t *bytesp) {
    CLEANUP(attention_free) Attention *a = calloc(1, sizeof(*a));
    const KvGeometry *g = &reserve->store->geometry;
    uint32_t group = reserve->n_heads / g->n_kv_heads, n_tokens = reserve->max_batched_tokens;
    size_t size;

    if (!a)
        return -ENOMEM;
    assert(group <= TILE_QUERIES);
    a->team = team;
    a->kernels = kernels;
    a->kv_kernels = kv_kernels;
    a->head_dim = g->head_dim;
    a->n_kv_heads = g->n_kv_heads;
    a->tile_tokens = TILE_QUERIES / group;
    /* A sequence has at most n / 64 + 1 extra blocks, and none with a single token. */
    a->n_extra_max =
        n_tokens / KV_PAGE_TOKENS +
        (n_tokens / 2 < reserve->store->n_tails ? n_tokens / 2 : reserve->store->n_tails);
    size = place_all(a, NULL, reserve);
    a->memory = aligned_alloc(64, size);
    if (!a->memory)
        return -ENOMEM;
    memset(a->memory, 0, size);
    place_all(a, a->memory, reserve);
    *bytesp += size;
    *outp = TAKE(a);
    return 0;
}

Attention *attention_free(Attention *a) {
    if (!a)
        return NULL;
    free(a->memory);
    free(a);
    return NULL;
}

/* blocks */

static uint16_t *tail_block(const KvStore *store, uint32_t layer, KvSide side, uint32_t slot,
                            uint32_t head) {
    return (uint16_t *)(uintptr_t)kv_store_tail(store, layer, side, slot, head);
}

static uint16_t *extra_block(const Attention *a, uint32_t i_extra, KvSide side, uint32_t head) {
    size_t i = ((size_t)i_extra * a->n_kv_heads + head) * KV_SIDES + side;

    return a->extra_blocks + i * ((size_t)KV_PAGE_TOKENS * a->head_dim);
}

/* Block `i` of a sequence where it is bf16: page, tail or extra. */
static const uint16_t *block_at(const Region *region, uint32_t i_sequence, uint32_t i, KvSide side,
                                uint32_t head) {
    const AttentionArgs *args = region->args;
    const StepSequence *s = &args->batch->sequences[i_sequence];
    uint32_t tail = s->n_past / KV_PAGE_TOKENS;

    if (i < tail)
        return (const uint16_t *)(uintptr_t)kv_store_block(args->store, args->layer, side,
                                                           s->pages[i], head);
    if (i == tail)
        return tail_block(args->store, args->layer, side, s->tail, head);
    return extra_block(region->attention, region->attention->extra_first[i_sequence] + i - tail - 1,
                       side, head);
}

/* Puts one token's key and value into lane `lane` of a block pair. */
static void put_token(uint16_t *k_block, uint16_t *v_block, uint32_t lane, const uint16_t *k,
                      const uint16_t *v, uint32_t head_dim) {
    for (uint32_t c = 0; c < head_dim; c++)
        k_block[(size_t)c * KV_PAGE_TOKENS + lane] = k[c];
    memcpy(v_block + (size_t)lane * head_dim, v, head_dim * sizeof(*v));
}

static const uint16_t *token_at(DevAddr base, uint32_t row, uint32_t head, const Attention *a) {
    return (const uint16_t *)(uintptr_t)base + ((size_t)row * a->n_kv_heads + head) * a->head_dim;
}

/* One task: the step's own tokens of one (sequence, KV head) into tail lanes and extra blocks. */
static void stage_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const Region *region = arg;
    const Attention *a = region->attention;
    const AttentionArgs *args = region->args;
    uint32_t i_sequence = i_task / a->n_kv_heads, head = i_task % a->n_kv_heads;
    const StepSequence *s = &args->batch->sequences[i_sequence];

    (void)i_thread;
    for (uint32_t r = 0; r < s->n_tokens; r++) {
        uint32_t block = (s->n_past + r) / KV_PAGE_TOKENS;

        put_token((uint16_t *)block_at(region, i_sequence, block, KV_SIDE_K, head),
                  (uint16_t *)block_at(region, i_sequence, block, KV_SIDE_V, head),
                  (s->n_past + r) % KV_PAGE_TOKENS, token_at(args->k, s->i_token + r, head, a),
                  token_at(args->v, s->i_token + r, head, a), a->head_dim);
    }
}

/* attention */

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* The lanes of block `block` that a row at `position` sees: *lowp <= j < *highp, possibly none. */
static void visible_lanes(uint32_t position, uint32_t window, uint32_t block, uint32_t *lowp,
                          uint32_t *highp) {
    uint32_t start = block * KV_PAGE_TOKENS;
    uint32_t oldest = window && position >= window ? position - window + 1 : 0;
    uint32_t low = oldest > start ? min_u32(oldest - start, KV_PAGE_TOKENS) : 0;
    uint32_t high = position + 1 > start ? min_u32(position + 1 - start, KV_PAGE_TOKENS) : 0;

    *lowp = low < high ? low : 0;
    *highp = low < high ? high : 0;
}

/* A sealed page of a side that is quantized, or NULL. */
static const void *sealed_block(const Region *region, uint32_t i_sequence, uint32_t i, KvSide side,
                                uint32_t head) {
    const AttentionArgs *args = region->args;
    const StepSequence *s = &args->batch->sequences[i_sequence];

    if (i >= s->n_past / KV_PAGE_TOKENS || !kv_store_quantizes(args->store, args->layer, side))
        return NULL;
    return (const void *)(uintptr_t)kv_store_block(args->store, args->layer, side, s->pages[i],
                                                   head);
}

/* The exact first tokens that stand in for those of a quantized first page, or NULL. */
static const uint16_t *sink_block(const Region *region, uint32_t i_sequence, uint32_t i,
                                  KvSide side, uint32_t head) {
    const AttentionArgs *args = region->args;
    uint32_t sink = args->batch->sequences[i_sequence].sink;

    if (i || !args->store->n_sinks || sink == KV_NO_SINK)
        return NULL;
    return (const uint16_t *)(uintptr_t)kv_store_sink(args->store, args->layer, side, sink, head);
}

static float bf16_value(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float x;

    memcpy(&x, &u, sizeof(x));
    return x;
}

static void tile_scores(const Region *region, const Tile *tile, uint32_t head, uint32_t block,
                        uint32_t n_queries, const TileScratch *scratch) {
    const Attention *a = region->attention;
    const AttentionArgs *args = region->args;
    const void *sealed = sealed_block(region, tile->i_sequence, block, KV_SIDE_K, head);
    const uint16_t *sinks = sink_block(region, tile->i_sequence, block, KV_SIDE_K, head);

    if (!sealed) {
        a->kernels->scores(scratch->scores, scratch->queries,
                           block_at(region, tile->i_sequence, block, KV_SIDE_K, head), n_queries,
                           a->head_dim);
        return;
    }
    a->kv_kernels->open(args->store->regions[args->layer][KV_SIDE_K].format, KV_SIDE_K, a->head_dim,
                        sealed, scratch->kv);
    a->kv_kernels->scores(scratch->scores, scratch->queries, scratch->folded, scratch->kv,
                          n_queries, a->head_dim);
    for (uint32_t i = 0; sinks && i < n_queries; i++)
        for (uint32_t j = 0; j < KV_SINK_TOKENS; j++) {
            float sum = 0;

            for (uint32_t c = 0; c < a->head_dim; c++)
                sum += scratch->queries[(size_t)i * a->head_dim + c] *
                       bf16_value(sinks[c * KV_SINK_TOKENS + j]);
            scratch->scores[i * ATTENTION_BLOCK_KEYS + j] = sum;
        }
}

/* Adds the sinks' values and takes their weights out, so that the sealed block adds nothing. */
static void add_sink_values(float *out, float *weights, const uint16_t *sinks, uint32_t n_queries,
                            uint32_t head_dim) {
    for (uint32_t i = 0; i < n_queries; i++)
        for (uint32_t j = 0; j < KV_SINK_TOKENS; j++) {
            float weight = weights[i * ATTENTION_BLOCK_KEYS + j];

            for (uint32_t c = 0; c < head_dim; c++)
                out[(size_t)i * head_dim + c] += weight * bf16_value(sinks[j * head_dim + c]);
            weights[i * ATTENTION_BLOCK_KEYS + j] = 0;
        }
}

static void tile_values(const Region *region, const Tile *tile, uint32_t head, uint32_t block,
                        uint32_t n_queries, uint32_t low, uint32_t high,
                        const TileScratch *scratch) {
    const Attention *a = region->attention;
    const AttentionArgs *args = region->args;
    const void *sealed = sealed_block(region, tile->i_sequence, block, KV_SIDE_V, head);
    const uint16_t *sinks = sink_block(region, tile->i_sequence, block, KV_SIDE_V, head);

    if (!sealed) {
        a->kernels->values(scratch->part, scratch->scores,
                           block_at(region, tile->i_sequence, block, KV_SIDE_V, head), n_queries,
                           a->head_dim, low, high);
        return;
    }
    if (sinks)
        add_sink_values(scratch->part, scratch->scores, sinks, n_queries, a->head_dim);
    a->kv_kernels->open(args->store->regions[args->layer][KV_SIDE_V].format, KV_SIDE_V, a->head_dim,
                        sealed, scratch->kv);
    a->kv_kernels->values(scratch->part, scratch->scores, scratch->kv, n_queries, a->head_dim, low,
                          high);
}

static void tile_block(const Region *region, const Tile *tile, uint32_t head, uint32_t block,
                       const TileScratch *scratch) {
    const VectorKernels *kernels = region->attention->kernels;
    uint32_t head_dim = region->attention->head_dim;
    uint32_t n_past = region->args->batch->sequences[tile->i_sequence].n_past;
    uint32_t n_queries = (tile->end - tile->first) * region->group;
    uint32_t first = KV_PAGE_TOKENS, end = 0;

    tile_scores(region, tile, head, block, n_queries, scratch);
    for (uint32_t i = 0; i < n_queries; i++) {
        uint32_t low, high;

        visible_lanes(n_past + tile->first + i / region->group, region->args->window, block, &low,
                      &high);
        kernels->softmax(scratch->scores + i * ATTENTION_BLOCK_KEYS, low, high,
                         &scratch->part_state[i], scratch->part + (size_t)i * head_dim, head_dim);
        if (low < high) {
            first = min_u32(first, low);
            end = high > end ? high : end;
        }
    }
    if (first < end)
        tile_values(region, tile, head, block, n_queries, first, end, scratch);
}

/* Takes a finished segment into the total of those before it. */
static void merge_segment(SoftmaxState *total, float *total_out, const SoftmaxState *part,
                          const float *part_out, uint32_t head_dim) {
    float max = total->max > part->max ? total->max : part->max;
    float keep, add;

    if (part->max == -INFINITY)
        return;
    if (total->max == -INFINITY) {
        *total = *part;
        memcpy(total_out, part_out, head_dim * sizeof(*total_out));
        return;
    }
    keep = expf(total->max - max);
    add = expf(part->max - max);
    total->max = max;
    total->sum = total->sum * keep + part->sum * add;
    for (uint32_t c = 0; c < head_dim; c++)
        total_out[c] = total_out[c] * keep + part_out[c] * add;
}

static void reset_states(SoftmaxState *states, float *out, uint32_t n, uint32_t head_dim) {
    for (uint32_t i = 0; i < n; i++)
        states[i] = (SoftmaxState){ .max = -INFINITY };
    memset(out, 0, (size_t)n * head_dim * sizeof(*out));
}

static void load_queries(const Region *region, const Tile *tile, uint32_t head, float *queries) {
    const AttentionArgs *args = region->args;
    uint32_t head_dim = region->attention->head_dim, group = region->group;
    uint32_t row = args->batch->sequences[tile->i_sequence].i_token + tile->first;

    for (uint32_t i = 0; i < (tile->end - tile->first) * group; i++) {
        const float *q =
            (const float *)(uintptr_t)args->q +
            ((size_t)(row + i / group) * args->n_heads + head * group + i % group) * head_dim;

        for (uint32_t c = 0; c < head_dim; c++)
            queries[(size_t)i * head_dim + c] = q[c] * args->scale;
    }
}

static void store_outputs(const Region *region, const Tile *tile, uint32_t head,
                          const TileScratch *scratch) {
    const AttentionArgs *args = region->args;
    uint32_t head_dim = region->attention->head_dim, group = region->group;
    uint32_t row = args->batch->sequences[tile->i_sequence].i_token + tile->first;

    for (uint32_t i = 0; i < (tile->end - tile->first) * group; i++) {
        float *out =
            (float *)(uintptr_t)args->out +
            ((size_t)(row + i / group) * args->n_heads + head * group + i % group) * head_dim;
        float inverse = 1 / scratch->total_state[i].sum;

        for (uint32_t c = 0; c < head_dim; c++)
            out[c] = scratch->total[(size_t)i * head_dim + c] * inverse;
        if (kv_store_rotates(args->store, args->layer, KV_SIDE_V))
            region->attention->kernels->hadamard(out, 1, head_dim);
    }
}

/* One task: a tile of rows against all keys of one KV head. */
static void tile_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const Region *region = arg;
    const Attention *a = region->attention;
    const Tile *tile = &a->tiles[i_task / a->n_kv_heads];
    const TileScratch *s = &a->scratch[i_thread];
    uint32_t head = i_task % a->n_kv_heads, window = region->args->window;
    uint32_t n_past = region->args->batch->sequences[tile->i_sequence].n_past;
    uint32_t n_queries = (tile->end - tile->first) * region->group;
    uint32_t oldest =
        window && n_past + tile->first >= window ? n_past + tile->first - window + 1 : 0;
    uint32_t last = (n_past + tile->end - 1) / KV_PAGE_TOKENS;

    load_queries(region, tile, head, s->queries);
    reset_states(s->total_state, s->total, n_queries, a->head_dim);
    reset_states(s->part_state, s->part, n_queries, a->head_dim);
    for (uint32_t block = oldest / KV_PAGE_TOKENS; block <= last; block++) {
        tile_block(region, tile, head, block, s);
        if (block % SEGMENT_BLOCKS != SEGMENT_BLOCKS - 1 && block != last)
            continue;
        for (uint32_t i = 0; i < n_queries; i++)
            merge_segment(&s->total_state[i], s->total + (size_t)i * a->head_dim, &s->part_state[i],
                          s->part + (size_t)i * a->head_dim, a->head_dim);
        reset_states(s->part_state, s->part, n_queries, a->head_dim);
    }
    store_outputs(region, tile, head, s);
}

/* Cuts the step's rows into tiles and counts the extra blocks. Late tiles of a sequence see the
 * most keys and come first, so that the short ones even out the end of the region. */
static uint32_t cut_tiles(Attention *a, const StepBatch *batch) {
    uint32_t n_tiles = 0, n_extra = 0;

    for (uint32_t i = 0; i < batch->n_sequences; i++) {
        const StepSequence *s = &batch->sequences[i];

        a->extra_first[i] = n_extra;
        n_extra += extra_blocks(s);
        for (uint32_t end = s->n_tokens; end;) {
            uint32_t first = (end - 1) / a->tile_tokens * a->tile_tokens;

            a->tiles[n_tiles++] = (Tile){ .i_sequence = i, .first = first, .end = end };
            end = first;
        }
    }
    assert(n_extra <= a->n_extra_max);
    return n_tiles;
}

void attention_run(Attention *a, const AttentionArgs *args) {
    Region region = {
        .attention = a,
        .args = args,
        .group = args->n_heads / a->n_kv_heads,
    };
    uint32_t n_tiles = cut_tiles(a, args->batch);

    team_run(a->team, stage_task, &region, args->batch->n_sequences * a->n_kv_heads);
    team_run(a->team, tile_task, &region, n_tiles * a->n_kv_heads);
}

/* cache writes */

typedef struct AppendRegion {
    const Attention *attention;
    const KvAppendArgs *args;
} AppendRegion;

/* The first tokens of a full tail, into the sequence's sink slot. */
static void keep_sinks(const KvStore *store, uint32_t layer, KvSide side, const StepSequence *s,
                       uint32_t head) {
    const uint16_t *tail = tail_block(store, layer, side, s->tail, head);
    uint16_t *sinks = (uint16_t *)(uintptr_t)kv_store_sink(store, layer, side, s->sink, head);

    if (side == KV_SIDE_V)
        memcpy(sinks, tail, store->sink_block_bytes);
    else
        for (uint32_t c = 0; c < store->geometry.head_dim; c++)
            memcpy(sinks + (size_t)c * KV_SINK_TOKENS, tail + (size_t)c * KV_PAGE_TOKENS,
                   KV_SINK_TOKENS * sizeof(*sinks));
}

static void seal(const Attention *a, const KvStore *store, uint32_t layer, const StepSequence *s,
                 uint32_t i_page, uint32_t head, KvScratch *scratch) {
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
        const uint16_t *tail = tail_block(store, layer, side, s->tail, head);
        void *block = (void *)(uintptr_t)kv_store_block(store, layer, side, s->pages[i_page], head);

        if (!kv_store_quantizes(store, layer, side)) {
            memcpy(block, tail, store->tail_block_bytes);
            continue;
        }
        a->kv_kernels->seal(
            store->regions[layer][side].format, side, store->geometry.head_dim, tail,
            (const Rounding *)(uintptr_t)kv_store_rounding(store, layer, head), block, scratch);
        if (!i_page && store->n_sinks && s->sink != KV_NO_SINK)
            keep_sinks(store, layer, side, s, head);
    }
}

/* One task: one (sequence, KV head). */
static void append_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const AppendRegion *region = arg;
    const Attention *a = region->attention;
    const KvAppendArgs *args = region->args;
    uint32_t head = i_task % a->n_kv_heads;
    const StepSequence *s = &args->batch->sequences[i_task / a->n_kv_heads];
    uint16_t *k_tail = tail_block(args->store, args->layer, KV_SIDE_K, s->tail, head);
    uint16_t *v_tail = tail_block(args->store, args->layer, KV_SIDE_V, s->tail, head);

    for (uint32_t r = 0; r < s->n_tokens; r++) {
        uint32_t position = s->n_past + r;

        put_token(k_tail, v_tail, position % KV_PAGE_TOKENS,
                  token_at(args->k, s->i_token + r, head, a),
                  token_at(args->v, s->i_token + r, head, a), a->head_dim);
        if (position % KV_PAGE_TOKENS == KV_PAGE_TOKENS - 1)
            seal(a, args->store, args->layer, s, position / KV_PAGE_TOKENS, head,
                 a->scratch[i_thread].kv);
    }
}

void attention_append(Attention *a, const KvAppendArgs *args) {
    AppendRegion region = { .attention = a, .args = args };

    team_run(a->team, append_task, &region, args->batch->n_sequences * a->n_kv_heads);
}
