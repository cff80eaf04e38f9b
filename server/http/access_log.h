/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One line of JSON for each request, when its answer has ended or its client has gone. A line goes
 * out in one write, and is dropped where that would have to wait or fails; the log says so once,
 * and how many were lost when it works again.
 */

#include "util/reason.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct AccessLog {
    const char *path; /* borrowed; NULL or "off": no log; "-": standard error */
    int fd;           /* -1: none */
    uint64_t n_lost;  /* lines since the last that was written */
    bool torn;        /* the last write left half a line */
} AccessLog;

#define ACCESS_LOG_NULL \
    { .fd = -1 }

typedef struct AccessEntry {
    const char *id, *client;
    const char *method; /* NULL: not read */
    const char *path;   /* NULL: not read */
    unsigned status;    /* 0: none was sent */
    uint64_t n_bytes_received, n_bytes_sent;
    uint64_t duration_ms;
    bool aborted; /* the client went before the end */
} AccessEntry;

/* Opens the file for appending, and makes it if it is not there. 0, or -errno with the words in
 * `why`. */
int access_log_open(AccessLog *log, const char *path, Reason *why);
/* Opens the path again, for who moves log files away; keeps the open one where that fails. */
int access_log_reopen(AccessLog *log, Reason *why);
void access_log_close(AccessLog *log);

void access_log_write(AccessLog *log, const AccessEntry *entry);
