/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/fuzz.h"

#include "util/cleanup.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

static char directory[64];

static void directory_remove(void) {
    DIR *files = opendir(directory);
    const struct dirent *entry;
    char path[sizeof(directory) + sizeof(entry->d_name) + 1];

    while (files && (entry = readdir(files))) {
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        unlink(path); /* fails on "." and "..", as it should */
    }
    if (files)
        closedir(files);
    rmdir(directory);
}

const char *fuzz_directory(void) {
    const char *parent = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";

    if (directory[0])
        return directory;
    snprintf(directory, sizeof(directory), "%s/kvasir-fuzz-XXXXXX", parent);
    assert(mkdtemp(directory));
    atexit(directory_remove);
    return directory;
}

const char *fuzz_file(const char *name, const uint8_t *data, size_t size) {
    static char path[sizeof(directory) + 64];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", fuzz_directory(), name);
    file = fopen(path, "wb");
    assert(file);
    assert(fwrite(data, 1, size, file) == size);
    assert(fclose(file) == 0);
    return path;
}

void fuzz_touch(const void *data, size_t size) {
    static volatile uint8_t sink;

    if (!size)
        return;
    sink = ((const uint8_t *)data)[0];
    sink = ((const uint8_t *)data)[size - 1];
    (void)sink;
}
