/* SPDX-License-Identifier: Apache-2.0 */
#include "util/mapped_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static const uint8_t no_bytes[1];

int mapped_file_open(MappedFile *file, const char *path, Reason *why) {
    CLEANUP(fd_close) int fd = -1;
    struct stat st;
    void *data;

    assert(!file->data);
    /* Without O_NONBLOCK a FIFO would hold the open until somebody writes. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return reason_set(why, -errno, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return reason_set(why, -EISDIR, "%s: expected a file, found a directory", path);
    if (!S_ISREG(st.st_mode))
        return reason_set(why, -EINVAL, "%s: expected a regular file", path);
    if (!st.st_size) {
        *file = (MappedFile){ .data = no_bytes };
        return 0;
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return reason_set(why, -errno, "%s: cannot be mapped: %s", path, strerror(errno));
    *file = (MappedFile){ .data = data, .size = (size_t)st.st_size };
    return 0;
}

void mapped_file_close(MappedFile *file) {
    if (file->size)
        munmap((void *)(uintptr_t)file->data, file->size);
    *file = (MappedFile)MAPPED_FILE_NULL;
}
