/* SPDX-License-Identifier: Apache-2.0 */
#include "util/reason.h"

#include "util/log.h"
#include "util/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void mark_truncated(Reason *why, int length) {
    if (length >= (int)sizeof(why->text))
        memcpy(why->text + text_whole(why->text, sizeof(why->text) - 4), "...", 4);
}

void reason_set_list(Reason *why, const char *format, va_list args) {
    mark_truncated(why, vsnprintf(why->text, sizeof(why->text), format, args));
    why->origin = NULL;
}

int reason_set_at(Reason *why, int error, const char *origin, const char *format, ...) {
    va_list args;

    if (!why)
        return error;
    va_start(args, format);
    reason_set_list(why, format, args);
    va_end(args);
    why->origin = origin;
    return error;
}

int reason_prefix(Reason *why, int error, const char *format, ...) {
    va_list args;
    Reason rest;
    int n;

    if (!why)
        return error;
    rest = *why;
    va_start(args, format);
    n = vsnprintf(why->text, sizeof(why->text), format, args);
    va_end(args);
    if (n >= 0 && n < (int)sizeof(why->text))
        n += snprintf(why->text + n, sizeof(why->text) - (size_t)n, "%s", rest.text);
    mark_truncated(why, n);
    return error;
}

void reason_log_origin(const Reason *why) {
    if (why->origin)
        log_line(LOG_LEVEL_DEBUG, "the reason was given here", "origin=%s", why->origin);
}
