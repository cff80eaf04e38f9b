/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a profile says, for people and as JSON: norms; where there are damages, those, the laws that
 * distortions and damages follow, and the swaps of widths between keys and values.
 */

#include "kvcache/profile.h"
#include "model/checkpoint.h"
#include "util/buffer.h"

/* To standard output. */
void profile_report_print(const Profile *profile);
/* Norms of every matrix of every layer, to standard output. -ENOMEM, -ERANGE. */
int profile_report_print_matrices(const Checkpoint *checkpoint);
/* Appends one object. `checkpoint` NULL: without the norms of every matrix. */
int profile_report_json(const Profile *profile, const Checkpoint *checkpoint, Buffer *out);
