/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/backend_open.h"

#include "cpu/cpu_backend.h"
#include "util/buffer.h"

#include <errno.h>
#include <string.h>

#define DEVICE_AUTO "auto"

static int open_cpu(Backend **outp, const BackendOptions *options, Reason *why) {
    return cpu_backend_new(outp, &(CpuBackendOptions){ .n_threads = options->n_threads }, why);
}

/* Best first: the first is what "auto" means. */
static const struct {
    const BackendOps *ops;
    int (*open)(Backend **outp, const BackendOptions *options, Reason *why);
} kinds[] = {
    { &cpu_ops, open_cpu },
};
#define N_KINDS (sizeof(kinds) / sizeof(*kinds))

static int refuse(const char *device, Reason *why) {
    CLEANUP(buffer_deinit) Buffer names = BUFFER_NULL;

    for (size_t i = 0; i < N_KINDS; i++)
        buffer_printf(&names, ", %s", kinds[i].ops->name);
    return reason_set(why, -EINVAL, "device is \"%s\", but this build has " DEVICE_AUTO "%s",
                      device, buffer_text(&names));
}

int backend_open(Backend **outp, const BackendOps **opsp, const BackendOptions *options,
                 Reason *why) {
    const char *device = options->device ? options->device : DEVICE_AUTO;

    for (size_t i = 0; i < N_KINDS; i++) {
        if (strcmp(device, DEVICE_AUTO) != 0 && strcmp(device, kinds[i].ops->name) != 0)
            continue;
        *opsp = kinds[i].ops;
        return kinds[i].open(outp, options, why);
    }
    return refuse(device, why);
}
