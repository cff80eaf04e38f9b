/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long planning takes: 80 layers, two sides, six formats, at budgets of 2.5 to 8 bits, for
 * damages of several kinds; the slowest of them last. Times are this thread's processor time.
 */
#include "kvcache/store_planner.h"

#include "kvcache/kv_format.h"
#include "tests/unit/random.h"

#include <stdio.h>
#include <time.h>

#define N_LAYERS 80

static double damages[N_LAYERS][KV_SIDES][KV_FORMATS];

static double now_ms(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

typedef enum Kind { KIND_LAW, KIND_NOISY_LAW, KIND_EQUAL, KIND_WILD, KINDS } Kind;

static const char *const kind_names[KINDS] = { "a law of its own in each layer", "with noise",
                                               "the same in each layer", "random numbers" };

static void fill(Random *rng, Kind kind) {
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++) {
            double alpha = kind == KIND_EQUAL ? 1 + side : exp(random_normal(rng));

            for (KvFormat f = 0; f < KV_FORMATS; f++) {
                double law = alpha * pow(4, -(double)kv_formats[f].bits);
                double noise = kind == KIND_NOISY_LAW ? exp(0.3 * random_normal(rng)) : 1;

                damages[layer][side][f] = kind == KIND_WILD        ? random_uniform(rng)
                                          : kv_format_quantizes(f) ? law * noise
                                                                   : 0;
            }
        }
}

static double time_of(StoreDemand *demand, double bits) {
    PlannerProblem p = { .damages = (const double(*)[KV_SIDES][KV_FORMATS])damages,
                         .values = PLANNER_VALUES_PROVEN };
    PlannerAnswer answer;
    KvPlan plan;
    double begin_ms;

    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++)
        p.menu[f] = true;
    demand->bytes_max =
        (uint64_t)(bits / 8 * 2 * N_LAYERS * demand->geometry.n_kv_heads *
                   demand->geometry.head_dim * KV_PAGE_TOKENS * (double)demand->n_pages);
    begin_ms = now_ms();
    if (store_planner_fit(&plan, &answer, &p, demand, NULL, NULL))
        return 0;
    return now_ms() - begin_ms;
}

int main(void) {
    Random rng = random_start("planner");
    StoreDemand demand = { .geometry = { .n_layers = N_LAYERS, .n_kv_heads = 8, .head_dim = 128 },
                           .n_pages = 2049,
                           .n_tails = 1,
                           .n_sinks = 2 };
    double slowest = 0;

    for (Kind kind = 0; kind < KINDS; kind++) {
        printf("%-32s", kind_names[kind]);
        for (double bits = 2.5; bits <= 8; bits += 0.5) {
            double ms;

            fill(&rng, kind);
            ms = time_of(&demand, bits);
            printf(" %6.2f", ms);
            slowest = ms > slowest ? ms : slowest;
        }
        printf(" ms\n");
    }
    printf("slowest %.2f ms\n", slowest);
    return 0;
}
