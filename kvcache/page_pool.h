/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which pages and tail slots are taken, and by how many. Host bookkeeping only: the bytes are the
 * store's. One thread, the engine's. Nothing allocates after init.
 */

#include <stdint.h>

enum {
    _PAGE_POOL_E_SUCCESS,
    PAGE_POOL_E_FULL, /* nothing was taken */
};

typedef struct PagePool {
    uint32_t *free_pages; /* stack of free ids; owned */
    uint32_t *refs;       /* [n_pages] holders of each page; owned */
    uint32_t *free_tails; /* stack; owned */
    uint32_t n_pages, n_free;
    uint32_t n_tails, n_free_tails;
} PagePool;

#define PAGE_POOL_NULL \
    { .free_pages = NULL }

int page_pool_init(PagePool *pool, uint32_t n_pages, uint32_t n_tails);
void page_pool_deinit(PagePool *pool); /* every page and tail must have come back */

/* Takes n pages, one reference each, or none at all. */
int page_pool_take(PagePool *pool, uint32_t n, uint32_t *pages);
void page_pool_ref(PagePool *pool, uint32_t page);
void page_pool_release(PagePool *pool, const uint32_t *pages, uint32_t n);

int page_pool_take_tail(PagePool *pool, uint32_t *tailp);
void page_pool_release_tail(PagePool *pool, uint32_t tail);

static inline uint32_t page_pool_used(const PagePool *pool) {
    return pool->n_pages - pool->n_free;
}
