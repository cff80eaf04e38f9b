/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The one clock by which times are measured: it runs on steadily, whatever happens to the date.
 */

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t clock_ms(void) {
    return clock_ns() / 1000000u;
}

/* Seconds, for measurements; exact to the nanosecond for years of running. */
static inline double clock_s(void) {
    return (double)clock_ns() * 1e-9;
}
