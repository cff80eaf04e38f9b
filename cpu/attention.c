/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cuts a step into tiles and tasks, and writes the cache; the arithmetic is in attention_tile.c.
 *
 * A softmax runs over a segment of 8 blocks of keys from scratch, and segments are merged in order.
 * All borders are multiples of absolute positions, so a row's result is the same to the bit for
 * every chunking and every batch, as long as what the pages hold is the same. It also makes the
 * segments of a long sequence tasks of their own: the thread that finishes the last one merges.
 *
 * The step's own keys and values are put where the cache will hold them before anything attends:
 * into the lanes of the tail at and after n_past, where nobody else looks, and into extra blocks
 * behind it. What is left to do afterwards is to seal what is full.
 *
 * Tiles and tasks depend on the window but on no layer: they are planned once a step, for each
 * distinct window of the model.
 *
 * State: scratch, sized once, and the plans of the step at hand. Runs on the engine's thread and
 * the team's.
 */
#include "cpu/attention.h"

#include "cpu/attention_tile.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SPLIT_SHARES 8 /* a tile of more than 1 / 8 of a thread's work is cut */
#define SPLIT_PART_BYTES                                                     \
    ((size_t)4 << 20) /* for parts of cut tiles; where they run out, none is \
                       */
#define SPLIT_NONE UINT32_MAX
#define RUN_SHARES 8 /* a run of items is at most 1 / 8 of a thread's share, */
#define RUN_MAX 4    /* and no more of them */

/* A tile, or one segment of it. */
typedef struct TileTask {
    uint32_t i_tile;
    uint32_t segment; /* SPLIT_NONE: all of them */
} TileTask;

/* Where the parts of a cut tile meet. */
typedef struct SplitTile {
    uint32_t i_part;  /* of its first segment and head, in queries */
    uint32_t i_count; /* of its first head */
} SplitTile;

/* What the layers of one window do in the step at hand. */
typedef struct WindowPlan {
    uint32_t window;
    CpuTile *tiles;      /* [max_rows] */
    SplitTile *splits;   /* [max_rows], of the tiles that are cut */
    TileTask *tasks;     /* [n_tasks] of max_rows + n_part_queries, each for every KV head */
    atomic_uint *n_left; /* [n_counts] segments of a cut tile and head that are not done; whoever
                            does the last one sets it back, for the next layer */
    uint32_t n_tasks;
} WindowPlan;

struct CpuAttention {
    CpuTeam *team;
    const CpuVectorKernels *kernels;
    const CpuKvKernels *kv_kernels;
    uint32_t head_dim, n_kv_heads, group;
    uint32_t tile_tokens;  /* rows of a tile: as many as fit, at least one */
    uint32_t tile_queries; /* (row, query head) pairs of a tile, at most: TILE_QUERIES, or one row's
                              group of query heads where that is larger */

    /* the step at hand */
    const StepInput *input; /* borrowed */
    bool any_page_fills;

    void *memory;            /* owned; everything below lies in it */
    CpuTileScratch *scratch; /* [threads] */
    WindowPlan *plans;       /* [n_windows] */
    CpuTilePart parts;       /* [n_part_queries] */
    uint32_t *extra_first;   /* [max_sequences] first extra block of each sequence of the step */
    uint16_t *extra_blocks;  /* [n_extra_max][n_kv_heads][2 sides][64 * head_dim] */
    uint32_t n_windows, n_extra_max, n_part_queries, n_counts;
};

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

static CpuTilePart place_part(Placer *p, uint32_t n_queries, uint32_t head_dim) {
    return (CpuTilePart){ .out = place(p, (size_t)n_queries * head_dim * sizeof(float)),
                          .states = place(p, n_queries * sizeof(CpuSoftmaxState)) };
}

static void place_plans(CpuAttention *a, Placer *p, const ReserveArgs *reserve) {
    size_t n_rows = reserve->max_rows;

    a->plans = place(p, a->n_windows * sizeof(*a->plans));
    for (uint32_t i = 0; i < a->n_windows; i++) {
        WindowPlan plan = {
            .window = reserve->windows[i],
            .tiles = place(p, n_rows * sizeof(*plan.tiles)),
            .splits = place(p, n_rows * sizeof(*plan.splits)),
            .tasks = place(p, (n_rows + a->n_part_queries) * sizeof(*plan.tasks)),
            .n_left = place(p, a->n_counts * sizeof(*plan.n_left)),
        };

        if (p->base)
            a->plans[i] = plan;
    }
}

static size_t place_all(CpuAttention *a, char *base, const ReserveArgs *reserve) {
    Placer p = { .base = base };
    size_t head_bytes = a->head_dim * sizeof(float);
    uint32_t n_threads = cpu_team_threads(a->team);

    a->scratch = place(&p, n_threads * sizeof(*a->scratch));
    for (uint32_t i = 0; i < n_threads; i++) {
        CpuTileScratch s = {
            .kv = place(&p, sizeof(CpuKvScratch)),
            .queries = place(&p, a->tile_queries * head_bytes),
            .scores = place(&p, a->tile_queries * ATTENTION_BLOCK_KEYS * sizeof(float)),
            .part = place_part(&p, a->tile_queries, a->head_dim),
            .total = place_part(&p, a->tile_queries, a->head_dim),
        };

        if (base)
            a->scratch[i] = s;
    }
    place_plans(a, &p, reserve);
    a->parts = place_part(&p, a->n_part_queries, a->head_dim);
    a->extra_first = place(&p, reserve->max_sequences * sizeof(*a->extra_first));
    a->extra_blocks = place(&p, (size_t)a->n_extra_max * a->n_kv_heads * KV_SIDES * a->head_dim *
                                    KV_PAGE_TOKENS * sizeof(*a->extra_blocks));
    return p.used;
}

int cpu_attention_new(CpuAttention **outp, CpuTeam *team, const CpuVectorKernels *kernels,
                      const CpuKvKernels *kv_kernels, const ReserveArgs *reserve, size_t *bytesp) {
    CLEANUP(cpu_attention_free) CpuAttention *a = calloc(1, sizeof(*a));
    uint32_t group = reserve->n_heads / reserve->geometry.n_kv_heads;
    uint32_t n_rows = reserve->max_rows, n_sequences = reserve->max_sequences;
    size_t size;

    if (!a)
        return -ENOMEM;
    a->team = team;
    a->kernels = kernels;
    a->kv_kernels = kv_kernels;
    a->head_dim = reserve->geometry.head_dim;
    a->n_kv_heads = reserve->geometry.n_kv_heads;
    a->group = group;
    a->tile_queries = group > TILE_QUERIES ? group : TILE_QUERIES;
    a->tile_tokens = a->tile_queries / group;
    a->n_windows = reserve->n_windows;
    /* A sequence has at most n / 64 + 1 extra blocks, and none with a single token. */
    a->n_extra_max =
        n_rows / KV_PAGE_TOKENS + (n_rows / 2 < n_sequences ? n_rows / 2 : n_sequences);
    a->n_part_queries =
        (uint32_t)(SPLIT_PART_BYTES / (a->head_dim * sizeof(float) + sizeof(CpuSoftmaxState)));
    a->n_counts = SPLIT_SHARES * cpu_team_threads(team) * a->n_kv_heads;
    size = place_all(a, NULL, reserve);
    a->memory = aligned_alloc(64, size);
    if (!a->memory)
        return -ENOMEM;
    memset(a->memory, 0, size);
    place_all(a, a->memory, reserve);
    *bytesp += sizeof(*a) + size;
    *outp = TAKE(a);
    return 0;
}

CpuAttention *cpu_attention_free(CpuAttention *a) {
    if (!a)
        return NULL;
    free(a->memory);
    free(a);
    return NULL;
}

/* planning */

/* Where the step's tokens beyond the tails' blocks go. */
static void place_extra_blocks(CpuAttention *a) {
    uint32_t n_extra = 0;

    for (uint32_t i = 0; i < a->input->n_sequences; i++) {
        a->extra_first[i] = n_extra;
        n_extra += cpu_attention_extra_blocks(&a->input->sequences[i]);
    }
    assert(n_extra <= a->n_extra_max);
}

/* Cuts the step's rows into tiles. Late tiles of a sequence see the most keys and come first, so
 * that the short ones even out the end of the region. */
static uint32_t cut_tiles(const CpuAttention *a, WindowPlan *plan, const CpuAttentionStep *step) {
    uint32_t n_tiles = 0;

    for (uint32_t i = 0; i < step->input->n_sequences; i++)
        for (uint32_t end = step->input->sequences[i].n_rows; end;) {
            CpuTile *tile = &plan->tiles[n_tiles++];

            *tile = (CpuTile){ .i_sequence = i,
                               .first = (end - 1) / a->tile_tokens * a->tile_tokens,
                               .end = end };
            cpu_tile_find_segments(step, tile);
            end = tile->first;
        }
    return n_tiles;
}

static uint64_t tile_work(const CpuAttentionStep *step, const CpuTile *tile) {
    return (uint64_t)tile->n_segments * tile_queries(step, tile);
}

/* Tasks, each for every KV head: first the segments of tiles that are a large share of the work,
 * then the other tiles. */
static void plan_tasks(const CpuAttention *a, WindowPlan *plan, const CpuAttentionStep *step,
                       uint32_t n_tiles) {
    uint32_t n_tasks = 0, n_counts = 0, n_part_queries = 0;
    uint64_t work = 0;

    for (uint32_t i = 0; i < n_tiles; i++)
        work += tile_work(step, &plan->tiles[i]);
    for (uint32_t i = 0; i < n_tiles; i++) {
        const CpuTile *tile = &plan->tiles[i];
        uint64_t part_queries = tile_work(step, tile) * a->n_kv_heads;
        bool large = tile->n_segments > 1 &&
                     part_queries * cpu_team_threads(a->team) * SPLIT_SHARES > work * a->n_kv_heads;

        plan->splits[i].i_count = SPLIT_NONE;
        if (!large || part_queries > a->n_part_queries - n_part_queries ||
            a->n_kv_heads > a->n_counts - n_counts)
            continue;
        plan->splits[i] = (SplitTile){ .i_part = n_part_queries, .i_count = n_counts };
        for (uint32_t head = 0; head < a->n_kv_heads; head++)
            atomic_init(&plan->n_left[n_counts + head], tile->n_segments);
        for (uint32_t k = 0; k < tile->n_segments; k++)
            plan->tasks[n_tasks++] = (TileTask){ .i_tile = i, .segment = tile->first_segment + k };
        n_part_queries += (uint32_t)part_queries;
        n_counts += a->n_kv_heads;
    }
    for (uint32_t i = 0; i < n_tiles; i++)
        if (plan->splits[i].i_count == SPLIT_NONE)
            plan->tasks[n_tasks++] = (TileTask){ .i_tile = i, .segment = SPLIT_NONE };
    plan->n_tasks = n_tasks;
}

static uint32_t full_pages(const StepSequence *s) {
    return (s->n_past + s->n_rows) / KV_PAGE_TOKENS;
}

static bool any_page_fills(const StepInput *input) {
    for (uint32_t i = 0; i < input->n_sequences; i++)
        if (full_pages(&input->sequences[i]) > input->sequences[i].n_past / KV_PAGE_TOKENS)
            return true;
    return false;
}

void cpu_attention_plan(CpuAttention *a, const StepInput *input) {
    a->input = input;
    a->any_page_fills = any_page_fills(input);
    place_extra_blocks(a);
    for (uint32_t i = 0; i < a->n_windows; i++) {
        WindowPlan *plan = &a->plans[i];
        CpuAttentionStep step = { .input = input, .window = plan->window, .group = a->group };

        plan_tasks(a, plan, &step, cut_tiles(a, plan, &step));
    }
}

static const WindowPlan *plan_of(const CpuAttention *a, uint32_t window) {
    for (uint32_t i = 0; i < a->n_windows; i++)
        if (a->plans[i].window == window)
            return &a->plans[i];
    return NULL;
}

/* attention */

typedef struct Region {
    CpuAttention *attention;
    const WindowPlan *plan; /* NULL: nothing attends */
    CpuAttentionStep step;
    uint32_t n_items, n_run; /* of attention: how many there are, and how many a task takes */
} Region;

static void stage_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const Region *region = arg;
    uint32_t n_heads = region->step.n_kv_heads;

    (void)i_thread;
    cpu_attention_stage(&region->step, i_task / n_heads, i_task % n_heads);
}

static void whole_tile(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                       const CpuBlockRef *next, const CpuTileScratch *scratch) {
    uint32_t n_queries = tile_queries(step, tile), end = tile->first_segment + tile->n_segments;

    cpu_tile_reset(scratch->total, n_queries, step->head_dim);
    for (uint32_t segment = tile->first_segment; segment < end; segment++) {
        CpuBlockRef following = cpu_tile_block(step, tile, head, segment + 1);

        cpu_tile_segment(step, tile, head, segment, segment + 1 < end ? &following : next, scratch,
                         scratch->part);
        cpu_tile_merge(scratch->total, scratch->part, n_queries, step->head_dim);
    }
    cpu_tile_store(step, tile, head, scratch->total);
}

static CpuTilePart split_part(const Region *region, uint32_t i_tile, uint32_t head,
                              uint32_t i_segment) {
    const CpuAttention *a = region->attention;
    size_t i = region->plan->splits[i_tile].i_part +
               ((size_t)i_segment * a->n_kv_heads + head) *
                   tile_queries(&region->step, &region->plan->tiles[i_tile]);

    return (CpuTilePart){ .out = a->parts.out + i * a->head_dim, .states = a->parts.states + i };
}

/* One segment of a cut tile; whoever is last merges them all. */
static void split_tile(const Region *region, const TileTask *task, uint32_t head,
                       const CpuBlockRef *next, const CpuTileScratch *scratch) {
    const CpuAttentionStep *step = &region->step;
    const CpuTile *tile = &region->plan->tiles[task->i_tile];
    atomic_uint *n_left = &region->plan->n_left[region->plan->splits[task->i_tile].i_count + head];
    uint32_t i_segment = task->segment - tile->first_segment, n_queries = tile_queries(step, tile);

    cpu_tile_segment(step, tile, head, task->segment, next, scratch,
                     split_part(region, task->i_tile, head, i_segment));
    if (atomic_fetch_sub(n_left, 1) != 1)
        return;
    atomic_store_explicit(n_left, tile->n_segments, memory_order_relaxed);
    cpu_tile_reset(scratch->total, n_queries, step->head_dim);
    for (uint32_t i = 0; i < tile->n_segments; i++)
        cpu_tile_merge(scratch->total, split_part(region, task->i_tile, head, i), n_queries,
                       step->head_dim);
    cpu_tile_store(step, tile, head, scratch->total);
}

static CpuBlockRef item_block(const Region *region, uint32_t i_item) {
    const CpuAttention *a = region->attention;
    const TileTask *task = &region->plan->tasks[i_item / a->n_kv_heads];
    const CpuTile *tile = &region->plan->tiles[task->i_tile];

    return cpu_tile_block(&region->step, tile, i_item % a->n_kv_heads,
                          task->segment == SPLIT_NONE ? tile->first_segment : task->segment);
}

/* Item i: task i / n_kv_heads for one KV head. */
static void run_item(const Region *region, uint32_t i_item, const CpuBlockRef *next,
                     const CpuTileScratch *scratch) {
    const CpuAttention *a = region->attention;
    const TileTask *task = &region->plan->tasks[i_item / a->n_kv_heads];
    const CpuTile *tile = &region->plan->tiles[task->i_tile];
    uint32_t head = i_item % a->n_kv_heads;

    cpu_tile_load(&region->step, tile, head, scratch);
    if (task->segment == SPLIT_NONE)
        whole_tile(&region->step, tile, head, next, scratch);
    else
        split_tile(region, task, head, next, scratch);
}

/* A run of items: the blocks of one are asked for while the one before is worked on. */
static void items_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const Region *region = arg;
    uint32_t i = i_task * region->n_run, end = i + region->n_run;

    if (end > region->n_items)
        end = region->n_items;
    cpu_tile_prefetch(&region->step, item_block(region, i));
    for (; i < end; i++) {
        CpuBlockRef next = item_block(region, i + 1 < end ? i + 1 : i);

        run_item(region, i, i + 1 < end ? &next : NULL, &region->attention->scratch[i_thread]);
    }
}

/* `args` must live as long as the region. */
static Region region_of(CpuAttention *a, const AttentionArgs *args) {
    return (Region){ .attention = a,
                     .plan = args->out ? plan_of(a, args->window) : NULL,
                     .step = { .kernels = a->kernels,
                               .kv_kernels = a->kv_kernels,
                               .input = a->input,
                               .k = args->k,
                               .v = args->v,
                               .layer = args->layer,
                               .head_dim = a->head_dim,
                               .n_kv_heads = a->n_kv_heads,
                               .window = args->window,
                               .extra_blocks = a->extra_blocks,
                               .extra_first = a->extra_first,
                               .args = args,
                               .group = a->group } };
}

static void attend(CpuAttention *a, Region *region) {
    uint32_t n_shares = RUN_SHARES * cpu_team_threads(a->team);

    assert(region->plan && region->step.args->n_heads == a->group * a->n_kv_heads);
    region->n_items = region->plan->n_tasks * a->n_kv_heads;
    region->n_run = region->n_items / n_shares;
    region->n_run = region->n_run < 1 ? 1 : region->n_run > RUN_MAX ? RUN_MAX : region->n_run;
    cpu_team_run(a->team, items_task, region,
                 (region->n_items + region->n_run - 1) / region->n_run);
}

/* cache writes */

/* The first tokens of a full first page, into the sequence's sink slot. */
static void keep_sinks(const CpuAttentionStep *step, KvSide side, const StepSequence *s,
                       uint32_t head, const uint16_t *tail) {
    uint16_t *sinks = (uint16_t *)(uintptr_t)kv_layer_sink(step->layer, side, s->sink, head);

    if (side == KV_SIDE_V)
        memcpy(sinks, tail, step->layer->sink_block_bytes);
    else
        for (uint32_t c = 0; c < step->head_dim; c++)
            memcpy(sinks + (size_t)c * KV_SINK_TOKENS, tail + (size_t)c * KV_PAGE_TOKENS,
                   KV_SINK_TOKENS * sizeof(*sinks));
}

/* A block that is full now into its page. */
static void seal_page(const CpuAttentionStep *step, CpuBlockRef block, CpuKvScratch *scratch) {
    const StepSequence *s = &step->input->sequences[block.i_sequence];

    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
        const uint16_t *tail = cpu_attention_block(step, block, side);
        void *page = (void *)(uintptr_t)kv_layer_block(
            step->layer, side, step_page(step->input, block.i_sequence, block.i), block.head);

        if (!kv_layer_quantizes(step->layer, side)) {
            memcpy(page, tail, step->layer->tail_block_bytes);
            continue;
        }
        step->kv_kernels->seal(
            step->layer->sides[side].format, side, step->head_dim, tail,
            (const Rounding *)(uintptr_t)kv_layer_rounding(step->layer, block.head), page, scratch);
        if (!block.i && step->layer->n_sinks && s->sink != KV_NO_SINK)
            keep_sinks(step, side, s, block.head, tail);
    }
}

/* One (sequence, KV head), whose tokens are staged: pages that are full now are sealed, and what
 * began behind them is the tail. */
static void finish_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const Region *region = arg;
    const CpuAttentionStep *step = &region->step;
    uint32_t i_sequence = i_task / step->n_kv_heads, head = i_task % step->n_kv_heads;
    const StepSequence *s = &step->input->sequences[i_sequence];
    CpuBlockRef tail = { i_sequence, s->n_past / KV_PAGE_TOKENS, head }, block = tail;

    for (; block.i < full_pages(s); block.i++)
        seal_page(step, block, region->attention->scratch[i_thread].kv);
    if (block.i == tail.i || (s->n_past + s->n_rows) % KV_PAGE_TOKENS == 0)
        return;
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
        memcpy(cpu_attention_block(step, tail, side), cpu_attention_block(step, block, side),
               step->layer->tail_block_bytes);
}

void cpu_attention_run(CpuAttention *a, const AttentionArgs *args) {
    const StepInput *input = a->input;
    Region region = region_of(a, args);
    uint32_t n_tasks = input->n_sequences * a->n_kv_heads;

    /* A single token of a sequence is staged by the one task that meets its block. */
    if (input->n_rows > input->n_sequences || !args->out)
        cpu_team_run(a->team, stage_task, &region, n_tasks);
    if (args->out)
        attend(a, &region);
    if (a->any_page_fills)
        cpu_team_run(a->team, finish_task, &region, n_tasks);
}
