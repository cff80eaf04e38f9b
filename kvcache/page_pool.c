/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two stacks of free ids and a count of holders per page. Ids come out lowest first from a fresh
 * pool, and the one released last is taken first: its bytes are the likeliest to be in a cache.
 */

#include "kvcache/page_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static uint32_t *stack_new(uint32_t n) {
    uint32_t *stack = calloc(n, sizeof(*stack));

    for (uint32_t i = 0; stack && i < n; i++)
        stack[i] = n - 1 - i;
    return stack;
}

int page_pool_init(PagePool *pool, uint32_t n_pages, uint32_t n_tails) {
    *pool = (PagePool)PAGE_POOL_NULL;
    if (!n_pages || !n_tails)
        return -EINVAL;
    pool->free_pages = stack_new(n_pages);
    pool->refs = calloc(n_pages, sizeof(*pool->refs));
    pool->free_tails = stack_new(n_tails);
    if (!pool->free_pages || !pool->refs || !pool->free_tails) {
        page_pool_deinit(pool);
        return -ENOMEM;
    }
    pool->n_pages = pool->n_free = n_pages;
    pool->n_tails = pool->n_free_tails = n_tails;
    return 0;
}

void page_pool_deinit(PagePool *pool) {
    assert(pool->n_free == pool->n_pages);
    assert(pool->n_free_tails == pool->n_tails);
    free(pool->free_pages);
    free(pool->refs);
    free(pool->free_tails);
    *pool = (PagePool)PAGE_POOL_NULL;
}

int page_pool_take(PagePool *pool, uint32_t n, uint32_t *pages) {
    if (n > pool->n_free)
        return PAGE_POOL_E_FULL;
    for (uint32_t i = 0; i < n; i++) {
        pages[i] = pool->free_pages[--pool->n_free];
        assert(!pool->refs[pages[i]]);
        pool->refs[pages[i]] = 1;
    }
    return 0;
}

void page_pool_ref(PagePool *pool, uint32_t page) {
    assert(page < pool->n_pages && pool->refs[page]);
    pool->refs[page]++;
}

void page_pool_release(PagePool *pool, const uint32_t *pages, uint32_t n) {
    /* Backwards, so that taking them again gives the same order. */
    for (uint32_t i = n; i-- > 0;) {
        assert(pages[i] < pool->n_pages && pool->refs[pages[i]]);
        if (!--pool->refs[pages[i]])
            pool->free_pages[pool->n_free++] = pages[i];
    }
}

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
