/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Memory for a KV store on a device, and what the store has to know of the model: transforms of
 * keys (kvcache/key_transform.h) and compensated rounding (kvcache/rounding.h) are computed here
 * from a profile's covariances and second moments and uploaded.
 */

#include "backend/ops.h"
#include "kvcache/profile.h"

/* Lays out, allocates and prepares. `profile` (borrowed for the call) may be NULL: then what the
 * plan quantizes is transformed and rounded plainly. -EINVAL (shape), -ENOMEM, ... with the words
 * in `why`. */
int kv_cache_open(KvStore *store, const BackendOps *ops, Backend *backend, const KvShape *shape,
                  const Profile *profile, Reason *why);
/* Gives the memory back; a zeroed store is fine. */
void kv_cache_close(KvStore *store, const BackendOps *ops, Backend *backend);
