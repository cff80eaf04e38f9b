/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which pages, tail slots and sink slots are taken, and by how many. Host bookkeeping only: the
 * bytes are the store's. One thread, the engine's. Nothing allocates after init; taking, holding
 * and giving back one page is O(1).
 *
 * A page is
 *   held     by its holders; it never changes hands
 *   cached   without holders, but in the prefix index: it can be held again as it is, and is taken
 *            for something else only when blank pages run out, least recently used first
 *   blank    without holders and without content
 * Both cached and blank pages are free: whoever needs pages can have them.
 *
 * The first page of a sequence may have a sink slot (kvcache/kv_layout.h), which stays with it
 * while it is held or cached.
 */

#include "kvcache/prefix_index.h"

#include <stdint.h>

#define PAGE_POOL_NONE UINT32_MAX /* of slots; the same as KV_NO_SINK */

enum {
    _PAGE_POOL_E_SUCCESS,
    PAGE_POOL_E_FULL, /* nothing was taken */
};

typedef struct PageLink PageLink;

typedef struct PagePool {
    PrefixIndex *index;    /* borrowed; NULL: no page is cached */
    uint32_t *blank_pages; /* [n_blank], stack; owned */
    uint32_t *refs;        /* [n_pages] holders of each page; owned */
    PageLink *cached;      /* [n_pages + 1] list of the cached pages by last use; owned */
    uint32_t n_pages, n_blank;
    uint32_t n_free; /* blank and cached */

    uint32_t *free_tails; /* stack; owned */
    uint32_t n_tails, n_free_tails;

    uint32_t *free_sinks;   /* stack; owned */
    uint32_t *sink_of_page; /* [n_pages], PAGE_POOL_NONE: none; owned */
    uint32_t *page_of_sink; /* [n_sinks]; owned */
    PageLink *cached_sinks; /* [n_sinks + 1] list of the sinks of cached pages by last use; owned */
    uint32_t n_sinks, n_free_sinks;
} PagePool;

#define PAGE_POOL_NULL \
    { .blank_pages = NULL }

/* `index` (of n_pages, borrowed) may be NULL; n_sinks may be 0. -EINVAL (no pages or tails, an
 * index of another size), -ENOMEM. */
int page_pool_init(PagePool *pool, uint32_t n_pages, uint32_t n_tails, uint32_t n_sinks,
                   PrefixIndex *index);
void page_pool_deinit(PagePool *pool); /* every page and tail must have come back */

/* Takes n pages, one reference each, or none at all. Cached pages that must go leave the index. */
int page_pool_take(PagePool *pool, uint32_t n, uint32_t *pages);
/* Of a held page, or of a cached one that prefix_index_find gave: then it is held again. */
void page_pool_ref(PagePool *pool, uint32_t page);
/* Pages in the order of their sequence: of those that become cached together, later ones go before
 * those they build on. */
void page_pool_release(PagePool *pool, const uint32_t *pages, uint32_t n);

int page_pool_take_tail(PagePool *pool, uint32_t *tailp);
void page_pool_release_tail(PagePool *pool, uint32_t tail);

/* Gives a held page, which has none, a sink slot. If there is no free one, the least recently used
 * cached first page loses its slot and becomes blank. PAGE_POOL_E_FULL: held pages have them all.
 * The slot comes back by itself with the page. */
int page_pool_take_sink(PagePool *pool, uint32_t page);
/* The sink slot of a page, or PAGE_POOL_NONE. */
uint32_t page_pool_sink(const PagePool *pool, uint32_t page);

/* Pages that somebody holds. */
static inline uint32_t page_pool_used(const PagePool *pool) {
    return pool->n_pages - pool->n_free;
}

static inline uint32_t page_pool_cached(const PagePool *pool) {
    return pool->n_free - pool->n_blank;
}
