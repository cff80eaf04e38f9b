/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums and differences are formed as in the reference, in doubles and in its order: with a
 * tolerance that is absolute, who wins a near tie depends on the last bit.
 */
#include "kvcache/paper_plan.h"

#include <math.h>

typedef struct Allocation {
    const PaperProblem *problem;
    uint32_t at[KV_LAYERS_MAX * KV_SIDES]; /* index of each matrix' width */
    double used, total;                    /* bits of all matrices */
} Allocation;

static uint32_t matrices(const Allocation *a) {
    return a->problem->n_layers * KV_SIDES;
}

/* To the next width; there must be one. */
static double step_bits(const Allocation *a, uint32_t matrix) {
    const double *widths = &a->problem->widths[a->at[matrix]];

    return widths[1] - widths[0];
}

static bool can_step(const Allocation *a, uint32_t matrix) {
    return a->at[matrix] + 1 < a->problem->n_widths &&
           a->used + step_bits(a, matrix) - a->total <= PAPER_TOLERANCE;
}

static double gain_of_step(const Allocation *a, uint32_t matrix) {
    const double *widths = &a->problem->widths[a->at[matrix]];
    double norm = a->problem->norms[matrix % KV_SIDES][matrix / KV_SIDES];
    double now = norm * norm * pow(2, -2 * widths[0]);
    double then = norm * norm * pow(2, -2 * widths[1]);

    return (now - then) / step_bits(a, matrix);
}

/* The matrix whose step saves most a bit, or as many as there are: none fits. */
static uint32_t best_step(const Allocation *a) {
    uint32_t best = matrices(a);
    double best_gain = -1;

    for (uint32_t i = 0; i < matrices(a); i++) {
        double gain = can_step(a, i) ? gain_of_step(a, i) : -1;

        if (gain > best_gain + PAPER_TOLERANCE) {
            best_gain = gain;
            best = i;
        }
    }
    return best;
}

void paper_plan_make(PaperPlan *out, const PaperProblem *problem) {
    Allocation a = { .problem = problem };

    a.used = matrices(&a) * problem->widths[0];
    a.total = matrices(&a) * problem->budget;
    while (a.used + PAPER_TOLERANCE < a.total) {
        uint32_t best = best_step(&a);

        if (best == matrices(&a))
            break;
        a.used += step_bits(&a, best);
        a.at[best]++;
    }
    for (uint32_t i = 0; i < matrices(&a); i++)
        out->bits[i % KV_SIDES][i / KV_SIDES] = problem->widths[a.at[i]];
}
