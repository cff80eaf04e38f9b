/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes in, pages out. The number of pages is a division; the bytes are then read off the layout
 * itself, so the two cannot disagree.
 */

#include "kvcache/ledger.h"

#include "kvcache/prefix_index.h"

#include <errno.h>
#include <inttypes.h>

/* The layout of the fewest pages a request can have: it gives the size of a page and of a tail. */
static int unit_layout(const LedgerRequest *request, KvStore *store, Reason *why) {
    const KvGeometry *g = &request->geometry;
    int r;

    if (!request->max_num_seqs)
        return reason_set(why, -EINVAL, "max_num_seqs is 0; it must be at least 1");
    r = kv_store_layout(store, &(KvShape){ .geometry = *g,
                                           .plan = request->plan,
                                           .n_pages = 1,
                                           .n_tails = request->max_num_seqs,
                                           .n_sinks = request->n_sinks });
    if (r)
        return reason_set(why, r,
                          "no KV cache can be laid out for %" PRIu32 " layers, %" PRIu32
                          " KV heads of %" PRIu32 " channels and %" PRIu32
                          " sequences; the model's shape is not supported or max_num_seqs is "
                          "too large",
                          g->n_layers, g->n_kv_heads, g->head_dim, request->max_num_seqs);
    return 0;
}

static int too_small(const LedgerRequest *request, const KvStore *unit, Reason *why) {
    uint64_t budget = request->kv_memory_bytes;
    uint64_t tail_bytes = kv_store_tail_bytes(unit);
    uint64_t page_bytes = unit->size_bytes - unit->n_tails * tail_bytes; /* and all but tails */
    uint64_t n_fit = budget > page_bytes ? (budget - page_bytes) / tail_bytes : 0;
    const char *whose =
        request->memory_is_default ? "a cache of no given size may take" : "kv_memory is";
    const char *help = request->memory_is_default ? "give kv_memory" : "raise kv_memory";

    if (!n_fit)
        return reason_set(why, -ENOSPC,
                          "%s %" PRIu64 " bytes, but one page and one tail take %" PRIu64
                          ": %" PRIu64 " bytes are missing; %s",
                          whose, budget, page_bytes + tail_bytes, page_bytes + tail_bytes - budget,
                          help);
    return reason_set(why, -ENOSPC,
                      "%s %" PRIu64 " bytes, but the tails of %" PRIu32
                      " sequences and one page take %zu: %" PRIu64
                      " bytes are missing; %s, or lower max_num_seqs to %" PRIu64 " or less",
                      whose, budget, request->max_num_seqs, unit->size_bytes,
                      unit->size_bytes - budget, help, n_fit);
}

static int pages_of_memory(const LedgerRequest *request, const KvStore *unit, uint64_t *n_pagesp,
                           Reason *why) {
    if (unit->size_bytes > request->kv_memory_bytes)
        return too_small(request, unit, why);
    /* At the most: with another number of pages there may be less padding than with one. */
    *n_pagesp = 1 + (request->kv_memory_bytes - unit->size_bytes + unit->padding_bytes) /
                        kv_store_page_bytes(unit);
    return 0;
}

static int lay_out(KvStore *store, const LedgerRequest *request, uint64_t n_pages) {
    return kv_store_layout(store, &(KvShape){ .geometry = request->geometry,
                                              .plan = request->plan,
                                              .n_pages = (uint32_t)n_pages,
                                              .n_tails = request->max_num_seqs,
                                              .n_sinks = request->n_sinks });
}

/* Of a budget that must hold tokens as well. */
static int check_tokens(const LedgerRequest *request, const KvStore *store, Reason *why) {
    uint64_t missing = 0, n_pages = kv_pages_of_tokens(request->kv_tokens);
    KvStore wanted;

    if (!request->kv_memory_bytes || n_pages <= store->n_pages)
        return 0;
    if (!lay_out(&wanted, request, n_pages))
        missing = wanted.size_bytes - request->kv_memory_bytes;
    return reason_set(why, -ENOSPC,
                      "kv_memory is %" PRIu64 " bytes, in which %" PRIu64
                      " tokens fit in these formats, and kv_tokens is %" PRIu64 ": %" PRIu64
                      " bytes are missing; raise kv_memory, lower kv_tokens or max_num_seqs, or "
                      "choose narrower formats with kv",
                      request->kv_memory_bytes, (uint64_t)store->n_pages * KV_PAGE_TOKENS,
                      request->kv_tokens, missing);
}

static int pages_of_tokens(const LedgerRequest *request, uint64_t *n_pagesp, Reason *why) {
    if (!request->kv_tokens)
        return reason_set(why, -EINVAL,
                          "neither kv_memory nor kv_tokens is given; the KV cache needs one");
    *n_pagesp = kv_pages_of_tokens(request->kv_tokens);
    return 0;
}

int ledger_plan(Ledger *ledger, const LedgerRequest *request, Reason *why) {
    KvStore store;
    uint64_t n_pages = 0;
    int r;

    r = unit_layout(request, &store, why);
    if (r)
        return r;
    r = request->kv_memory_bytes ? pages_of_memory(request, &store, &n_pages, why)
                                 : pages_of_tokens(request, &n_pages, why);
    if (r)
        return r;
    /* Page ids are 32 bits, and the last value is nobody's. */
    if (n_pages >= UINT32_MAX)
        n_pages = UINT32_MAX - 1;

    /* Alignment between regions may take what the division gave to the last page. */
    do
        r = lay_out(&store, request, n_pages);
    while (!r && request->kv_memory_bytes && store.size_bytes > request->kv_memory_bytes &&
           --n_pages);
    if (r)
        return reason_set(why, r,
                          "a KV cache of %" PRIu64 " pages is larger than memory can be addressed; "
                          "lower kv_tokens, max_model_len or max_num_seqs",
                          n_pages);
    r = check_tokens(request, &store, why);
    if (r)
        return r;

    *ledger = (Ledger){
        .n_pages = store.n_pages,
        .n_tails = store.n_tails,
        .n_sinks = store.n_sinks,
        .page_bytes = kv_store_page_bytes(&store),
        .tail_bytes = kv_store_tail_bytes(&store),
        .sink_bytes = kv_store_sink_bytes(&store),
        .roundings_bytes = kv_store_roundings_bytes(&store),
        .transforms_bytes = kv_store_transforms_bytes(&store),
        .bits = kv_store_bits(&store),
        .padding_bytes = store.padding_bytes,
        .kv_bytes = store.size_bytes,
        .kv_tokens = (uint64_t)store.n_pages * KV_PAGE_TOKENS,
        .index_bytes = request->prefix_caching ? prefix_index_bytes(store.n_pages) : 0,
    };
    ledger->pages_bytes = ledger->page_bytes * ledger->n_pages;
    ledger->tails_bytes = ledger->tail_bytes * ledger->n_tails;
    ledger->sinks_bytes = ledger->sink_bytes * ledger->n_sinks;
    return 0;
}

static void print_bytes(Buffer *out, const char *purpose, uint64_t bytes, const char *of) {
    buffer_printf(out, "%-12s %18" PRIu64 "  %10.1f MiB%s%s\n", purpose, bytes,
                  (double)bytes / (1 << 20), of[0] ? "  " : "", of);
}

static void print_units(Buffer *out, const char *purpose, uint64_t bytes, uint32_t n,
                        uint64_t unit_bytes) {
    char of[64];

    snprintf(of, sizeof(of), "%" PRIu32 " of %" PRIu64, n, unit_bytes);
    print_bytes(out, purpose, bytes, of);
}

void ledger_print(const Ledger *ledger, Buffer *out) {
    uint64_t total = ledger->kv_bytes;

    buffer_printf(out, "%-12s %18s\n", "purpose", "bytes");
    if (ledger->weights_bytes)
        print_bytes(out, "weights", ledger->weights_bytes, "");
    if (ledger->workspace_bytes)
        print_bytes(out, "workspace", ledger->workspace_bytes, "");
    print_units(out, "KV pages", ledger->pages_bytes, ledger->n_pages, ledger->page_bytes);
    print_units(out, "KV tails", ledger->tails_bytes, ledger->n_tails, ledger->tail_bytes);
    if (ledger->sinks_bytes)
        print_units(out, "KV sinks", ledger->sinks_bytes, ledger->n_sinks, ledger->sink_bytes);
    if (ledger->roundings_bytes)
        print_bytes(out, "KV rounding", ledger->roundings_bytes, "");
    if (ledger->transforms_bytes)
        print_bytes(out, "KV transform", ledger->transforms_bytes, "");
    if (ledger->padding_bytes)
        print_bytes(out, "KV padding", ledger->padding_bytes, "");
    if (ledger->index_bytes)
        print_bytes(out, "prefix index", ledger->index_bytes, "");
    total += ledger->weights_bytes + ledger->workspace_bytes + ledger->index_bytes;
    print_bytes(out, "total", total, "");
    buffer_printf(out, "%-12s %18" PRIu64 "  in pages of %d, %.3f bits per element\n", "KV tokens",
                  ledger->kv_tokens, KV_PAGE_TOKENS, ledger->bits);
}
