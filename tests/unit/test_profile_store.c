/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring a profile in one go and in pieces, on a tiny model; what is kept of it from one start
 * to the next.
 */
#include "server/commands/profile_store.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TIME_MS_MAX 600000

static char directory[64], model_path[80], state_dir[80], shipped_dir[80];

static int setup_model(void **state) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;

    (void)state;
    strcpy(directory, "/tmp/kvasir-test-profile-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    buffer_printf(&command, "tar -xJf '%s/tests/data/models/llama.tar.xz' -C '%s'",
                  root ? root : ".", directory);
    snprintf(model_path, sizeof(model_path), "%s/llama", directory);
    snprintf(state_dir, sizeof(state_dir), "%s/state", directory);
    snprintf(shipped_dir, sizeof(shipped_dir), "%s/shipped", directory);
    return system(buffer_text(&command));
}

static int teardown_model(void **state) {
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;

    (void)state;
    buffer_printf(&command, "rm -rf '%s'", directory);
    return system(buffer_text(&command));
}

/* No time is enough for one chunk. */
static ProfileStoreOptions options_with(uint64_t time_ms_max) {
    return (ProfileStoreOptions){ .model_path = model_path,
                                  .state_dir = state_dir,
                                  .shipped_dir = shipped_dir,
                                  .n_threads = 2,
                                  .time_ms_max = time_ms_max };
}

static Profile *measure(uint64_t time_ms_max) {
    ProfileStoreOptions options = options_with(time_ms_max);
    Profile *profile = NULL;
    Reason why = REASON_NULL;

    if (profile_measure(&profile, &options, &why))
        fail_msg("%s", why.text);
    return profile;
}

static Profile *get(uint64_t time_ms_max) {
    ProfileStoreOptions options = options_with(time_ms_max);
    Profile *profile = NULL;
    Reason why = REASON_NULL;

    if (profile_store_get(&profile, &options, &why))
        fail_msg("%s", why.text);
    return profile;
}

static void assert_same(const Profile *a, const Profile *b) {
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_tokens_wanted, b->n_tokens_wanted);
    assert_memory_equal(a->q_moments, b->q_moments, profile_moments_count(a) * sizeof(float));
    assert_memory_equal(a->k_covariances, b->k_covariances,
                        profile_moments_count(a) * sizeof(float));
    assert_true(hash128_equal(profile_hash(a), profile_hash(b)));
}

static void measuring_in_pieces_gives_the_same_profile(void **state) {
    CLEANUP(profile_free) Profile *whole = measure(TIME_MS_MAX), *pieces = measure(0);
    ProfileStoreOptions options = options_with(0);
    Reason why = REASON_NULL;
    uint32_t n_pieces = 1;

    (void)state;
    assert_true(profile_is_whole(whole));
    assert_true(pieces->n_tokens > 0);
    assert_int_equal(pieces->n_tokens_wanted, whole->n_tokens);
    for (; !profile_is_whole(pieces); n_pieces++) {
        uint64_t before = pieces->n_tokens;

        if (profile_measure_continue(pieces, &options, &why))
            fail_msg("%s", why.text);
        assert_true(pieces->n_tokens > before);
    }
    assert_true(n_pieces > 2);
    assert_same(pieces, whole);
}

static void every_start_comes_closer_to_the_whole_profile(void **state) {
    CLEANUP(profile_free) Profile *whole = measure(TIME_MS_MAX), *first = get(0), *second = get(0);
    CLEANUP(profile_free) Profile *third = get(TIME_MS_MAX), *fourth = get(0);

    (void)state;
    assert_false(profile_is_whole(first));
    assert_true(second->n_tokens > first->n_tokens);
    assert_same(third, whole);
    assert_same(fourth, whole);
}

static void another_text_is_not_gone_on_with(void **state) {
    CLEANUP(profile_free) Profile *profile = measure(0), *kept = NULL;
    ProfileStoreOptions options = options_with(TIME_MS_MAX);
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    uint64_t n_tokens = profile->n_tokens;
    Reason why = REASON_NULL;

    (void)state;
    strcpy(profile->text_name, "novel.txt");
    assert_int_equal(profile_measure_continue(profile, &options, &why), -ESTALE);
    assert_non_null(strstr(why.text, "novel.txt"));
    assert_int_equal(profile->n_tokens, n_tokens);
    assert_int_equal(profile_store_path(&options, profile->identity, &path, &why), 0);
    assert_int_equal(profile_store_save(profile, buffer_text(&path), &why), 0);
    kept = get(TIME_MS_MAX);
    assert_same(kept, profile);
}

/* profiles that come with the program */

static void keep(const Profile *profile, const char *folder) {
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    Reason why = REASON_NULL;

    buffer_printf(&path, "%s/%s.profile", folder, profile->identity);
    if (profile_store_save(profile, buffer_text(&path), &why))
        fail_msg("%s", why.text);
}

static void forget(const Profile *profile, const char *folder) {
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;

    buffer_printf(&path, "%s/%s.profile", folder, profile->identity);
    unlink(buffer_text(&path));
}

/* Told apart by what it was measured on. */
static void assert_got(const char *text_name) {
    CLEANUP(profile_free) Profile *profile = get(TIME_MS_MAX);

    assert_string_equal(profile->text_name, text_name);
}

static void a_shipped_profile_stands_in_for_measuring(void **state) {
    CLEANUP(profile_free) Profile *profile = measure(TIME_MS_MAX);
    ProfileStoreOptions options = options_with(TIME_MS_MAX);
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(profile_store_path(&options, profile->identity, &path, &why), 0);
    strcpy(profile->text_name, "shipped");
    keep(profile, shipped_dir);
    forget(profile, state_dir);
    assert_got("shipped");
    assert_true(access(buffer_text(&path), F_OK)); /* and nothing is kept */

    /* before one that a first start made */
    strcpy(profile->text_name, PROFILE_BUILTIN_TEXT);
    keep(profile, state_dir);
    assert_got("shipped");
    /* but not before one that tells as much, */
    profile->has_damages = true;
    profile->n_damage_tokens = 64;
    keep(profile, state_dir);
    assert_got(PROFILE_BUILTIN_TEXT);
    /* or that somebody made on a text of their own */
    profile->has_damages = false;
    strcpy(profile->text_name, "novel.txt");
    keep(profile, state_dir);
    assert_got("novel.txt");
    forget(profile, state_dir);
    forget(profile, shipped_dir);
}

static void a_shipped_profile_of_another_model_is_none(void **state) {
    CLEANUP(profile_free) Profile *profile = measure(TIME_MS_MAX);
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL, other_path = BUFFER_NULL;

    (void)state;
    strcpy(profile->text_name, "shipped");
    buffer_printf(&path, "%s/%s.profile", shipped_dir, profile->identity);
    profile->identity[0] = profile->identity[0] == '0' ? '1' : '0';
    buffer_printf(&other_path, "%s/%s.profile", shipped_dir, profile->identity);
    keep(profile, shipped_dir);
    assert_got(PROFILE_BUILTIN_TEXT); /* measured: it is not even looked at */
    assert_int_equal(rename(buffer_text(&other_path), buffer_text(&path)), 0);
    assert_got(PROFILE_BUILTIN_TEXT); /* refused */
    unlink(buffer_text(&path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measuring_in_pieces_gives_the_same_profile),
        cmocka_unit_test(every_start_comes_closer_to_the_whole_profile),
        cmocka_unit_test(another_text_is_not_gone_on_with),
        cmocka_unit_test(a_shipped_profile_stands_in_for_measuring),
        cmocka_unit_test(a_shipped_profile_of_another_model_is_none),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
