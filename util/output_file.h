/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A file that is written whole or not at all: into a temporary file beside it, which takes its name
 * when all is on disk. Whoever reads the path sees the old content or the new, also after a crash.
 *
 * What is there already must be a regular file that may be written; directories, devices, FIFOs and
 * sockets are refused and stay as they are. A symbolic link is followed: the file it leads to is
 * replaced, and the link stays; one that leads nowhere is refused. "-" and "/dev/stdout" are the
 * standard output, which is written as it comes.
 */

#include "util/cleanup.h"
#include "util/reason.h"

#include <stdio.h>

typedef struct OutputFile {
    FILE *stream;    /* to write to; its errors are told by output_file_commit */
    char *target;    /* what will be replaced, links followed; owned; NULL: standard output */
    char *temporary; /* owned; NULL: there is none */
    const char *path;
} OutputFile;

#define OUTPUT_FILE_NULL \
    { .stream = NULL }

/* `path` is borrowed until deinit. -errno, with `why` beginning with the path. */
int output_file_open(OutputFile *file, const char *path, Reason *why);
/* Ends the writing. Where it fails, the path has what it had before. */
int output_file_commit(OutputFile *file, Reason *why);
/* What was not committed is gone. */
void output_file_deinit(OutputFile *file);
CLEANUP_DEINIT_DEFINE(OutputFile, output_file_deinit);

/* Whether output_file_open would succeed now; leaves nothing behind. */
int output_file_check(const char *path, Reason *why);
