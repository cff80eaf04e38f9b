/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: the level and the rate limiter's window, both process-wide. Lines are composed on the
 * stack and leave in one write(2), so threads do not interleave. What does not fit is cut.
 */
#include "util/log.h"

#include "util/text.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES_MAX 4096
#define LOG_CLIENT_LINES_PER_SECOND_MAX 20

static atomic_int log_level = LOG_LEVEL_INFO;
static atomic_long client_window_s;
static atomic_uint client_lines, client_dropped;

static const char *const level_names[] = { "error", "warning", "info", "debug" };
static const int level_priorities[] = { 3, 4, 6, 7 }; /* syslog(3) */

void log_set_level(LogLevel level) {
    atomic_store(&log_level, (int)level);
}

static size_t put_head(char *line, size_t size, LogLevel level) {
    struct timespec now;
    struct tm utc;
    size_t n;

    if (getenv("JOURNAL_STREAM"))
        return (size_t)snprintf(line, size, "<%d>", level_priorities[level]);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
    return n + (size_t)snprintf(line + n, size - n, ".%03ldZ %s: ", now.tv_nsec / 1000000,
                                level_names[level]);
}

static void put_line(LogLevel level, const char *sentence, const char *fields, va_list args) {
    char line[LOG_LINE_BYTES_MAX];
    size_t n = put_head(line, sizeof(line), level);
    ssize_t written;

    n += (size_t)snprintf(line + n, sizeof(line) - n, "%s%s", sentence, *fields ? " " : "");
    if (n < sizeof(line))
        n += (size_t)vsnprintf(line + n, sizeof(line) - n, fields, args);
    if (n > sizeof(line) - 1)
        n = text_whole(line, sizeof(line) - 1);
    /* One event is one line, whatever a client managed to get into a field. */
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < 0x20)
            line[i] = ' ';
    line[n++] = '\n';
    written = write(STDERR_FILENO, line, n);
    (void)written; /* nowhere left to report it */
}

void log_line(LogLevel level, const char *sentence, const char *fields, ...) {
    va_list args;

    if ((int)level > atomic_load(&log_level))
        return;
    va_start(args, fields);
    put_line(level, sentence, fields, args);
    va_end(args);
}

static bool client_line_allowed(void) {
    struct timespec now;
    long window;
    unsigned dropped;

    clock_gettime(CLOCK_MONOTONIC, &now);
    window = atomic_load(&client_window_s);
    if (window != now.tv_sec &&
        atomic_compare_exchange_strong(&client_window_s, &window, now.tv_sec)) {
        atomic_store(&client_lines, 0);
        dropped = atomic_exchange(&client_dropped, 0);
        if (dropped)
            log_line(LOG_LEVEL_WARNING, "lines about clients were dropped", "n=%u", dropped);
    }
    if (atomic_fetch_add(&client_lines, 1) < LOG_CLIENT_LINES_PER_SECOND_MAX)
        return true;
    atomic_fetch_add(&client_dropped, 1);
    return false;
}

void log_client_line(LogLevel level, const char *sentence, const char *fields, ...) {
    va_list args;

    if ((int)level > atomic_load(&log_level) || !client_line_allowed())
        return;
    va_start(args, fields);
    put_line(level, sentence, fields, args);
    va_end(args);
}
