/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which backends this build has, and opening the one that was asked for. Nobody else names one.
 */

#include "backend/ops.h"
#include "util/reason.h"

typedef struct BackendOptions {
    const char *device; /* the option: "auto", or a backend's name; "cuda:1": the second GPU; NULL:
                           "auto", which is a GPU where there is one */
    uint32_t n_threads; /* of the CPU; 0: one per available core */
    uint64_t gpu_memory_bytes; /* the most to take of a GPU's; 0: no limit */
} BackendOptions;

/* *opsp is static; *outp is the caller's, to be freed by (*opsp)->free. -EINVAL: this build has no
 * such device, and `why` lists what it has; or there is a limit of a GPU's memory, and no GPU. */
int backend_open(Backend **outp, const BackendOps **opsp, const BackendOptions *options,
                 Reason *why);
