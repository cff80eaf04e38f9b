/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where every byte of the KV cache lies.
 *
 * A *page* is 64 consecutive tokens of one sequence; its id is the same in every layer. A *tail*
 * is the not yet full last page of a sequence, always 16-bit floats, in the slot of its sequence.
 * Backends read and write both through kvcache/kv_layer.h and through nothing else.
 *
 *   store memory = regions, one per (layer, side), then tails, sinks, roundings, transforms
 *   region(layer, side) = [n_pages][n_kv_heads] blocks of block_bytes
 *   tails               = [n_tails][n_layers][2 sides][n_kv_heads] 16-bit blocks
 *   sinks               = [n_sinks][n_layers][2 sides][n_kv_heads] of 4 exact tokens, 16-bit
 *   roundings           = [n_layers][n_kv_heads] of kvcache/rounding.h, for keys, where a format
 *                         quantizes
 *   transforms          = [n_layers][n_kv_heads] of kvcache/key_transform.h, alike
 *
 * A *sink slot* keeps the first 4 tokens of a sequence exact when its first page is quantized:
 * attention leans on them far more than on any others. It belongs to that page.
 *
 * Tails and sinks are bf16 where the side's pages are; where pages are f16 or quantized they are
 * IEEE half floats. A half float's 11 bits of significand matter: bf16's 8 cost more than 8-bit
 * pages do. What it cannot hold, beyond +-65504, becomes +-65504 (NaN stays), as in sealing.
 *
 * Common to all backends are the pages, the slots and how many bytes each takes, which is what the
 * ledger counts. Where a value lies within a block is its backend's own: pages never leave the
 * process, and nobody else reads them.
 *
 * A block holds one KV head of one page. On the CPU, quantized ones are as kvcache/kv_format.h
 * says, and those in 16 bits:
 *   K  [head_dim][64 tokens]   channel-major: a scale per channel folds into the query once, and
 *                              scores of 64 tokens are lanes of a vector, without reductions
 *   V  [64 tokens][head_dim]   token-major: a scale per token folds into the softmax weight, and
 *                              the output's channels are the lanes
 * and sinks alike, with 4 tokens for 64.
 */

#include "util/dev_addr.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_PAGE_TOKENS 64
#define KV_SINK_TOKENS 4
#define KV_NO_SINK UINT32_MAX
#define KV_BLOCK_ALIGN_BYTES 64
#define KV_LAYERS_MAX 512

typedef enum KvSide { KV_SIDE_K, KV_SIDE_V, KV_SIDES } KvSide;

/* How one side of one layer is stored: kvcache/kv_format.h. */
typedef enum KvFormat {
    KV_FORMAT_BF16,
    KV_FORMAT_F16,
    KV_FORMAT_8,
    KV_FORMAT_6,
    KV_FORMAT_5,
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

/* One format per (layer, side). */
typedef struct KvPlan {
    KvFormat formats[KV_LAYERS_MAX][KV_SIDES]; /* [n_layers] used */
} KvPlan;

static inline bool kv_format_quantizes(KvFormat format) {
    return format != KV_FORMAT_BF16 && format != KV_FORMAT_F16;
}

/* What one side of one layer is stored as; a plan of NULL is f16 throughout. */
static inline KvFormat kv_plan_format(const KvPlan *plan, uint32_t layer, KvSide side) {
    return plan ? plan->formats[layer][side] : KV_FORMAT_F16;
}

/* Whether both store every side of every layer alike. NULL: f16 throughout. */
bool kv_plans_equal(const KvPlan *a, const KvPlan *b, uint32_t n_layers);
/* Whether any side is below 16 bits. NULL: no. */
bool kv_plan_quantizes(const KvPlan *plan, uint32_t n_layers);

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
    uint32_t n_sinks;                          /* 0: no sinks, first pages are as others */
    KvRegion regions[KV_LAYERS_MAX][KV_SIDES]; /* [n_layers] used */
    size_t tail_block_bytes;                   /* head_dim * 64 * 2 */
    size_t tails_offset;
    size_t sink_block_bytes; /* head_dim * 4 * 2 */
    size_t sinks_offset;
    size_t rounding_bytes; /* of one; 0: nothing is quantized */
    size_t roundings_offset;
    size_t transform_bytes; /* of one; 0: nothing is quantized */
    size_t transforms_offset;
    size_t padding_bytes; /* between regions and behind the last, for alignment */
    size_t size_bytes;    /* of the whole store */
    DevAddr base;         /* set by whoever allocated size_bytes; KV_BLOCK_ALIGN_BYTES aligned */
} KvStore;

typedef struct KvShape {
    KvGeometry geometry;
    const KvPlan *plan; /* NULL: f16 throughout */
    uint32_t n_pages, n_tails, n_sinks;
} KvShape;

/* Both counts and places: fills everything but `base`. 0, -EINVAL (geometry; quantization needs
 * head_dim in multiples of 8), -EOVERFLOW. */
int kv_store_layout(KvStore *store, const KvShape *shape);

/* Bytes of one KV head of one page. */
size_t kv_block_bytes(const KvGeometry *geometry, KvFormat format, KvSide side);

/* Bytes one tail slot takes over all layers and both sides. */
size_t kv_tail_bytes(const KvGeometry *geometry);
/* Pages that hold so many tokens; at most UINT32_MAX - 1, as page ids are 32 bits and the last
 * value is nobody's. */
uint32_t kv_pages_of_tokens(uint64_t n_tokens);

/* Bytes one page takes over all layers and both sides. */
size_t kv_store_page_bytes(const KvStore *store);
/* Bytes one tail slot takes, one sink slot, all roundings, and all transforms. */
size_t kv_store_tail_bytes(const KvStore *store);
size_t kv_store_sink_bytes(const KvStore *store);
size_t kv_store_roundings_bytes(const KvStore *store);
size_t kv_store_transforms_bytes(const KvStore *store);
/* Bits per element of a sealed page, metadata included. */
double kv_store_bits(const KvStore *store);

/* inline helpers; kvcache/kv_layer.h has those of one layer's memory */

static inline bool kv_store_quantizes(const KvStore *s, uint32_t layer, KvSide side) {
    return kv_format_quantizes(s->regions[layer][side].format);
}
