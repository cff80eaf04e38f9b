/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where every byte of the KV cache lies.
 *
 * A *page* is 64 consecutive tokens of one sequence; its id is the same in every layer. A *tail*
 * is the not yet full last page of a sequence, always bf16, in the slot of its sequence. Backends
 * read and write both through the accessors below and through nothing else.
 *
 *   store memory = regions, one per (layer, side), then tails
 *   region(layer, side) = [n_pages][n_kv_heads] blocks of block_bytes
 *   tails               = [n_tails][n_layers][2 sides][n_kv_heads] bf16 blocks
 *
 * A block holds one KV head of one page. In bf16:
 *   K  [head_dim][64 tokens]   channel-major: a scale per channel folds into the query once, and
 *                              scores of 64 tokens are lanes of a vector, without reductions
 *   V  [64 tokens][head_dim]   token-major: a scale per token folds into the softmax weight, and
 *                              the output's channels are the lanes
 */

#include "util/dev_addr.h"

#include <stddef.h>
#include <stdint.h>

#define KV_PAGE_TOKENS 64
#define KV_BLOCK_ALIGN_BYTES 64
#define KV_LAYERS_MAX 512

typedef enum KvSide { KV_SIDE_K, KV_SIDE_V, KV_SIDES } KvSide;

/* How one side of one layer is stored: kvcache/kv_format.h. */
typedef enum KvFormat {
    KV_FORMAT_BF16,
    KV_FORMAT_8,
    KV_FORMAT_6,
    KV_FORMAT_4,
    KV_FORMAT_3,
    KV_FORMAT_2,
    KV_FORMATS
} KvFormat;

typedef struct KvGeometry {
    uint32_t n_layers; /* 1 .. KV_LAYERS_MAX */
    uint32_t n_kv_heads;
    uint32_t head_dim; /* channels, a multiple of 2 */
} KvGeometry;

typedef struct KvRegion {
    KvFormat format;
    size_t block_bytes; /* one KV head of one page */
    size_t page_bytes;  /* n_kv_heads blocks */
    size_t offset;      /* of page 0, from the start of the store */
} KvRegion;

/* The cache as a backend sees it: one allocation, placed by kv_store_layout(). */
typedef struct KvStore {
    KvGeometry geometry;
    uint32_t n_pages;
    uint32_t n_tails;                          /* sequences that can hold a tail at once */
    KvRegion regions[KV_LAYERS_MAX][KV_SIDES]; /* [n_layers] used */
    size_t tail_block_bytes;                   /* head_dim * 64 * 2 */
    size_t tails_offset;
    size_t size_bytes; /* of the whole store */
    DevAddr base;      /* set by whoever allocated size_bytes; KV_BLOCK_ALIGN_BYTES aligned */
} KvStore;

/* Both counts and places: fills everything but `base`. 0, -EINVAL (geometry), -EOVERFLOW. */
int kv_store_layout(KvStore *store, const KvGeometry *geometry, uint32_t n_pages, uint32_t n_tails);

/* Bytes one page takes over all layers and both sides. */
size_t kv_store_page_bytes(const KvStore *store);
/* Bytes one tail slot takes. */
size_t kv_store_tail_bytes(const KvStore *store);

/* inline helpers */

static inline DevAddr kv_store_block(const KvStore *s, uint32_t layer, KvSide side, uint32_t page,
                                     uint32_t head) {
    const KvRegion *r = &s->regions[layer][side];

    return s->base + r->offset + (size_t)page * r->page_bytes + (size_t)head * r->block_bytes;
}

static inline DevAddr kv_store_tail(const KvStore *s, uint32_t layer, KvSide side, uint32_t slot,
                                    uint32_t head) {
    size_t i =
        (((size_t)slot * s->geometry.n_layers + layer) * KV_SIDES + side) * s->geometry.n_kv_heads +
        head;

    return s->base + s->tails_offset + i * s->tail_block_bytes;
}
