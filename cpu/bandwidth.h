/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How fast this machine reads memory: the floor of decoding, which reads every weight once a token.
 */

#include "cpu/team.h"

#define BANDWIDTH_BUFFER_BYTES ((size_t)512 << 20) /* far more than caches hold */

/* Reads a buffer of size_bytes with the whole team, several times, and gives the best rate, in
 * bytes a second. Takes about half a second. -ENOMEM. */
int bandwidth_measure(Team *team, size_t size_bytes, double *bytes_per_sp, Reason *why);
