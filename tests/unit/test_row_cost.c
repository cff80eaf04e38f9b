/* SPDX-License-Identifier: Apache-2.0 */
/* A row's cost from a model's shape, and its sums against rows that are added one by one. */

#include "server/engine/row_cost.h"
#include "tests/unit/random.h"
#include "util/integer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_a_model_s_operations(void **state) {
    /* SmolLM2-135M's shape. */
    bool slides[30] = { false };
    ModelConfig config = { .n_layers = 30,
                           .n_heads = 9,
                           .n_kv_heads = 3,
                           .head_dim = 64,
                           .dim = 576,
                           .ffn_dim = 1536,
                           .layer_slides = slides };
    RowCost cost = row_cost_of_model(&config);

    (void)state;
    assert_int_equal(cost.n_full_layers, 30);
    assert_int_equal(cost.n_sliding_layers, 0);
    /* At 3,072 tokens attention takes as many operations as all products. */
    assert_int_equal(row_cost_work(&cost, 3072, 1), 2 * row_cost_work(&cost, 0, 1));
    slides[3] = slides[29] = true;
    config.sliding_window = 1000;
    cost = row_cost_of_model(&config);
    assert_int_equal(cost.n_full_layers, 28);
    assert_int_equal(cost.n_sliding_layers, 2);
    assert_int_equal(row_cost_work(&cost, 3072, 1) - row_cost_work(&cost, 0, 1),
                     28 * 3072 + 2 * 1000);
}

static void test_sums_are_those_of_single_rows(void **state) {
    Random r = random_start("sums");

    (void)state;
    for (int round = 0; round < 3000; round++) {
        RowCost cost = { .products = 1 + random_below(&r, 3000),
                         .n_full_layers = random_below(&r, 5),
                         .n_sliding_layers = random_below(&r, 5),
                         .window = random_below(&r, 100) };
        uint32_t position = random_below(&r, 200), n = random_below(&r, 100), n_used = 0;
        int64_t sum = 0, used = 0, work;

        for (uint32_t p = position; p < position + n; p++)
            sum += cost.products + (int64_t)cost.n_full_layers * p +
                   (int64_t)cost.n_sliding_layers * min_u32(p, cost.window);
        assert_int_equal(row_cost_work(&cost, position, n), sum);
        /* Rows until the work is used up. */
        work = (int64_t)random_below(&r, (uint32_t)sum + 2) - random_below(&r, 2);
        while (used < work && n_used < n)
            used += row_cost_work(&cost, position + n_used++, 1);
        assert_int_equal(row_cost_rows(&cost, position, n, work), n_used);
    }
}

/* Of what a checkpoint and the options may say. */
static void test_the_largest_step_has_a_sum(void **state) {
    bool slides[4096] = { false };
    ModelConfig config = { .n_layers = 4096,
                           .n_heads = 1,
                           .n_kv_heads = 4096,
                           .head_dim = 1024,
                           .dim = 1u << 20,
                           .ffn_dim = 1u << 20,
                           .layer_slides = slides };
    uint32_t position = (1u << 30) - (1u << 20), n = 1u << 20;
    RowCost cost = row_cost_of_model(&config);
    int64_t work = row_cost_work(&cost, position, n);

    (void)state;
    assert_int_equal(cost.products, UINT32_MAX);
    assert_true(work > row_cost_work(&cost, position, n - 1));
    assert_int_equal(row_cost_rows(&cost, position, n, work), n);
    assert_int_equal(row_cost_rows(&cost, position, n, row_cost_work(&cost, position, n - 1)),
                     n - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_model_s_operations),
        cmocka_unit_test(test_sums_are_those_of_single_rows),
        cmocka_unit_test(test_the_largest_step_has_a_sum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
