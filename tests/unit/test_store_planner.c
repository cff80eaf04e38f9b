/* SPDX-License-Identifier: Apache-2.0 */
/* Plans for whole caches: bytes are those of kv_store_layout, and no plan that it lets in is
 * better. */
#include "kvcache/store_planner.h"

#include "kvcache/kv_format.h"
#include "tests/unit/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

typedef double Damages[KV_LAYERS_MAX][KV_SIDES][KV_FORMATS];

static Random rng;
static Damages damages;

static size_t bytes_of(const StoreDemand *d, const KvPlan *plan) {
    KvStore store;

    assert_int_equal(kv_store_layout(&store, &(KvShape){ .geometry = d->geometry,
                                                         .plan = plan,
                                                         .n_pages = (uint32_t)d->n_pages,
                                                         .n_tails = d->n_tails,
                                                         .n_sinks = d->n_sinks }),
                     0);
    return store.size_bytes;
}

static StoreDemand random_demand(uint32_t n_layers) {
    StoreDemand d = { .geometry = { .n_layers = n_layers,
                                    .n_kv_heads = 1 + random_below(&rng, 3),
                                    .head_dim = 8 * (1 + random_below(&rng, 12)) },
                      .n_pages = 1 + random_below(&rng, 40),
                      .n_tails = 1 + random_below(&rng, 4),
                      .n_sinks = random_below(&rng, 5) };

    return d;
}

static PlannerProblem random_problem(uint32_t n_layers) {
    PlannerProblem p = { .values = PLANNER_VALUES_NARROWER };

    p.damages = (const double(*)[KV_SIDES][KV_FORMATS])damages;
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            for (KvFormat f = 0; f < KV_FORMATS; f++)
                damages[layer][side][f] =
                    kv_format_quantizes(f) ? random_uniform(&rng) / kv_formats[f].bits : 0;
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++)
        p.menu[f] = true;
    return p;
}

static double damage_of(const KvPlan *plan, uint32_t n_layers) {
    double sum = 0;

    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            sum += damages[layer][side][plan->formats[layer][side]];
    return sum;
}

/* Of two layers, by laying each plan out. */
static double least_damage(const StoreDemand *d) {
    double least = INFINITY;

    for (int i = 0; i < KV_FORMATS * KV_FORMATS * KV_FORMATS * KV_FORMATS; i++) {
        KvPlan plan = { 0 };
        bool admitted = true;

        for (int at = 0, rest = i; at < 4; at++, rest /= KV_FORMATS) {
            plan.formats[at / 2][at % 2] = rest % KV_FORMATS;
            admitted = admitted && rest % KV_FORMATS != KV_FORMAT_BF16;
        }
        for (int layer = 0; layer < 2; layer++)
            admitted = admitted && kv_formats[plan.formats[layer][KV_SIDE_V]].bits <=
                                       kv_formats[plan.formats[layer][KV_SIDE_K]].bits;
        if (admitted && bytes_of(d, &plan) <= d->bytes_max)
            least = fmin(least, damage_of(&plan, 2));
    }
    return least;
}

static void test_no_plan_that_fits_is_better(void **state) {
    (void)state;
    for (int i = 0; i < 60; i++) {
        StoreDemand d = random_demand(2);
        PlannerProblem p = random_problem(2);
        PlannerAnswer answer;
        KvPlan plan,
            f16 = { { { KV_FORMAT_F16, KV_FORMAT_F16 }, { KV_FORMAT_F16, KV_FORMAT_F16 } } };
        size_t most = bytes_of(&d, &f16);
        double least;
        int r;

        d.bytes_max = most / 8 + random_below(&rng, (uint32_t)most);
        least = least_damage(&d);
        r = store_planner_fit(&plan, &answer, &p, &d, NULL, NULL);
        assert_int_equal(r, isinf(least) ? PLANNER_E_FULL : 0);
        if (r)
            continue;
        assert_int_equal(answer.bytes, bytes_of(&d, &plan));
        assert_true(answer.bytes <= d.bytes_max);
        assert_true(fabs(damage_of(&plan, 2) - least) < 1e-9);
    }
}

/* What is missing is told to the byte: with it, the plan fits; with one less it does not. */
static void test_missing_bytes_are_exact(void **state) {
    (void)state;
    for (int i = 0; i < 60; i++) {
        uint32_t n_layers = 1 + random_below(&rng, 40);
        StoreDemand d = random_demand(n_layers);
        PlannerProblem p = random_problem(n_layers);
        PlannerAnswer answer;
        KvPlan plan;

        p.menu[KV_FORMAT_F16] = random_below(&rng, 2);
        d.bytes_max = 1;
        assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), PLANNER_E_FULL);
        d.bytes_max = answer.bytes - 1;
        assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), PLANNER_E_FULL);
        d.bytes_max = answer.bytes;
        assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), 0);
        assert_int_equal(answer.bytes, bytes_of(&d, &plan));
    }
}

static void test_f16_is_taken_where_it_fits(void **state) {
    StoreDemand d = { .geometry = { .n_layers = 3, .n_kv_heads = 2, .head_dim = 64 },
                      .n_pages = 10,
                      .n_tails = 2,
                      .n_sinks = 2 };
    PlannerProblem p = random_problem(3);
    PlannerAnswer answer;
    KvPlan plan;

    (void)state;
    d.bytes_max = UINT64_MAX;
    assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), 0);
    assert_false(kv_plan_quantizes(&plan, 3));
    assert_true(answer.damage == 0);
    d.bytes_max = answer.bytes;
    assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), 0);
    assert_false(kv_plan_quantizes(&plan, 3));
    d.bytes_max--;
    assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), 0);
    assert_true(kv_plan_quantizes(&plan, 3));
}

/* Heads whose channels are no multiple of 8 are kept in 16 bits. */
static void test_a_geometry_that_cannot_be_quantized(void **state) {
    StoreDemand d = { .geometry = { .n_layers = 2, .n_kv_heads = 1, .head_dim = 20 },
                      .n_pages = 10,
                      .n_tails = 1 };
    PlannerProblem p = random_problem(2);
    PlannerAnswer answer;
    KvPlan plan;

    (void)state;
    assert_false(store_planner_quantizes(&d.geometry));
    d.bytes_max = 1;
    assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), PLANNER_E_FULL);
    d.bytes_max = answer.bytes;
    assert_int_equal(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL), 0);
    assert_false(kv_plan_quantizes(&plan, 2));
}

static void test_pages_without_end_are_refused(void **state) {
    StoreDemand d = { .geometry = { .n_layers = 512, .n_kv_heads = UINT32_MAX, .head_dim = 512 },
                      .n_pages = UINT32_MAX - 1,
                      .n_tails = 1,
                      .bytes_max = UINT64_MAX };
    PlannerProblem p = random_problem(512);
    PlannerAnswer answer;
    KvPlan plan;

    (void)state;
    assert_true(store_planner_fit(&plan, &answer, &p, &d, NULL, NULL) < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_plan_that_fits_is_better),
        cmocka_unit_test(test_missing_bytes_are_exact),
        cmocka_unit_test(test_f16_is_taken_where_it_fits),
        cmocka_unit_test(test_a_geometry_that_cannot_be_quantized),
        cmocka_unit_test(test_pages_without_end_are_refused),
    };

    rng = random_start("store_planner");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
