/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damages of a tiny model: against whole runs with the one side of the one layer in its format, on
 * any number of threads, and in pieces.
 */
#include "server/commands/damages.h"

#include "kvcache/kv_format.h"
#include "server/commands/eval.h"
#include "server/commands/profile_store.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_TOKENS 384 /* six pages in one window */

static char directory[64], model_path[80];
static Profile *first_level;
static uint32_t ids[N_TOKENS + 40];

static int setup_model(void **state) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;
    ProfileStoreOptions where = { .model_path = model_path, .n_threads = 2, .time_ms_max = 60000 };
    Reason why = REASON_NULL;

    (void)state;
    strcpy(directory, "/tmp/kvasir-test-damages-XXXXXX");
    if (!mkdtemp(directory))
        return -1;
    buffer_printf(&command, "tar -xJf '%s/tests/data/models/llama.tar.xz' -C '%s'",
                  root ? root : ".", directory);
    snprintf(model_path, sizeof(model_path), "%s/llama", directory);
    if (system(buffer_text(&command)) || profile_measure(&first_level, &where, &why)) {
        print_error("%s\n", why.text);
        return -1;
    }
    for (uint32_t i = 0; i < N_TOKENS + 40; i++)
        ids[i] = 2 + (i * 31 + i * i * 7) % 500;
    return 0;
}

static int teardown_model(void **state) {
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;

    (void)state;
    profile_free(first_level);
    buffer_printf(&command, "rm -rf '%s'", directory);
    return system(buffer_text(&command));
}

/* With the first level alone. */
static Profile *new_profile(void) {
    Profile *profile = NULL;
    size_t bytes = 2 * profile_moments_count(first_level) * sizeof(float);

    assert_int_equal(profile_new(&profile, &first_level->geometry), 0);
    memcpy(profile->q_moments, first_level->q_moments, bytes);
    profile->n_tokens = profile->n_tokens_wanted = first_level->n_tokens;
    return profile;
}

static void open_session(Session *session, uint32_t n_threads) {
    Reason why = REASON_NULL;

    if (session_init(session,
                     &(SessionOptions){ .model_path = model_path,
                                        .n_threads = n_threads,
                                        .max_step_tokens = DAMAGES_STEP_TOKENS,
                                        .max_logit_rows = KV_PAGE_TOKENS,
                                        .max_sequences = DAMAGES_SEQUENCES },
                     &why))
        fail_msg("%s", why.text);
}

static int measure(Profile *profile, const DamagesOptions *options, uint32_t n_threads, size_t n) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    TokenIds tokens = { .ids = ids, .n = n };
    Reason why = REASON_NULL;
    int r;

    open_session(&session, n_threads);
    r = damages_measure(profile, &session, &tokens, options, &why);
    assert_true(r >= 0 || why.text[0]);
    return r;
}

static void assert_same(const Profile *a, const Profile *b) {
    assert_memory_equal(a->damages, b->damages, sizeof(a->damages));
    assert_memory_equal(a->damage_errors, b->damage_errors, sizeof(a->damage_errors));
    assert_memory_equal(a->distortions, b->distortions, sizeof(a->distortions));
}

/* Of the whole model with one side of one layer in that format, from its first layer on. */
static void run_whole(Session *session, const Profile *profile, uint32_t layer, KvSide side,
                      KvFormat format, double *meanp, double *errorp) {
    EvalRun runs[2] = { { .name = "f16" }, { .name = "one" } };
    Reason why = REASON_NULL;
    KvPlan plan;

    for (uint32_t l = 0; l < KV_LAYERS_MAX; l++)
        plan.formats[l][KV_SIDE_K] = plan.formats[l][KV_SIDE_V] = KV_FORMAT_F16;
    plan.formats[layer][side] = format;
    assert_int_equal(session_cache_init(&runs[0].cache, session, N_TOKENS, NULL, NULL, &why), 0);
    assert_int_equal(session_cache_init(&runs[1].cache, session, N_TOKENS, &plan, profile, &why),
                     0);
    assert_int_equal(eval_run(session, runs, 2, ids, N_TOKENS, N_TOKENS, NULL, NULL), 0);
    *meanp = eval_kld(&runs[1].stats);
    *errorp = eval_kld_error(&runs[1].stats);
    for (int i = 0; i < 2; i++) {
        session_cache_deinit(&runs[i].cache);
        eval_stats_deinit(&runs[i].stats);
    }
}

static void restarts_give_what_whole_runs_give(void **state) {
    CLEANUP(session_deinit) Session session = SESSION_NULL;
    CLEANUP(profile_free) Profile *profile = new_profile();
    static const KvFormat direct[] = { KV_FORMAT_4, KV_FORMAT_3, KV_FORMAT_2 };

    (void)state;
    /* what does not fill a page is left out */
    assert_int_equal(measure(profile, &(DamagesOptions){ .level = DAMAGES_FULL }, 2, N_TOKENS + 40),
                     0);
    assert_true(profile->has_damages && profile->has_distortions);
    assert_true(profile->n_damage_tokens == N_TOKENS);
    open_session(&session, 2);
    for (uint32_t l = 0; l < profile->geometry.n_layers; l++)
        for (int side = 0; side < KV_SIDES; side++)
            for (size_t i = 0; i < 3; i++) {
                double mean, error;

                run_whole(&session, profile, l, (KvSide)side, direct[i], &mean, &error);
                assert_true(mean > 0);
                assert_true(profile->damages[l][side][direct[i]] == mean);
                assert_true(profile->damage_errors[l][side][direct[i]] == error);
            }
}

static void other_formats_follow_distortions(void **state) {
    CLEANUP(profile_free) Profile *full = new_profile(), *quick = new_profile();

    (void)state;
    assert_int_equal(measure(full, &(DamagesOptions){ .level = DAMAGES_FULL }, 2, N_TOKENS), 0);
    assert_int_equal(measure(quick, &(DamagesOptions){ .level = DAMAGES_QUICK }, 2, N_TOKENS), 0);
    assert_memory_equal(full->distortions, quick->distortions, sizeof(full->distortions));
    assert_true(full->damages_direct[KV_FORMAT_3] && !quick->damages_direct[KV_FORMAT_3]);
    for (uint32_t l = 0; l < full->geometry.n_layers; l++)
        for (int side = 0; side < KV_SIDES; side++) {
            const double *x = full->damages[l][side], *d = full->distortions[l][side];
            const double *y = quick->damages[l][side];

            assert_true(y[KV_FORMAT_2] == x[KV_FORMAT_2]);
            assert_true(x[KV_FORMAT_8] == x[KV_FORMAT_4] * (d[KV_FORMAT_8] / d[KV_FORMAT_4]));
            assert_true(y[KV_FORMAT_8] == x[KV_FORMAT_2] * (d[KV_FORMAT_8] / d[KV_FORMAT_2]));
            assert_true(y[KV_FORMAT_3] == x[KV_FORMAT_2] * (d[KV_FORMAT_3] / d[KV_FORMAT_2]));
            for (int f = KV_FORMAT_8; f < KV_FORMAT_2; f++)
                assert_true(d[f] > 0 && d[f] < d[f + 1]);
            assert_true(x[KV_FORMAT_F16] == 0 && d[KV_FORMAT_F16] == 0 && d[KV_FORMAT_BF16] == 0);
        }
}

static void threads_do_not_matter(void **state) {
    CLEANUP(profile_free) Profile *one = new_profile(), *three = new_profile();

    (void)state;
    assert_int_equal(measure(one, &(DamagesOptions){ .level = DAMAGES_FULL }, 1, 256), 0);
    assert_int_equal(measure(three, &(DamagesOptions){ .level = DAMAGES_FULL }, 3, 256), 0);
    assert_same(one, three);
}

/* interruption */

typedef struct Stopper {
    volatile sig_atomic_t stop;
    uint32_t n_calls, n_calls_max; /* stops at the last one */
    uint32_t n_layers_seen;
    uint64_t n_done;
} Stopper;

static void count_progress(void *userdata, uint64_t n_done, uint64_t n_all) {
    Stopper *stopper = userdata;

    assert_true(n_done > stopper->n_done && n_done <= n_all);
    stopper->n_done = n_done;
    stopper->stop = ++stopper->n_calls == stopper->n_calls_max;
}

static void see_layer(void *userdata, const Profile *profile) {
    Stopper *stopper = userdata;

    assert_int_equal(profile->n_layers_measured, ++stopper->n_layers_seen);
}

static int measure_until(Profile *profile, Stopper *stopper, uint32_t n_calls_max) {
    *stopper = (Stopper){ .n_calls_max = n_calls_max, .n_layers_seen = profile->n_layers_measured };
    return measure(profile,
                   &(DamagesOptions){ .level = DAMAGES_FULL,
                                      .stop = &stopper->stop,
                                      .on_progress = count_progress,
                                      .on_layer = see_layer,
                                      .userdata = stopper },
                   2, 256);
}

/* 4 chunks of the f16 model, then 4 of each layer. */
static void measuring_in_pieces_gives_the_same_damages(void **state) {
    CLEANUP(profile_free) Profile *whole = new_profile(), *pieces = new_profile();
    uint32_t n_layers = first_level->geometry.n_layers;
    Stopper stopper;

    (void)state;
    assert_int_equal(measure_until(whole, &stopper, 0), 0);
    assert_int_equal(stopper.n_calls, 4 + 4 * n_layers);
    assert_int_equal(stopper.n_layers_seen, n_layers);

    assert_int_equal(measure_until(pieces, &stopper, 2), DAMAGES_E_STOPPED);
    assert_int_equal(pieces->n_layers_measured, 0);
    assert_int_equal(measure_until(pieces, &stopper, 4 + 4 + 3), DAMAGES_E_STOPPED);
    assert_int_equal(pieces->n_layers_measured, 1);
    assert_false(pieces->has_damages || pieces->has_distortions);
    assert_int_equal(measure_until(pieces, &stopper, 4 + 1), DAMAGES_E_STOPPED);
    assert_int_equal(pieces->n_layers_measured, 1);
    assert_int_equal(measure_until(pieces, &stopper, 0), 0);
    assert_int_equal(stopper.n_calls, 4 + 4 * (n_layers - 1));
    assert_same(pieces, whole);
}

/* Layers of another level, or of another length of text, are not mixed with these. */
static void what_was_measured_otherwise_is_measured_again(void **state) {
    CLEANUP(profile_free) Profile *whole = new_profile(), *mixed = new_profile();
    Stopper stopper;

    (void)state;
    assert_int_equal(measure_until(whole, &stopper, 0), 0);
    assert_int_equal(measure(mixed, &(DamagesOptions){ .level = DAMAGES_QUICK }, 2, 256), 0);
    mixed->has_damages = mixed->has_distortions = false;
    mixed->n_layers_measured = 2;
    stopper.n_layers_seen = 0;
    assert_int_equal(measure(mixed, &(DamagesOptions){ .level = DAMAGES_FULL }, 2, 256), 0);
    assert_same(mixed, whole);
    assert_int_equal(measure(mixed, &(DamagesOptions){ .level = DAMAGES_FULL }, 2, 192), 0);
    assert_true(mixed->n_damage_tokens == 192);
    mixed->has_damages = mixed->has_distortions = false;
    mixed->n_layers_measured = 2;
    assert_int_equal(measure(mixed, &(DamagesOptions){ .level = DAMAGES_FULL }, 2, 256), 0);
    assert_same(mixed, whole);
}

/* As a file of the version that had no such format is read, whole or not. */
static void what_lacks_5_bits_is_measured_again(void **state) {
    static const DamagesOptions full = { .level = DAMAGES_FULL };
    CLEANUP(profile_free) Profile *whole = new_profile(), *old = new_profile();

    (void)state;
    assert_int_equal(measure(whole, &full, 2, 256), 0);
    assert_int_equal(measure(old, &full, 2, 256), 0);
    for (uint32_t n_layers = 2; n_layers <= 3; n_layers++) {
        old->lacks_5_bits = true;
        old->has_damages = old->has_distortions = n_layers == old->geometry.n_layers;
        old->n_layers_measured = n_layers;
        for (uint32_t l = 0; l < n_layers; l++)
            old->damages[l][KV_SIDE_V][KV_FORMAT_5] = old->damages[l][KV_SIDE_K][KV_FORMAT_4] = 7;
        assert_int_equal(measure(old, &full, 2, 256), 0);
        assert_false(old->lacks_5_bits);
        assert_same(old, whole);
    }
}

static void a_text_of_one_page_is_too_short(void **state) {
    CLEANUP(profile_free) Profile *profile = new_profile();

    (void)state;
    assert_int_equal(measure(profile, &(DamagesOptions){ .level = DAMAGES_FULL }, 2, 127), -EINVAL);
    assert_false(profile->has_damages);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(restarts_give_what_whole_runs_give),
        cmocka_unit_test(other_formats_follow_distortions),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(measuring_in_pieces_gives_the_same_damages),
        cmocka_unit_test(what_was_measured_otherwise_is_measured_again),
        cmocka_unit_test(what_lacks_5_bits_is_measured_again),
        cmocka_unit_test(a_text_of_one_page_is_too_short),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
