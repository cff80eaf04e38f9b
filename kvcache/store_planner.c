/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store's bytes are a sum over (layer, side), and a rest that depends only on whether anything is
 * quantized at all: sinks, roundings and transforms are there or not. So f16 throughout is looked
 * at first, and if it does not fit, the planner divides what the rest leaves.
 */
#include "kvcache/store_planner.h"

#include "kvcache/kv_format.h"
#include "util/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BYTES_MAX (UINT64_MAX / 4) /* sums of costs stay below 2^64 */

bool store_planner_quantizes(const KvGeometry *g) {
    return g->head_dim % 8 == 0 && g->head_dim <= KV_HEAD_DIM_MAX;
}

/* Formats that this geometry cannot have are off the menu. */
static void cost_regions(PlannerProblem *p, const KvGeometry *g, uint64_t n_pages,
                         uint64_t align_bytes) {
    p->n_layers = g->n_layers;
    for (KvFormat format = 0; format < KV_FORMATS; format++) {
        if (kv_format_quantizes(format) && !store_planner_quantizes(g)) {
            p->menu[format] = false;
            continue;
        }
        for (KvSide side = 0; side < KV_SIDES; side++) {
            uint64_t bytes = kv_block_bytes(g, format, side) * g->n_kv_heads * n_pages;

            p->bytes[side][format] = (bytes + align_bytes - 1) / align_bytes * align_bytes;
        }
    }
}

void store_planner_cost_page(PlannerProblem *problem, const KvGeometry *geometry) {
    cost_regions(problem, geometry, 1, 1);
}

static void fill_plan(KvPlan *plan, uint32_t n_layers, KvFormat format) {
    memset(plan, 0, sizeof(*plan));
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            plan->formats[layer][side] = format;
}

/* All of a store's bytes with one format throughout, and those of them that are not regions'. */
static int measure(const StoreDemand *d, KvFormat format, KvPlan *plan, uint64_t *bytesp,
                   uint64_t *restp) {
    CLEANUP(free) KvStore *store = malloc(sizeof(*store));
    int r;

    if (!store)
        return -ENOMEM;
    fill_plan(plan, d->geometry.n_layers, format);
    r = kv_store_layout(store, &(KvShape){ .geometry = d->geometry,
                                           .plan = plan,
                                           .n_pages = (uint32_t)d->n_pages,
                                           .n_tails = d->n_tails,
                                           .n_sinks = d->n_sinks });
    if (r)
        return r;
    *bytesp = store->size_bytes;
    *restp = store->size_bytes - store->tails_offset; /* regions come first */
    return store->size_bytes > BYTES_MAX ? -EOVERFLOW : 0;
}

static int fit_quantized(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                         const StoreDemand *d, PlannerFn fn, void *userdata) {
    PlannerProblem p = *problem;
    uint64_t bytes, rest;
    int r;

    r = measure(d, KV_FORMAT_2, plan, &bytes, &rest);
    if (r)
        return r;
    cost_regions(&p, &d->geometry, d->n_pages, KV_BLOCK_ALIGN_BYTES);
    p.bytes_max = d->bytes_max > rest ? d->bytes_max - rest : 0;
    if (p.bytes_max > BYTES_MAX)
        p.bytes_max = BYTES_MAX;
    r = fn ? fn(plan, answer, &p, userdata) : planner_solve(plan, answer, &p);
    answer->bytes += rest;
    return r;
}

static bool menu_quantizes(const PlannerProblem *p) {
    for (KvFormat format = 0; format < KV_FORMATS; format++)
        if (p->menu[format] && kv_format_quantizes(format))
            return true;
    return false;
}

int store_planner_fit(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                      const StoreDemand *d, PlannerFn fn, void *userdata) {
    uint64_t bytes, rest;
    int r;

    r = measure(d, KV_FORMAT_F16, plan, &bytes, &rest);
    if (r)
        return r;
    if (problem->menu[KV_FORMAT_F16] && bytes <= d->bytes_max) {
        *answer = (PlannerAnswer){ .bytes = bytes };
        for (uint32_t layer = 0; layer < d->geometry.n_layers; layer++)
            for (KvSide side = 0; side < KV_SIDES; side++)
                answer->damage += problem->damages[layer][side][KV_FORMAT_F16];
        return 0;
    }
    r = PLANNER_E_FULL;
    answer->bytes = UINT64_MAX;
    if (menu_quantizes(problem) && store_planner_quantizes(&d->geometry))
        r = fit_quantized(plan, answer, problem, d, fn, userdata);
    /* Of a few pages, f16 takes less than what rounding needs to know. */
    if (r == PLANNER_E_FULL && (problem->menu[KV_FORMAT_F16] || answer->bytes == UINT64_MAX) &&
        bytes < answer->bytes)
        answer->bytes = bytes;
    return r;
}
