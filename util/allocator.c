/* SPDX-License-Identifier: Apache-2.0 */
#include "util/allocator.h"

#include <stdio.h>
#include <string.h>

/* There where jemalloc is linked or preloaded. */
int mallctl(const char *name, void *old, size_t *old_size, void *new, size_t new_size)
    __attribute__((weak));

/* jemalloc reads this when it starts; what the environment's MALLOC_CONF says goes before. Pages
 * that were freed are handed back within about a second, by a thread of its own, also when the
 * process allocates nothing any more. Few threads allocate at once, so that a few arenas do. */
extern const char *malloc_conf;
__attribute__((visibility("default"))) const char *malloc_conf =
    "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4";

const char *allocator_name(void) {
    static char name[64];
    const char *version;
    size_t size = sizeof(version);

    if (!mallctl || mallctl("version", (void *)&version, &size, NULL, 0))
        return "system";
    /* "5.3.0-0-g54eaed1d8b56..." */
    snprintf(name, sizeof(name), "jemalloc %.*s", (int)strcspn(version, "-"), version);
    return name;
}
