/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One log call: a level, one sentence, structured fields after it.
 *
 *     log_line(LOG_LEVEL_INFO, "model loaded", "path=%s bytes=%zu", path, n);
 *
 * Written to stderr in one write: time, level, sentence, fields; under systemd (JOURNAL_STREAM
 * set) a "<N>" priority stands in front instead of the time. Any thread may call it. Lines that a
 * client can cause go through `log_client_line`, which drops past 20 a second and says how many.
 */

typedef enum LogLevel {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
} LogLevel;

/* Lines above `level` are not written. Default: LOG_LEVEL_INFO. */
void log_set_level(LogLevel level);

void log_line(LogLevel level, const char *sentence, const char *fields, ...)
    __attribute__((__format__(__printf__, 3, 4)));
void log_client_line(LogLevel level, const char *sentence, const char *fields, ...)
    __attribute__((__format__(__printf__, 3, 4)));
