/* SPDX-License-Identifier: Apache-2.0 */
/* Norm files of the paper's repository, and files that are none. */
#include "kvcache/norms_file.h"

#include "tests/unit/model_files.h"

#include <errno.h>

static int load(NormsFile *norms, const char *json, size_t size, Reason *why) {
    model_file_write("norms.json", json, size);
    return norms_file_load(norms, model_path("norms.json"), why);
}

static const char good[] = "{\"w_k\": [48.5, 0, 1e3], \"w_v\": [9, 10.25, 11], \"by\": \"me\"}";

static void test_norms_are_read(void **state) {
    Reason why = REASON_NULL;
    NormsFile norms;

    (void)state;
    assert_int_equal(load(&norms, good, strlen(good), &why), 0);
    assert_int_equal(norms.n_layers, 3);
    assert_true(norms.norms[KV_SIDE_K][0] == 48.5 && norms.norms[KV_SIDE_K][1] == 0 &&
                norms.norms[KV_SIDE_K][2] == 1000);
    assert_true(norms.norms[KV_SIDE_V][0] == 9 && norms.norms[KV_SIDE_V][1] == 10.25);
}

static void test_bad_files_are_refused_with_the_place(void **state) {
    static const struct {
        const char *json, *mention;
    } bad[] = {
        { "", "norms.json" },
        { "[1, 2]", "w_k" },
        { "{}", "\"w_k\" is missing" },
        { "{\"w_k\": [1]}", "\"w_v\" is missing" },
        { "{\"w_k\": null, \"w_v\": [1]}", "\"w_k\" is missing" },
        { "{\"w_k\": 1, \"w_v\": [1]}", "expected an array, found 1" },
        { "{\"w_k\": [], \"w_v\": []}", "\"w_k\" has 0 norms" },
        { "{\"w_k\": [1, 2], \"w_v\": [1]}", "\"w_k\" has 2 norms and \"w_v\" has 1" },
        { "{\"w_k\": [1, -2], \"w_v\": [1, 2]}", "\"w_k\", layer 1: -2 is no norm" },
        { "{\"w_k\": [1, 2], \"w_v\": [1, 1e31]}", "\"w_v\", layer 1: 1e31 is no norm" },
        { "{\"w_k\": [1, \"2\"], \"w_v\": [1, 2]}", "\"w_k\", layer 1: expected a norm, found" },
        { "{\"w_k\": [1, null], \"w_v\": [1, 2]}", "found null" },
        { "{\"w_k\": [[1]], \"w_v\": [1]}", "found an array" },
        { "{\"w_k\": [NaN], \"w_v\": [1]}", "norms.json" },
        { "{\"w_k\": [1e999], \"w_v\": [1]}", "norms.json" },
        { "{\"w_k\": [1], \"w_k\": [2], \"w_v\": [1]}", "norms.json" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Reason why = REASON_NULL;
        NormsFile norms;

        if (load(&norms, bad[i].json, strlen(bad[i].json), &why) != -EINVAL)
            fail_msg("%s was taken", bad[i].json);
        assert_mentions(why.text, bad[i].mention);
        assert_mentions(why.text, "norms.json");
    }
}

static void test_too_many_layers(void **state) {
    CLEANUP(buffer_deinit) Buffer json = BUFFER_NULL;
    Reason why = REASON_NULL;
    NormsFile norms;

    (void)state;
    buffer_append_text(&json, "{\"w_v\": [1], \"w_k\": [1");
    for (int i = 0; i < KV_LAYERS_MAX; i++)
        buffer_append_text(&json, ", 1");
    buffer_append_text(&json, "]}");
    assert_int_equal(load(&norms, buffer_text(&json), json.size, &why), -EINVAL);
    assert_mentions(why.text, "513 norms");
}

static void test_a_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    for (size_t size = 0; size < strlen(good); size++) {
        Reason why = REASON_NULL;
        NormsFile norms;

        assert_true(load(&norms, good, size, &why) < 0);
        assert_mentions(why.text, "norms.json");
    }
}

static void test_a_file_that_is_not_there(void **state) {
    Reason why = REASON_NULL;
    NormsFile norms;

    (void)state;
    assert_int_equal(norms_file_load(&norms, "/nowhere/norms.json", &why), -ENOENT);
    assert_mentions(why.text, "/nowhere/norms.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms_are_read),
        cmocka_unit_test(test_bad_files_are_refused_with_the_place),
        cmocka_unit_test(test_too_many_layers),
        cmocka_unit_test(test_a_file_cut_anywhere_is_refused),
        cmocka_unit_test(test_a_file_that_is_not_there),
    };

    return cmocka_run_group_tests(tests, model_files_setup, model_files_teardown);
}
