/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between two events of the stream, so that nothing of the host is in it; the best of some rounds,
 * since a ceiling is the best there is.
 */
#include "cuda/measure.h"

#include "cuda/backend.h"
#include "cuda/status.h"
#include "util/cleanup.h"

#include <errno.h>
#include <stdio.h>

#define ROUNDS 5
#define ROUND_RUNS 8
#define COPY_BYTES ((size_t)1 << 30) /* of the source, as much of the copy */
#define COPY_BYTES_MIN ((size_t)1 << 20)
#define WARM_RUNS 4

typedef struct Measure {
    Backend *backend;
    DevAddr from, to;
    size_t copy_bytes;
    CudaProduct product;
    CudaPart part;
    cudaEvent_t begun, ended;
} Measure;

typedef int (*RunFn)(const Measure *m);

static void measure_deinit(Measure *m) {
    const DevAddr taken[] = { m->from, m->to };

    for (size_t i = 0; i < sizeof(taken) / sizeof(*taken); i++)
        if (taken[i])
            cuda_ops.memory_free(m->backend, taken[i]);
    if (m->begun)
        cudaEventDestroy(m->begun);
    if (m->ended)
        cudaEventDestroy(m->ended);
}
CLEANUP_DEINIT_DEFINE(Measure, measure_deinit);

static int run_copy(const Measure *m) {
    return cuda_status(cudaMemcpyAsync((void *)(uintptr_t)m->to, (void *)(uintptr_t)m->from,
                                       m->copy_bytes, cudaMemcpyDeviceToDevice,
                                       m->backend->stream));
}

static int run_product(const Measure *m) {
    return cuda_blas_product(m->backend->blas, m->backend->stream, &m->product, &m->part);
}

/* Seconds of one of n_runs, one behind the other. */
static int round_s(const Measure *m, RunFn run, uint32_t n_runs, double *secondsp) {
    cudaStream_t stream = m->backend->stream;
    float took_ms;
    int r = cuda_status(cudaEventRecord(m->begun, stream));

    for (uint32_t i = 0; !r && i < n_runs; i++)
        r = run(m);
    if (!r)
        r = cuda_status(cudaEventRecord(m->ended, stream));
    if (!r)
        r = cuda_status(cudaEventSynchronize(m->ended));
    if (!r)
        r = cuda_status(cudaEventElapsedTime(&took_ms, m->begun, m->ended));
    *secondsp = r ? 0 : took_ms * 1e-3 / n_runs;
    return r;
}

static int best_s(const Measure *m, RunFn run, double *secondsp) {
    double seconds;
    int r = round_s(m, run, WARM_RUNS, secondsp);

    for (uint32_t i = 0; !r && i < ROUNDS; i++) {
        r = round_s(m, run, ROUND_RUNS, &seconds);
        if (!r && (i == 0 || seconds < *secondsp))
            *secondsp = seconds;
    }
    return r;
}

static int measure_copies(Measure *m, size_t touched_bytes, double *bytes_per_sp) {
    double seconds;
    int r;

    m->copy_bytes = touched_bytes / 2 < COPY_BYTES_MIN ? COPY_BYTES_MIN
                    : touched_bytes / 2 > COPY_BYTES   ? COPY_BYTES
                                                       : touched_bytes / 2;
    r = best_s(m, run_copy, &seconds);
    *bytes_per_sp = r ? 0 : 2 * (double)m->copy_bytes / seconds;
    return r;
}

/* A matrix of zeros is multiplied with less power, and faster, than one of numbers. */
static int fill_product(Measure *m) {
    uint16_t numbers[4096];
    uint32_t x = 1;
    int r = 0;

    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        x = x * 1664525 + 1013904223;
        numbers[i] = (uint16_t)((x >> 16 & 0x80ff) | 0x3e00);
    }
    for (size_t at = 0; !r && at < 2 * (size_t)CUDA_MEASURE_SIDE * CUDA_MEASURE_SIDE * 2;
         at += sizeof(numbers))
        r = cuda_ops.upload(m->backend, m->from + at, numbers, sizeof(numbers));
    return r;
}

static int measure_products(Measure *m, double *madds_per_sp) {
    const size_t side = CUDA_MEASURE_SIDE;
    double seconds;
    int r;

    m->product = (CudaProduct){ .in = (void *)(uintptr_t)m->from,
                                .n_tokens = CUDA_MEASURE_SIDE,
                                .n_in = CUDA_MEASURE_SIDE,
                                .n_parts = 1 };
    m->part = (CudaPart){ .weight = (void *)(uintptr_t)(m->from + side * side * 2),
                          .out = (void *)(uintptr_t)m->to,
                          .n_out = CUDA_MEASURE_SIDE };
    r = fill_product(m);
    if (!r)
        r = best_s(m, run_product, &seconds);
    *madds_per_sp = r ? 0 : (double)side * (double)side * (double)side / seconds;
    return r;
}

static int measure_init(Measure *m, Reason *why) {
    size_t unused = 0;
    int r = cuda_ops.memory_new(m->backend, &m->from, COPY_BYTES, "what is copied", why);

    if (!r)
        r = cuda_ops.memory_new(m->backend, &m->to, COPY_BYTES, "a copy", why);
    if (r)
        return r;
    r = cuda_blas_reserve(m->backend->blas, &m->backend->memory, &unused);
    if (!r)
        r = cuda_status(cudaEventCreate(&m->begun));
    if (!r)
        r = cuda_status(cudaEventCreate(&m->ended));
    return r ? reason_set(why, r, "the GPU cannot be measured") : 0;
}

int cuda_measure(Backend *backend, size_t weight_bytes, CudaRates *out, Reason *why) {
    CLEANUP(measure_deinit) Measure m = { .backend = backend };
    struct cudaDeviceProp properties;
    int r = measure_init(&m, why);

    if (r)
        return r;
    r = cuda_status(cudaGetDeviceProperties(&properties, backend->i_device));
    if (!r)
        r = measure_copies(&m, 2 * COPY_BYTES, &out->copy_bytes_per_s);
    if (!r)
        r = measure_copies(&m, weight_bytes, &out->weight_bytes_per_s);
    if (!r)
        r = measure_products(&m, &out->madds_per_s);
    if (r)
        return reason_set(why, r, "the GPU cannot be measured");
    snprintf(out->name, sizeof(out->name), "%s", properties.name);
    out->n_multiprocessors = (uint32_t)properties.multiProcessorCount;
    out->cache_bytes = (size_t)properties.l2CacheSize;
    return 0;
}
