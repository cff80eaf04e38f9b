/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Text from outside in buffers of fixed size: what does not fit is cut between two characters,
 * never inside one, so that what was UTF-8 stays UTF-8.
 */

#include <stddef.h>

/* How many of the `n` bytes are left without a character that is cut off at their end. */
size_t text_whole(const char *text, size_t n);
/* Copies what fits of `from` into `to` [size], with a NUL. */
void text_copy(char *to, size_t size, const char *from);
