/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places every region of the store with checked arithmetic. Counting and placing are the same
 * walk, so that what the ledger says is what a backend finds.
 */

#include "kvcache/kv_layout.h"

#include "kvcache/key_transform.h"
#include "kvcache/kv_format.h"
#include "kvcache/kv_layer.h"
#include "kvcache/rounding.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define NUMBER_BYTES 2 /* of a bf16 or f16 number */

/* Moves *offset behind `size` bytes and to where the next part may begin. */
static bool add_aligned(KvStore *store, size_t *offset, size_t size) {
    size_t end;

    if (__builtin_add_overflow(*offset, size, &end) || end > SIZE_MAX - KV_BLOCK_ALIGN_BYTES)
        return false;
    *offset = (end + KV_BLOCK_ALIGN_BYTES - 1) & ~(size_t)(KV_BLOCK_ALIGN_BYTES - 1);
    store->padding_bytes += *offset - end;
    return true;
}

static size_t tokens_bytes(const KvGeometry *geometry, size_t n_tokens) {
    return geometry->head_dim * n_tokens * NUMBER_BYTES;
}

size_t kv_block_bytes(const KvGeometry *geometry, KvFormat format, KvSide side) {
    return kv_format_quantizes(format)
               ? kv_block_layout(format, side, geometry->head_dim).size_bytes
               : tokens_bytes(geometry, KV_PAGE_TOKENS);
}

static int place_region(KvStore *store, const KvPlan *plan, uint32_t layer, KvSide side,
                        size_t *offset) {
    const KvGeometry *geometry = &store->geometry;
    KvRegion *region = &store->regions[layer][side];
    size_t size;

    region->format = kv_plan_format(plan, layer, side);
    region->block_bytes = kv_block_bytes(geometry, region->format, side);
    region->offset = *offset;
    if (__builtin_mul_overflow(region->block_bytes, geometry->n_kv_heads, &region->page_bytes) ||
        __builtin_mul_overflow(region->page_bytes, store->n_pages, &size) ||
        !add_aligned(store, offset, size))
        return -EOVERFLOW;
    return 0;
}

/* `n` slots of one part for every (layer, side, head). */
static int place_slots(KvStore *store, size_t part_bytes, size_t n, size_t *offset) {
    const KvGeometry *geometry = &store->geometry;
    size_t size;

    if (__builtin_mul_overflow(part_bytes, geometry->n_kv_heads, &size) ||
        __builtin_mul_overflow(size, (size_t)geometry->n_layers * KV_SIDES, &size) ||
        __builtin_mul_overflow(size, n, &size) || !add_aligned(store, offset, size))
        return -EOVERFLOW;
    return 0;
}

static int place_all(KvStore *store, const KvPlan *plan) {
    const KvGeometry *geometry = &store->geometry;
    size_t offset = 0;
    int r;

    for (uint32_t layer = 0; layer < geometry->n_layers; layer++) {
        for (KvSide side = 0; side < KV_SIDES; side++) {
            r = place_region(store, plan, layer, side, &offset);
            if (r)
                return r;
        }
    }
    store->tail_block_bytes = tokens_bytes(geometry, KV_PAGE_TOKENS);
    store->tails_offset = offset;
    r = place_slots(store, store->tail_block_bytes, store->n_tails, &offset);
    if (r)
        return r;
    store->sink_block_bytes = tokens_bytes(geometry, KV_SINK_TOKENS);
    store->sinks_offset = offset;
    r = place_slots(store, store->sink_block_bytes, store->n_sinks, &offset);
    if (r)
        return r;
    store->roundings_offset = offset;
    if (!add_aligned(store, &offset, kv_store_roundings_bytes(store)))
        return -EOVERFLOW;
    store->transforms_offset = offset;
    if (!add_aligned(store, &offset, kv_store_transforms_bytes(store)))
        return -EOVERFLOW;
    store->size_bytes = offset;
    return 0;
}

bool kv_plans_equal(const KvPlan *a, const KvPlan *b, uint32_t n_layers) {
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (int side = 0; side < KV_SIDES; side++)
            if (kv_plan_format(a, layer, side) != kv_plan_format(b, layer, side))
                return false;
    return true;
}

bool kv_plan_quantizes(const KvPlan *plan, uint32_t n_layers) {
    for (uint32_t layer = 0; plan && layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            if (kv_format_quantizes(plan->formats[layer][side]))
                return true;
    return false;
}

int kv_store_layout(KvStore *store, const KvShape *shape) {
    const KvGeometry *geometry = &shape->geometry;
    bool quantizes;

    if (!geometry->n_layers || geometry->n_layers > KV_LAYERS_MAX || !geometry->n_kv_heads ||
        !geometry->head_dim || geometry->head_dim % 2 || !shape->n_pages || !shape->n_tails)
        return -EINVAL;
    quantizes = kv_plan_quantizes(shape->plan, geometry->n_layers);
    if (quantizes && (geometry->head_dim % 8 || geometry->head_dim > KV_HEAD_DIM_MAX))
        return -EINVAL;

    memset(store, 0, sizeof(*store));
    store->geometry = *geometry;
    store->n_pages = shape->n_pages;
    store->n_tails = shape->n_tails;
    store->n_sinks = quantizes ? shape->n_sinks : 0;
    store->rounding_bytes = quantizes ? rounding_bytes(geometry->head_dim) : 0;
    store->transform_bytes = quantizes ? key_transform_bytes(geometry->head_dim) : 0;
    return place_all(store, shape->plan);
}

size_t kv_store_page_bytes(const KvStore *store) {
    size_t bytes = 0;

    for (uint32_t layer = 0; layer < store->geometry.n_layers; layer++)
        for (int side = 0; side < KV_SIDES; side++)
            bytes += store->regions[layer][side].page_bytes;
    return bytes;
}

size_t kv_tail_bytes(const KvGeometry *g) {
    return kv_block_bytes(g, KV_FORMAT_F16, KV_SIDE_K) * g->n_kv_heads * KV_SIDES * g->n_layers;
}

uint32_t kv_pages_of_tokens(uint64_t n_tokens) {
    uint64_t n_pages = n_tokens / KV_PAGE_TOKENS + !!(n_tokens % KV_PAGE_TOKENS);

    return n_pages < UINT32_MAX ? (uint32_t)n_pages : UINT32_MAX - 1;
}

size_t kv_store_tail_bytes(const KvStore *store) {
    return kv_tail_bytes(&store->geometry);
}

size_t kv_store_sink_bytes(const KvStore *store) {
    return store->sink_block_bytes * store->geometry.n_kv_heads * KV_SIDES *
           store->geometry.n_layers;
}

size_t kv_store_roundings_bytes(const KvStore *store) {
    return store->rounding_bytes * store->geometry.n_kv_heads * store->geometry.n_layers;
}

size_t kv_store_transforms_bytes(const KvStore *store) {
    return store->transform_bytes * store->geometry.n_kv_heads * store->geometry.n_layers;
}

double kv_store_bits(const KvStore *store) {
    const KvGeometry *g = &store->geometry;

    return 8.0 * (double)kv_store_page_bytes(store) /
           ((double)g->n_layers * KV_SIDES * g->n_kv_heads * g->head_dim * KV_PAGE_TOKENS);
}

_Static_assert(sizeof(KvLayer) <= 256, "a small part of a kernel's arguments");

KvLayer kv_store_layer(const KvStore *s, uint32_t layer) {
    size_t tail_side_bytes = s->geometry.n_kv_heads * s->tail_block_bytes;
    size_t sink_side_bytes = s->geometry.n_kv_heads * s->sink_block_bytes;
    KvLayer l = {
        .roundings = s->base + s->roundings_offset +
                     (size_t)layer * s->geometry.n_kv_heads * s->rounding_bytes,
        .transforms = s->base + s->transforms_offset +
                      (size_t)layer * s->geometry.n_kv_heads * s->transform_bytes,
        .tail_slot_bytes = s->geometry.n_layers * KV_SIDES * tail_side_bytes,
        .sink_slot_bytes = s->geometry.n_layers * KV_SIDES * sink_side_bytes,
        .tail_block_bytes = (uint32_t)s->tail_block_bytes,
        .sink_block_bytes = (uint32_t)s->sink_block_bytes,
        .rounding_bytes = (uint32_t)s->rounding_bytes,
        .transform_bytes = (uint32_t)s->transform_bytes,
        .n_kv_heads = s->geometry.n_kv_heads,
        .head_dim = s->geometry.head_dim,
        .n_sinks = s->n_sinks,
    };

    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
        const KvRegion *region = &s->regions[layer][side];
        size_t i_side = (size_t)layer * KV_SIDES + side;

        l.sides[side] =
            (KvLayerSide){ .pages = s->base + region->offset,
                           .tails = s->base + s->tails_offset + i_side * tail_side_bytes,
                           .sinks = s->base + s->sinks_offset + i_side * sink_side_bytes,
                           .block_bytes = (uint32_t)region->block_bytes,
                           .format = region->format };
    }
    return l;
}
