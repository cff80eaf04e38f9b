/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stacks of free ids, a count of holders per page, and two lists by last use: of the cached pages,
 * and of the sink slots among them, so that both a page and a slot are found without a search.
 *
 * Ids come out lowest first from a fresh pool, and of the blank ones the one released last is taken
 * first: its bytes are the likeliest to be in a processor's cache.
 */

#include "kvcache/page_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

_Static_assert(PAGE_POOL_NONE == KV_NO_SINK, "a page without a slot is a sequence without sinks");

/* lists of ids, in one array; entry n is the head */

struct PageLink {
    uint32_t next, prev;
};

static PageLink *list_new(uint32_t n) {
    PageLink *links = calloc((size_t)n + 1, sizeof(*links));

    if (links)
        links[n] = (PageLink){ .next = n, .prev = n };
    return links;
}

static void list_append(PageLink *links, uint32_t head, uint32_t id) {
    links[id] = (PageLink){ .next = head, .prev = links[head].prev };
    links[links[head].prev].next = id;
    links[head].prev = id;
}

static void list_remove(PageLink *links, uint32_t id) {
    links[links[id].prev].next = links[id].next;
    links[links[id].next].prev = links[id].prev;
}

static uint32_t *stack_new(uint32_t n) {
    uint32_t *stack = calloc((size_t)n + 1, sizeof(*stack));

    for (uint32_t i = 0; stack && i < n; i++)
        stack[i] = n - 1 - i;
    return stack;
}

/* life */

static int allocate(PagePool *pool, uint32_t n_pages, uint32_t n_tails, uint32_t n_sinks) {
    pool->blank_pages = stack_new(n_pages);
    pool->refs = calloc(n_pages, sizeof(*pool->refs));
    pool->cached = list_new(n_pages);
    pool->free_tails = stack_new(n_tails);
    pool->free_sinks = stack_new(n_sinks);
    pool->sink_of_page = calloc(n_pages, sizeof(*pool->sink_of_page));
    pool->page_of_sink = calloc((size_t)n_sinks + 1, sizeof(*pool->page_of_sink));
    pool->cached_sinks = list_new(n_sinks);
    if (!pool->blank_pages || !pool->refs || !pool->cached || !pool->free_tails ||
        !pool->free_sinks || !pool->sink_of_page || !pool->page_of_sink || !pool->cached_sinks)
        return -ENOMEM;
    for (uint32_t page = 0; page < n_pages; page++)
        pool->sink_of_page[page] = PAGE_POOL_NONE;
    return 0;
}

int page_pool_init(PagePool *pool, uint32_t n_pages, uint32_t n_tails, uint32_t n_sinks,
                   PrefixIndex *index) {
    int r;

    *pool = (PagePool)PAGE_POOL_NULL;
    if (!n_pages || !n_tails || (index && index->n_pages != n_pages))
        return -EINVAL;
    r = allocate(pool, n_pages, n_tails, n_sinks);
    if (r) {
        page_pool_deinit(pool);
        return r;
    }
    pool->index = index;
    pool->n_pages = pool->n_blank = pool->n_free = n_pages;
    pool->n_tails = pool->n_free_tails = n_tails;
    pool->n_sinks = pool->n_free_sinks = n_sinks;
    return 0;
}

void page_pool_deinit(PagePool *pool) {
    assert(pool->n_free == pool->n_pages);
    assert(pool->n_free_tails == pool->n_tails);
    free(pool->blank_pages);
    free(pool->refs);
    free(pool->cached);
    free(pool->free_tails);
    free(pool->free_sinks);
    free(pool->sink_of_page);
    free(pool->page_of_sink);
    free(pool->cached_sinks);
    *pool = (PagePool)PAGE_POOL_NULL;
}

static bool is_indexed(const PagePool *pool, uint32_t page) {
    return pool->index && prefix_index_has(pool->index, page);
}

/* between held, cached and blank; the caller keeps n_free */

static void make_blank(PagePool *pool, uint32_t page) {
    uint32_t sink = pool->sink_of_page[page];

    if (sink != PAGE_POOL_NONE)
        pool->free_sinks[pool->n_free_sinks++] = sink;
    pool->sink_of_page[page] = PAGE_POOL_NONE;
    pool->blank_pages[pool->n_blank++] = page;
}

static void add_to_cached(PagePool *pool, uint32_t page) {
    list_append(pool->cached, pool->n_pages, page);
    if (pool->sink_of_page[page] != PAGE_POOL_NONE)
        list_append(pool->cached_sinks, pool->n_sinks, pool->sink_of_page[page]);
}

static void remove_from_cached(PagePool *pool, uint32_t page) {
    list_remove(pool->cached, page);
    if (pool->sink_of_page[page] != PAGE_POOL_NONE)
        list_remove(pool->cached_sinks, pool->sink_of_page[page]);
}

static void evict(PagePool *pool, uint32_t page) {
    assert(!pool->refs[page]);
    remove_from_cached(pool, page);
    prefix_index_remove(pool->index, page);
    make_blank(pool, page);
}

/* pages */

int page_pool_take(PagePool *pool, uint32_t n, uint32_t *pages) {
    if (n > pool->n_free)
        return PAGE_POOL_E_FULL;
    for (uint32_t i = 0; i < n; i++) {
        if (!pool->n_blank)
            evict(pool, pool->cached[pool->n_pages].next);
        pages[i] = pool->blank_pages[--pool->n_blank];
        assert(!pool->refs[pages[i]] && !is_indexed(pool, pages[i]));
        pool->refs[pages[i]] = 1;
    }
    pool->n_free -= n;
    return 0;
}

void page_pool_ref(PagePool *pool, uint32_t page) {
    assert(page < pool->n_pages && (pool->refs[page] || is_indexed(pool, page)));
    if (!pool->refs[page]++) {
        remove_from_cached(pool, page);
        pool->n_free--;
    }
}

static void release_page(PagePool *pool, uint32_t page) {
    assert(page < pool->n_pages && pool->refs[page]);
    if (--pool->refs[page])
        return;
    pool->n_free++;
    if (is_indexed(pool, page))
        add_to_cached(pool, page);
    else
        make_blank(pool, page);
}

void page_pool_release(PagePool *pool, const uint32_t *pages, uint32_t n) {
    /* Backwards: of blank pages, taking them again gives the same order; of cached ones, the last
     * of the sequence is the least recently used. */
    for (uint32_t i = n; i-- > 0;)
        release_page(pool, pages[i]);
}

/* slots */

int page_pool_take_tail(PagePool *pool, uint32_t *tailp) {
    if (!pool->n_free_tails)
        return PAGE_POOL_E_FULL;
    *tailp = pool->free_tails[--pool->n_free_tails];
    return 0;
}

void page_pool_release_tail(PagePool *pool, uint32_t tail) {
    assert(tail < pool->n_tails && pool->n_free_tails < pool->n_tails);
    pool->free_tails[pool->n_free_tails++] = tail;
}

int page_pool_take_sink(PagePool *pool, uint32_t page) {
    uint32_t oldest = pool->cached_sinks[pool->n_sinks].next, sink;

    assert(page < pool->n_pages && pool->refs[page]);
    assert(pool->sink_of_page[page] == PAGE_POOL_NONE);
    if (!pool->n_free_sinks && oldest != pool->n_sinks)
        evict(pool, pool->page_of_sink[oldest]);
    if (!pool->n_free_sinks)
        return PAGE_POOL_E_FULL;
    sink = pool->free_sinks[--pool->n_free_sinks];
    pool->sink_of_page[page] = sink;
    pool->page_of_sink[sink] = page;
    return 0;
}

uint32_t page_pool_sink(const PagePool *pool, uint32_t page) {
    assert(page < pool->n_pages);
    return pool->sink_of_page[page];
}
