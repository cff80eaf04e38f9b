/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird profile`: the first level always, the second if --quick or --full asks for it. What the
 * second has measured is kept layer by layer, and SIGINT ends it after the chunk at hand; the same
 * command goes on there.
 */
#include "server/commands/commands.h"
#include "server/commands/model_run.h"
#include "server/commands/profile_report.h"
#include "server/commands/progress.h"
#include "util/output_file.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define EXIT_STOPPED (128 + SIGINT)

typedef struct ProfileRun {
    const Config *config;
    ProfileStoreOptions where;
    Buffer path;      /* of the profile; "-": standard output */
    Profile *profile; /* so far */
    OutputFile json;
    bool is_stopped;
    Reason keeping; /* why a profile could not be kept meanwhile */
} ProfileRun;

static void profile_run_deinit(ProfileRun *run) {
    buffer_deinit(&run->path);
    profile_free(run->profile);
    output_file_deinit(&run->json);
}
CLEANUP_DEINIT_DEFINE(ProfileRun, profile_run_deinit);

static bool is_stdout(const char *path) {
    return path && strcmp(path, "-") == 0;
}

/* where it goes */

/* What cannot be written need not be waited for. */
static int check_outputs(ProfileRun *run, Reason *why) {
    const Config *config = run->config;
    int r = 0;

    if (config->output_path)
        r = profile_store_check(config->output_path, why);
    if (r)
        return reason_prefix(why, r, "flag --output: ");
    if (is_stdout(config->output_path) && is_stdout(config->json_path))
        return reason_set(why, -EINVAL,
                          "flag --json: the standard output takes the profile already");
    return config->json_path ? output_file_open(&run->json, config->json_path, why) : 0;
}

static int find_path(ProfileRun *run, const char *identity, Reason *why) {
    if (!run->config->output_path)
        return profile_store_path(&run->where, identity, &run->path, why);
    buffer_append_text(&run->path, run->config->output_path);
    return buffer_failed(&run->path) ? reason_set(why, -ENOMEM, "out of memory") : 0;
}

static int save(const ProfileRun *run, Reason *why) {
    return profile_store_save(run->profile, buffer_text(&run->path), why);
}

/* levels */

static volatile sig_atomic_t stop_signal;

static void on_signal(int number) {
    stop_signal = number;
}

/* A second one ends the process at once. */
static void catch_signals(void) {
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static void on_progress(void *userdata, uint64_t n_done, uint64_t n_all) {
    const ProfileRun *run = userdata;
    char words[64];

    snprintf(words, sizeof(words), "%2" PRIu64 "%%, layer %" PRIu32 " of %" PRIu32,
             n_done * 100 / n_all, run->profile->n_layers_measured,
             run->profile->geometry.n_layers);
    progress_show(n_done, n_all, words);
}

/* Keeps what there is, for whoever is interrupted. */
static void on_layer(void *userdata, const Profile *profile) {
    ProfileRun *run = userdata;

    (void)profile; /* run->profile */
    if (!is_stdout(buffer_text(&run->path)) && !profile->has_damages)
        save(run, &run->keeping);
}

/* What the path has of this model already is gone on with, or thrown away by whoever measures. */
static int load_begun(ProfileRun *run, Reason *why) {
    char identity[HASH128_HEX_BYTES];
    Reason unused = REASON_NULL;
    KvGeometry geometry;
    int r = profile_store_identify(&run->where, identity, &geometry, why);

    if (!r)
        r = find_path(run, identity, why);
    if (r || is_stdout(buffer_text(&run->path)))
        return r;
    r = profile_load(&run->profile, buffer_text(&run->path), identity, &geometry, &unused);
    return r == -ENOMEM ? reason_set(why, r, "out of memory") : 0;
}

static int measure_levels(ProfileRun *run, Reason *why) {
    DamagesOptions damages = { .level = run->config->full ? DAMAGES_FULL : DAMAGES_QUICK,
                               .n_tokens_max = run->config->max_tokens,
                               .stop = &stop_signal,
                               .on_progress = on_progress,
                               .on_layer = on_layer,
                               .userdata = run };
    int r = load_begun(run, why);

    if (r)
        return r;
    catch_signals();
    r = profile_measure_levels(&run->profile, &run->where, &damages, why);
    run->is_stopped = r == DAMAGES_E_STOPPED;
    if (run->is_stopped)
        progress_break();
    return run->is_stopped ? 0 : r;
}

static int measure_first_level(ProfileRun *run, Reason *why) {
    int r = profile_measure(&run->profile, &run->where, why);

    return r ? r : find_path(run, run->profile->identity, why);
}

/* what is said */

static int write_json(ProfileRun *run, const Checkpoint *checkpoint, Reason *why) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    int r = profile_report_json(run->profile, checkpoint, &text);

    if (r)
        return reason_set(why, r, "the figures cannot be written: %s", strerror(-r));
    fwrite(text.data, 1, text.size, run->json.stream); /* errors stay with the stream */
    return output_file_commit(&run->json, why);
}

static int report(ProfileRun *run, Reason *why) {
    const Config *config = run->config;
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    int r = config->all_matrices ? checkpoint_open(&checkpoint, config->model, why) : 0;

    if (!r && !is_stdout(buffer_text(&run->path)) && !is_stdout(config->json_path)) {
        profile_report_print(run->profile);
        if (checkpoint)
            r = profile_report_print_matrices(checkpoint);
        if (r)
            return reason_set(why, r, "norms cannot be had: %s", strerror(-r));
    }
    return r || !config->json_path ? r : write_json(run, checkpoint, why);
}

static void tell_outcome(const ProfileRun *run) {
    const Profile *p = run->profile;
    const char *path = buffer_text(&run->path);

    fprintf(is_stdout(path) || is_stdout(run->config->json_path) ? stderr : stdout,
            "%s: model %s, %" PRIu64 " of %" PRIu64 " tokens of %s\n", path, p->identity,
            p->n_tokens, p->n_tokens_wanted, p->text_name);
    if (run->is_stopped)
        fprintf(stderr,
                "stopped; damages of %" PRIu32 " of %" PRIu32 " layers are kept, and the "
                "same command goes on%s\n",
                p->n_layers_measured, p->geometry.n_layers,
                is_stdout(path) ? " where --output is a file" : "");
}

static int run_profile(ProfileRun *run, Reason *why) {
    int r = check_outputs(run, why);

    if (!r)
        r = run->config->full || run->config->quick ? measure_levels(run, why)
                                                    : measure_first_level(run, why);
    if (!r && run->profile)
        r = save(run, why);
    if (r)
        return r;
    tell_outcome(run);
    return run->is_stopped ? 0 : report(run, why);
}

int cmd_profile(const Config *config) {
    CLEANUP(profile_run_deinit)
    ProfileRun run = { .config = config,
                       .where = model_run_profile_options(config),
                       .json = OUTPUT_FILE_NULL };
    Reason why = REASON_NULL;

    if (run_profile(&run, &why))
        return model_run_failed(&why);
    return run.is_stopped ? EXIT_STOPPED : 0;
}
