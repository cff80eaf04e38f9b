/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys are met in blocks of 64, at the same borders whatever the step: sealed pages first, then the
 * block the sequence's tail lies in (with the step's own tokens put into its free lanes), then, for
 * a long chunk, extra blocks that hold the rest of the step's tokens.
 *
 * Decoding waits for memory, and a block is too short for the processor to see that it is read in
 * order: so it is asked for while the block before is worked on.
 */
#include "cpu/attention_tile.h"

#include "kvcache/kv_format.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define CACHE_LINE_BYTES 64

static_assert(ATTENTION_BLOCK_KEYS == KV_PAGE_TOKENS, "a block of keys is a page");

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* blocks */

uint32_t cpu_attention_extra_blocks(const StepSequence *s) {
    return (s->n_past % KV_PAGE_TOKENS + s->n_rows - 1) / KV_PAGE_TOKENS;
}

static uint32_t tail_index(const CpuAttentionStep *step, uint32_t i_sequence) {
    return step->input->sequences[i_sequence].n_past / KV_PAGE_TOKENS;
}

uint16_t *cpu_attention_block(const CpuAttentionStep *step, CpuBlockRef block, KvSide side) {
    const StepSequence *s = &step->input->sequences[block.i_sequence];
    uint32_t tail = tail_index(step, block.i_sequence);
    size_t i_extra;

    if (block.i < tail)
        return (uint16_t *)(uintptr_t)kv_layer_block(
            step->layer, side, step_page(step->input, block.i_sequence, block.i), block.head);
    if (block.i == tail)
        return (uint16_t *)(uintptr_t)kv_layer_tail(step->layer, side, s->slot, block.head);
    i_extra = step->extra_first[block.i_sequence] + block.i - tail - 1;
    return step->extra_blocks + ((i_extra * step->n_kv_heads + block.head) * KV_SIDES + side) *
                                    ((size_t)KV_PAGE_TOKENS * step->head_dim);
}

static bool is_sealed(const CpuAttentionStep *step, CpuBlockRef block) {
    return block.i < tail_index(step, block.i_sequence);
}

/* A sealed page of a side that is quantized, or NULL. */
static const void *quantized_block(const CpuAttentionStep *step, CpuBlockRef block, KvSide side) {
    return is_sealed(step, block) && kv_layer_quantizes(step->layer, side)
               ? cpu_attention_block(step, block, side)
               : NULL;
}

/* The 16-bit first tokens that stand in for those of a quantized first page, or NULL. */
static const uint16_t *sink_block(const CpuAttentionStep *step, CpuBlockRef block, KvSide side) {
    uint32_t sink = step->input->sequences[block.i_sequence].sink;

    if (block.i || !step->layer->n_sinks || sink == KV_NO_SINK)
        return NULL;
    return (const uint16_t *)(uintptr_t)kv_layer_sink(step->layer, side, sink, block.head);
}

/* Keys of a block that are there after the step. */
static uint32_t block_keys(const CpuAttentionStep *step, CpuBlockRef block) {
    const StepSequence *s = &step->input->sequences[block.i_sequence];

    return min_u32(s->n_past + s->n_rows - block.i * KV_PAGE_TOKENS, KV_PAGE_TOKENS);
}

/* Inlined always: of a function that only prefetches GCC 12 finds that it does nothing, and drops
 * its calls. */
static inline __attribute__((__always_inline__)) void prefetch_side(const CpuAttentionStep *step,
                                                                    CpuBlockRef block,
                                                                    KvSide side) {
    const char *at = (const char *)cpu_attention_block(step, block, side);
    size_t size_bytes = step->layer->sides[side].block_bytes;
    size_t step_bytes = CACHE_LINE_BYTES;

    if (!is_sealed(step, block)) { /* 16 bits, and mostly not full */
        uint32_t n_keys = block_keys(step, block);

        size_bytes = side == KV_SIDE_K ? step->layer->tail_block_bytes
                                       : (size_t)n_keys * step->head_dim * sizeof(uint16_t);
        if (side == KV_SIDE_K && n_keys * sizeof(uint16_t) <= CACHE_LINE_BYTES)
            step_bytes = KV_PAGE_TOKENS * sizeof(uint16_t);
    }
    for (size_t offset = 0; offset < size_bytes; offset += step_bytes)
        __builtin_prefetch(at + offset);
}

void cpu_tile_prefetch(const CpuAttentionStep *step, CpuBlockRef block) {
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
        prefetch_side(step, block, side);
    __asm__ volatile("" ::: "memory"); /* something that it does: see above */
}

/* `next` (or NULL) where the kernel that works on the block before can prefetch it; what it cannot
 * is asked for here. */
static const uint16_t *kernel_next(const CpuAttentionStep *step, const CpuBlockRef *next,
                                   KvSide side) {
    if (!next)
        return NULL;
    if (is_sealed(step, *next))
        return cpu_attention_block(step, *next, side);
    prefetch_side(step, *next, side);
    return NULL;
}

static const uint16_t *token_at(const CpuAttentionStep *step, DevAddr base, uint32_t row,
                                uint32_t head) {
    return (const uint16_t *)(uintptr_t)base +
           ((size_t)row * step->n_kv_heads + head) * step->head_dim;
}

void cpu_attention_stage(const CpuAttentionStep *step, uint32_t i_sequence, uint32_t head) {
    const StepSequence *s = &step->input->sequences[i_sequence];

    for (uint32_t r = 0; r < s->n_rows; r++) {
        CpuBlockRef block = { i_sequence, (s->n_past + r) / KV_PAGE_TOKENS, head };
        uint32_t lane = (s->n_past + r) % KV_PAGE_TOKENS;
        uint16_t *k_block = cpu_attention_block(step, block, KV_SIDE_K);
        uint16_t *v_block = cpu_attention_block(step, block, KV_SIDE_V);
        const uint16_t *k = token_at(step, step->k, s->first_row + r, head);

        for (uint32_t c = 0; c < step->head_dim; c++)
            k_block[(size_t)c * KV_PAGE_TOKENS + lane] = k[c];
        memcpy(v_block + (size_t)lane * step->head_dim,
               token_at(step, step->v, s->first_row + r, head), step->head_dim * sizeof(*v_block));
    }
}

/* scores and values of a block */

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

typedef float FourFloats __attribute__((__vector_size__(KV_SINK_TOKENS * sizeof(float))));

static FourFloats load_sinks(const uint16_t *p) {
    FourFloats x;

    for (uint32_t i = 0; i < KV_SINK_TOKENS; i++)
        x[i] = half_value(p[i]);
    return x;
}

/* The first scores of a block, against 16-bit keys [head_dim][4]. */
static void sink_scores(float *scores, const float *queries, const uint16_t *sinks,
                        uint32_t n_queries, uint32_t head_dim) {
    for (uint32_t i = 0; i < n_queries; i++) {
        FourFloats sums = { 0 };

        for (uint32_t c = 0; c < head_dim; c++)
            sums += queries[(size_t)i * head_dim + c] * load_sinks(sinks + c * KV_SINK_TOKENS);
        memcpy(scores + i * ATTENTION_BLOCK_KEYS, &sums, sizeof(sums));
    }
}

static void block_scores(const CpuAttentionStep *step, CpuBlockRef block, const CpuBlockRef *next,
                         uint32_t n_queries, const CpuTileScratch *scratch) {
    const void *quantized = quantized_block(step, block, KV_SIDE_K);
    const uint16_t *sinks = sink_block(step, block, KV_SIDE_K);
    const uint16_t *ahead = kernel_next(step, next, KV_SIDE_K);

    if (!quantized) {
        step->kernels->scores(kv_layer_tail_format(step->layer, KV_SIDE_K), scratch->scores,
                              scratch->queries, cpu_attention_block(step, block, KV_SIDE_K), ahead,
                              n_queries, block_keys(step, block), step->head_dim);
        return;
    }
    step->kv_kernels->scores(step->layer->sides[KV_SIDE_K].format, scratch->scores,
                             scratch->queries, quantized, ahead, n_queries, step->head_dim,
                             scratch->kv);
    if (sinks)
        sink_scores(scratch->scores, scratch->queries, sinks, n_queries, step->head_dim);
}

static void block_values(const CpuAttentionStep *step, CpuBlockRef block, const CpuBlockRef *next,
                         uint32_t n_queries, uint32_t low, uint32_t high,
                         const CpuTileScratch *scratch, float *out) {
    const void *quantized = quantized_block(step, block, KV_SIDE_V);
    const uint16_t *sinks = sink_block(step, block, KV_SIDE_V);
    const uint16_t *ahead = kernel_next(step, next, KV_SIDE_V);
    KvFormat tail_format = kv_layer_tail_format(step->layer, KV_SIDE_V);
    uint32_t head_dim = step->head_dim;

    if (!quantized) {
        step->kernels->values(tail_format, out, scratch->scores,
                              cpu_attention_block(step, block, KV_SIDE_V), ahead, n_queries,
                              head_dim, low, high);
        return;
    }
    if (sinks) { /* with their weights taken out the sealed block adds nothing of them */
        step->kernels->values(tail_format, out, scratch->scores, sinks, NULL, n_queries, head_dim,
                              0, KV_SINK_TOKENS);
        for (uint32_t i = 0; i < n_queries; i++)
            memset(scratch->scores + i * ATTENTION_BLOCK_KEYS, 0, KV_SINK_TOKENS * sizeof(float));
    }
    step->kv_kernels->values(step->layer->sides[KV_SIDE_V].format, out, scratch->scores, quantized,
                             ahead, n_queries, head_dim, low, high, scratch->kv);
}

static void add_block(const CpuAttentionStep *step, const CpuTile *tile, CpuBlockRef block,
                      const CpuBlockRef *next, const CpuTileScratch *scratch, CpuTilePart part) {
    uint32_t n_past = step->input->sequences[tile->i_sequence].n_past;
    uint32_t n_queries = tile_queries(step, tile), first = KV_PAGE_TOKENS, end = 0;

    block_scores(step, block, next, n_queries, scratch);
    for (uint32_t i = 0; i < n_queries; i++) {
        uint32_t low, high;

        visible_lanes(n_past + tile->first + i / step->group, step->window, block.i, &low, &high);
        step->kernels->softmax(scratch->scores + i * ATTENTION_BLOCK_KEYS, low, high,
                               &part.states[i], part.out + (size_t)i * step->head_dim,
                               step->head_dim);
        if (low < high) {
            first = min_u32(first, low);
            end = high > end ? high : end;
        }
    }
    if (first < end)
        block_values(step, block, next, n_queries, first, end, scratch, part.out);
}

/* tiles */

/* The blocks that rows of the tile see. */
static uint32_t tile_first_block(const CpuAttentionStep *step, const CpuTile *tile) {
    uint32_t position = step->input->sequences[tile->i_sequence].n_past + tile->first;
    uint32_t window = step->window;

    return (window && position >= window ? position - window + 1 : 0) / KV_PAGE_TOKENS;
}

static uint32_t tile_last_block(const CpuAttentionStep *step, const CpuTile *tile) {
    return (step->input->sequences[tile->i_sequence].n_past + tile->end - 1) / KV_PAGE_TOKENS;
}

void cpu_tile_find_segments(const CpuAttentionStep *step, CpuTile *tile) {
    tile->first_segment = tile_first_block(step, tile) / SEGMENT_BLOCKS;
    tile->n_segments = tile_last_block(step, tile) / SEGMENT_BLOCKS - tile->first_segment + 1;
}

static void scale_row(float *restrict out, const float *restrict in, float scale, uint32_t n) {
    for (uint32_t c = 0; c < n; c++)
        out[c] = in[c] * scale;
}

void cpu_tile_load(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                   const CpuTileScratch *scratch) {
    const AttentionArgs *args = step->args;
    uint32_t row = step->input->sequences[tile->i_sequence].first_row + tile->first;
    uint32_t head_dim = step->head_dim, group = step->group;

    for (uint32_t i = 0; i < tile_queries(step, tile); i++) {
        const float *q =
            (const float *)(uintptr_t)args->q +
            ((size_t)(row + i / group) * args->n_heads + head * group + i % group) * head_dim;

        scale_row(scratch->queries + (size_t)i * head_dim, q, args->scale, head_dim);
    }
}

CpuBlockRef cpu_tile_block(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                           uint32_t segment) {
    uint32_t first = tile_first_block(step, tile);

    return (CpuBlockRef){ .i_sequence = tile->i_sequence,
                          .i = first > segment * SEGMENT_BLOCKS ? first : segment * SEGMENT_BLOCKS,
                          .head = head };
}

void cpu_tile_segment(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                      uint32_t segment, const CpuBlockRef *next, const CpuTileScratch *scratch,
                      CpuTilePart part) {
    CpuBlockRef block = cpu_tile_block(step, tile, head, segment);
    uint32_t last =
        min_u32(tile_last_block(step, tile), segment * SEGMENT_BLOCKS + SEGMENT_BLOCKS - 1);

    cpu_tile_reset(part, tile_queries(step, tile), step->head_dim);
    while (block.i <= last) {
        CpuBlockRef following = block;

        following.i++;
        if (block.i == tail_index(step, block.i_sequence) &&
            step->input->sequences[block.i_sequence].n_rows == 1)
            cpu_attention_stage(step, block.i_sequence, head);
        add_block(step, tile, block, block.i < last ? &following : next, scratch, part);
        block = following;
    }
}

void cpu_tile_reset(CpuTilePart part, uint32_t n_queries, uint32_t head_dim) {
    for (uint32_t i = 0; i < n_queries; i++)
        part.states[i] = (CpuSoftmaxState){ .max = -INFINITY };
    memset(part.out, 0, (size_t)n_queries * head_dim * sizeof(*part.out));
}

static void merge_query(CpuSoftmaxState *total, float *total_out, const CpuSoftmaxState *part,
                        const float *part_out, uint32_t head_dim) {
    float max = total->max > part->max ? total->max : part->max, keep, add;

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

void cpu_tile_merge(CpuTilePart total, CpuTilePart part, uint32_t n_queries, uint32_t head_dim) {
    for (uint32_t i = 0; i < n_queries; i++)
        merge_query(&total.states[i], total.out + (size_t)i * head_dim, &part.states[i],
                    part.out + (size_t)i * head_dim, head_dim);
}

void cpu_tile_store(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                    CpuTilePart total) {
    const AttentionArgs *args = step->args;
    uint32_t row = step->input->sequences[tile->i_sequence].first_row + tile->first;
    uint32_t head_dim = step->head_dim, group = step->group;

    for (uint32_t i = 0; i < tile_queries(step, tile); i++) {
        float *out =
            (float *)(uintptr_t)args->out +
            ((size_t)(row + i / group) * args->n_heads + head * group + i % group) * head_dim;

        scale_row(out, total.out + (size_t)i * head_dim, 1 / total.states[i].sum, head_dim);
        if (kv_layer_rotates(step->layer, KV_SIDE_V))
            step->kernels->hadamard(out, 1, head_dim);
    }
}
