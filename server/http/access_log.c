/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop must not wait for a reader or a disk that is full: a pipe is asked first whether it has
 * room, and a line is shorter than what a pipe takes whole (PIPE_BUF). Event loop's thread.
 */
#include "server/http/access_log.h"

#include "util/json_writer.h"
#include "util/log.h"
#include "util/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATH_BYTES_MAX 512 /* six times that, where all must be escaped, still fits a pipe */

static bool is_off(const char *path) {
    return !path || !*path || !strcmp(path, "off");
}

/* A pipe or a socket without a reader, or a directory, is an error here and not later. */
static int open_path(const char *path, Reason *why) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);

    if (fd < 0)
        return reason_set(why, -errno, "cannot open %s: %s (option access_log)", path,
                          strerror(errno));
    return fd;
}

int access_log_open(AccessLog *log, const char *path, Reason *why) {
    int fd = -1;

    if (!is_off(path)) {
        fd = strcmp(path, "-") != 0 ? open_path(path, why) : STDERR_FILENO;
        if (fd < 0)
            return fd;
    }
    *log = (AccessLog){ .path = path, .fd = fd };
    return 0;
}

int access_log_reopen(AccessLog *log, Reason *why) {
    int fd;

    if (log->fd < 0 || log->fd == STDERR_FILENO)
        return 0;
    fd = open_path(log->path, why);
    if (fd < 0)
        return fd;
    close(log->fd);
    log->fd = fd;
    log->torn = false;
    return 0;
}

void access_log_close(AccessLog *log) {
    if (log->fd >= 0 && log->fd != STDERR_FILENO)
        close(log->fd);
    *log = (AccessLog)ACCESS_LOG_NULL;
}

static void put_time(JsonWriter *w) {
    char text[64];
    struct timespec now;
    struct tm utc;
    size_t n;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + n, sizeof(text) - n, ".%03ldZ", now.tv_nsec / 1000000);
    json_put_text(w, "time", text);
}

static void put_line(Buffer *out, const AccessEntry *e) {
    JsonWriter w = JSON_WRITER(out);
    char path[PATH_BYTES_MAX];

    text_copy(path, sizeof(path), e->path ? e->path : "");
    json_begin_object(&w, NULL);
    put_time(&w);
    json_put_text(&w, "id", e->id);
    json_put_text(&w, "client", e->client);
    json_put_text(&w, "method", e->method);
    json_put_text(&w, "path", e->path ? path : NULL);
    if (e->status)
        json_put_u64(&w, "status", e->status);
    else
        json_put_null(&w, "status");
    json_put_u64(&w, "bytes_received", e->n_bytes_received);
    json_put_u64(&w, "bytes_sent", e->n_bytes_sent);
    json_put_u64(&w, "duration_ms", e->duration_ms);
    if (e->aborted)
        json_put_bool(&w, "aborted", true);
    json_end_object(&w);
    buffer_append_char(out, '\n');
}

static bool has_room(int fd) {
    struct pollfd watched = { .fd = fd, .events = POLLOUT };

    return poll(&watched, 1, 0) == 1 && watched.revents & POLLOUT;
}

/* 0 or -errno. */
static int write_line(AccessLog *log, const Buffer *line) {
    ssize_t n;

    if (buffer_failed(line))
        return -ENOMEM;
    if (!has_room(log->fd))
        return -EAGAIN;
    n = write(log->fd, line->data, line->size);
    if (n < 0)
        return -errno;
    log->torn = (size_t)n != line->size;
    return log->torn ? -ENOSPC : 0;
}

void access_log_write(AccessLog *log, const AccessEntry *entry) {
    CLEANUP(buffer_deinit) Buffer line = BUFFER_NULL;
    int r;

    if (log->fd < 0)
        return;
    if (log->torn)
        buffer_append_char(&line, '\n'); /* ends the half line */
    put_line(&line, entry);
    r = write_line(log, &line);
    if (r && !log->n_lost++)
        log_client_line(LOG_LEVEL_ERROR, "lines of the access log are being lost",
                        "path=%s reason=%s", log->path, strerror(-r));
    if (r || !log->n_lost)
        return;
    log_client_line(LOG_LEVEL_WARNING, "the access log is written again", "path=%s lost=%" PRIu64,
                    log->path, log->n_lost);
    log->n_lost = 0;
}
