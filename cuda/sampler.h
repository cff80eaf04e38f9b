/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The op sample on the GPU, as backend/sample.h defines it; what that leaves open is settled as in
 * cpu/sample.h. A block a row; sums are in f64 and in a fixed order, so that a row's answer is a
 * function of the row alone.
 *
 * Slots live on the GPU and follow what they draw there. They hold 8 bytes and a bit for each slot
 * and id of the vocabulary, which are written only where a request asks for it.
 */

#include "cuda/step.h"
#include "cuda/weight.h"
#include "util/device_fn.h"

/* A slot's state on the GPU, beside its tables. */
typedef struct CudaSlot {
    float temperature, top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t top_k, n_output, min_output;
    uint32_t has_bias, has_banned, has_penalties, has_mask;
    uint64_t seed;
} CudaSlot;

/* All arrays are of the device. */
typedef struct CudaSlots {
    CudaSlot *slots;  /* [n_slots] */
    uint32_t *drawn;  /* [n_slots] what each drew last */
    float *bias;      /* [n_slots, n_vocab]; zeros unless has_bias */
    uint32_t *counts; /* [n_slots, n_vocab]; zeros unless the slot has penalties or bans */
    uint32_t *masks;  /* [n_slots, cuda_mask_words(n_vocab)]; not read unless has_mask */
    uint32_t n_slots, n_vocab;
} CudaSlots;

typedef struct CudaSampler {
    CudaMemory *memory; /* borrowed */
    CudaSlots device;
    uint8_t *is_used; /* host, [n_slots]: bits of the tables that are not zeros */
} CudaSampler;

typedef struct CudaSampleArgs {
    CudaSlots slots;
    const float *logits;    /* [n_rows, n_vocab] */
    const StepLogits *rows; /* [n_rows] */
    SampleResult *results;  /* [n_rows] */
    uint32_t n_rows, n_vocab;
} CudaSampleArgs;

DEVICE_FN uint32_t cuda_mask_words(uint32_t n_vocab) {
    return (n_vocab + 31) / 32;
}

/* What a list of tokens does to a slot's tables. */
typedef enum CudaSlotList {
    CUDA_SLOT_BIAS, /* of LogitBias */
    CUDA_SLOT_BANNED,
    CUDA_SLOT_PROMPT,
    CUDA_SLOT_OUTPUT
} CudaSlotList;

#ifdef __cplusplus
extern "C" {
#endif

/* Adds its bytes to *bytesp. Error: nothing is held. */
int cuda_sampler_init(CudaSampler *sampler, CudaMemory *memory, uint32_t n_slots, uint32_t n_vocab,
                      size_t *bytesp);
void cuda_sampler_deinit(CudaSampler *sampler);
/* The op slot_set; `staging` carries lists. */
int cuda_sampler_set(CudaSampler *sampler, CudaStaging *staging, cudaStream_t stream, uint32_t slot,
                     const SlotState *state);

/* The op slot_mask. */
int cuda_sampler_mask(CudaSampler *sampler, CudaStaging *staging, cudaStream_t stream,
                      uint32_t slot, const uint32_t *mask);

/* Launchers */
int cuda_slot_put(cudaStream_t stream, const CudaSlots *slots, uint32_t slot, const CudaSlot *state,
                  uint32_t drawn);
/* `mask` [cuda_mask_words(n_vocab)] on the device; NULL: none. */
int cuda_slot_mask(cudaStream_t stream, const CudaSlots *slots, uint32_t slot,
                   const uint32_t *mask);
int cuda_slot_list(cudaStream_t stream, const CudaSlots *slots, uint32_t slot, CudaSlotList kind,
                   const void *list, uint32_t n);
int cuda_sample(cudaStream_t stream, const CudaSampleArgs *args);

#ifdef __cplusplus
}
#endif
