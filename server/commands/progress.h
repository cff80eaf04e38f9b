/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A bar on standard error for those who wait at a terminal; elsewhere nothing.
 */

#include <stdint.h>

/* Draws it anew: how much of n_all is done, and the words behind it; a line's end when all is. */
void progress_show(uint64_t n_done, uint64_t n_all, const char *words);
/* Ends the line of a bar that will not come to its end. */
void progress_break(void);
