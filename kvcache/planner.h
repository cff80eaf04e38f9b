/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Chooses the format of every (layer, side) so that the damage is least within a number of bytes.
 * Pure arithmetic on a table of damages: where they come from is kvcache/damage_table.h's, what
 * bytes a whole cache takes kvcache/store_planner.h's.
 *
 * Damages of different sides and layers add up. That is how the measured ones behave: their sum
 * predicts what all of them together do to within a factor of two, and orders plans rightly.
 *
 * The answer of planner_solve is exact for any finite damages, rising or not, convex or not. All
 * functions here are deterministic, and of equally good plans always give the same one.
 */

#include "kvcache/kv_layout.h"

/* Whether V may have more bits than K in a layer. Keys are the more sensitive side in every model
 * that was measured, also where norms say otherwise. */
typedef enum PlannerValues {
    PLANNER_VALUES_NARROWER, /* never */
    PLANNER_VALUES_PROVEN, /* where swapping the layer's two formats would surely do more damage: by
                              more than twice the standard error of the difference */
    PLANNER_VALUES_ANY,
} PlannerValues;

typedef struct PlannerProblem {
    uint32_t n_layers;                             /* 1 .. KV_LAYERS_MAX */
    const double (*damages)[KV_SIDES][KV_FORMATS]; /* [n_layers], finite; borrowed */
    const double (*errors)[KV_SIDES][KV_FORMATS];  /* [n_layers], their standard errors; borrowed;
                                                      NULL: they have none */
    uint64_t bytes[KV_SIDES][KV_FORMATS];          /* that a side of one layer takes */
    uint64_t bytes_max;                            /* that all layers may take, below 2^62 */
    bool menu[KV_FORMATS];                         /* formats that may be chosen; not all false */
    PlannerValues values;
} PlannerProblem;

typedef struct PlannerAnswer {
    double damage;
    uint64_t bytes;
} PlannerAnswer;

enum {
    _PLANNER_E_SUCCESS,
    PLANNER_E_FULL, /* the narrowest formats take `bytes` of the answer, more than bytes_max */
};

/* The least damage there is. 0, PLANNER_E_FULL or -ENOMEM. */
int planner_solve(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem);
/* The same pair in every layer, the best of those that fit; whether V may be the wider side all
 * layers together decide. 0 or PLANNER_E_FULL. */
int planner_solve_uniform(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem);

/* What a plan takes and does by the problem's tables. */
PlannerAnswer planner_judge(const KvPlan *plan, const PlannerProblem *problem);
/* Whether one layer may have this pair: its formats are on the menu, and `values` admits it. */
bool planner_admits(const PlannerProblem *problem, uint32_t layer, KvFormat k, KvFormat v);
/* Layers where V has more bits than K. */
uint32_t planner_count_wider_values(const KvPlan *plan, uint32_t n_layers);
