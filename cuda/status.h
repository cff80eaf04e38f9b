/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the driver says, as the op table's errors.
 */

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 0; -ENOMEM; -EINVAL: a launch that the GPU does not take; -ENODEV: anything else, since after it
 * the GPU's context is of no more use. */
int cuda_status(cudaError_t error);
/* Lets blocks of a kernel have that much shared memory; -EINVAL: the GPU has not. */
int cuda_allow_shared(const void *kernel, size_t n_bytes);
/* Of the kernel launched just now. */
int cuda_launch_status(void);

#ifdef __cplusplus
}
#endif
