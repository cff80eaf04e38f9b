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
 *
 * For developers a Reason also keeps its origin, the line of source that wrote the sentence. Text
 * put in front leaves it as it is. Users see it at log level debug only.
 */

#include <stdarg.h>

typedef struct Reason {
    char text[1024];    /* always terminated; too long a text ends in "..." */
    const char *origin; /* "kvcache/profile.c:123", static; NULL: not known */
} Reason;

#define REASON_NULL \
    { .text = "" }

/* Writes the sentence and returns `error`, so that a failing check is one statement:
 *     return reason_set(why, -EINVAL, "%s: expected 4 bytes, got %zu", name, n);
 * `why` may be NULL. */
#define reason_set(why, error, ...) reason_set_at(why, error, REASON_HERE, __VA_ARGS__)

/* The same for a sentence that was written elsewhere, and is told in other words. */
int reason_set_at(Reason *why, int error, const char *origin, const char *format, ...)
    __attribute__((__format__(__printf__, 4, 5)));

/* The same from a list of arguments, without an origin; `why` must not be NULL. */
void reason_set_list(Reason *why, const char *format, va_list args)
    __attribute__((__format__(__printf__, 2, 0)));

/* Puts text in front of what is there ("model.gguf: " + "tensor ..."); returns `error`. */
int reason_prefix(Reason *why, int error, const char *format, ...)
    __attribute__((__format__(__printf__, 3, 4)));

/* Logs the origin at level debug, for whoever has just printed or logged the text. */
void reason_log_origin(const Reason *why);

/* This line of source, as "folder/file.c:line". */
#define REASON_HERE __FILE__ ":" REASON_LINE_TEXT(__LINE__)
#define REASON_LINE_TEXT(line) REASON_LINE_TEXT_OF_VALUE(line)
#define REASON_LINE_TEXT_OF_VALUE(value) #value
