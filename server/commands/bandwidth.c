/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks of 1 MiB, claimed one by one like those of a product, so that a slow thread does not set
 * the rate of all. How many lines are under way at once decides the rate of a single core, and no
 * one way of asking for them is the best everywhere: each task is read in one stream or in several
 * side by side, with the lines ahead asked for early, and the best rate counts.
 */
#include "server/commands/bandwidth.h"

#include "util/clock.h"
#include "util/huge_pages.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY_BYTES_MIN ((size_t)512 << 20)
#define TASK_BYTES ((size_t)1 << 20)
#define LINE_BYTES 64
#define PREFETCH_BYTES 4096 /* of all streams together */
#define ROUNDS_MIN 4
#define ROUNDS_S 0.25

typedef uint64_t Line __attribute__((__vector_size__(LINE_BYTES)));

typedef struct ReadRegion {
    const uint8_t *buffer;
    size_t stream_bytes;  /* a task's bytes over its streams */
    _Atomic uint64_t sum; /* keeps the loads from being dropped */
} ReadRegion;

static void read_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    ReadRegion *region = arg;
    const uint8_t *task = region->buffer + i_task * TASK_BYTES;
    size_t stream = region->stream_bytes, ahead = PREFETCH_BYTES * stream / TASK_BYTES;
    Line a = { 0 }, b = { 0 };

    (void)i_thread;
    for (size_t at = 0; at < stream; at += 2 * LINE_BYTES) {
        for (const uint8_t *from = task + at; from < task + TASK_BYTES; from += stream) {
            __builtin_prefetch(from + ahead);
            __builtin_prefetch(from + ahead + LINE_BYTES);
            a ^= *(const Line *)(const void *)from;
            b ^= *(const Line *)(const void *)(from + LINE_BYTES);
        }
    }
    a ^= b;
    for (uint32_t i = 0; i < LINE_BYTES / sizeof(uint64_t); i++)
        atomic_fetch_add_explicit(&region->sum, a[i], memory_order_relaxed);
}

static double best_s(CpuTeam *team, ReadRegion *region, uint32_t n_tasks) {
    double best = 0, begin_s = clock_s();

    for (uint32_t i = 0; i < ROUNDS_MIN || clock_s() - begin_s < ROUNDS_S; i++) {
        double start_s = clock_s(), took_s;

        cpu_team_run(team, read_task, region, n_tasks);
        took_s = clock_s() - start_s;
        if (i == 0 || took_s < best)
            best = took_s;
    }
    return best;
}

size_t bandwidth_memory_bytes(void) {
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t twice = l3 > 0 ? 2 * (size_t)l3 : 0;

    return twice > MEMORY_BYTES_MIN ? twice : MEMORY_BYTES_MIN;
}

int bandwidth_measure(CpuTeam *team, size_t size_bytes, double *bytes_per_sp, Reason *why) {
    static const uint32_t streams[] = { 1, 2, 4 };
    size_t n_tasks = (size_bytes + TASK_BYTES - 1) / TASK_BYTES;
    CLEANUP(free) uint8_t *buffer = NULL;

    if (n_tasks == 0 || n_tasks > UINT32_MAX)
        return reason_set(why, -EINVAL, "cannot measure bandwidth with %zu bytes", size_bytes);
    buffer = huge_pages_alloc(n_tasks * TASK_BYTES); /* a floor should be the best there is */
    if (!buffer)
        return reason_set(why, -ENOMEM, "no memory for %zu bytes to measure bandwidth with",
                          size_bytes);
    memset(buffer, 1, n_tasks * TASK_BYTES);
    *bytes_per_sp = 0;
    for (size_t i = 0; i < sizeof(streams) / sizeof(*streams); i++) {
        ReadRegion region = { .buffer = buffer, .stream_bytes = TASK_BYTES / streams[i] };
        double rate = (double)(n_tasks * TASK_BYTES) / best_s(team, &region, (uint32_t)n_tasks);

        *bytes_per_sp = rate > *bytes_per_sp ? rate : *bytes_per_sp;
    }
    return 0;
}
