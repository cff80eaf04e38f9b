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

static char directory[64], model_path[80], state_dir[80];

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
    return (ProfileStoreOptions){
        .model_path = model_path, .state_dir = state_dir, .n_threads = 2, .time_ms_max = time_ms_max
    };
}

static Profile *measure(uint64_t time_ms_max) {
    ProfileStoreOptions options = options_with(time_ms_max);
    Profile *profile = NULL;
    Reason why = REASON_NULL;

    if (profile_store_measure(&profile, &options, &why))
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

        if (profile_store_continue(pieces, &options, &why))
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
    assert_int_equal(profile_store_continue(profile, &options, &why), -ESTALE);
    assert_non_null(strstr(why.text, "novel.txt"));
    assert_int_equal(profile->n_tokens, n_tokens);
    assert_int_equal(profile_store_path(&options, profile->identity, &path, &why), 0);
    assert_int_equal(profile_store_save(profile, buffer_text(&path), &why), 0);
    kept = get(TIME_MS_MAX);
    assert_same(kept, profile);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measuring_in_pieces_gives_the_same_profile),
        cmocka_unit_test(every_start_comes_closer_to_the_whole_profile),
        cmocka_unit_test(another_text_is_not_gone_on_with),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
