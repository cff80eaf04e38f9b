/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "backend/ops.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The op rope: rotation, transforms and rounding in one kernel. */
int cuda_rope(cudaStream_t stream, const RopeArgs *args, const KvLayer *layer);

#ifdef __cplusplus
}
#endif
