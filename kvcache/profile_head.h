/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The head of a profile file: everything but the moments, as JSON. Private to kvcache/profile.c.
 *
 *   model, n_layers, n_kv_heads, head_dim, n_tokens, n_tokens_wanted, text
 *   k_norms, v_norms                      [n_layers]
 *
 * and, each where it was measured; in a file of version 2 never:
 *
 *   k_spectral_norms, v_spectral_norms    [n_layers]
 *   damages                               an object: tokens, measured (the formats, by their bits,
 *                                         whose damages are direct), values and errors, tables
 *   distortions                           a table
 *
 * A table has a row for each layer that was measured, from the first; a row has twelve numbers: of
 * keys at 8, 6, 5, 4, 3 and 2 bits, then of values. All rows of a file have ten, without those of 5
 * bits, where that format was not measured, which in a file of version 3 is always so. Damages of
 * some layers only come with distortions of the same.
 */

#include "kvcache/profile.h"
#include "util/buffer.h"

#define PROFILE_VERSION_OLDEST 2

/* Layers whose damages, and whose distortions, the profile holds. */
static inline uint32_t profile_damage_layers(const Profile *profile) {
    return profile->has_damages ? profile->geometry.n_layers : profile->n_layers_measured;
}
static inline uint32_t profile_distortion_layers(const Profile *profile) {
    if (profile->has_distortions)
        return profile->geometry.n_layers;
    return profile->has_damages ? 0 : profile->n_layers_measured;
}

void profile_head_write(const Profile *profile, Buffer *out);
/* Fills what the head says; what it does not say stays. -EINVAL with "its head: ..."; numbers of
 * tables and norms are any that are finite. */
int profile_head_parse(Profile *out, uint32_t version, const char *text, size_t size, Reason *why);
