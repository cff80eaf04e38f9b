/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/kv_spec.h"

#include "kvcache/kv_format.h"
#include "tests/unit/model_files.h"

#include <errno.h>

#define N_LAYERS 3

static const uint32_t widths[] = { 16, 8, 6, 5, 4, 3, 2 };

#define N_WIDTHS (sizeof(widths) / sizeof(widths[0]))

static void assert_pair(const KvPlan *plan, uint32_t layer, uint32_t k_bits, uint32_t v_bits) {
    assert_int_equal(kv_formats[plan->formats[layer][KV_SIDE_K]].bits, k_bits);
    assert_int_equal(kv_formats[plan->formats[layer][KV_SIDE_V]].bits, v_bits);
}

static void test_every_pair(void **state) {
    (void)state;
    for (size_t i = 0; i < N_WIDTHS; i++)
        for (size_t j = 0; j < N_WIDTHS; j++) {
            Reason why = REASON_NULL;
            char spec[16];
            KvPlan plan;

            snprintf(spec, sizeof(spec), "k%uv%u", widths[i], widths[j]);
            assert_int_equal(kv_spec_parse(&plan, spec, N_LAYERS, &why), 0);
            for (uint32_t layer = 0; layer < N_LAYERS; layer++)
                assert_pair(&plan, layer, widths[i], widths[j]);
        }
}

/* By name there are two; 16 as a width is the finer one. */
static void test_16_bits(void **state) {
    static const struct {
        const char *spec;
        KvFormat format;
    } cases[] = { { "bf16", KV_FORMAT_BF16 },
                  { "f16", KV_FORMAT_F16 },
                  { "k16v16", KV_FORMAT_F16 } };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Reason why = REASON_NULL;
        KvPlan plan;

        assert_int_equal(kv_spec_parse(&plan, cases[i].spec, KV_LAYERS_MAX, &why), 0);
        for (uint32_t layer = 0; layer < KV_LAYERS_MAX; layer++)
            for (KvSide side = 0; side < KV_SIDES; side++)
                assert_int_equal(plan.formats[layer][side], cases[i].format);
    }
}

static void test_bad_specs_are_refused_by_name(void **state) {
    static const char *const bad[] = {
        "",       "k",     "k4",    "k4v",           "v4k4",           "k4v4 ", " k4v4",
        "K4V4",   "k9v4",  "k4v7",  "k4v1",          "k0v0",           "kv",    "k-4v4",
        "k4v4v4", "k4,v4", "k+4v4", "k32v32",        "k04v4",          "k4v04", "fp8",
        "bf16 ",  "f16 ",  "f32",   "k4294967300v4", "k99999999999v4",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Reason why = REASON_NULL;
        char quoted[64];
        KvPlan plan;

        if (kv_spec_parse(&plan, bad[i], N_LAYERS, &why) != -EINVAL)
            fail_msg("\"%s\" was taken", bad[i]);
        snprintf(quoted, sizeof(quoted), "\"%s\"", bad[i]);
        assert_mentions(why.text, quoted);
        assert_mentions(why.text, "k4v2");
    }
}

/* A plan has room for so many layers; the model's number comes from a file. */
static void test_a_model_of_too_many_layers_is_refused(void **state) {
    static const char *const specs[] = { "bf16", "k4v2" };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        Reason why = REASON_NULL;
        KvPlan plan;

        assert_int_equal(kv_spec_parse(&plan, specs[i], KV_LAYERS_MAX + 1, &why), -EINVAL);
        assert_mentions(why.text, "513 layers");
    }
}

/* plan files */

static int parse_plan(KvPlan *plan, const char *json, size_t size, Reason *why) {
    char spec[300];

    model_file_write("plan.json", json, size);
    snprintf(spec, sizeof(spec), "plan:%s", model_path("plan.json"));
    return kv_spec_parse(plan, spec, N_LAYERS, why);
}

static const char good[] = "{\"layers\": [{\"k\": 4, \"v\": 2}, {\"k\": 16, \"v\": 8},\n"
                           " {\"v\": 3, \"k\": 6, \"because\": \"measured\"}], \"of\": \"me\"}\n";

static void test_a_plan_file_has_a_pair_for_each_layer(void **state) {
    Reason why = REASON_NULL;
    KvPlan plan;

    (void)state;
    assert_int_equal(parse_plan(&plan, good, strlen(good), &why), 0);
    assert_pair(&plan, 0, 4, 2);
    assert_pair(&plan, 1, 16, 8);
    assert_pair(&plan, 2, 6, 3);
}

static void test_bad_plan_files_are_refused_with_the_place(void **state) {
    static const struct {
        const char *json, *mention;
    } bad[] = {
        { "", "plan.json" },
        { "[]", "layers" },
        { "{}", "layers" },
        { "{\"layers\": 3}", "layers" },
        { "{\"layers\": []}", "0 entries; the model has 3 layers" },
        { "{\"layers\": [{\"k\":4,\"v\":2},{\"k\":4,\"v\":2}]}", "2 entries" },
        { "{\"layers\": [{\"k\":4,\"v\":2},{\"k\":4,\"v\":2},{\"k\":4,\"v\":2},{\"k\":4,\"v\":2}]}",
          "4 entries" },
        { "{\"layers\": [{\"k\":4,\"v\":2},{\"k\":4,\"v\":2},4]}", "layer 2" },
        { "{\"layers\": [{\"k\":4,\"v\":2},{\"k\":4},{\"k\":4,\"v\":2}]}", "layer 1: " },
        { "{\"layers\": [{\"k\":4,\"v\":2},{\"k\":4,\"v\":7},{\"k\":4,\"v\":2}]}",
          "\"v\" is 7 bits" },
        { "{\"layers\": [{\"k\":\"4\",\"v\":2},{\"k\":4,\"v\":2},{\"k\":4,\"v\":2}]}", "layer 0" },
        { "{\"layers\": [{\"k\":4.5,\"v\":2},{\"k\":4,\"v\":2},{\"k\":4,\"v\":2}]}", "layer 0" },
        { "{\"layers\": [{\"k\":-4,\"v\":2},{\"k\":4,\"v\":2},{\"k\":4,\"v\":2}]}", "layer 0" },
        { "{\"layers\": [{\"k\":99999999999999999999,\"v\":2}]}", "plan.json" },
        { "{\"layers\": [{\"k\":4,\"k\":2,\"v\":2},{\"k\":4,\"v\":2},{\"k\":4,\"v\":2}]}",
          "plan.json" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Reason why = REASON_NULL;
        KvPlan plan;

        if (!parse_plan(&plan, bad[i].json, strlen(bad[i].json), &why))
            fail_msg("%s was taken", bad[i].json);
        assert_mentions(why.text, bad[i].mention);
        assert_mentions(why.text, "plan.json");
    }
}

static void test_a_plan_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    for (size_t size = 0; size < strlen(good) - 1; size++) {
        Reason why = REASON_NULL;
        KvPlan plan;

        assert_true(parse_plan(&plan, good, size, &why) < 0);
        assert_mentions(why.text, "plan.json");
    }
}

static void test_a_plan_file_that_is_not_there_is_named(void **state) {
    Reason why = REASON_NULL;
    KvPlan plan;

    (void)state;
    assert_int_equal(kv_spec_parse(&plan, "plan:/nowhere/plan.json", N_LAYERS, &why), -ENOENT);
    assert_mentions(why.text, "/nowhere/plan.json");
    assert_true(kv_spec_parse(&plan, "plan:", N_LAYERS, &why) < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_16_bits),
        cmocka_unit_test(test_bad_specs_are_refused_by_name),
        cmocka_unit_test(test_a_model_of_too_many_layers_is_refused),
        cmocka_unit_test(test_a_plan_file_has_a_pair_for_each_layer),
        cmocka_unit_test(test_bad_plan_files_are_refused_with_the_place),
        cmocka_unit_test(test_a_plan_file_cut_anywhere_is_refused),
        cmocka_unit_test(test_a_plan_file_that_is_not_there_is_named),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
