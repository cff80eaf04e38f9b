/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/sampler.h"

#include "cuda/status.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { USES_BIAS = 1, USES_COUNTS = 2 };

int cuda_sampler_init(CudaSampler *sampler, CudaMemory *memory, uint32_t n_slots, uint32_t n_vocab,
                      size_t *bytesp) {
    size_t table_bytes = (size_t)n_slots * n_vocab * 4, slots_bytes = n_slots * sizeof(CudaSlot);
    size_t masks_bytes = (size_t)n_slots * cuda_mask_words(n_vocab) * 4;
    CudaSlots *d = &sampler->device;
    CudaSlot greedy = { .top_p = 1, .repetition_penalty = 1 };
    int r;

    *sampler =
        (CudaSampler){ .device = { .n_slots = n_slots, .n_vocab = n_vocab }, .memory = memory };
    sampler->is_used = calloc(n_slots, 1);
    r = sampler->is_used ? 0 : -ENOMEM;
    if (!r)
        r = cuda_memory_take(memory, (void **)&d->slots, slots_bytes);
    if (!r)
        r = cuda_memory_take(memory, (void **)&d->drawn, n_slots * sizeof(*d->drawn));
    if (!r)
        r = cuda_memory_take(memory, (void **)&d->bias, table_bytes);
    if (!r)
        r = cuda_memory_take(memory, (void **)&d->counts, table_bytes);
    if (!r)
        r = cuda_memory_take(memory, (void **)&d->masks, masks_bytes);
    if (!r)
        r = cuda_status(cudaMemset(d->bias, 0, table_bytes));
    if (!r)
        r = cuda_status(cudaMemset(d->counts, 0, table_bytes));
    for (uint32_t i = 0; !r && i < n_slots; i++)
        r = cuda_slot_put(0, d, i, &greedy, 0);
    if (!r)
        r = cuda_status(cudaDeviceSynchronize());
    if (r) {
        cuda_sampler_deinit(sampler);
        return r;
    }
    *bytesp += 2 * table_bytes + masks_bytes + slots_bytes + n_slots * sizeof(*d->drawn);
    return 0;
}

void cuda_sampler_deinit(CudaSampler *sampler) {
    cuda_memory_give(sampler->memory, sampler->device.slots);
    cuda_memory_give(sampler->memory, sampler->device.drawn);
    cuda_memory_give(sampler->memory, sampler->device.bias);
    cuda_memory_give(sampler->memory, sampler->device.counts);
    cuda_memory_give(sampler->memory, sampler->device.masks);
    free(sampler->is_used);
    *sampler = (CudaSampler){ .is_used = NULL };
}

static int clear_tables(CudaSampler *sampler, cudaStream_t stream, uint32_t slot) {
    size_t row_bytes = (size_t)sampler->device.n_vocab * 4,
           at = (size_t)slot * sampler->device.n_vocab;
    int r = 0;

    if (sampler->is_used[slot] & USES_BIAS)
        r = cuda_status(cudaMemsetAsync(sampler->device.bias + at, 0, row_bytes, stream));
    if (!r && sampler->is_used[slot] & USES_COUNTS)
        r = cuda_status(cudaMemsetAsync(sampler->device.counts + at, 0, row_bytes, stream));
    sampler->is_used[slot] = 0;
    return r;
}

static int send_list(CudaSampler *sampler, CudaStaging *staging, cudaStream_t stream, uint32_t slot,
                     CudaSlotList kind, const void *list, uint32_t n) {
    size_t each_bytes = kind == CUDA_SLOT_BIAS ? sizeof(LogitBias) : sizeof(uint32_t);
    uint32_t n_max = (uint32_t)(staging->chunk_bytes / each_bytes), n_now;
    const uint8_t *from = list;
    int r = 0;

    for (uint32_t i = 0; !r && i < n; i += n_now) {
        uint8_t *pinned, *device;

        n_now = n - i < n_max ? n - i : n_max;
        r = cuda_staging_take(staging, &pinned);
        if (r)
            return r;
        memcpy(pinned, from + i * each_bytes, n_now * each_bytes);
        r = cuda_staging_send(staging, stream, n_now * each_bytes, &device);
        if (!r)
            r = cuda_slot_list(stream, &sampler->device, slot, kind, device, n_now);
        if (!r)
            r = cuda_staging_give(staging, stream);
    }
    return r;
}

static bool has_penalties(const SampleParams *p) {
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

int cuda_sampler_set(CudaSampler *sampler, CudaStaging *staging, cudaStream_t stream, uint32_t slot,
                     const SlotState *state) {
    const SampleParams *p = state->params;
    CudaSlot put = { .temperature = p->temperature,
                     .top_p = p->top_p,
                     .min_p = p->min_p,
                     .repetition_penalty = p->repetition_penalty,
                     .presence_penalty = p->presence_penalty,
                     .frequency_penalty = p->frequency_penalty,
                     .top_k = p->top_k,
                     .n_output = state->n_output,
                     .min_output = state->min_output,
                     .has_bias = p->n_logit_bias > 0,
                     .has_banned = state->n_banned > 0,
                     .has_penalties = has_penalties(p),
                     .seed = p->seed };
    const struct {
        CudaSlotList kind;
        const void *list;
        uint32_t n;
    } lists[] = { { CUDA_SLOT_BIAS, p->logit_bias, p->n_logit_bias },
                  { CUDA_SLOT_BANNED, state->banned, state->n_banned },
                  { CUDA_SLOT_PROMPT, state->prompt, put.has_penalties ? state->n_prompt : 0 },
                  { CUDA_SLOT_OUTPUT, state->output, put.has_penalties ? state->n_output : 0 } };
    int r;

    assert(slot < sampler->device.n_slots);
    r = clear_tables(sampler, stream, slot);
    if (!r)
        r = cuda_slot_put(stream, &sampler->device, slot, &put,
                          state->n_output ? state->output[state->n_output - 1] : 0);
    for (size_t i = 0; !r && i < sizeof(lists) / sizeof(*lists); i++)
        r = send_list(sampler, staging, stream, slot, lists[i].kind, lists[i].list, lists[i].n);
    sampler->is_used[slot] = (uint8_t)((put.has_bias ? USES_BIAS : 0) |
                                       (put.has_banned || put.has_penalties ? USES_COUNTS : 0));
    return r;
}

int cuda_sampler_mask(CudaSampler *sampler, CudaStaging *staging, cudaStream_t stream,
                      uint32_t slot, const uint32_t *mask) {
    size_t n_bytes = (size_t)cuda_mask_words(sampler->device.n_vocab) * sizeof(*mask);
    uint8_t *pinned, *device;
    int r;

    assert(slot < sampler->device.n_slots && n_bytes <= staging->chunk_bytes);
    if (!mask)
        return cuda_slot_mask(stream, &sampler->device, slot, NULL);
    r = cuda_staging_take(staging, &pinned);
    if (r)
        return r;
    memcpy(pinned, mask, n_bytes);
    r = cuda_staging_send(staging, stream, n_bytes, &device);
    if (!r)
        r = cuda_slot_mask(stream, &sampler->device, slot, (const uint32_t *)(void *)device);
    return r ? r : cuda_staging_give(staging, stream);
}
