/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Large memory that is read in order: in huge pages, where the system has some, it takes the
 * processor fewer look-ups of addresses.
 */

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define HUGE_PAGES_ALIGN_BYTES 64 /* of memory that is smaller than a huge page */

/* Memory that free() takes back; NULL if there is none. What is in it is undefined. */
static inline void *huge_pages_alloc(size_t size_bytes) {
    bool is_large = size_bytes >= HUGE_PAGE_BYTES;
    void *memory = NULL;

    if (posix_memalign(&memory, is_large ? HUGE_PAGE_BYTES : HUGE_PAGES_ALIGN_BYTES, size_bytes))
        return NULL;
    if (is_large)
        madvise(memory, size_bytes, MADV_HUGEPAGE); /* a wish: the system may have none */
    return memory;
}
