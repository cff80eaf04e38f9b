/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Every byte of the model and its cache, by purpose, and how many tokens fit. Pure arithmetic: no
 * weights, no device. What it says is what the process allocates.
 */

#include "kvcache/kv_layout.h"
#include "util/buffer.h"
#include "util/reason.h"

typedef struct LedgerRequest {
    KvGeometry geometry;
    uint64_t kv_memory_bytes; /* budget for pages and tails; 0: decided by kv_tokens */
    bool memory_is_default;   /* nobody gave that budget: words do not say so */
    uint64_t kv_tokens;       /* tokens that must fit: in that budget, where there is one */
    uint32_t max_num_seqs;    /* one tail each */
    uint32_t n_sinks;         /* sink slots, where the plan quantizes */
    bool prefix_caching;      /* there is an index of prefixes */
    const KvPlan *plan;       /* NULL: f16 */
} LedgerRequest;

typedef struct Ledger {
    uint32_t n_pages, n_tails, n_sinks;
    uint64_t page_bytes, pages_bytes; /* of one page over all layers; of all pages */
    uint64_t tail_bytes, tails_bytes;
    uint64_t sink_bytes, sinks_bytes;
    uint64_t roundings_bytes;  /* what compensated rounding needs to know of the model */
    uint64_t transforms_bytes; /* what keys and queries go through */
    uint64_t padding_bytes;    /* alignment inside the store */
    uint64_t kv_bytes;         /* the store: all of the above */
    uint64_t index_bytes;      /* of the prefix index, in host memory beside the store */
    double bits;               /* per element of a sealed page, metadata included */
    uint64_t weights_bytes;    /* filled in by whoever loaded them; 0 before */
    uint64_t workspace_bytes;
    uint64_t kv_tokens; /* n_pages * 64 */
} Ledger;

/* Fills all but weights and workspace. -ENOSPC: the budget does not hold the tails and one page, or
 * not the tokens; `why` says by how many bytes and which option helps. */
int ledger_plan(Ledger *ledger, const LedgerRequest *request, Reason *why);

/* The table a person reads; appends. */
void ledger_print(const Ledger *ledger, Buffer *out);
