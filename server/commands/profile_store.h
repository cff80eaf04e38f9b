/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where profiles come from: a file that was named, or the state directory, where each model's lies
 * under its identity; and if there is none yet, measuring.
 */

#include "kvcache/profile.h"
#include "server/commands/session.h"
#include "util/buffer.h"

typedef struct ProfileStoreOptions {
    const char *path;      /* a file that must be taken; NULL: the state directory */
    const char *state_dir; /* NULL: as the option's help says */
    const char *text_path; /* to measure on; NULL: the passage built in */
    const char *model_path;
    const char *device; /* to measure on, as for backend_open */
    uint32_t n_threads;
    uint64_t time_ms_max; /* of measuring */
} ProfileStoreOptions;

/* "<state directory>/<identity>.profile"; appends. -ENOENT: there is no state directory to be had
 * (no home); `why` says which option helps. */
int profile_store_path(const ProfileStoreOptions *options, const char *identity, Buffer *out,
                       Reason *why);

/* Runs the model over the text and measures, for time_ms_max at most (profile_is_whole then says
 * whether that sufficed); progress goes to standard error. */
int profile_store_measure(Profile **outp, const ProfileStoreOptions *options, Reason *why);
/* Goes on with a measurement that was cut short, for time_ms_max at most; on error `profile` is as
 * it was. -ESTALE: it was begun on another text than that of `options`. */
int profile_store_continue(Profile *profile, const ProfileStoreOptions *options, Reason *why);

/* Whether profile_store_save could write there; makes the directories it lies in. */
int profile_store_check(const char *path, Reason *why);
/* profile_save, after making the directories it lies in. */
int profile_store_save(const Profile *profile, const char *path, Reason *why);

/* Loads the file that options name, or the one kept for this model. Where there is none, or the
 * kept one is of no use, measures and keeps; a kept one that was cut short is gone on with. So
 * every start comes closer to the profile that the model has on any machine. That one could not be
 * kept is a warning, no error. */
int profile_store_get(Profile **outp, const ProfileStoreOptions *options, Reason *why);
