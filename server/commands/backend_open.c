/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/backend_open.h"

#include "cpu/cpu_backend.h"
#ifdef KVASIR_CUDA
#include "cuda/cuda_backend.h"
#endif
#include "util/buffer.h"
#include "util/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_AUTO "auto"

/* Opens number i_device of a kind; -ENODEV or -ENOTSUP: it is not here, and `why` says why. */
typedef int (*OpenFn)(Backend **outp, const BackendOptions *options, uint32_t i_device,
                      Reason *why);

static int open_cpu(Backend **outp, const BackendOptions *options, uint32_t i_device, Reason *why) {
    (void)i_device;
    if (options->gpu_memory_bytes)
        return reason_set(why, -EINVAL,
                          "gpu_memory limits what is taken of a GPU, but what computes is the CPU; "
                          "leave it out");
    return cpu_backend_new(outp, &(CpuBackendOptions){ .n_threads = options->n_threads }, why);
}

#ifdef KVASIR_CUDA
static int open_cuda(Backend **outp, const BackendOptions *options, uint32_t i_device,
                     Reason *why) {
    return cuda_backend_new(
        outp, &(CudaBackendOptions){ .i_device = i_device, .max_bytes = options->gpu_memory_bytes },
        why);
}
#endif

/* Best first: "auto" is the first that is here. */
static const struct {
    const BackendOps *ops;
    OpenFn open;
    bool has_numbers; /* "cuda:1" */
} kinds[] = {
#ifdef KVASIR_CUDA
    { &cuda_ops, open_cuda, true },
#endif
    { &cpu_ops, open_cpu, false },
};
#define N_KINDS (sizeof(kinds) / sizeof(*kinds))

static int refuse(const char *device, Reason *why) {
    CLEANUP(buffer_deinit) Buffer names = BUFFER_NULL;

    for (size_t i = 0; i < N_KINDS; i++)
        buffer_printf(&names, ", %s%s", kinds[i].ops->name,
                      kinds[i].has_numbers ? " (or cuda:1 and so on)" : "");
    return reason_set(why, -EINVAL, "device is \"%s\", but this build has " DEVICE_AUTO "%s",
                      device, buffer_text(&names));
}

/* Whether `device` is of that kind; its number then. */
static bool names_kind(const char *device, size_t i_kind, uint32_t *i_devicep) {
    size_t length = strlen(kinds[i_kind].ops->name);
    char *end;

    *i_devicep = 0;
    if (strncmp(device, kinds[i_kind].ops->name, length) != 0)
        return false;
    if (!device[length])
        return true;
    if (!kinds[i_kind].has_numbers || device[length] != ':' || device[length + 1] < '0' ||
        device[length + 1] > '9')
        return false;
    *i_devicep = (uint32_t)strtoul(device + length + 1, &end, 10);
    return !*end && end - device - length < 6;
}

static int open_best(Backend **outp, const BackendOps **opsp, const BackendOptions *options,
                     Reason *why) {
    Reason unused = REASON_NULL;

    for (size_t i = 0; i + 1 < N_KINDS; i++) {
        int r = kinds[i].open(outp, options, 0, &unused);

        *opsp = kinds[i].ops;
        if (r != -ENODEV && r != -ENOTSUP)
            return r ? reason_set(why, r, "%s", unused.text) : 0;
        /* A GPU that is there but cannot be used is worth telling everybody about. */
        log_line(r == -ENODEV ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "a device is not used",
                 "device=%s reason=\"%s\"", kinds[i].ops->name, unused.text);
    }
    *opsp = kinds[N_KINDS - 1].ops;
    return kinds[N_KINDS - 1].open(outp, options, 0, why);
}

int backend_open(Backend **outp, const BackendOps **opsp, const BackendOptions *options,
                 Reason *why) {
    const char *device = options->device ? options->device : DEVICE_AUTO;
    uint32_t i_device;

    if (strcmp(device, DEVICE_AUTO) == 0)
        return open_best(outp, opsp, options, why);
    for (size_t i = 0; i < N_KINDS; i++) {
        if (!names_kind(device, i, &i_device))
            continue;
        *opsp = kinds[i].ops;
        return kinds[i].open(outp, options, i_device, why);
    }
    return refuse(device, why);
}
