/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state directory's profile is taken where it tells the most: where it has damages, or was made
 * on a text of somebody's own. Else the one that comes with the program, which has damages; else
 * what the state directory has or will have.
 */
#include "server/commands/profile_store.h"

#include "model/decoder.h"
#include "model/identity.h"
#include "server/commands/profile_measure.h"
#include "util/log.h"
#include "util/output_file.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* paths */

static int find_state_dir(const ProfileStoreOptions *options, Buffer *out, Reason *why) {
    const char *given = options->state_dir ? options->state_dir : getenv("STATE_DIRECTORY");
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

    if (given)
        buffer_append_text(out, given);
    else if (xdg && *xdg)
        buffer_printf(out, "%s/kvasir", xdg);
    else if (home && *home)
        buffer_printf(out, "%s/.local/state/kvasir", home);
    else
        return reason_set(why, -ENOENT,
                          "there is no place to keep the model's profile: give --state-dir, or "
                          "--profile");
    return buffer_failed(out) ? -ENOMEM : 0;
}

int profile_store_path(const ProfileStoreOptions *options, const char *identity, Buffer *out,
                       Reason *why) {
    int r = find_state_dir(options, out, why);

    if (r)
        return r;
    buffer_printf(out, "/%s.profile", identity);
    return buffer_failed(out) ? -ENOMEM : 0;
}

/* Makes every directory that `path` lies in. */
static void make_directories(const char *path) {
    CLEANUP(free) char *copy = strdup(path);

    for (char *p = copy ? strchr(copy + 1, '/') : NULL; p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(copy, 0755); /* saving says what is wrong, if anything is */
        *p = '/';
    }
}

int profile_store_check(const char *path, Reason *why) {
    make_directories(path);
    return output_file_check(path, why);
}

int profile_store_save(const Profile *profile, const char *path, Reason *why) {
    make_directories(path);
    return profile_save(profile, path, why);
}

/* finding */

int profile_store_identify(const ProfileStoreOptions *options, char identity[HASH128_HEX_BYTES],
                           KvGeometry *geometry, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    int r = checkpoint_open(&checkpoint, options->model_path, why);

    if (r)
        return r;
    model_identity(checkpoint, identity);
    *geometry = decoder_kv_geometry(checkpoint_config(checkpoint));
    return 0;
}

/* shipped profiles */

/* Where profiles that come with the program lie, beside where it lies: installed, and in a source
 * tree. */
static const char *const shipped_dirs[] = { "../share/kvasir/profiles", "../config/profiles" };
#define N_SHIPPED_DIRS (sizeof(shipped_dirs) / sizeof(*shipped_dirs))

/* The folder that the program lies in, with a slash behind it; false: nobody knows. */
static bool program_folder(char *out, size_t size) {
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    char *slash;

    if (n <= 0)
        return false;
    out[n] = 0;
    slash = strrchr(out, '/');
    if (!slash)
        return false;
    slash[1] = 0;
    return true;
}

/* Appends the path of the model's, if there is one. */
static bool find_shipped(const ProfileStoreOptions *options, const char *identity, Buffer *out) {
    char folder[PATH_MAX] = "";
    size_t n_dirs = options->shipped_dir ? 1 : N_SHIPPED_DIRS;

    if (!options->shipped_dir && !program_folder(folder, sizeof(folder)))
        return false;
    for (size_t i = 0; i < n_dirs; i++) {
        buffer_clear(out);
        buffer_printf(out, "%s%s/%s.profile", folder,
                      options->shipped_dir ? options->shipped_dir : shipped_dirs[i], identity);
        if (!buffer_failed(out) && !access(buffer_text(out), R_OK))
            return true;
    }
    return false;
}

/* One that came with another version may be of no use. */
static bool get_shipped(Profile **outp, const ProfileStoreOptions *options, const char *identity,
                        const KvGeometry *geometry) {
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    Reason why = REASON_NULL;

    if (!find_shipped(options, identity, &path))
        return false;
    if (profile_load(outp, buffer_text(&path), identity, geometry, &why)) {
        log_line(LOG_LEVEL_WARNING, "the profile that came with kvasird is of no use",
                 "reason=\"%s\"", why.text);
        reason_log_origin(&why);
        return false;
    }
    log_line(LOG_LEVEL_INFO, "the model's profile came with kvasird", "file=%s",
             buffer_text(&path));
    return true;
}

/* the state directory's */

/* That a profile is not kept is no reason to do without it. */
static void keep(const Profile *profile, const char *path) {
    Reason why = REASON_NULL;

    if (!profile_store_save(profile, path, &why))
        return;
    log_line(LOG_LEVEL_WARNING, "the profile is not kept and will be measured again",
             "reason=\"%s\"", why.text);
    reason_log_origin(&why);
}

static int measure_and_keep(Profile **outp, const ProfileStoreOptions *options, const char *path,
                            Reason *why) {
    int r;

    log_line(LOG_LEVEL_INFO, "measuring the model's profile, once", "model=%s file=%s",
             options->model_path, path);
    r = profile_measure(outp, options, why);
    if (!r)
        keep(*outp, path);
    return r;
}

/* Of the kept profile, where it was cut short. One that was begun on another text is taken as it
 * is: somebody made it. */
static void continue_and_keep(Profile *profile, const ProfileStoreOptions *options,
                              const char *path) {
    Reason why = REASON_NULL;

    log_line(LOG_LEVEL_INFO, "going on with the model's profile",
             "model=%s file=%s tokens=%" PRIu64 " wanted=%" PRIu64, options->model_path, path,
             profile->n_tokens, profile->n_tokens_wanted);
    if (!profile_measure_continue(profile, options, &why)) {
        keep(profile, path);
        return;
    }
    log_line(LOG_LEVEL_WARNING, "the profile stays cut short", "reason=\"%s\"", why.text);
    reason_log_origin(&why);
}

/* Whether a shipped one may stand before it. */
static bool is_plain(const Profile *kept) {
    return !kept->has_damages && strcmp(kept->text_name, PROFILE_BUILTIN_TEXT) == 0;
}

/* What is kept for this model, if it can be read; NULL and a reason if it cannot. */
static int load_kept(Profile **outp, const char *path, const char *identity,
                     const KvGeometry *geometry, Reason *why) {
    return access(path, F_OK) ? 0 : profile_load(outp, path, identity, geometry, why);
}

static void warn_of_no_use(const char *message, Reason *why) {
    log_line(LOG_LEVEL_WARNING, message, "reason=\"%s\"", why->text);
    reason_log_origin(why);
    *why = (Reason)REASON_NULL;
}

static int get_kept(Profile **outp, const ProfileStoreOptions *options, const char *path,
                    const char *identity, const KvGeometry *geometry, Reason *why) {
    CLEANUP(profile_free) Profile *kept = NULL;
    int r = load_kept(&kept, path, identity, geometry, why);

    if (r == -ENOMEM)
        return r;
    if ((!kept || is_plain(kept)) && get_shipped(outp, options, identity, geometry))
        return 0;
    if (kept) {
        if (!profile_is_whole(kept))
            continue_and_keep(kept, options, path);
        *outp = TAKE(kept);
        return 0;
    }
    if (r) /* Ours to mend: nobody asked for this file by name. */
        warn_of_no_use("the kept profile is of no use and will be replaced", why);
    return measure_and_keep(outp, options, path, why);
}

int profile_store_get(Profile **outp, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    char identity[HASH128_HEX_BYTES];
    KvGeometry geometry;
    int r;

    r = profile_store_identify(options, identity, &geometry, why);
    if (r)
        return r;
    if (options->path)
        return profile_load(outp, options->path, identity, &geometry, why);
    r = profile_store_path(options, identity, &path, why);
    if (r == -ENOENT && get_shipped(outp, options, identity, &geometry))
        return 0;
    return r ? r : get_kept(outp, options, buffer_text(&path), identity, &geometry, why);
}

/* A kept one that is of no use is as none: nothing is measured here that could replace it. */
static int find_kept(Profile **outp, const ProfileStoreOptions *options, const char *identity,
                     const KvGeometry *geometry, Reason *why) {
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    int r;

    if (profile_store_path(options, identity, &path, NULL))
        return 0;
    r = load_kept(outp, buffer_text(&path), identity, geometry, why);
    if (!r || r == -ENOMEM)
        return r;
    warn_of_no_use("the kept profile is of no use", why);
    return 0;
}

int profile_store_find(Profile **outp, const ProfileStoreOptions *options, Reason *why) {
    CLEANUP(profile_free) Profile *kept = NULL;
    char identity[HASH128_HEX_BYTES];
    KvGeometry geometry;
    int r;

    r = profile_store_identify(options, identity, &geometry, why);
    if (r)
        return r;
    if (options->path)
        return profile_load(outp, options->path, identity, &geometry, why);
    r = find_kept(&kept, options, identity, &geometry, why);
    if (r || ((!kept || is_plain(kept)) && get_shipped(outp, options, identity, &geometry)))
        return r;
    *outp = TAKE(kept);
    return 0;
}
