/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Making a profile: the first level, which every first start makes, and the second
 * (server/commands/damages.h), which somebody asks for. Progress goes to standard error.
 */

#include "kvcache/profile.h"
#include "server/commands/damages.h"

#define PROFILE_BUILTIN_TEXT "built-in" /* the name of the passage built in */

typedef struct ProfileStoreOptions {
    const char *path;        /* a file that must be taken; NULL: the state directory */
    const char *state_dir;   /* NULL: as the option's help says */
    const char *shipped_dir; /* of profiles that come with the program; NULL: found by where that
                                lies */
    const char *text_path;   /* to measure on; NULL: the passage built in */
    const char *model_path;
    const char *device;        /* to measure on, as for backend_open */
    uint64_t gpu_memory_bytes; /* the same */
    uint32_t n_threads;
    uint64_t time_ms_max; /* of measuring the first level */
} ProfileStoreOptions;

/* Runs the model over the text and measures the first level, for time_ms_max at most
 * (profile_is_whole then says whether that sufficed). */
int profile_measure(Profile **outp, const ProfileStoreOptions *options, Reason *why);
/* Goes on with a measurement that was cut short, for time_ms_max at most; on error `profile` is as
 * it was. -ESTALE: it was begun on another text than that of `options`. */
int profile_measure_continue(Profile *profile, const ProfileStoreOptions *options, Reason *why);

/* Measures both levels, however long it takes. Goes on with *profilep; makes a new one where that
 * is NULL or of another text. on_layer is called as well when the first level is done.
 * DAMAGES_E_STOPPED: *profilep has what was measured so far. */
int profile_measure_levels(Profile **profilep, const ProfileStoreOptions *options,
                           const DamagesOptions *damages, Reason *why);
