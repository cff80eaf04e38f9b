/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A regular file, mapped read-only. Directories, FIFOs, sockets and devices are refused without
 * blocking. An empty file is mapped as no bytes.
 *
 * The file must not shrink while it is mapped: the system would answer a read past its new end
 * with SIGBUS. Whoever replaces a model writes a new file and renames it into place.
 */

#include "util/cleanup.h"
#include "util/reason.h"

#include <stddef.h>
#include <stdint.h>

typedef struct MappedFile {
    const uint8_t *data; /* [size]; mapped; NULL when not open */
    size_t size;
} MappedFile;

#define MAPPED_FILE_NULL \
    { .data = NULL }

/* -errno (-ENOENT, -EACCES, -EISDIR, -EINVAL for what is no regular file, ...); `why` begins with
 * the path. `file` is MAPPED_FILE_NULL. */
int mapped_file_open(MappedFile *file, const char *path, Reason *why);
void mapped_file_close(MappedFile *file);
CLEANUP_DEINIT_DEFINE(MappedFile, mapped_file_close);
