/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads what Linux shows as text. A control group's limit counts, and so do those of the groups it
 * lies in, whichever is lowest; files of version 2 are looked for first, then those of version 1.
 * What a group holds of files is free to be taken, as MemAvailable counts it for the machine.
 */
#include "cpu/memory_info.h"

#include "util/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SHARE 4 /* of all memory: one quarter, for others live here as well */

typedef struct GroupFiles {
    const char *controller; /* as /proc/self/cgroup names it between its colons */
    const char *root, *limit, *usage;
} GroupFiles;

static const GroupFiles versions[] = {
    { "", "/sys/fs/cgroup", "memory.max", "memory.current" },
    { "memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes" },
};

/* Sums the numbers of the lines of `path` that begin with `key` and white space or a colon; NULL:
 * of its first line. False: there is none. */
static bool read_number(const char *path, const char *key, uint64_t *sump) {
    CLEANUP(fclose) FILE *file = fopen(path, "re");
    size_t n = key ? strlen(key) : 0;
    bool found = false;
    char line[256];

    while (file && fgets(line, sizeof(line), file)) {
        uint64_t number;

        if (key && (strncmp(line, key, n) != 0 || !strchr(": ", line[n])))
            continue;
        if (sscanf(line + n, key ? "%*[: ]%" SCNu64 : "%" SCNu64, &number) != 1)
            return found; /* "max" */
        *sump += number;
        found = true;
        if (!key)
            break;
    }
    return found;
}

static void apply_group(const GroupFiles *files, const char *group, MemoryInfo *info) {
    uint64_t limit = 0, used = 0, of_files = 0;
    char path[512];

    snprintf(path, sizeof(path), "%s%s/%s", files->root, group, files->limit);
    if (!read_number(path, NULL, &limit) || limit >= info->total_bytes)
        return;
    info->total_bytes = limit;
    snprintf(path, sizeof(path), "%s%s/%s", files->root, group, files->usage);
    if (!read_number(path, NULL, &used))
        return;
    snprintf(path, sizeof(path), "%s%s/memory.stat", files->root, group);
    read_number(path, "inactive_file", &of_files);
    read_number(path, "active_file", &of_files);
    used = used > of_files ? used - of_files : 0;
    used = used < limit ? used : limit;
    if (limit - used < info->free_bytes)
        info->free_bytes = limit - used;
}

/* The group, and every one above it. Within a container the path may be one that only its host
 * can see; the root is then the container's own group. */
static void apply_groups(const GroupFiles *files, char *group, MemoryInfo *info) {
    for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
        *end = 0;
        apply_group(files, group, info);
    }
}

/* Whether a line "4:cpu,memory:/path" is of the controller; its path then. */
static char *path_of(char *line, const char *controller) {
    char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;

    if (!path)
        return NULL;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    for (char *name = names + 1; name; name = strchr(name, ',')) {
        name += *name == ',';
        if (strcspn(name, ",") == strlen(controller) &&
            strncmp(name, controller, strlen(controller)) == 0)
            return path;
    }
    return NULL;
}

int cpu_memory_info(Backend *backend, MemoryInfo *info) {
    CLEANUP(fclose) FILE *groups = NULL;
    char line[512], copy[512];

    (void)backend;
    *info = (MemoryInfo){ .total_bytes = 0 };
    if (!read_number("/proc/meminfo", "MemTotal", &info->total_bytes) ||
        !read_number("/proc/meminfo", "MemAvailable", &info->free_bytes))
        return -ENODATA;
    info->total_bytes <<= 10; /* KiB */
    info->free_bytes <<= 10;
    groups = fopen("/proc/self/cgroup", "re");
    while (groups && fgets(line, sizeof(line), groups))
        for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
            char *path;

            memcpy(copy, line, sizeof(copy));
            path = path_of(copy, versions[i].controller);
            if (path)
                apply_groups(&versions[i], path, info);
        }
    info->cache_bytes = info->total_bytes / CACHE_SHARE;
    if (info->cache_bytes > info->free_bytes)
        info->cache_bytes = info->free_bytes;
    return 0;
}
