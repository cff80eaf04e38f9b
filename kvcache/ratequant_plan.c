/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/ratequant_plan.h"

#include "kvcache/distortion_law.h"
#include "kvcache/kv_format.h"

#include <math.h>
#include <string.h>

#define TINY 1e-30      /* a damage's logarithm must be finite */
#define LOG_BETA_MIN .1 /* where figures do not fall with bits */
#define BISECTIONS 200

static double bits_of(KvFormat format) {
    return kv_formats[format].bits;
}

static double log_of(double damage) {
    return log(damage > TINY ? damage : TINY);
}

/* the law */

/* The side's beta, and with it each layer's alpha. */
static void fit_side(RatequantLaw *law, const double (*damages)[KV_SIDES][KV_FORMATS],
                     uint32_t n_layers, KvSide side) {
    DistortionLaw fitted = distortion_law_fit(damages, n_layers, side);

    law->log_beta[side] = fmax(LOG_BETA_MIN, fitted.n ? log(fitted.beta) : 0);
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        double sum = 0;

        for (KvFormat f = KV_FORMAT_8; f < KV_FORMATS; f++)
            sum += log_of(damages[layer][side][f]) + law->log_beta[side] * bits_of(f);
        law->log_alpha[layer][side] = sum / (KV_FORMATS - KV_FORMAT_8);
    }
}

void ratequant_fit(RatequantLaw *out, const double (*damages)[KV_SIDES][KV_FORMATS],
                   uint32_t n_layers) {
    for (KvSide side = 0; side < KV_SIDES; side++)
        fit_side(out, damages, n_layers, side);
}

/* 16 bits do no damage, whatever the law would say. */
static double damage_at(const RatequantLaw *law, uint32_t layer, KvSide side, KvFormat format) {
    return kv_format_quantizes(format)
               ? exp(law->log_alpha[layer][side] - law->log_beta[side] * bits_of(format))
               : 0;
}

/* water-filling */

/* The bits at which one more saves exp(log_level). */
static double water_bits(const RatequantLaw *law, uint32_t layer, KvSide side, double log_level) {
    return (law->log_alpha[layer][side] + log(law->log_beta[side]) - log_level) /
           law->log_beta[side];
}

/* The widest format of the menu with no more bits; the narrowest, if all have more. */
static KvFormat round_down(const PlannerProblem *p, double bits) {
    KvFormat best = KV_FORMATS;

    for (KvFormat f = 0; f < KV_FORMATS; f++)
        if (p->menu[f] && (best == KV_FORMATS || bits_of(best) > bits))
            best = f;
    return best;
}

static void fill_at_level(KvPlan *plan, const PlannerProblem *p, const RatequantLaw *law,
                          double log_level) {
    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        KvFormat k = round_down(p, water_bits(law, layer, KV_SIDE_K, log_level));
        KvFormat v = round_down(p, water_bits(law, layer, KV_SIDE_V, log_level));

        plan->formats[layer][KV_SIDE_K] = k;
        plan->formats[layer][KV_SIDE_V] = planner_admits(p, layer, k, v) ? v : k;
    }
}

/* The lowest level whose plan fits. */
static void fill_water(KvPlan *plan, const PlannerProblem *p, const RatequantLaw *law) {
    double low = -200, high = 200;

    for (int i = 0; i < BISECTIONS; i++) {
        double level = (low + high) / 2;

        fill_at_level(plan, p, law, level);
        if (planner_judge(plan, p).bytes > p->bytes_max)
            low = level;
        else
            high = level;
    }
    fill_at_level(plan, p, law, high);
}

/* what is left */

typedef struct Step {
    uint32_t layer;
    KvSide side;
    KvFormat to;
    double gain; /* a byte; 0: there is none */
} Step;

/* The next wider format of the menu, or the same. */
static KvFormat next_wider(const PlannerProblem *p, KvFormat format) {
    KvFormat f = format;

    while (f-- > 0)
        if (p->menu[f])
            return f;
    return format;
}

static Step step_of(const KvPlan *plan, const PlannerProblem *p, const RatequantLaw *law,
                    uint32_t layer, KvSide side, uint64_t bytes_left) {
    KvFormat from = plan->formats[layer][side], to = next_wider(p, from);
    KvFormat k = side == KV_SIDE_K ? to : plan->formats[layer][KV_SIDE_K];
    KvFormat v = side == KV_SIDE_V ? to : plan->formats[layer][KV_SIDE_V];
    uint64_t bytes = p->bytes[side][to] - p->bytes[side][from];

    if (to == from || bytes > bytes_left || !planner_admits(p, layer, k, v))
        return (Step){ .gain = 0 };
    return (Step){ .layer = layer,
                   .side = side,
                   .to = to,
                   .gain = (damage_at(law, layer, side, from) - damage_at(law, layer, side, to)) /
                           (double)bytes };
}

static void spend_rest(KvPlan *plan, const PlannerProblem *p, const RatequantLaw *law) {
    Step best;

    do {
        uint64_t left = p->bytes_max - planner_judge(plan, p).bytes;

        best = (Step){ .gain = 0 };
        for (uint32_t layer = 0; layer < p->n_layers; layer++)
            for (KvSide side = 0; side < KV_SIDES; side++) {
                Step step = step_of(plan, p, law, layer, side, left);

                if (step.gain > best.gain)
                    best = step;
            }
        if (best.gain > 0)
            plan->formats[best.layer][best.side] = best.to;
    } while (best.gain > 0);
}

int ratequant_solve(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem) {
    RatequantLaw law;

    memset(plan, 0, sizeof(*plan));
    ratequant_fit(&law, problem->damages, problem->n_layers);
    fill_water(plan, problem, &law);
    *answer = planner_judge(plan, problem);
    if (answer->bytes > problem->bytes_max)
        return PLANNER_E_FULL;
    spend_rest(plan, problem, &law);
    *answer = planner_judge(plan, problem);
    return 0;
}
