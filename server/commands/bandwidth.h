/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How fast this machine reads memory. A step of decoding reads every weight once: its floor is the
 * time that a mere reader of as many bytes takes, read over and over like them, so that caches hold
 * of both what they can. What is read once in a while has the rate of memory for its floor.
 */

#include "cpu/team.h"

/* The size of a buffer that no cache of this machine holds. */
size_t bandwidth_memory_bytes(void);

/* Reads a buffer of size_bytes (rounded up to whole MiB) with the whole team, again and again, and
 * gives the best rate, in bytes a second. Takes about a second. -EINVAL: there is nothing to read;
 * -ENOMEM. */
int bandwidth_measure(CpuTeam *team, size_t size_bytes, double *bytes_per_sp, Reason *why);
