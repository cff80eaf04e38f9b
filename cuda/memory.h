/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The GPU's memory, as one backend takes it: every byte of it is asked for here, and counted, so
 * that a limit of the user's holds for all. What the driver takes for itself, some hundred MiB, is
 * not counted. Pinned memory is the host's, and is no part of it.
 */

#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct CudaBlock {
    void *address;
    size_t size_bytes;
} CudaBlock;

typedef struct CudaMemory {
    size_t max_bytes; /* 0: as many as there are */
    size_t used_bytes;
    size_t refused_bytes; /* asked for last, in vain */
    bool is_over_max;     /* that is why */
    CudaBlock *blocks;    /* [n_blocks] taken, in no order */
    size_t n_blocks, capacity;
} CudaMemory;

#ifdef __cplusplus
extern "C" {
#endif

/* All has been given back. */
void cuda_memory_deinit(CudaMemory *memory);

/* size_bytes >= 1. -ENOMEM: they are not to be had; -ENODEV: the GPU was lost. Then *outp is as it
 * was. */
int cuda_memory_take(CudaMemory *memory, void **outp, size_t size_bytes);
/* NULL is fine. */
void cuda_memory_give(CudaMemory *memory, void *address);

/* Why taking memory for `purpose` ended with r, and what helps; returns r. */
int cuda_memory_refused(const CudaMemory *memory, int r, const char *purpose, const char *helps,
                        Reason *why);

/* What is left of n bytes that the driver has free. */
size_t cuda_memory_left(const CudaMemory *memory, size_t free_bytes);

#ifdef __cplusplus
}
#endif
