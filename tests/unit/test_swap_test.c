/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The law that distortions are fitted to, and the test that exchanges widths.
 */
#include "kvcache/distortion_law.h"
#include "kvcache/kv_format.h"
#include "kvcache/swap_test.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_LAYERS 3
#define N_WIDTHS 6 /* below 16 bits */
#define N_PAIRS 15

static const KvGeometry geometry = { .n_layers = N_LAYERS, .n_kv_heads = 1, .head_dim = 8 };

static void set(ProfileTable table, uint32_t layer, KvSide side, double alpha, double beta) {
    for (int f = 0; f < KV_FORMATS; f++)
        if (kv_format_quantizes((KvFormat)f))
            table[layer][side][f] = alpha * pow(beta, -(double)kv_formats[f].bits);
}

static DistortionLaw fit(const Profile *profile, uint32_t n_layers, KvSide side) {
    return distortion_law_fit(profile->distortions, n_layers, side);
}

static void a_law_is_found_again(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL;
    DistortionLaw law;

    (void)state;
    assert_int_equal(profile_new(&profile, &geometry), 0);
    for (uint32_t l = 0; l < N_LAYERS; l++)
        set(profile->distortions, l, KV_SIDE_V, pow(10, l), 5.5);
    law = fit(profile, N_LAYERS, KV_SIDE_V);
    assert_int_equal(law.n, N_WIDTHS * N_LAYERS);
    assert_true(fabs(law.alpha - 10) < 1e-9);
    assert_true(fabs(law.beta - 5.5) < 1e-9);
    assert_true(law.residual < 1e-6);
    assert_int_equal(fit(profile, N_LAYERS, KV_SIDE_K).n, 0);
}

/* What is off a law by +d and -d has this residual, and the law is not moved by it. */
static void a_residual_is_in_logarithms(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL;
    DistortionLaw law;

    (void)state;
    assert_int_equal(profile_new(&profile, &geometry), 0);
    for (int side = 0; side < 2; side++) { /* two layers, the second one's errors the other way */
        set(profile->distortions, (uint32_t)side, KV_SIDE_K, 2, 4);
        profile->distortions[side][KV_SIDE_K][KV_FORMAT_4] *= exp(side ? -0.3 : 0.3);
    }
    law = fit(profile, 2, KV_SIDE_K);
    assert_true(fabs(law.alpha - 2) < 1e-9);
    assert_true(fabs(law.beta - 4) < 1e-9);
    /* 0.3 at one of the widths: its layer's alpha takes that share of it up */
    assert_true(fabs(law.residual - 0.3 * sqrt((N_WIDTHS - 1) / pow(N_WIDTHS, 2))) < 1e-9);
}

static void zeros_are_left_out(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL;
    DistortionLaw law;

    (void)state;
    assert_int_equal(profile_new(&profile, &geometry), 0);
    set(profile->distortions, 1, KV_SIDE_K, 7, 3);
    profile->distortions[1][KV_SIDE_K][KV_FORMAT_8] = 0;
    law = fit(profile, N_LAYERS, KV_SIDE_K);
    assert_int_equal(law.n, N_WIDTHS - 1);
    assert_true(fabs(law.alpha - 7) < 1e-9 && fabs(law.beta - 3) < 1e-9);
    /* one width alone says nothing of bits */
    for (int f = 0; f < KV_FORMATS; f++)
        if (f != KV_FORMAT_4)
            profile->distortions[1][KV_SIDE_K][f] = 0;
    assert_int_equal(fit(profile, N_LAYERS, KV_SIDE_K).n, 0);
}

/* swaps */

static Profile *new_measured(void) {
    Profile *profile = NULL;

    assert_int_equal(profile_new(&profile, &geometry), 0);
    profile->has_damages = true;
    for (uint32_t l = 0; l < N_LAYERS; l++) {
        set(profile->damages, l, KV_SIDE_K, 4, 4); /* keys are the more sensitive side */
        set(profile->damages, l, KV_SIDE_V, 1, 4);
    }
    return profile;
}

static void a_swap_compares_sums(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured();
    SwapTest test;

    (void)state;
    profile->damages[1][KV_SIDE_K][KV_FORMAT_4] = 3;
    profile->damages[1][KV_SIDE_V][KV_FORMAT_2] = 5;
    profile->damages[1][KV_SIDE_V][KV_FORMAT_4] = 2;
    profile->damages[1][KV_SIDE_K][KV_FORMAT_2] = 5.5;
    profile->damage_errors[1][KV_SIDE_K][KV_FORMAT_4] = 0.1;
    profile->damage_errors[1][KV_SIDE_V][KV_FORMAT_2] = 0.2;
    profile->damage_errors[1][KV_SIDE_V][KV_FORMAT_4] = 0.2;
    profile->damage_errors[1][KV_SIDE_K][KV_FORMAT_2] = 0;
    test = swap_test(profile, 1, KV_FORMAT_4, KV_FORMAT_2);
    assert_int_equal(test.layer, 1);
    assert_true(test.for_keys == 8 && test.for_values == 7.5);
    assert_true(fabs(test.error - 0.3) < 1e-12);
    assert_true(swap_test_fails(&test));
    assert_false(swap_test_is_sure(&test)); /* 0.5 is less than twice 0.3 */
    profile->damages[1][KV_SIDE_K][KV_FORMAT_2] = 5.3;
    test = swap_test(profile, 1, KV_FORMAT_4, KV_FORMAT_2);
    assert_true(swap_test_is_sure(&test));
    profile->damages[1][KV_SIDE_K][KV_FORMAT_2] = 6.7;
    test = swap_test(profile, 1, KV_FORMAT_4, KV_FORMAT_2);
    assert_false(swap_test_fails(&test));
    assert_true(swap_test_is_sure(&test));
}

typedef struct Seen {
    uint32_t n, n_failed;
    SwapTest failed[40];
} Seen;

static void see(void *userdata, const SwapTest *test) {
    Seen *seen = userdata;

    assert_true(kv_formats[test->wide].bits > kv_formats[test->narrow].bits);
    assert_true(kv_formats[test->wide].bits < 16);
    seen->n++;
    if (swap_test_fails(test))
        seen->failed[seen->n_failed++] = *test;
}

static void every_layer_and_pair_is_tested(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured();
    Seen seen = { 0 };

    (void)state;
    swap_test_all(profile, see, &seen);
    assert_int_equal(seen.n, N_PAIRS * N_LAYERS);
    assert_int_equal(seen.n_failed, 0);
    for (int f = 0; f < KV_FORMATS; f++) /* a layer where values are the more sensitive side */
        profile->damages[2][KV_SIDE_V][f] *= 5;
    seen = (Seen){ 0 };
    swap_test_all(profile, see, &seen);
    assert_int_equal(seen.n_failed, N_PAIRS);
    for (uint32_t i = 0; i < seen.n_failed; i++)
        assert_int_equal(seen.failed[i].layer, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_law_is_found_again),
        cmocka_unit_test(a_residual_is_in_logarithms),
        cmocka_unit_test(zeros_are_left_out),
        cmocka_unit_test(a_swap_compares_sums),
        cmocka_unit_test(every_layer_and_pair_is_tested),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
