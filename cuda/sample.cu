/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/sampler.h"

#include "cuda/sample.cuh"
#include "cuda/status.h"

static_assert(sizeof(LogitBias) == 8, "lists of biases are pairs of words");

int cuda_slot_put(cudaStream_t stream, const CudaSlots *slots, uint32_t slot, const CudaSlot *state,
                  uint32_t drawn) {
    slot_put_kernel<<<1, 1, 0, stream>>>(*slots, slot, *state, drawn);
    return cuda_launch_status();
}

int cuda_slot_list(cudaStream_t stream, const CudaSlots *slots, uint32_t slot, CudaSlotList kind,
                   const void *list, uint32_t n) {
    slot_list_kernel<<<divide_up(n, 256), 256, 0, stream>>>(*slots, slot, kind,
                                                            (const uint32_t *)list, n);
    return cuda_launch_status();
}

int cuda_slot_mask(cudaStream_t stream, const CudaSlots *slots, uint32_t slot,
                   const uint32_t *mask) {
    slot_mask_kernel<<<1, 1024, 0, stream>>>(*slots, slot, mask);
    return cuda_launch_status();
}

int cuda_sample(cudaStream_t stream, const CudaSampleArgs *args) {
    if (!args->n_rows)
        return 0;
    sample_kernel<<<args->n_rows, SAMPLE_THREADS, 0, stream>>>(*args);
    return cuda_launch_status();
}
