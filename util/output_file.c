/* SPDX-License-Identifier: Apache-2.0 */
#include "util/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#define NAME_TRIES 1000 /* of other writers' temporary files, or of those that a crash left */

static bool is_standard_output(const char *path) {
    return strcmp(path, "-") == 0 || strcmp(path, "/dev/stdout") == 0;
}

/* What is there already: 0 with its st_mode, or with 0 where there is nothing. */
static int check_present(const char *path, mode_t *modep, Reason *why) {
    struct stat st;

    *modep = 0;
    if (stat(path, &st)) {
        int r = -errno;

        if (r == -ENOENT && !lstat(path, &st))
            return reason_set(why, r, "%s: is a symbolic link that leads nowhere", path);
        return r == -ENOENT && *path ? 0 : reason_set(why, r, "%s: %s", path, strerror(-r));
    }
    if (S_ISDIR(st.st_mode))
        return reason_set(why, -EISDIR, "%s: is a directory; a file is to be written", path);
    if (!S_ISREG(st.st_mode))
        return reason_set(why, -EINVAL,
                          "%s: is not a regular file, and is left as it is; \"-\" is the standard "
                          "output",
                          path);
    if (access(path, W_OK))
        return reason_set(why, -errno, "%s: %s", path, strerror(errno));
    *modep = st.st_mode;
    return 0;
}

/* The file takes the permissions of the one it replaces; a new one has the process's own. */
static int open_temporary(OutputFile *file, mode_t mode) {
    for (int i = 0; i < NAME_TRIES; i++) {
        CLEANUP(fd_close) int fd = -1;
        char *name = NULL;

        if (asprintf(&name, "%s.%d-%d.tmp", file->target, (int)getpid(), i) < 0)
            return -ENOMEM;
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno == EEXIST) {
            free(name);
            continue;
        }
        if (fd < 0) {
            free(name);
            return -errno;
        }
        file->temporary = name;
        if (mode && fchmod(fd, mode & 07777))
            return -errno;
        file->stream = fdopen(fd, "w");
        if (!file->stream)
            return -errno;
        fd = -1; /* the stream's */
        return 0;
    }
    return -EEXIST;
}

int output_file_open(OutputFile *file, const char *path, Reason *why) {
    mode_t mode;
    int r;

    *file = (OutputFile){ .path = path };
    if (is_standard_output(path)) {
        file->stream = stdout;
        return 0;
    }
    r = check_present(path, &mode, why);
    if (r)
        return r;
    file->target = mode ? realpath(path, NULL) : strdup(path);
    r = file->target ? open_temporary(file, mode) : -errno;
    if (r) {
        output_file_deinit(file);
        return reason_set(why, r, "%s: cannot be written: %s", path, strerror(-r));
    }
    return 0;
}

/* Makes the new name last. Where a file system cannot do that the file is still whole. */
static void sync_directory_of(const char *path) {
    const char *slash = strrchr(path, '/');
    CLEANUP(free)
    char *directory = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;
    CLEANUP(fd_close)
    int fd = open(directory ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0)
        (void)fsync(fd);
}

static int finish(OutputFile *file) {
    FILE *stream = file->stream;
    int r = 0;

    if (fflush(stream))
        return -errno;
    if (ferror(stream)) /* earlier, and whoever wrote did not look */
        return -EIO;
    if (!file->target)
        return 0;
    if (fsync(fileno(stream)))
        r = -errno;
    file->stream = NULL;
    if (fclose(stream) && !r)
        r = -errno;
    if (!r && rename(file->temporary, file->target))
        r = -errno;
    if (r)
        return r;
    free(TAKE(file->temporary));
    sync_directory_of(file->target);
    return 0;
}

int output_file_commit(OutputFile *file, Reason *why) {
    int r = finish(file);

    return r ? reason_set(why, r, "%s: cannot be written: %s", file->path, strerror(-r)) : 0;
}

void output_file_deinit(OutputFile *file) {
    if (file->stream && file->target)
        fclose(file->stream);
    if (file->temporary)
        unlink(file->temporary);
    free(file->temporary);
    free(file->target);
    *file = (OutputFile)OUTPUT_FILE_NULL;
}

int output_file_check(const char *path, Reason *why) {
    CLEANUP(output_file_deinit) OutputFile file = OUTPUT_FILE_NULL;

    return output_file_open(&file, path, why);
}
