/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Formats for a whole cache: which plan does least damage where so many pages, tails and first
 * tokens are to fit into so many bytes. It counts what kv_store_layout places, to the byte:
 * metadata, alignment, tails, sinks, and what rounding needs to know of the model.
 */

#include "kvcache/planner.h"

/* How a plan is chosen: planner_solve, or another one's; planner_solve's contract. `userdata` is
 * for whoever wrote it. */
typedef int (*PlannerFn)(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                         void *userdata);

typedef struct StoreDemand {
    KvGeometry geometry;
    uint64_t n_pages; /* that must fit; at least 1, below UINT32_MAX */
    uint32_t n_tails, n_sinks;
    uint64_t bytes_max;
} StoreDemand;

/* Whether anything of this geometry can be stored below 16 bits. */
bool store_planner_quantizes(const KvGeometry *geometry);

/* Fills `problem`'s bytes for one page, for plans of so many bits an element. */
void store_planner_cost_page(PlannerProblem *problem, const KvGeometry *geometry);

/* `problem` has damages, menu and values; layers, bytes and bytes_max are the demand's. f16
 * throughout is taken wherever it is on the menu and fits. `fn` NULL: planner_solve. The answer's
 * bytes are the whole store's, also with PLANNER_E_FULL: what it takes at the narrowest. 0,
 * PLANNER_E_FULL, -EINVAL (geometry), -EOVERFLOW, -ENOMEM. */
int store_planner_fit(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                      const StoreDemand *demand, PlannerFn fn, void *userdata);
