/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/status.h"

#include <errno.h>

int cuda_status(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return 0;
    case cudaErrorMemoryAllocation:
        cudaGetLastError(); /* the context goes on */
        return -ENOMEM;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorLaunchOutOfResources:
        cudaGetLastError();
        return -EINVAL;
    default:
        return -ENODEV;
    }
}

int cuda_allow_shared(const void *kernel, size_t n_bytes) {
    return cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes));
}

int cuda_launch_status(void) {
    return cuda_status(cudaGetLastError());
}
