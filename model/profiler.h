/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What of a profile is read off the weights alone.
 */

#include "kvcache/profile.h"
#include "model/checkpoint.h"

/* Frobenius norms of W_K and W_V of every layer. -ENOMEM. */
int profiler_weight_norms(Profile *profile, const Checkpoint *checkpoint);
