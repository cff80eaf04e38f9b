/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The allocator of "Quantize What Counts" (arXiv 2502.15075), as its authors' program has it, to
 * the last tie: bits for the keys and values of every layer, from the norms of W_K and W_V alone.
 *
 * A matrix of norm w at b bits is taken to err by w^2 4^-b. All begin at the narrowest width; while
 * a step to the next width fits the budget, the one is taken that saves most a bit. Matrices are
 * looked at as K of layer 0, V of layer 0, K of layer 1, ..., and one replaces another only if it
 * saves more by at least PAPER_TOLERANCE, in the norms' own units squared; so do sums of bits stay
 * within the budget. Bits are those of codes, without metadata, and may be fractions.
 */

#include "kvcache/kv_layout.h"

#define PAPER_TOLERANCE 1e-6
#define PAPER_WIDTHS_MAX 16

typedef struct PaperProblem {
    uint32_t n_layers;               /* 1 .. KV_LAYERS_MAX */
    const double *norms[KV_SIDES];   /* [n_layers] of W_K, of W_V; not negative; borrowed */
    double widths[PAPER_WIDTHS_MAX]; /* [n_widths], rising */
    uint32_t n_widths;
    double budget; /* mean bits */
} PaperProblem;

/* Bits of K and V, in each layer; a budget below the narrowest width gives that width. */
typedef struct PaperPlan {
    double bits[KV_SIDES][KV_LAYERS_MAX];
} PaperPlan;

void paper_plan_make(PaperPlan *out, const PaperProblem *problem);
