/* SPDX-License-Identifier: Apache-2.0 */
/* The planner against all plans there are, and against a table over every number of bytes. */
#include "kvcache/planner.h"

#include "kvcache/kv_format.h"
#include "tests/unit/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define LAYERS_SMALL 3
#define LAYERS_LARGE 12

typedef double Damages[KV_LAYERS_MAX][KV_SIDES][KV_FORMATS];

static Random rng;
static Damages damages;

/* Fills the table; what a layer and a side do at each width. */
typedef void (*FillFn)(double row[KV_FORMATS]);

static void fill_convex(double row[KV_FORMATS]) {
    double alpha = exp(3 * random_uniform(&rng)), beta = 2 + 4 * random_uniform(&rng);

    for (KvFormat f = 0; f < KV_FORMATS; f++)
        row[f] = kv_format_quantizes(f) ? alpha * pow(beta, -(double)kv_formats[f].bits) : 0;
}

/* Neither falling with bits nor convex. */
static void fill_wild(double row[KV_FORMATS]) {
    for (KvFormat f = 0; f < KV_FORMATS; f++)
        row[f] = random_uniform(&rng);
}

/* Small whole numbers: ties everywhere. */
static void fill_ties(double row[KV_FORMATS]) {
    for (KvFormat f = 0; f < KV_FORMATS; f++)
        row[f] = random_below(&rng, 3);
}

/* All bits are in vain but the last step's: greedy buyers go wrong. */
static void fill_cliff(double row[KV_FORMATS]) {
    double height = 1 + random_below(&rng, 5);

    for (KvFormat f = 0; f < KV_FORMATS; f++)
        row[f] = kv_formats[f].bits >= 8 ? 0 : height + 1e-9 * kv_formats[f].bits;
}

static void fill_negative(double row[KV_FORMATS]) {
    for (KvFormat f = 0; f < KV_FORMATS; f++)
        row[f] = random_normal(&rng);
}

static const FillFn fills[] = { fill_convex, fill_wild, fill_ties, fill_cliff, fill_negative };
#define N_FILLS (sizeof(fills) / sizeof(*fills))

static void fill(uint32_t n_layers, FillFn row) {
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            row(damages[layer][side]);
}

static PlannerProblem problem_of(uint32_t n_layers) {
    PlannerProblem p = { .n_layers = n_layers, .values = random_below(&rng, 3) };

    p.damages = (const double(*)[KV_SIDES][KV_FORMATS])damages;
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            p.bytes[side][f] = 16 * kv_formats[f].bits + 16 * random_below(&rng, 8);
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++)
        p.menu[f] = random_below(&rng, 4) > 0;
    p.menu[KV_FORMAT_F16 + random_below(&rng, KV_FORMATS - 1)] = true;
    return p;
}

/* brute force */

typedef struct Best {
    bool found;
    double damage;
    uint64_t least_bytes;
} Best;

static void try_all(const PlannerProblem *p, uint32_t layer, KvPlan *plan, Best *best) {
    PlannerAnswer answer;

    if (layer < p->n_layers) {
        for (KvFormat k = 0; k < KV_FORMATS; k++)
            for (KvFormat v = 0; v < KV_FORMATS; v++) {
                if (!planner_admits(p, layer, k, v))
                    continue;
                plan->formats[layer][KV_SIDE_K] = k;
                plan->formats[layer][KV_SIDE_V] = v;
                try_all(p, layer + 1, plan, best);
            }
        return;
    }
    answer = planner_judge(plan, p);
    if (answer.bytes < best->least_bytes)
        best->least_bytes = answer.bytes;
    if (answer.bytes > p->bytes_max || (best->found && answer.damage >= best->damage))
        return;
    best->found = true;
    best->damage = answer.damage;
}

static void assert_admitted(const PlannerProblem *p, const KvPlan *plan) {
    for (uint32_t layer = 0; layer < p->n_layers; layer++)
        assert_true(planner_admits(p, layer, plan->formats[layer][KV_SIDE_K],
                                   plan->formats[layer][KV_SIDE_V]));
}

static void assert_best(const PlannerProblem *p, const Best *best) {
    PlannerAnswer answer, again, judged;
    KvPlan plan, other;
    int r = planner_solve(&plan, &answer, p);

    assert_int_equal(r, best->found ? 0 : PLANNER_E_FULL);
    if (r) {
        assert_int_equal(answer.bytes, best->least_bytes);
        return;
    }
    assert_admitted(p, &plan);
    judged = planner_judge(&plan, p);
    assert_true(judged.bytes == answer.bytes && judged.damage == answer.damage);
    assert_true(answer.bytes <= p->bytes_max);
    if (fabs(answer.damage - best->damage) > 1e-9 * (1 + fabs(best->damage)))
        fail_msg("damage %.17g; the least is %.17g", answer.damage, best->damage);
    assert_int_equal(planner_solve(&other, &again, p), 0);
    assert_memory_equal(&other, &plan, sizeof(plan));
}

static void test_no_plan_is_better(void **state) {
    (void)state;
    for (int i = 0; i < 400; i++) {
        PlannerProblem p = problem_of(1 + random_below(&rng, LAYERS_SMALL));
        Best all = { .least_bytes = UINT64_MAX };
        KvPlan plan = { 0 };

        fill(p.n_layers, fills[i % N_FILLS]);
        p.bytes_max = random_below(&rng, p.n_layers * 2 * 16 * 26);
        try_all(&p, 0, &plan, &all);
        assert_best(&p, &all);
        /* Just what the narrowest plan takes, and a byte less. */
        for (int less = 0; less < 2; less++) {
            Best best = { .least_bytes = UINT64_MAX };

            p.bytes_max = all.least_bytes - (uint64_t)less;
            try_all(&p, 0, &plan, &best);
            assert_best(&p, &best);
            assert_int_equal(best.found, !less);
        }
    }
}

/* The least damage for every number of units, layer by layer: slow, plain and independent. */
static double least_by_table(const PlannerProblem *p, uint64_t unit) {
    size_t n = p->bytes_max / unit + 1;
    double *now = calloc(n, sizeof(*now)), *next = calloc(n, sizeof(*next)), least;

    for (uint32_t layer = 0; layer < p->n_layers; layer++) {
        double *taken = next;

        for (size_t i = 0; i < n; i++)
            next[i] = INFINITY;
        for (int pair = 0; pair < KV_FORMATS * KV_FORMATS; pair++) {
            KvFormat k = pair / KV_FORMATS, v = pair % KV_FORMATS;
            size_t units = (p->bytes[KV_SIDE_K][k] + p->bytes[KV_SIDE_V][v]) / unit;

            for (size_t i = units; planner_admits(p, layer, k, v) && i < n; i++)
                next[i] = fmin(next[i], now[i - units] + damages[layer][KV_SIDE_K][k] +
                                            damages[layer][KV_SIDE_V][v]);
        }
        next = now;
        now = taken;
    }
    least = now[n - 1];
    free(now);
    free(next);
    return least;
}

static void test_large_problems_agree_with_a_table(void **state) {
    (void)state;
    for (int i = 0; i < 100; i++) {
        PlannerProblem p = problem_of(LAYERS_LARGE);
        PlannerAnswer answer;
        KvPlan plan;
        double least;
        int r;

        fill(p.n_layers, fills[i % N_FILLS]);
        p.bytes_max = random_below(&rng, p.n_layers * 2 * 16 * 26) / 16 * 16;
        least = least_by_table(&p, 16);
        r = planner_solve(&plan, &answer, &p);
        assert_int_equal(r, isinf(least) ? PLANNER_E_FULL : 0);
        if (!r && fabs(answer.damage - least) > 1e-9 * (1 + fabs(least)))
            fail_msg("damage %.17g; the least is %.17g", answer.damage, least);
    }
}

/* Layers that are all alike have very many equally good plans. */
static void test_equal_layers(void **state) {
    PlannerProblem p = problem_of(KV_LAYERS_MAX);
    PlannerAnswer answer;
    KvPlan plan, again;

    (void)state;
    fill_convex(damages[0][KV_SIDE_K]);
    fill_convex(damages[0][KV_SIDE_V]);
    for (uint32_t layer = 1; layer < p.n_layers; layer++)
        memcpy(damages[layer], damages[0], sizeof(damages[0]));
    for (KvFormat f = KV_FORMAT_F16; f < KV_FORMATS; f++) {
        p.menu[f] = true;
        p.bytes[KV_SIDE_K][f] = p.bytes[KV_SIDE_V][f] = 16 * kv_formats[f].bits;
    }
    p.bytes_max = (uint64_t)p.n_layers * 2 * 16 * 6;
    assert_int_equal(planner_solve(&plan, &answer, &p), 0);
    assert_true(answer.bytes <= p.bytes_max);
    assert_int_equal(planner_solve(&again, &answer, &p), 0);
    assert_memory_equal(&again, &plan, sizeof(plan));
}

/* values and keys */

static PlannerProblem problem_of_swap(double k4, double k2, double v4, double v2) {
    PlannerProblem p = { .n_layers = 1, .bytes_max = 6 };

    p.damages = (const double(*)[KV_SIDES][KV_FORMATS])damages;
    memset(damages[0], 0, sizeof(damages[0]));
    damages[0][KV_SIDE_K][KV_FORMAT_4] = k4;
    damages[0][KV_SIDE_K][KV_FORMAT_2] = k2;
    damages[0][KV_SIDE_V][KV_FORMAT_4] = v4;
    damages[0][KV_SIDE_V][KV_FORMAT_2] = v2;
    p.menu[KV_FORMAT_4] = p.menu[KV_FORMAT_2] = true;
    for (KvSide side = 0; side < KV_SIDES; side++) {
        p.bytes[side][KV_FORMAT_4] = 4;
        p.bytes[side][KV_FORMAT_2] = 2;
    }
    return p;
}

static uint32_t wider_layers(PlannerProblem p, PlannerValues values) {
    PlannerAnswer answer;
    KvPlan plan;

    p.values = values;
    assert_int_equal(planner_solve(&plan, &answer, &p), 0);
    return planner_count_wider_values(&plan, p.n_layers);
}

static void test_values_have_more_bits_only_where_they_may(void **state) {
    PlannerProblem values_matter = problem_of_swap(1, 2, 1, 9);

    (void)state;
    assert_int_equal(wider_layers(values_matter, PLANNER_VALUES_NARROWER), 0);
    assert_int_equal(wider_layers(values_matter, PLANNER_VALUES_PROVEN), 1);
    assert_int_equal(wider_layers(values_matter, PLANNER_VALUES_ANY), 1);
    assert_int_equal(wider_layers(problem_of_swap(1, 9, 1, 2), PLANNER_VALUES_ANY), 0);
}

/* A difference of 7, of four damages that are each unsure by `error`. */
static void test_chance_proves_nothing(void **state) {
    static double errors[1][KV_SIDES][KV_FORMATS];
    PlannerProblem p = problem_of_swap(1, 2, 1, 9);

    (void)state;
    p.errors = (const double(*)[KV_SIDES][KV_FORMATS])errors;
    for (int i = 0; i < 2; i++) {
        double error = i ? 1.76 : 1.74; /* twice the root of four squares is 7 at 1.75 */
        PlannerAnswer answer;
        KvPlan plan;

        for (KvSide side = 0; side < KV_SIDES; side++)
            for (KvFormat f = 0; f < KV_FORMATS; f++)
                errors[0][side][f] = error;
        assert_int_equal(wider_layers(p, PLANNER_VALUES_PROVEN), !i);
        assert_int_equal(wider_layers(p, PLANNER_VALUES_ANY), 1);
        p.values = PLANNER_VALUES_PROVEN;
        assert_int_equal(planner_solve_uniform(&plan, &answer, &p), 0);
        assert_int_equal(planner_count_wider_values(&plan, 1), !i);
    }
}

static void test_a_tie_with_the_swap_proves_nothing(void **state) {
    PlannerProblem even = problem_of_swap(1, 5, 1, 5);

    (void)state;
    assert_int_equal(wider_layers(even, PLANNER_VALUES_PROVEN), 0);
    assert_int_equal(wider_layers(even, PLANNER_VALUES_ANY), 0);
}

/* A plan may be worse than its swap only if the swap takes more bytes or is not admitted. */
static void test_no_plan_is_worse_than_its_swap(void **state) {
    (void)state;
    for (int i = 0; i < 200; i++) {
        PlannerProblem p = problem_of(1 + random_below(&rng, 8));
        PlannerAnswer answer, swapped_answer;
        KvPlan plan, swapped = { 0 };

        p.values = PLANNER_VALUES_PROVEN;
        fill(p.n_layers, fills[i % N_FILLS]);
        memcpy(p.bytes[KV_SIDE_V], p.bytes[KV_SIDE_K], sizeof(p.bytes[KV_SIDE_V]));
        p.bytes_max = random_below(&rng, p.n_layers * 2 * 16 * 26);
        if (planner_solve(&plan, &answer, &p))
            continue;
        for (uint32_t layer = 0; layer < p.n_layers; layer++) {
            swapped.formats[layer][KV_SIDE_K] = plan.formats[layer][KV_SIDE_V];
            swapped.formats[layer][KV_SIDE_V] = plan.formats[layer][KV_SIDE_K];
        }
        swapped_answer = planner_judge(&swapped, &p);
        assert_int_equal(swapped_answer.bytes, answer.bytes);
        assert_true(answer.damage <= swapped_answer.damage + 1e-9);
    }
}

/* uniform plans */

static void test_the_best_uniform_pair(void **state) {
    (void)state;
    for (int i = 0; i < 200; i++) {
        PlannerProblem p = problem_of(1 + random_below(&rng, 4));
        PlannerAnswer answer, exact;
        KvPlan plan, best;
        int r;

        fill(p.n_layers, fills[i % N_FILLS]);
        p.bytes_max = random_below(&rng, p.n_layers * 2 * 16 * 26);
        r = planner_solve_uniform(&plan, &answer, &p);
        if (r) {
            assert_int_equal(r, PLANNER_E_FULL);
            assert_true(answer.bytes > p.bytes_max);
            continue;
        }
        for (uint32_t layer = 1; layer < p.n_layers; layer++)
            assert_memory_equal(plan.formats[layer], plan.formats[0], sizeof(plan.formats[0]));
        assert_true(answer.bytes <= p.bytes_max);
        assert_true(p.menu[plan.formats[0][KV_SIDE_K]] && p.menu[plan.formats[0][KV_SIDE_V]]);
        if (p.values == PLANNER_VALUES_NARROWER)
            assert_int_equal(planner_count_wider_values(&plan, p.n_layers), 0);
        p.values = PLANNER_VALUES_ANY;
        assert_int_equal(planner_solve(&best, &exact, &p), 0);
        assert_true(exact.damage <= answer.damage + 1e-9);
    }
}

/* Layers may disagree on which side matters more; of uniform pairs their sum decides. */
static void test_a_uniform_pair_is_proven_by_all_layers(void **state) {
    PlannerProblem p = problem_of_swap(1, 2, 1, 9);
    PlannerAnswer answer;
    KvPlan plan;

    (void)state;
    p.n_layers = 2;
    p.bytes_max = 12;
    p.values = PLANNER_VALUES_PROVEN;
    memcpy(damages[1], damages[0], sizeof(damages[0]));
    damages[1][KV_SIDE_K][KV_FORMAT_2] = 5;
    damages[1][KV_SIDE_V][KV_FORMAT_2] = 3;
    assert_int_equal(planner_solve_uniform(&plan, &answer, &p), 0);
    assert_int_equal(planner_count_wider_values(&plan, 2), 2);
    damages[1][KV_SIDE_K][KV_FORMAT_2] = 50;
    assert_int_equal(planner_solve_uniform(&plan, &answer, &p), 0);
    assert_int_equal(planner_count_wider_values(&plan, 2), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_plan_is_better),
        cmocka_unit_test(test_large_problems_agree_with_a_table),
        cmocka_unit_test(test_equal_layers),
        cmocka_unit_test(test_values_have_more_bits_only_where_they_may),
        cmocka_unit_test(test_chance_proves_nothing),
        cmocka_unit_test(test_a_tie_with_the_swap_proves_nothing),
        cmocka_unit_test(test_no_plan_is_worse_than_its_swap),
        cmocka_unit_test(test_the_best_uniform_pair),
        cmocka_unit_test(test_a_uniform_pair_is_proven_by_all_layers),
    };

    rng = random_start("planner");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
