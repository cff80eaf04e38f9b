/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places every region of the store with checked arithmetic. Counting and placing are the same
 * walk, so that what the ledger says is what a backend finds.
 */

#include "kvcache/kv_layout.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define BF16_BYTES 2

static bool add_aligned(size_t *offset, size_t size) {
    size_t end;

    if (__builtin_add_overflow(*offset, size, &end) ||
        __builtin_add_overflow(end, KV_BLOCK_ALIGN_BYTES - 1, &end))
        return false;
    *offset = end & ~(size_t)(KV_BLOCK_ALIGN_BYTES - 1);
    return true;
}

static size_t bf16_block_bytes(const KvGeometry *geometry) {
    return (size_t)geometry->head_dim * KV_PAGE_TOKENS * BF16_BYTES;
}

static int place_region(KvRegion *region, const KvGeometry *geometry, uint32_t n_pages,
                        size_t *offset) {
    size_t size;

    *region = (KvRegion){ .format = KV_FORMAT_BF16, .block_bytes = bf16_block_bytes(geometry) };
    region->offset = *offset;
    if (__builtin_mul_overflow(region->block_bytes, geometry->n_kv_heads, &region->page_bytes) ||
        __builtin_mul_overflow(region->page_bytes, n_pages, &size) || !add_aligned(offset, size))
        return -EOVERFLOW;
    return 0;
}

static int place_tails(KvStore *store, size_t *offset) {
    const KvGeometry *geometry = &store->geometry;
    size_t size;

    store->tail_block_bytes = bf16_block_bytes(geometry);
    store->tails_offset = *offset;
    if (__builtin_mul_overflow(store->tail_block_bytes, geometry->n_kv_heads, &size) ||
        __builtin_mul_overflow(size, (size_t)geometry->n_layers * KV_SIDES, &size) ||
        __builtin_mul_overflow(size, store->n_tails, &size) || !add_aligned(offset, size))
        return -EOVERFLOW;
    return 0;
}

int kv_store_layout(KvStore *store, const KvGeometry *geometry, uint32_t n_pages,
                    uint32_t n_tails) {
    size_t offset = 0;
    int r;

    if (!geometry->n_layers || geometry->n_layers > KV_LAYERS_MAX || !geometry->n_kv_heads ||
        !geometry->head_dim || geometry->head_dim % 2 || !n_pages || !n_tails)
        return -EINVAL;

    memset(store, 0, sizeof(*store));
    store->geometry = *geometry;
    store->n_pages = n_pages;
    store->n_tails = n_tails;
    for (uint32_t layer = 0; layer < geometry->n_layers; layer++) {
        for (int side = 0; side < KV_SIDES; side++) {
            r = place_region(&store->regions[layer][side], geometry, n_pages, &offset);
            if (r)
                return r;
        }
    }
    r = place_tails(store, &offset);
    if (r)
        return r;
    store->size_bytes = offset;
    return 0;
}

size_t kv_store_page_bytes(const KvStore *store) {
    size_t bytes = 0;

    for (uint32_t layer = 0; layer < store->geometry.n_layers; layer++)
        for (int side = 0; side < KV_SIDES; side++)
            bytes += store->regions[layer][side].page_bytes;
    return bytes;
}

size_t kv_store_tail_bytes(const KvStore *store) {
    return store->tail_block_bytes * store->geometry.n_kv_heads * KV_SIDES *
           store->geometry.n_layers;
}
