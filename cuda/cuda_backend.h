/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The CUDA backend: one GPU, one stream. Activations are bf16 and the residual stream is f32; all
 * weights are kept as bf16, whatever the file has them as, so that every product runs on tensor
 * cores of the activations' own type. The step's input travels through a ring of pinned memory, and
 * results come back the same way: two steps may be in flight.
 */

#include "backend/ops.h"

typedef struct CudaBackendOptions {
    uint32_t i_device;  /* as the driver counts them */
    uint64_t max_bytes; /* of its memory, for all that the backend takes; 0: no limit */
} CudaBackendOptions;

extern const BackendOps cuda_ops;

/* -ENODEV: there is no such GPU, or no driver; -ENOTSUP: the GPU is too old, or the matrix library
 * (libcublasLt) is not installed. `why` says which, and what would help. */
int cuda_backend_new(Backend **outp, const CudaBackendOptions *options, Reason *why);
