/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A matrix comes in chunks of whole rows, put in order on the way into pinned memory, and is
 * expanded on the GPU while the next chunk is read from the file.
 */
#include "cuda/weight.h"

#include "cuda/status.h"
#include "util/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

CLEANUP_DEFINE(Weight, cuda_weight_free);

/* staging */

int cuda_staging_init(CudaStaging *staging, CudaMemory *memory, size_t chunk_bytes) {
    int r = 0;

    *staging = (CudaStaging){ .memory = memory, .chunk_bytes = chunk_bytes };
    for (int i = 0; !r && i < CUDA_STAGING_TURNS; i++) {
        r = cuda_status(cudaMallocHost((void **)&staging->pinned[i], chunk_bytes));
        if (!r)
            r = cuda_memory_take(memory, (void **)&staging->device[i], chunk_bytes);
        if (!r)
            r = cuda_status(cudaEventCreateWithFlags(&staging->used[i], cudaEventDisableTiming));
    }
    if (r)
        cuda_staging_deinit(staging);
    return r;
}

void cuda_staging_deinit(CudaStaging *staging) {
    for (int i = 0; i < CUDA_STAGING_TURNS; i++) {
        cudaFreeHost(staging->pinned[i]);
        cuda_memory_give(staging->memory, staging->device[i]);
        if (staging->used[i])
            cudaEventDestroy(staging->used[i]);
    }
    *staging = (CudaStaging){ .turn = 0 };
}

int cuda_staging_take(CudaStaging *staging, uint8_t **pinnedp) {
    uint32_t i = ++staging->turn % CUDA_STAGING_TURNS;

    *pinnedp = staging->pinned[i];
    return cuda_status(cudaEventSynchronize(staging->used[i]));
}

int cuda_staging_send(CudaStaging *staging, cudaStream_t stream, size_t n_bytes,
                      uint8_t **devicep) {
    uint32_t i = staging->turn % CUDA_STAGING_TURNS;

    *devicep = staging->device[i];
    return cuda_status(cudaMemcpyAsync(staging->device[i], staging->pinned[i], n_bytes,
                                       cudaMemcpyHostToDevice, stream));
}

int cuda_staging_give(CudaStaging *staging, cudaStream_t stream) {
    return cuda_status(cudaEventRecord(staging->used[staging->turn % CUDA_STAGING_TURNS], stream));
}

/* weights */

static int check_source(const WeightSource *source, Reason *why) {
    if ((unsigned)source->format >= WEIGHT_FORMATS)
        return reason_set(why, -EINVAL, "unknown weight format %d", (int)source->format);
    if (source->n_rows == 0 || source->n_cols == 0)
        return reason_set(why, -EINVAL, "a weight of %u rows and %u columns is empty",
                          source->n_rows, source->n_cols);
    if (source->n_cols % weight_formats[source->format].block_values)
        return reason_set(why, -EINVAL, "rows of %u values are not whole blocks of %s",
                          source->n_cols, weight_formats[source->format].name);
    for (uint32_t i = 0; source->row_order && i < source->n_rows; i++)
        if (source->row_order[i] >= source->n_rows)
            return reason_set(why, -EINVAL, "row order: %u at %u, of %u rows", source->row_order[i],
                              i, source->n_rows);
    return 0;
}

static void copy_rows(uint8_t *to, const WeightSource *source, uint32_t first, uint32_t n) {
    size_t row_bytes = weight_row_bytes(source->format, source->n_cols);
    const uint8_t *data = source->data;

    if (!source->row_order) {
        memcpy(to, data + first * row_bytes, n * row_bytes);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        memcpy(to + i * row_bytes, data + source->row_order[first + i] * row_bytes, row_bytes);
}

static int send_rows(Weight *weight, CudaStaging *staging, cudaStream_t stream,
                     const WeightSource *source, uint32_t first, uint32_t n) {
    size_t row_bytes = weight_row_bytes(source->format, source->n_cols);
    uint8_t *pinned, *device;
    int r;

    r = cuda_staging_take(staging, &pinned);
    if (r)
        return r;
    copy_rows(pinned, source, first, n);
    r = cuda_staging_send(staging, stream, n * row_bytes, &device);
    if (!r)
        r = cuda_expand(stream, source->format, device,
                        (uint8_t *)weight->data + (size_t)first * weight->n_cols * 2,
                        (size_t)n * (source->n_cols / weight_formats[source->format].block_values));
    return r ? r : cuda_staging_give(staging, stream);
}

int cuda_weight_new(Weight **outp, CudaStaging *staging, cudaStream_t stream,
                    const WeightSource *source, Reason *why) {
    CLEANUP(cuda_weight_free) Weight *weight = NULL;
    size_t row_bytes, rows_per_chunk;
    int r;

    r = check_source(source, why);
    if (r)
        return r;
    row_bytes = weight_row_bytes(source->format, source->n_cols);
    if (row_bytes > staging->chunk_bytes)
        return reason_set(why, -EINVAL, "rows of %zu bytes are longer than %zu, which is the most",
                          row_bytes, staging->chunk_bytes);
    weight = calloc(1, sizeof(*weight));
    if (!weight)
        return reason_set(why, -ENOMEM, "no memory for a weight");
    weight->n_rows = source->n_rows;
    weight->n_cols = source->n_cols;
    weight->memory = staging->memory;
    r = cuda_memory_take(weight->memory, &weight->data, cuda_weight_bytes(weight));
    if (r)
        return cuda_memory_refused(weight->memory, r, "a weight (bf16)",
                                   "take a smaller model, or a GPU with more memory", why);
    rows_per_chunk = staging->chunk_bytes / row_bytes;
    for (uint32_t i = 0; !r && i < source->n_rows; i += (uint32_t)rows_per_chunk) {
        uint32_t left = source->n_rows - i;

        r = send_rows(weight, staging, stream, source, i,
                      left < rows_per_chunk ? left : (uint32_t)rows_per_chunk);
    }
    if (r)
        return reason_set(why, r, "the GPU was lost while weights were loaded");
    *outp = TAKE(weight);
    return 0;
}

Weight *cuda_weight_free(Weight *weight) {
    if (weight) {
        cuda_memory_give(weight->memory, weight->data);
        free(weight);
    }
    return NULL;
}

size_t cuda_weight_bytes(const Weight *weight) {
    return (size_t)weight->n_rows * weight->n_cols * 2;
}
