/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/damage_estimate.h"

#include "kvcache/kv_format.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const KvGeometry geometry = { .n_layers = 2, .n_kv_heads = 1, .head_dim = 8 };
static ProfileTable estimates;

/* Damages of three times the distortions, measured at 4, 3 and 2 bits with this share of error. */
static Profile *new_measured(double error) {
    Profile *profile = NULL;

    assert_int_equal(profile_new(&profile, &geometry), 0);
    profile->has_damages = profile->has_distortions = true;
    for (int f = KV_FORMAT_4; f <= KV_FORMAT_2; f++)
        profile->damages_direct[f] = true;
    for (uint32_t l = 0; l < geometry.n_layers; l++)
        for (int side = 0; side < KV_SIDES; side++)
            for (int f = KV_FORMAT_8; f < KV_FORMATS; f++) {
                double distortion = pow(5, -(double)kv_formats[f].bits) * (l + 1) * (side + 1);

                profile->distortions[l][side][f] = distortion;
                profile->damages[l][side][f] = 3 * distortion;
                profile->damage_errors[l][side][f] = 3 * distortion * error;
            }
    return profile;
}

static void assert_near(double x, double expected, double share) {
    if (!(fabs(x - expected) <= share * expected))
        fail_msg("%g, expected %g", x, expected);
}

static void damages_that_agree_stay(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured(0.1);

    (void)state;
    damage_estimate(profile, estimates);
    for (uint32_t l = 0; l < geometry.n_layers; l++)
        for (int side = 0; side < KV_SIDES; side++)
            for (int f = 0; f < KV_FORMATS; f++)
                assert_near(estimates[l][side][f], profile->damages[l][side][f], 1e-12);
}

static void a_sure_damage_stays_and_an_unsure_one_gives_way(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured(0.05);
    double *damage = &profile->damages[1][KV_SIDE_K][KV_FORMAT_3];
    double *error = &profile->damage_errors[1][KV_SIDE_K][KV_FORMAT_3];
    double usual = *damage, between;

    (void)state;
    *damage = 4 * usual;
    *error = 1e-6 * usual;
    damage_estimate(profile, estimates);
    assert_near(estimates[1][KV_SIDE_K][KV_FORMAT_3], 4 * usual, 1e-6);
    *error = 2 * usual;
    damage_estimate(profile, estimates);
    between = estimates[1][KV_SIDE_K][KV_FORMAT_3];
    assert_true(between > usual && between < 1.2 * usual);
    assert_near(estimates[0][KV_SIDE_K][KV_FORMAT_3], profile->damages[0][KV_SIDE_K][KV_FORMAT_3],
                1e-12); /* another layer knows nothing of it */
}

/* By hand: one other width, ratio 2, no error of its own, so that a third one scatters about it
 * with a variance of 2 (2 / 4)^2 = 0.5; the ratio 6 that was measured has the same. */
static void weights_are_inverse_variances(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured(0);
    double *distortions = profile->distortions[0][KV_SIDE_V];

    (void)state;
    profile->damages_direct[KV_FORMAT_2] = false;
    profile->damages[0][KV_SIDE_V][KV_FORMAT_4] = 2 * distortions[KV_FORMAT_4];
    profile->damages[0][KV_SIDE_V][KV_FORMAT_3] = 6 * distortions[KV_FORMAT_3];
    profile->damage_errors[0][KV_SIDE_V][KV_FORMAT_3] = sqrt(0.5) * distortions[KV_FORMAT_3];
    damage_estimate(profile, estimates);
    assert_near(estimates[0][KV_SIDE_V][KV_FORMAT_3], 4 * distortions[KV_FORMAT_3], 1e-9);
    /* what was not measured takes the mean ratio, which leans to the surer one */
    assert_true(estimates[0][KV_SIDE_V][KV_FORMAT_2] > 2 * distortions[KV_FORMAT_2]);
    assert_true(estimates[0][KV_SIDE_V][KV_FORMAT_2] < 4.1 * distortions[KV_FORMAT_2]);
}

/* One width measured: the others follow it, and it stays. */
static void a_single_width_stays(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured(0.5);

    (void)state;
    profile->damages_direct[KV_FORMAT_4] = profile->damages_direct[KV_FORMAT_2] = false;
    damage_estimate(profile, estimates);
    for (int f = KV_FORMAT_8; f < KV_FORMATS; f++)
        assert_near(estimates[1][KV_SIDE_K][f], profile->damages[1][KV_SIDE_K][f], 1e-12);
}

static void nothing_is_made_of_zeros(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured(0.1);

    (void)state;
    memset(profile->distortions[0], 0, sizeof(profile->distortions[0]));
    memset(profile->damages[1], 0, sizeof(profile->damages[1]));
    damage_estimate(profile, estimates);
    for (int side = 0; side < KV_SIDES; side++)
        for (int f = 0; f < KV_FORMATS; f++) {
            assert_true(estimates[0][side][f] == profile->damages[0][side][f]);
            assert_true(estimates[1][side][f] == 0);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damages_that_agree_stay),
        cmocka_unit_test(a_sure_damage_stays_and_an_unsure_one_gives_way),
        cmocka_unit_test(weights_are_inverse_variances),
        cmocka_unit_test(a_single_width_stays),
        cmocka_unit_test(nothing_is_made_of_zeros),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
