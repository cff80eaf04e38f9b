/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Errors.
 *
 * Functions return int: 0 done; negative -errno, fatal to the operation, passed up unchanged;
 * positive a documented outcome of that one module that the caller must handle.
 *
 * Where a person caused the error (a file, an option, a request), the place that found it also
 * writes a Reason: one sentence that says what was wrong, where, and what to do. Callers may put
 * more of "where" in front. The edge (HTTP, command line, log) prints it.
 */

#include <stdarg.h>

typedef struct Reason {
    char text[1024]; /* always terminated; too long a text ends in "..." */
} Reason;

#define REASON_NULL \
    { .text = "" }

/* Writes the sentence and returns `error`, so that a failing check is one statement:
 *     return reason_set(why, -EINVAL, "%s: expected 4 bytes, got %zu", name, n);
 * `why` may be NULL. */
int reason_set(Reason *why, int error, const char *format, ...)
    __attribute__((__format__(__printf__, 3, 4)));

/* The same from a list of arguments; `why` must not be NULL. */
void reason_set_list(Reason *why, const char *format, va_list args)
    __attribute__((__format__(__printf__, 2, 0)));

/* Puts text in front of what is there ("model.gguf: " + "tensor ..."); returns `error`. */
int reason_prefix(Reason *why, int error, const char *format, ...)
    __attribute__((__format__(__printf__, 3, 4)));
