/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/memory.h"

#include "cuda/status.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

void cuda_memory_deinit(CudaMemory *memory) {
    assert(memory->n_blocks == 0);
    free(memory->blocks);
    *memory = (CudaMemory){ .blocks = NULL };
}

static int make_room(CudaMemory *memory) {
    size_t capacity = memory->capacity ? 2 * memory->capacity : 64;
    CudaBlock *blocks;

    if (memory->n_blocks < memory->capacity)
        return 0;
    blocks = realloc(memory->blocks, capacity * sizeof(*blocks));
    if (!blocks)
        return -ENOMEM;
    memory->blocks = blocks;
    memory->capacity = capacity;
    return 0;
}

int cuda_memory_take(CudaMemory *memory, void **outp, size_t size_bytes) {
    void *address = NULL;
    int r = make_room(memory);

    memory->is_over_max = memory->max_bytes && size_bytes > memory->max_bytes - memory->used_bytes;
    if (!r)
        r = memory->is_over_max ? -ENOMEM : cuda_status(cudaMalloc(&address, size_bytes));
    memory->refused_bytes = r ? size_bytes : 0;
    if (r)
        return r;
    memory->blocks[memory->n_blocks++] = (CudaBlock){ address, size_bytes };
    memory->used_bytes += size_bytes;
    *outp = address;
    return 0;
}

void cuda_memory_give(CudaMemory *memory, void *address) {
    size_t i = 0;

    if (!address)
        return;
    while (i < memory->n_blocks && memory->blocks[i].address != address)
        i++;
    assert(i < memory->n_blocks);
    memory->used_bytes -= memory->blocks[i].size_bytes;
    memory->blocks[i] = memory->blocks[--memory->n_blocks];
    cudaFree(address);
}

int cuda_memory_refused(const CudaMemory *memory, int r, const char *purpose, const char *helps,
                        Reason *why) {
    if (r != -ENOMEM)
        return reason_set(why, r, "the GPU was lost when it was asked for memory for %s", purpose);
    if (memory->is_over_max)
        return reason_set(
            why, r,
            "gpu_memory is %zu bytes, of which %zu are taken, and has no room for %s: "
            "%zu bytes; raise gpu_memory, or %s",
            memory->max_bytes, memory->used_bytes, purpose, memory->refused_bytes, helps);
    return reason_set(why, r, "the GPU has no memory for %s: %zu bytes were refused; %s", purpose,
                      memory->refused_bytes, helps);
}

size_t cuda_memory_left(const CudaMemory *memory, size_t free_bytes) {
    size_t left = memory->max_bytes - memory->used_bytes;

    return memory->max_bytes && left < free_bytes ? left : free_bytes;
}
