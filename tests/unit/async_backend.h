/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A backend that behaves like a device, made of any other one: calls are put in a queue and return,
 * and a thread of the backend's own does them in that order. It is there to show what the callers
 * of the seam may not rely on:
 *   - Calls take effect late: the thread lingers now and then, by chance.
 *   - A second thread delivers results, some of them late, and not always those of the older step
 *     first.
 *   - Addresses are of another space than the host's: a host that follows one faults.
 *   - What a call borrowed is gone when it returns. Results are gone with the next step_begin or
 *     step_wait.
 */

#include "backend/ops.h"

typedef struct AsyncBackendOptions {
    const BackendOps *ops; /* of the backend that does the work; borrowed */
    Backend *backend;      /* that one; owned from here on, whatever async_backend_new returns */
    bool lingers;          /* else it works as fast as it can */
    uint64_t seed;         /* of chance */
} AsyncBackendOptions;

/* The table of such a backend over `inner`. */
BackendOps async_backend_ops(const BackendOps *inner);
int async_backend_new(Backend **outp, const AsyncBackendOptions *options, Reason *why);
/* How long its thread has had nothing to do, since this was last asked. */
uint64_t async_backend_idle_ns(Backend *backend);
