/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Formats as RateQuant (arXiv 2605.06675) chooses them: a law of distortion, D(b) = alpha beta^-b,
 * is fitted to each quantizer, here to keys and to values, whose beta is each side's own and whose
 * alpha each layer's; reverse water-filling then gives every (layer, side) the bits at which one
 * more bit would save equally much anywhere. Those are no whole formats: each is rounded down to
 * one of the menu, and what bytes are left go where the law says that they save most.
 *
 * Compared with planner_solve it believes the law, not the single figures.
 */

#include "kvcache/planner.h"

typedef struct RatequantLaw {
    double log_alpha[KV_LAYERS_MAX][KV_SIDES]; /* [n_layers] used */
    double log_beta[KV_SIDES];                 /* of a bit */
} RatequantLaw;

/* beta as kvcache/distortion_law.h fits it; alpha by the mean of the logarithms over the formats
 * below 16 bits, where zeros of the table count as next to nothing. */
void ratequant_fit(RatequantLaw *out, const double (*damages)[KV_SIDES][KV_FORMATS],
                   uint32_t n_layers);
/* 0 or PLANNER_E_FULL, as planner_solve; the answer's damage is by the problem's table. */
int ratequant_solve(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem);
