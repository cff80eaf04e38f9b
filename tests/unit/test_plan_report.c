/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/plan_report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const KvGeometry geometry = { .n_layers = 1, .n_kv_heads = 1, .head_dim = 8 };

static bool tells_of_5_bits(const Profile *profile, DamageSource source) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    CachePlan plan = { .demand.geometry = geometry, .damage = 1, .table.source = source };
    Ledger ledger = { .n_pages = 1 };

    plan.plan.formats[0][KV_SIDE_K] = plan.plan.formats[0][KV_SIDE_V] = KV_FORMAT_5;
    plan_report_print(
        &(PlanReport){ .plan = &plan, .ledger = &ledger, .profile = profile, .identity = "" },
        &out);
    assert_non_null(strstr(buffer_text(&out), "expected KLD"));
    return strstr(buffer_text(&out), "at 5 bits");
}

/* What was not measured at that width is not said to be. */
static void old_profiles_are_told_of(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL;

    (void)state;
    assert_int_equal(profile_new(&profile, &geometry), 0);
    assert_false(tells_of_5_bits(NULL, DAMAGE_TYPICAL));
    assert_false(tells_of_5_bits(profile, DAMAGE_MEASURED));
    profile->lacks_5_bits = true;
    assert_true(tells_of_5_bits(profile, DAMAGE_MEASURED));
    assert_true(tells_of_5_bits(profile, DAMAGE_DISTORTIONS));
    assert_false(tells_of_5_bits(profile, DAMAGE_SPECTRAL_NORMS)); /* tables are not gone by */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_profiles_are_told_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
