/* SPDX-License-Identifier: Apache-2.0 */
/* The paper's allocator on small cases that can be followed by hand; tests/e2e/test_plan.py has its
 * authors' own results. */
#include "kvcache/paper_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

typedef struct Case {
    double k[3], v[3];
    double widths[4]; /* [n_widths] */
    double budget;
    double k_bits[3], v_bits[3]; /* expected */
    uint32_t n_layers, n_widths;
} Case;

static const Case cases[] = {
    /* Ties go to the lower layer, and to K before V. */
    { .n_layers = 2,
      .k = { 1, 1 },
      .v = { 1, 1 },
      .n_widths = 2,
      .widths = { 2, 4 },
      .budget = 2.5,
      .k_bits = { 4, 2 },
      .v_bits = { 2, 2 } },
    { .n_layers = 2,
      .k = { 1, 1 },
      .v = { 1, 1 },
      .n_widths = 2,
      .widths = { 2, 4 },
      .budget = 3,
      .k_bits = { 4, 2 },
      .v_bits = { 4, 2 } },
    /* What saves less than a millionth more is a tie. */
    { .n_layers = 2,
      .k = { 1, 1.000001 },
      .v = { 0, 0 },
      .n_widths = 2,
      .widths = { 2, 4 },
      .budget = 2.5,
      .k_bits = { 4, 2 },
      .v_bits = { 2, 2 } },
    { .n_layers = 2,
      .k = { 1, 1.01 },
      .v = { 0, 0 },
      .n_widths = 2,
      .widths = { 2, 4 },
      .budget = 2.5,
      .k_bits = { 2, 4 },
      .v_bits = { 2, 2 } },
    /* A step that does not fit is passed over for one that does. */
    { .n_layers = 1,
      .k = { 9 },
      .v = { 1 },
      .n_widths = 3,
      .widths = { 2, 3, 6 },
      .budget = 3,
      .k_bits = { 3 },
      .v_bits = { 3 } },
    /* Values come first where they have the larger norm. */
    { .n_layers = 1,
      .k = { 1 },
      .v = { 9 },
      .n_widths = 3,
      .widths = { 2, 4, 8 },
      .budget = 5,
      .k_bits = { 2 },
      .v_bits = { 8 } },
    /* Fractions sum up to the budget within the tolerance. */
    { .n_layers = 3,
      .k = { 5, 5, 5 },
      .v = { 5, 5, 5 },
      .n_widths = 2,
      .widths = { 1, 1.58 },
      .budget = 1.58,
      .k_bits = { 1.58, 1.58, 1.58 },
      .v_bits = { 1.58, 1.58, 1.58 } },
    /* A budget above all widths, and one of just the narrowest. */
    { .n_layers = 1,
      .k = { 1 },
      .v = { 1 },
      .n_widths = 3,
      .widths = { 2, 4, 8 },
      .budget = 9,
      .k_bits = { 8 },
      .v_bits = { 8 } },
    { .n_layers = 1,
      .k = { 1 },
      .v = { 1 },
      .n_widths = 3,
      .widths = { 2, 4, 8 },
      .budget = 2,
      .k_bits = { 2 },
      .v_bits = { 2 } },
};

static void test_cases(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const Case *c = &cases[i];
        PaperProblem problem = { .n_layers = c->n_layers,
                                 .norms = { c->k, c->v },
                                 .n_widths = c->n_widths,
                                 .budget = c->budget };
        PaperPlan plan;

        for (uint32_t w = 0; w < c->n_widths; w++)
            problem.widths[w] = c->widths[w];
        paper_plan_make(&plan, &problem);
        for (uint32_t layer = 0; layer < c->n_layers; layer++)
            if (plan.bits[KV_SIDE_K][layer] != c->k_bits[layer] ||
                plan.bits[KV_SIDE_V][layer] != c->v_bits[layer])
                fail_msg("case %zu, layer %u: k %g v %g", i, layer, plan.bits[KV_SIDE_K][layer],
                         plan.bits[KV_SIDE_V][layer]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_cases) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
