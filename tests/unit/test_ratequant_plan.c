/* SPDX-License-Identifier: Apache-2.0 */
/* The fitted law, and plans made by it. */
#include "kvcache/ratequant_plan.h"

#include "kvcache/kv_format.h"
#include "tests/unit/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_LAYERS 6

static Random rng;
static double damages[N_LAYERS][KV_SIDES][KV_FORMATS];
static const double betas[KV_SIDES] = { 3.6, 5.3 };

/* Damages that are a law, with alpha of their own in each layer. */
static void fill_law(double alphas[N_LAYERS][KV_SIDES]) {
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++) {
            alphas[layer][side] = exp(2 * random_normal(&rng));
            for (KvFormat f = 0; f < KV_FORMATS; f++)
                damages[layer][side][f] =
                    kv_format_quantizes(f)
                        ? alphas[layer][side] * pow(betas[side], -(double)kv_formats[f].bits)
                        : 0;
        }
}

static PlannerProblem problem_of(uint64_t bits_max) {
    PlannerProblem p = { .n_layers = N_LAYERS,
                         .bytes_max = bits_max,
                         .values = PLANNER_VALUES_ANY };

    p.damages = (const double(*)[KV_SIDES][KV_FORMATS])damages;
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++) {
        p.menu[f] = true;
        for (KvSide side = 0; side < KV_SIDES; side++)
            p.bytes[side][f] = kv_formats[f].bits;
    }
    return p;
}

static void test_a_law_is_found_again(void **state) {
    double alphas[N_LAYERS][KV_SIDES];
    RatequantLaw law;

    (void)state;
    fill_law(alphas);
    ratequant_fit(&law, (const double(*)[KV_SIDES][KV_FORMATS])damages, N_LAYERS);
    for (KvSide side = 0; side < KV_SIDES; side++) {
        assert_true(fabs(law.log_beta[side] - log(betas[side])) < 1e-9);
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
            assert_true(fabs(law.log_alpha[layer][side] - log(alphas[layer][side])) < 1e-9);
    }
}

/* Damages that are a law, and widths a bit apart: then it can lose to the exact plan by rounding
 * alone. */
static void test_plans_fit_and_are_near_the_best(void **state) {
    double alphas[N_LAYERS][KV_SIDES], lost = 0;
    int n = 0;

    (void)state;
    for (int i = 0; i < 100; i++) {
        PlannerProblem p = problem_of(2 * 2 * N_LAYERS + random_below(&rng, 2 * 2 * N_LAYERS));
        PlannerAnswer answer, best;
        KvPlan plan;

        for (KvFormat f = 0; f < KV_FORMATS; f++)
            p.menu[f] = f >= KV_FORMAT_4;
        fill_law(alphas);
        assert_int_equal(ratequant_solve(&plan, &answer, &p), 0);
        assert_true(answer.bytes <= p.bytes_max);
        assert_int_equal(planner_solve(&plan, &best, &p), 0);
        assert_true(best.damage <= answer.damage + 1e-12);
        lost += log(answer.damage / best.damage);
        n++;
    }
    assert_true(lost / n < log(1.1));
}

static void test_too_few_bytes(void **state) {
    PlannerProblem p = problem_of(2 * 2 * N_LAYERS - 1);
    double alphas[N_LAYERS][KV_SIDES];
    PlannerAnswer answer;
    KvPlan plan;

    (void)state;
    fill_law(alphas);
    assert_int_equal(ratequant_solve(&plan, &answer, &p), PLANNER_E_FULL);
    assert_int_equal(answer.bytes, 2 * 2 * N_LAYERS);
}

/* Whatever figures there are: zeros, figures that rise with bits, huge ones. */
static void test_figures_that_are_no_law(void **state) {
    (void)state;
    for (int i = 0; i < 200; i++) {
        PlannerProblem p = problem_of(2 * 2 * N_LAYERS + random_below(&rng, 150));
        PlannerAnswer answer;
        KvPlan plan;

        p.values = random_below(&rng, 3);
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
            for (KvSide side = 0; side < KV_SIDES; side++)
                for (KvFormat f = 0; f < KV_FORMATS; f++)
                    damages[layer][side][f] =
                        random_below(&rng, 3) ? exp(100 * random_normal(&rng)) : 0;
        assert_int_equal(ratequant_solve(&plan, &answer, &p), 0);
        assert_true(answer.bytes <= p.bytes_max);
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
            assert_true(planner_admits(&p, layer, plan.formats[layer][KV_SIDE_K],
                                       plan.formats[layer][KV_SIDE_V]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_law_is_found_again),
        cmocka_unit_test(test_plans_fit_and_are_near_the_best),
        cmocka_unit_test(test_too_few_bytes),
        cmocka_unit_test(test_figures_that_are_no_law),
    };

    rng = random_start("ratequant_plan");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
