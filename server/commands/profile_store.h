/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where profiles come from: a file that was named; the state directory, where each model's lies
 * under its identity; those that come with the program, likewise; and if there is none yet,
 * measuring (server/commands/profile_measure.h).
 */

#include "server/commands/profile_measure.h"
#include "util/buffer.h"

/* "<state directory>/<identity>.profile"; appends. -ENOENT: there is no state directory to be had
 * (no home); `why` says which option helps. */
int profile_store_path(const ProfileStoreOptions *options, const char *identity, Buffer *out,
                       Reason *why);

/* Which model's profile it would be. */
int profile_store_identify(const ProfileStoreOptions *options, char identity[HASH128_HEX_BYTES],
                           KvGeometry *geometry, Reason *why);

/* Whether profile_store_save could write there; makes the directories it lies in. */
int profile_store_check(const char *path, Reason *why);
/* profile_save, after making the directories it lies in. */
int profile_store_save(const Profile *profile, const char *path, Reason *why);

/* Loads the file that options name. Without one, the model's in the state directory if that has
 * damages or was made on somebody's own text; else the one that comes with the program; else the
 * former all the same. Where there is none of them, or the kept one is of no use, measures and
 * keeps; a kept one that was cut short is gone on with. So every start comes closer to the profile
 * that the model has on any machine. That one could not be kept is a warning, no error. */
int profile_store_get(Profile **outp, const ProfileStoreOptions *options, Reason *why);

/* The same without measuring: *outp is NULL where there is none, or none that is of use. */
int profile_store_find(Profile **outp, const ProfileStoreOptions *options, Reason *why);
