/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a profile holds beyond what pages depend on: spectral norms, damages, distortions; and files
 * of the version that had none of them.
 */
#include "kvcache/profile.h"

#include "tests/unit/profile_files.h"

static const KvFormat narrow[] = { KV_FORMAT_8, KV_FORMAT_6, KV_FORMAT_5,
                                   KV_FORMAT_4, KV_FORMAT_3, KV_FORMAT_2 };
#define N_NARROW (sizeof(narrow) / sizeof(*narrow))

static void fill_table(ProfileTable table, uint32_t n_layers, Random *random) {
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (int side = 0; side < KV_SIDES; side++)
            for (size_t i = 0; i < N_NARROW; i++)
                table[layer][side][narrow[i]] = random_uniform(random) / 7;
}

/* With tables of the first n_layers. */
static Profile *new_measured(uint32_t n_layers) {
    Random random = random_start("damages");
    Profile *profile = new_profile();

    profile->has_spectral_norms = true;
    for (uint32_t layer = 0; layer < geometry.n_layers; layer++) {
        profile->k_spectral_norms[layer] = profile->k_norms[layer] / 3;
        profile->v_spectral_norms[layer] = profile->v_norms[layer] / 7;
    }
    profile->n_damage_tokens = 4096;
    profile->n_layers_measured = n_layers;
    profile->has_damages = profile->has_distortions = n_layers == geometry.n_layers;
    profile->damages_direct[KV_FORMAT_4] = profile->damages_direct[KV_FORMAT_2] = true;
    fill_table(profile->damages, n_layers, &random);
    fill_table(profile->damage_errors, n_layers, &random);
    fill_table(profile->distortions, n_layers, &random);
    return profile;
}

static Profile *load_saved(void) {
    Profile *profile = NULL;
    Reason why = REASON_NULL;

    if (profile_load(&profile, path, IDENTITY, &geometry, &why))
        fail_msg("%s", why.text);
    return profile;
}

static void assert_same_levels(const Profile *a, const Profile *b) {
    assert_int_equal(a->has_spectral_norms, b->has_spectral_norms);
    assert_memory_equal(a->k_spectral_norms, b->k_spectral_norms, sizeof(a->k_spectral_norms));
    assert_memory_equal(a->v_spectral_norms, b->v_spectral_norms, sizeof(a->v_spectral_norms));
    assert_int_equal(a->has_damages, b->has_damages);
    assert_int_equal(a->has_distortions, b->has_distortions);
    assert_int_equal(a->n_layers_measured, b->n_layers_measured);
    assert_int_equal(a->lacks_5_bits, b->lacks_5_bits);
    assert_true(a->n_damage_tokens == b->n_damage_tokens);
    assert_memory_equal(a->damages_direct, b->damages_direct, sizeof(a->damages_direct));
    assert_memory_equal(a->damages, b->damages, sizeof(a->damages));
    assert_memory_equal(a->damage_errors, b->damage_errors, sizeof(a->damage_errors));
    assert_memory_equal(a->distortions, b->distortions, sizeof(a->distortions));
}

static void what_was_measured_comes_back(void **state) {
    (void)state;
    for (uint32_t n_layers = 1; n_layers <= geometry.n_layers; n_layers++) {
        CLEANUP(profile_free) Profile *saved = new_measured(n_layers), *loaded = NULL;

        save(saved);
        loaded = load_saved();
        assert_same_levels(loaded, saved);
    }
}

/* As planners make them: without counts of layers. */
static void tables_may_be_there_one_by_one(void **state) {
    CLEANUP(profile_free) Profile *distorted = new_measured(geometry.n_layers), *loaded = NULL;
    CLEANUP(profile_free) Profile *damaged = new_measured(geometry.n_layers), *plain = NULL;

    (void)state;
    distorted->has_damages = false;
    distorted->n_layers_measured = 0;
    save(distorted);
    loaded = load_saved();
    assert_false(loaded->has_damages);
    assert_true(loaded->has_distortions);
    assert_memory_equal(loaded->distortions, distorted->distortions, sizeof(loaded->distortions));
    loaded = profile_free(loaded);

    damaged->has_distortions = false;
    damaged->n_layers_measured = 0;
    save(damaged);
    loaded = load_saved();
    assert_true(loaded->has_damages);
    assert_false(loaded->has_distortions);
    save(loaded);
    loaded = profile_free(loaded);
    loaded = load_saved();
    assert_true(loaded->has_damages);
    assert_false(loaded->has_distortions);

    plain = new_profile();
    save(plain);
    loaded = profile_free(loaded);
    loaded = load_saved();
    assert_false(loaded->has_damages || loaded->has_distortions || loaded->has_spectral_norms);
}

/* Pages that were rounded before the damages were measured are still good. */
static void damages_do_not_change_the_hash(void **state) {
    CLEANUP(profile_free) Profile *profile = new_measured(geometry.n_layers);
    Hash128 before = profile_hash(profile);

    (void)state;
    profile->damages[1][KV_SIDE_K][KV_FORMAT_3] += 1;
    profile->damage_errors[0][KV_SIDE_V][KV_FORMAT_8] += 1;
    profile->distortions[1][KV_SIDE_K][KV_FORMAT_2] += 1;
    profile->n_damage_tokens += 1;
    profile->damages_direct[KV_FORMAT_8] = true;
    profile->k_spectral_norms[1] += 1;
    assert_true(hash128_equal(profile_hash(profile), before));
    profile->has_damages = profile->has_distortions = profile->has_spectral_norms = false;
    profile->n_layers_measured = 0;
    assert_true(hash128_equal(profile_hash(profile), before));
}

static const char head[] = "{\"model\": \"" IDENTITY "\", \"n_layers\": 2, \"n_kv_heads\": 3, "
                           "\"head_dim\": 4, \"n_tokens\": 7, \"n_tokens_wanted\": 7, "
                           "\"text\": \"t\", \"k_norms\": [1, 2.5], \"v_norms\": [0, 1e-3], "
                           "\"k_spectral_norms\": [0.5, 2], \"v_spectral_norms\": [0, 1e-4], "
                           "\"damages\": {\"tokens\": 64, \"measured\": [4, 2], \"values\": ["
                           "[1e-6, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "
                           "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]], \"errors\": ["
                           "[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "
                           "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 13]]}, \"distortions\": ["
                           "[0, 0.125, 0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0], "
                           "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 12]]}";

static void columns_are_the_widths_of_keys_then_of_values(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL;
    float body[BODY_FLOATS] = { 0 };

    (void)state;
    write_composed(head, strlen(head), body, BODY_FLOATS);
    profile = load_saved();
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_8] == 1e-6);
    assert_false(profile->lacks_5_bits);
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_5] == 2);
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_2] == 5);
    assert_true(profile->damages[0][KV_SIDE_V][KV_FORMAT_8] == 6);
    assert_true(profile->damages[0][KV_SIDE_V][KV_FORMAT_2] == 11);
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_F16] == 0);
    assert_true(profile->damage_errors[1][KV_SIDE_V][KV_FORMAT_2] == 13);
    assert_true(profile->distortions[0][KV_SIDE_K][KV_FORMAT_6] == 0.125);
    assert_true(profile->distortions[0][KV_SIDE_K][KV_FORMAT_5] == 0.25);
    assert_true(profile->k_spectral_norms[1] == 2);
    assert_true(profile->damages_direct[KV_FORMAT_4] && profile->damages_direct[KV_FORMAT_2]);
    assert_false(profile->damages_direct[KV_FORMAT_3] || profile->damages_direct[KV_FORMAT_F16]);
}

/* Version 2 had the same body, and of the head what comes first. */
static void files_of_version_2_are_read(void **state) {
    static const char old[] = "{\"model\": \"" IDENTITY "\", \"n_layers\": 2, \"n_kv_heads\": 3, "
                              "\"head_dim\": 4, \"n_tokens\": 6, \"n_tokens_wanted\": 7, "
                              "\"text\": \"t\", \"k_norms\": [1, 2.5], \"v_norms\": [0, 1e-3]}";
    CLEANUP(profile_free) Profile *profile = NULL, *again = NULL;
    float body[BODY_FLOATS] = { 0 };

    (void)state;
    body[5] = 3;
    write_version(2, old, strlen(old), body, BODY_FLOATS);
    profile = load_saved();
    assert_false(profile->has_damages || profile->has_distortions || profile->has_spectral_norms);
    assert_true(profile->q_moments[5] == 3 && profile->k_norms[1] == 2.5);
    assert_int_equal(profile->n_tokens, 6);
    save(profile); /* as the version of today */
    again = load_saved();
    assert_true(hash128_equal(profile_hash(profile), profile_hash(again)));
}

static const char head_but_5[] =
    "{\"model\": \"" IDENTITY "\", \"n_layers\": 2, \"n_kv_heads\": 3, \"head_dim\": 4, "
    "\"n_tokens\": 7, \"n_tokens_wanted\": 7, \"text\": \"t\", \"k_norms\": [1, 2.5], "
    "\"v_norms\": [0, 1e-3], \"damages\": {\"tokens\": 64, \"measured\": [4, 2], "
    "\"values\": [[1, 4, 9, 3, 4, 5, 6, 6, 8, 9], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]], "
    "\"errors\": [[1, 0, 2, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 4, 16, 1, 1]]}, "
    "\"distortions\": [[0, 0.125, 0.5, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]}";

/* 5 bits are between 4 and 6 then. That is told apart from what was measured, and not written. */
static void files_of_version_3_had_no_5_bits(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL, *again = NULL;
    float body[BODY_FLOATS] = { 0 };

    (void)state;
    write_version(3, head_but_5, strlen(head_but_5), body, BODY_FLOATS);
    profile = load_saved();
    assert_true(profile->lacks_5_bits && profile->has_damages && profile->has_distortions);
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_6] == 4);
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_5] == 6);
    assert_true(profile->damages[0][KV_SIDE_K][KV_FORMAT_4] == 9);
    assert_true(profile->damages[0][KV_SIDE_V][KV_FORMAT_2] == 9);
    assert_true(profile->damage_errors[0][KV_SIDE_K][KV_FORMAT_5] == 0);
    assert_true(profile->damage_errors[1][KV_SIDE_V][KV_FORMAT_5] == 8);
    assert_true(profile->distortions[0][KV_SIDE_K][KV_FORMAT_5] == 0.25);
    save(profile);
    again = load_saved();
    assert_true(again->lacks_5_bits);
    assert_same_levels(again, profile);
}

static void rows_of_a_file_have_5_bits_or_none_has(void **state) {
    static const struct {
        uint32_t version;
        const char *from, *to, *fault;
    } edits[] = {
        { 3, "[4, 2]", "[4, 5]", "entry 1 is none of 8, 6, 4, 3 and 2" },
        { 4, "[4, 2]", "[4, 5]", "entry 1 is none of 8, 6, 4, 3 and 2" },
        { 3, "8, 9]", "8, 9, 1, 1]", "row 0: expected 10 numbers, found 12" },
        { 4, "8, 9]", "8, 9, 1, 1]", "row 1: expected 12 numbers, found 10" },
        { 4, "16, 1, 1]", "16, 1, 1, 1, 1]", "row 1: expected 10 numbers, found 12" },
        { 4, "4, 9", "4, -9", "damages of layer 0, keys in 4 are -9" },
    };
    float body[BODY_FLOATS] = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(*edits); i++) {
        const char *at = strstr(head_but_5, edits[i].from);
        char edited[1024];

        assert_non_null(at);
        snprintf(edited, sizeof(edited), "%.*s%s%s", (int)(at - head_but_5), head_but_5,
                 edits[i].to, at + strlen(edits[i].from));
        write_version(edits[i].version, edited, strlen(edited), body, BODY_FLOATS);
        assert_refused(edits[i].fault);
    }
}

/* Prefix caches know pages by it. */
static void a_profile_has_the_hash_it_had_in_version_2(void **state) {
    CLEANUP(profile_free) Profile *profile = NULL;
    char hex[HASH128_HEX_BYTES];

    (void)state;
    assert_int_equal(profile_new(&profile, &geometry), 0);
    memcpy(profile->identity, IDENTITY, sizeof(IDENTITY));
    profile->n_tokens = 7;
    profile->k_norms[1] = 2.5;
    profile->q_moments[5] = 3;
    assert_string_equal(hash128_to_hex(profile_hash(profile), hex),
                        "de4b023e1ed705e368610d57c8a326f9");
}

static void heads_that_say_something_else_are_refused(void **state) {
    static const struct {
        const char *from, *to, *fault;
    } edits[] = {
        { "[0.5, 2]", "[0.5]", "\"k_spectral_norms\": expected 2 numbers" },
        { "[0.5, 2]", "[0.5, -2]", "k_spectral_norms of layer 1 is -2" },
        { "[0.5, 2]", "[0.5, 1e999]", "not valid JSON" },
        { "\"v_spectral_norms\"", "\"w\"", "key \"v_spectral_norms\" is missing" },
        { "\"k_spectral_norms\"", "\"w\"", "key \"k_spectral_norms\" is missing" },
        { "\"tokens\": 64", "\"tokens\": 0", "means over 0 tokens" },
        { "\"tokens\": 64", "\"tokens\": -64", "tokens" },
        { "\"tokens\": 64", "\"token\": 64", "damages: key \"tokens\" is missing" },
        { "[4, 2]", "[4, 7]", "entry 1 is none of 8, 6, 5, 4, 3 and 2" },
        { "[4, 2]", "[16]", "entry 0 is none of" },
        { "[4, 2]", "[\"4\"]", "entry 0 is none of" },
        { "[4, 2]", "7", "measured" },
        { "{\"tokens\"", "[{\"tokens\"", "not valid JSON" },
        { "1e-6", "-1e-6", "damages of layer 0, keys in 8 are -1e-06" },
        { "1e-6", "1e999", "not valid JSON" },
        { "1e-6", "NaN", "not valid JSON" },
        { "1e-6", "\"1\"", "row 0: entry 0 is no number" },
        { "1e-6, ", "", "row 0: expected 12 numbers, found 11" },
        { "1e-6, ", "1, 1, ", "row 0: expected 12 numbers, found 13" },
        { "[1e-6, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], ", "", "1 rows of values, but 2 of errors" },
        { "[1e-6, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], ", "[], [], ", "expected 1 to 2 rows" },
        { "13]", "-13]", "damage_errors of layer 1, values in 2 are -13" },
        { "0.125", "-0.125", "distortions of layer 0, keys in 6 are -0.125" },
        { "12]", "12], 12", "expected 1 to 2 rows" },
        { "[0, 0.125, 0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0], ", "",
          "\"distortions\": expected 2 rows, found 1" },
        { "[[0, 0.125", "[{}, [0, 0.125", "expected 1 to 2 rows" },
    };
    float body[BODY_FLOATS] = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(*edits); i++) {
        const char *at = strstr(head, edits[i].from);
        char edited[1024];

        assert_non_null(at);
        snprintf(edited, sizeof(edited), "%.*s%s%s", (int)(at - head), head, edits[i].to,
                 at + strlen(edits[i].from));
        write_composed(edited, strlen(edited), body, BODY_FLOATS);
        assert_refused(edits[i].fault);
    }
}

/* What goes on with it needs both. */
static void damages_of_some_layers_come_with_their_distortions(void **state) {
    static const char some[] = "{\"model\": \"" IDENTITY "\", \"n_layers\": 2, \"n_kv_heads\": 3, "
                               "\"head_dim\": 4, \"n_tokens\": 7, \"n_tokens_wanted\": 7, "
                               "\"text\": \"t\", \"k_norms\": [1, 2.5], \"v_norms\": [0, 1e-3], "
                               "\"damages\": {\"tokens\": 64, \"measured\": [4, 2], "
                               "\"values\": [[0, 0, 2, 3, 4, 5, 6, 7, 8, 9]], "
                               "\"errors\": [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]}%s}";
    static const char row[] = "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]";
    float body[BODY_FLOATS] = { 0 };
    char text[1024], tables[256];

    (void)state;
    for (int n_rows = 0; n_rows <= 2; n_rows++) {
        tables[0] = 0;
        if (n_rows)
            snprintf(tables, sizeof(tables), ", \"distortions\": [%s%s%s]", row,
                     n_rows == 2 ? ", " : "", n_rows == 2 ? row : "");
        snprintf(text, sizeof(text), some, tables);
        write_composed(text, strlen(text), body, BODY_FLOATS);
        if (n_rows == 1)
            assert_int_equal(load(NULL), 0);
        else
            assert_refused("distortions");
    }
}

static void what_no_file_may_hold_is_not_saved(void **state) {
    static const double bad[] = { NAN, INFINITY, -1 };
    CLEANUP(profile_free) Profile *profile = new_measured(geometry.n_layers);
    double *numbers[] = { &profile->damages[1][KV_SIDE_V][KV_FORMAT_3],
                          &profile->damage_errors[0][KV_SIDE_K][KV_FORMAT_8],
                          &profile->distortions[1][KV_SIDE_K][KV_FORMAT_2],
                          &profile->k_spectral_norms[1], &profile->v_spectral_norms[0] };
    Reason why = REASON_NULL;

    (void)state;
    unlink(path);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        for (size_t j = 0; j < sizeof(bad) / sizeof(*bad); j++) {
            double good = *numbers[i];

            *numbers[i] = bad[j];
            assert_int_equal(profile_save(profile, path, &why), -EINVAL);
            *numbers[i] = good;
        }
    profile->damages[0][KV_SIDE_K][KV_FORMAT_F16] = 1;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    profile->damages[0][KV_SIDE_K][KV_FORMAT_F16] = 0;
    profile->n_damage_tokens = 0;
    assert_int_equal(profile_save(profile, path, &why), -EINVAL);
    assert_true(access(path, F_OK));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_measured_comes_back),
        cmocka_unit_test(tables_may_be_there_one_by_one),
        cmocka_unit_test(damages_do_not_change_the_hash),
        cmocka_unit_test(columns_are_the_widths_of_keys_then_of_values),
        cmocka_unit_test(files_of_version_2_are_read),
        cmocka_unit_test(files_of_version_3_had_no_5_bits),
        cmocka_unit_test(rows_of_a_file_have_5_bits_or_none_has),
        cmocka_unit_test(a_profile_has_the_hash_it_had_in_version_2),
        cmocka_unit_test(heads_that_say_something_else_are_refused),
        cmocka_unit_test(damages_of_some_layers_come_with_their_distortions),
        cmocka_unit_test(what_no_file_may_hold_is_not_saved),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
