/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Fresh random input for tests. The seed is printed by random_start, and a failure is repeated with
 * KVASIR_TEST_SEED in the environment.
 */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct Random {
    uint64_t state;
} Random;

static inline uint64_t random_u64(Random *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15; /* splitmix64 */

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static inline Random random_start(const char *what) {
    const char *given = getenv("KVASIR_TEST_SEED");
    struct timespec now;
    uint64_t seed;

    clock_gettime(CLOCK_REALTIME, &now);
    seed = given ? strtoull(given, NULL, 10)
                 : (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    printf("%s: KVASIR_TEST_SEED=%llu\n", what, (unsigned long long)seed);
    return (Random){ .state = seed };
}

/* 0 <= result < n */
static inline uint32_t random_below(Random *r, uint32_t n) {
    return (uint32_t)((random_u64(r) >> 32) * n >> 32);
}

static inline double random_uniform(Random *r) {
    return (double)(random_u64(r) >> 11) * 0x1p-53;
}

static inline float random_normal(Random *r) {
    double u = 1 - random_uniform(r), v = random_uniform(r);

    return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

static inline void random_normals(Random *r, float *out, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = random_normal(r);
}

/* ||out - ref|| / ||ref|| */
static inline double relative_error(const float *out, const float *ref, size_t n) {
    double diff = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        diff += ((double)out[i] - ref[i]) * ((double)out[i] - ref[i]);
        norm += (double)ref[i] * ref[i];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}
