/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tasks of 1 MiB, claimed one by one like those of a product, so that a slow thread does not set
 * the rate of all. The lines ahead are asked for early, as the product's kernels do.
 */

#include "cpu/bandwidth.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define TASK_BYTES ((size_t)1 << 20)
#define LINE_BYTES 64
#define PREFETCH_BYTES 4096
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define ROUNDS 12

typedef uint64_t Line __attribute__((__vector_size__(LINE_BYTES)));

typedef struct ReadRegion {
    const uint8_t *buffer;
    _Atomic uint64_t sum; /* keeps the loads from being dropped */
} ReadRegion;

static void read_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    (void)i_thread;
    ReadRegion *region = arg;
    const uint8_t *from = region->buffer + i_task * TASK_BYTES;
    Line a = { 0 }, b = { 0 };
    for (size_t i = 0; i < TASK_BYTES; i += 2 * LINE_BYTES) {
        __builtin_prefetch(from + i + PREFETCH_BYTES);
        __builtin_prefetch(from + i + PREFETCH_BYTES + LINE_BYTES);
        a ^= *(const Line *)(const void *)(from + i);
        b ^= *(const Line *)(const void *)(from + i + LINE_BYTES);
    }
    a ^= b;
    for (uint32_t i = 0; i < LINE_BYTES / sizeof(uint64_t); i++)
        atomic_fetch_add_explicit(&region->sum, a[i], memory_order_relaxed);
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int bandwidth_measure(Team *team, size_t size_bytes, double *bytes_per_sp, Reason *why) {
    size_t n_tasks = size_bytes / TASK_BYTES;
    if (n_tasks == 0 || n_tasks > UINT32_MAX)
        return reason_set(why, -EINVAL, "cannot measure bandwidth with %zu bytes", size_bytes);
    size_t padded = (size_bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    CLEANUP(free) uint8_t *buffer = aligned_alloc(HUGE_PAGE_BYTES, padded);
    if (!buffer)
        return reason_set(why, -ENOMEM, "no memory for %zu bytes to measure bandwidth with",
                          padded);
    madvise(buffer, padded, MADV_HUGEPAGE); /* a floor should be the best there is */
    memset(buffer, 1, padded);

    ReadRegion region = { .buffer = buffer };
    double best_s = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        double start_s = now_s();
        team_run(team, read_task, &region, (uint32_t)n_tasks);
        double took_s = now_s() - start_s;
        if (i == 0 || took_s < best_s)
            best_s = took_s;
    }
    *bytes_per_sp = (double)(n_tasks * TASK_BYTES) / best_s;
    return 0;
}
