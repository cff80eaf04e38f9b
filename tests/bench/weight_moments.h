/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Second moments of queries from weights alone: what they would be if the rows after the attention
 * norm were its weights times independent numbers of variance 1, at every position of a window
 * equally often. No text is run.
 */

#include "kvcache/profile.h"
#include "model/checkpoint.h"

/* A profile that holds them; its norms are zero. */
int weight_moments(Profile **outp, const Checkpoint *checkpoint, uint32_t window, Reason *why);
