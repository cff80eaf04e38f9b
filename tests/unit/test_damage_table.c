/* SPDX-License-Identifier: Apache-2.0 */
/* Which of a profile's figures a plan is made by, and what is made of them. */
#include "kvcache/damage_table.h"

#include "kvcache/kv_format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_LAYERS 3

static const KvGeometry geometry = { .n_layers = N_LAYERS, .n_kv_heads = 1, .head_dim = 8 };

static DamageTable table;

static double sum_of(KvSide side, KvFormat format) {
    double sum = 0;

    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        sum += table.damages[layer][side][format];
    return sum;
}

static double typical(KvSide side, KvFormat format) {
    damage_table_fill(&table, NULL, N_LAYERS, DAMAGE_MEASURED);
    assert_int_equal(table.source, DAMAGE_TYPICAL);
    return sum_of(side, format);
}

static void test_the_best_source_there_is(void **state) {
    CLEANUP(profile_free) Profile *p = NULL;

    (void)state;
    assert_int_equal(profile_new(&p, &geometry), 0);
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_int_equal(table.source, DAMAGE_TYPICAL);
    p->k_norms[0] = p->v_norms[2] = 1;
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_int_equal(table.source, DAMAGE_FROBENIUS_NORMS);
    p->k_spectral_norms[0] = p->v_spectral_norms[2] = 1;
    p->has_spectral_norms = true;
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_int_equal(table.source, DAMAGE_SPECTRAL_NORMS);
    p->has_distortions = true;
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_int_equal(table.source, DAMAGE_DISTORTIONS);
    p->has_damages = true;
    p->damages[1][KV_SIDE_V][KV_FORMAT_3] = 0.25;
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_int_equal(table.source, DAMAGE_MEASURED);
    assert_true(table.damages[1][KV_SIDE_V][KV_FORMAT_3] == 0.25);
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_DISTORTIONS);
    assert_int_equal(table.source, DAMAGE_DISTORTIONS);
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_FROBENIUS_NORMS);
    assert_int_equal(table.source, DAMAGE_FROBENIUS_NORMS);
}

/* Typical damage falls with bits, is more for keys, and nothing for floats. */
static void test_typical_damage(void **state) {
    (void)state;
    for (KvFormat f = KV_FORMAT_8; f < KV_FORMATS; f++) {
        assert_true(typical(KV_SIDE_K, f) > typical(KV_SIDE_V, f));
        for (KvSide side = 0; side < KV_SIDES; side++)
            assert_true(typical(side, f) > typical(side, f - 1));
    }
    for (KvSide side = 0; side < KV_SIDES; side++)
        assert_true(typical(side, KV_FORMAT_F16) == 0 && typical(side, KV_FORMAT_BF16) > 0);
    assert_true(table.damages[0][KV_SIDE_K][KV_FORMAT_2] ==
                table.damages[2][KV_SIDE_K][KV_FORMAT_2]);
}

static void test_norms_divide_what_is_typical(void **state) {
    CLEANUP(profile_free) Profile *p = NULL;
    double whole = typical(KV_SIDE_K, KV_FORMAT_2);

    (void)state;
    assert_int_equal(profile_new(&p, &geometry), 0);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        p->k_norms[layer] = layer; /* squares: 0, 1, 4 */
        p->v_norms[layer] = 7;
    }
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_true(table.damages[0][KV_SIDE_K][KV_FORMAT_2] == 0);
    assert_true(fabs(table.damages[2][KV_SIDE_K][KV_FORMAT_2] - 0.8 * whole) < 1e-12);
    assert_true(fabs(sum_of(KV_SIDE_K, KV_FORMAT_2) - whole) < 1e-12);
}

static void test_distortions_keep_their_ratios(void **state) {
    CLEANUP(profile_free) Profile *p = NULL;

    (void)state;
    assert_int_equal(profile_new(&p, &geometry), 0);
    p->has_distortions = true;
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (KvFormat f = KV_FORMAT_8; f < KV_FORMATS; f++) {
            p->distortions[layer][KV_SIDE_K][f] = (layer + 1) * f;
            p->distortions[layer][KV_SIDE_V][f] = 5 * f;
        }
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    assert_true(
        fabs(table.damages[1][KV_SIDE_K][KV_FORMAT_2] / table.damages[0][KV_SIDE_V][KV_FORMAT_4] -
             2.0 * KV_FORMAT_2 / (5 * KV_FORMAT_4)) < 1e-12);
    assert_true(table.damages[0][KV_SIDE_K][KV_FORMAT_2] > 0 &&
                table.damages[0][KV_SIDE_K][KV_FORMAT_2] < 0.1);
}

static void test_sums_over_plans(void **state) {
    KvPlan plan = { 0 };

    (void)state;
    damage_table_fill(&table, NULL, N_LAYERS, DAMAGE_TYPICAL);
    assert_true(damage_table_sum(&table, NULL) == 0);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        plan.formats[layer][KV_SIDE_K] = KV_FORMAT_4;
        plan.formats[layer][KV_SIDE_V] = KV_FORMAT_2;
    }
    assert_true(fabs(damage_table_sum(&table, &plan) -
                     (sum_of(KV_SIDE_K, KV_FORMAT_4) + sum_of(KV_SIDE_V, KV_FORMAT_2))) < 1e-12);
}

/* Keys: ratios 1, 1, 8 and their geometric mean 2; values: 4 in each layer. */
static void test_layers_are_drawn_to_their_side(void **state) {
    static const double expected[N_LAYERS] = { 1.4142135623730951, 1.4142135623730951, 4 };
    CLEANUP(profile_free) Profile *p = NULL;

    (void)state;
    assert_int_equal(profile_new(&p, &geometry), 0);
    p->has_distortions = p->has_damages = true;
    for (KvFormat f = KV_FORMAT_4; f < KV_FORMATS; f++)
        p->damages_direct[f] = true;
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (KvFormat f = KV_FORMAT_8; f < KV_FORMATS; f++) {
            p->distortions[layer][KV_SIDE_K][f] = p->distortions[layer][KV_SIDE_V][f] = f;
            p->damages[layer][KV_SIDE_K][f] = (layer == 2 ? 8 : 1) * f;
            p->damages[layer][KV_SIDE_V][f] = 4 * f;
            p->damage_errors[layer][KV_SIDE_K][f] = 0.01 * f;
        }
    damage_table_fill(&table, p, N_LAYERS, DAMAGE_MEASURED);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        double factor = expected[layer] / (layer == 2 ? 8 : 1);

        for (KvFormat f = KV_FORMAT_8; f < KV_FORMATS; f++) {
            assert_true(fabs(table.damages[layer][KV_SIDE_K][f] / f - expected[layer]) < 1e-9);
            assert_true(fabs(table.damages[layer][KV_SIDE_V][f] / f - 4) < 1e-9);
            assert_true(fabs(table.errors[layer][KV_SIDE_K][f] / f - 0.01 * factor) < 1e-9);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_best_source_there_is),
        cmocka_unit_test(test_typical_damage),
        cmocka_unit_test(test_norms_divide_what_is_typical),
        cmocka_unit_test(test_distortions_keep_their_ratios),
        cmocka_unit_test(test_layers_are_drawn_to_their_side),
        cmocka_unit_test(test_sums_over_plans),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
