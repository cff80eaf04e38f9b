/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How near the GPU's ops are to what the card allows, by the shapes of llama-3.1-8b: what the card
 * copies a second is measured first, then every line is bytes (each input read once) or operations
 * over time, and over that ceiling. Matrices and caches are larger than the card's cache, or take
 * turns.
 *
 *   bench_cuda [products] [attention] [prefill] [hold]
 */
#include "cuda/cuda_backend.h"
#include "kvcache/kv_format.h"
#include "kvcache/rounding.h"

#include <assert.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HEADS 32
#define KV_HEADS 8
#define HEAD_DIM 128
#define MAX_ROWS 8192
#define MAX_SEQUENCES 256

static const BackendOps *ops = &cuda_ops;
static Backend *backend;
static double bytes_per_second; /* measured */

static void check(int r, const char *what) {
    if (r) {
        fprintf(stderr, "%s: error %d\n", what, -r);
        exit(1);
    }
}

static double now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static DevAddr memory(size_t n_bytes) {
    Reason why = REASON_NULL;
    DevAddr at = 0;

    check(ops->memory_new(backend, &at, n_bytes, "a benchmark", &why), why.text);
    return at;
}

/* Random 16-bit numbers of about 1 in size, repeated. */
static void fill(DevAddr at, size_t n_bytes) {
    static uint16_t numbers[1 << 20];
    uint32_t x = 1;

    for (size_t i = 0; i < sizeof(numbers) / 2; i++) {
        x = x * 1664525 + 1013904223;
        numbers[i] = (uint16_t)((x >> 16 & 0x80ff) | 0x3c00);
    }
    for (size_t i = 0; i < n_bytes; i += sizeof(numbers))
        check(ops->upload(backend, at + i, numbers,
                          n_bytes - i < sizeof(numbers) ? n_bytes - i : sizeof(numbers)),
              "upload");
}

typedef struct Run {
    void (*run)(void *arg, int i);
    void *arg;
} Run;

static int order_doubles(const void *a, const void *b) {
    return *(const double *)a > *(const double *)b ? 1 : -1;
}

/* Seconds of one, the median of five runs of n after one of them. */
static double seconds_of(Run run, int n) {
    double times[5];

    for (int k = -1; k < 5; k++) {
        double start;

        check(ops->sync(backend), "sync");
        start = now();
        for (int i = 0; i < n; i++)
            run.run(run.arg, i);
        check(ops->sync(backend), "sync");
        if (k >= 0)
            times[k] = (now() - start) / n;
    }
    qsort(times, 5, sizeof(*times), order_doubles);
    return times[2];
}

/* the ceiling */

static DevAddr copies[2];

static void copy_once(void *arg, int i) {
    (void)arg;
    (void)i;
    cudaMemcpyAsync((void *)(uintptr_t)copies[1], (void *)(uintptr_t)copies[0], (size_t)2 << 30,
                    cudaMemcpyDeviceToDevice, 0);
    cudaStreamSynchronize(0);
}

static void measure_copies(void) {
    struct cudaDeviceProp p;

    cudaGetDeviceProperties(&p, 0);
    copies[0] = memory((size_t)2 << 30);
    copies[1] = memory((size_t)2 << 30);
    fill(copies[0], (size_t)2 << 30);
    bytes_per_second = 2.0 * ((size_t)2 << 30) / seconds_of((Run){ copy_once, NULL }, 4);
    printf("%s, %d multiprocessors: copies %.0f GB/s, read and written\n", p.name,
           p.multiProcessorCount, bytes_per_second * 1e-9);
    ops->memory_free(backend, copies[0]);
    ops->memory_free(backend, copies[1]);
}

/* steps */

static void reserve(uint32_t max_rows, uint32_t max_sequences, uint32_t max_pages) {
    static const uint32_t windows[] = { 0 };
    Reason why = REASON_NULL;
    size_t bytes = 0;
    ReserveArgs args = { .geometry = { 1, KV_HEADS, HEAD_DIM },
                         .n_heads = HEADS,
                         .n_cols_max = 14336,
                         .n_vocab = 64,
                         .windows = windows,
                         .n_windows = 1,
                         .max_rows = max_rows,
                         .max_sequences = max_sequences,
                         .max_pages = max_pages };

    check(ops->reserve(backend, &args, &bytes, &why), why.text);
}

/* n_sequences of n_rows each, behind n_past tokens each. */
static void begin(uint32_t n_sequences, uint32_t n_rows, uint32_t n_past) {
    uint32_t n_pages = (n_past + n_rows + 63) / 64, total = n_sequences * n_rows;
    uint32_t *tokens = calloc(total, 4), *indptr = calloc(n_sequences + 1, 4);
    uint32_t *indices = calloc((size_t)n_pages * n_sequences, 4);
    StepSequence *sequences = calloc(n_sequences, sizeof(*sequences));
    StepInput input = { .n_rows = total,
                        .n_sequences = n_sequences,
                        .tokens = tokens,
                        .sequences = sequences,
                        .page_indptr = indptr,
                        .page_indices = indices };

    for (uint32_t s = 0; s < n_sequences; s++) {
        sequences[s] = (StepSequence){ .first_row = s * n_rows,
                                       .n_rows = n_rows,
                                       .n_past = n_past,
                                       .slot = s,
                                       .sink = KV_NO_SINK };
        indptr[s + 1] = (s + 1) * n_pages;
        for (uint32_t p = 0; p < n_pages; p++)
            indices[s * n_pages + p] = p * n_sequences + s;
    }
    check(ops->step_begin(backend, &input), "step_begin");
    free(tokens);
    free(indptr);
    free(indices);
    free(sequences);
}

static void end(void) {
    const SampleResult *results;

    check(ops->step_end(backend), "step_end");
    check(ops->step_wait(backend, &results), "step_wait");
}

/* products */

#define TURNS 4

typedef struct Product {
    MatmulArgs args[TURNS];
    MatmulPart parts[TURNS];
} Product;

static void multiply(void *arg, int i) {
    Product *p = arg;

    check(ops->matmul(backend, &p->args[i % TURNS]), "matmul");
}

static void bench_products(void) {
    static const struct {
        const char *name;
        uint32_t n_out, n_in;
    } shapes[] = { { "qkv", 6144, 4096 },
                   { "o", 4096, 4096 },
                   { "gate, up", 28672, 4096 },
                   { "down", 4096, 14336 },
                   { "head", 128256, 4096 } };
    static const uint32_t tokens[] = { 1, 2, 4, 8, 16, 32, 64, 256, 2048, 8192 };
    void *data = malloc((size_t)128256 * 4096 * 2);

    printf("\nproducts       tokens       us   GB/s  of copies  TFLOP/s\n");
    for (size_t i = 0; i < (size_t)128256 * 4096; i++)
        ((uint16_t *)data)[i] = (uint16_t)((i * 2654435761u >> 13 & 0x80ff) | 0x3c00);
    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
        uint32_t n_out = shapes[s].n_out, n_in = shapes[s].n_in;
        uint32_t most = n_out > 100000 ? 256 : 8192;
        DevAddr in = memory((size_t)most * n_in * 2), out = memory((size_t)most * n_out * 2);
        Weight *weights[TURNS];
        Product p;

        fill(in, (size_t)most * n_in * 2);
        for (int i = 0; i < TURNS; i++) {
            WeightSource source = { "w", WEIGHT_BF16, n_out, n_in, data, NULL };

            check(ops->weights_new(backend, &weights[i], &source, 1, NULL), "weights_new");
        }
        for (size_t t = 0; t < sizeof(tokens) / sizeof(*tokens) && tokens[t] <= most; t++) {
            double seconds, bytes = 2.0 * n_out * n_in + 2.0 * tokens[t] * (n_in + n_out);

            for (int i = 0; i < TURNS; i++) {
                p.parts[i] = (MatmulPart){ .weight = weights[i], .out = out };
                p.args[i] = (MatmulArgs){
                    .in = in, .n_tokens = tokens[t], .n_parts = 1, .parts = &p.parts[i]
                };
            }
            seconds = seconds_of((Run){ multiply, &p }, 40);
            printf("%-12s %8u %8.1f %6.0f %10.2f %8.0f\n", shapes[s].name, tokens[t], seconds * 1e6,
                   bytes / seconds * 1e-9, bytes / seconds / bytes_per_second,
                   2e-12 * n_out * n_in * tokens[t] / seconds);
        }
        for (int i = 0; i < TURNS; i++)
            ops->weight_free(backend, weights[i]);
        ops->memory_free(backend, in);
        ops->memory_free(backend, out);
    }
    free(data);
}

/* attention */

typedef struct Attention {
    AttentionArgs args;
    KvLayer layer;
} Attention;

static void attend(void *arg, int i) {
    (void)i;
    check(ops->attention(backend, &((Attention *)arg)->args), "attention");
}

static const struct {
    const char *name;
    KvFormat k, v;
} pairs[] = {
    { "bf16", KV_FORMAT_BF16, KV_FORMAT_BF16 }, { "f16", KV_FORMAT_F16, KV_FORMAT_F16 },
    { "k8v8", KV_FORMAT_8, KV_FORMAT_8 },       { "k6v6", KV_FORMAT_6, KV_FORMAT_6 },
    { "k5v5", KV_FORMAT_5, KV_FORMAT_5 },       { "k4v4", KV_FORMAT_4, KV_FORMAT_4 },
    { "k4v2", KV_FORMAT_4, KV_FORMAT_2 },       { "k3v3", KV_FORMAT_3, KV_FORMAT_3 },
    { "k2v2", KV_FORMAT_2, KV_FORMAT_2 },
};
#define N_PAIRS (sizeof(pairs) / sizeof(*pairs))

static size_t block_bytes(KvFormat format, KvSide side) {
    return kv_block_layout(format, side, HEAD_DIM).size_bytes;
}

/* What errors feed does not matter for the time that it takes. */
static void upload_roundings(const KvLayer *layer) {
    Rounding *rounding = malloc(layer->rounding_bytes);
    float *moment = calloc(HEAD_DIM * HEAD_DIM, sizeof(*moment));

    for (uint32_t i = 0; i < HEAD_DIM * HEAD_DIM; i++)
        moment[i] = i / HEAD_DIM == i % HEAD_DIM ? 2 : 1;
    check(rounding_init(rounding, moment, HEAD_DIM, 0.03, ops->rounding_paths), "rounding_init");
    for (uint32_t h = 0; h < KV_HEADS; h++)
        check(ops->upload(backend, kv_layer_rounding(layer, h), rounding, layer->rounding_bytes),
              "upload");
    free(moment);
    free(rounding);
}

/* One op of n_sequences of n_rows rows behind n_past tokens; seconds, and bytes of the pages. */
static double time_attention(size_t i_pair, uint32_t n_sequences, uint32_t n_rows, uint32_t n_past,
                             bool attends, double *bytesp) {
    KvPlan *plan = calloc(1, sizeof(*plan));
    uint32_t n_pages = (n_past + n_rows + 63) / 64 * n_sequences;
    uint32_t total = n_sequences * n_rows;
    KvStore *store = calloc(1, sizeof(*store));
    size_t q_bytes = (size_t)total * HEADS * HEAD_DIM * 2;
    DevAddr q = memory(q_bytes), out = memory(q_bytes), k = memory(q_bytes / 4),
            v = memory(q_bytes / 4);
    Attention a;
    double seconds;

    plan->formats[0][0] = pairs[i_pair].k;
    plan->formats[0][1] = pairs[i_pair].v;
    check(kv_store_layout(store, &(KvShape){ .geometry = { 1, KV_HEADS, HEAD_DIM },
                                             .plan = plan,
                                             .n_pages = n_pages,
                                             .n_tails = n_sequences,
                                             .n_sinks = n_sequences }),
          "layout");
    store->base = memory(store->size_bytes);
    fill(store->base, store->size_bytes);
    fill(q, q_bytes);
    fill(k, q_bytes / 4);
    fill(v, q_bytes / 4);
    reserve(total, n_sequences, n_pages + n_sequences);
    a.layer = kv_store_layer(store, 0);
    if (a.layer.rounding_bytes)
        upload_roundings(&a.layer);
    a.args = (AttentionArgs){ .out = attends ? out : 0,
                              .q = q,
                              .k = k,
                              .v = v,
                              .layer = &a.layer,
                              .n_heads = HEADS,
                              .scale = 0.0883883f };
    begin(n_sequences, n_rows, n_past);
    seconds = seconds_of((Run){ attend, &a }, n_rows > 1000 ? 2 : 10);
    end();
    *bytesp =
        (double)(n_past / 64) * n_sequences * KV_HEADS *
        (double)(block_bytes(pairs[i_pair].k, KV_SIDE_K) + block_bytes(pairs[i_pair].v, KV_SIDE_V));
    ops->memory_free(backend, store->base);
    ops->memory_free(backend, q);
    ops->memory_free(backend, out);
    ops->memory_free(backend, k);
    ops->memory_free(backend, v);
    free(store);
    free(plan);
    return seconds;
}

static void bench_attention(void) {
    static const uint32_t shapes[][2] = {
        { 64, 4096 }, { 8, 32768 }, { 1, 131072 }, { 1, 8192 }, { 64, 512 }
    };

    printf("\ndecode attention   sequences  tokens       us   GB/s  of copies  faster than bf16\n");
    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
        double bf16 = 0;

        for (size_t p = 0; p < N_PAIRS; p++) {
            double bytes, seconds = time_attention(p, shapes[s][0], 1, shapes[s][1], true, &bytes);

            bf16 = p ? bf16 : seconds;
            printf("%-18s %9u %7u %8.1f %6.0f %10.2f %10.2f\n", pairs[p].name, shapes[s][0],
                   shapes[s][1], seconds * 1e6, bytes / seconds * 1e-9,
                   bytes / seconds / bytes_per_second, bf16 / seconds);
        }
    }
}

static void bench_prefill(void) {
    static const uint32_t shapes[][2] = { { 8192, 0 }, { 512, 8192 } };

    printf("\nprefill attention       rows    past       us  TFLOP/s\n");
    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++)
        for (size_t p = 0; p < N_PAIRS; p += 2) {
            double bytes, n = shapes[s][0], past = shapes[s][1];
            double seconds = time_attention(p, 1, shapes[s][0], shapes[s][1], true, &bytes);

            printf("%-18s %9u %7u %8.1f %8.0f\n", pairs[p].name, shapes[s][0], shapes[s][1],
                   seconds * 1e6, 4e-12 * HEADS * HEAD_DIM * (n * past + n * n / 2) / seconds);
        }
}

static void bench_hold(void) {
    printf("\nhold and seal           rows       us\n");
    for (size_t p = 0; p < N_PAIRS; p++) {
        double bytes, seconds = time_attention(p, 1, 8192, 0, false, &bytes);

        printf("%-18s %9u %8.1f\n", pairs[p].name, 8192, seconds * 1e6);
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } all[] = { { "products", bench_products },
                { "attention", bench_attention },
                { "prefill", bench_prefill },
                { "hold", bench_hold } };
    Reason why = REASON_NULL;

    if (cuda_backend_new(&backend, &(CudaBackendOptions){ .i_device = 0 }, &why)) {
        fprintf(stderr, "%s\n", why.text);
        return 77;
    }
    measure_copies();
    reserve(MAX_ROWS, MAX_SEQUENCES, 1024);
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        bool chosen = argc < 2;

        for (int k = 1; k < argc; k++)
            chosen = chosen || strcmp(argv[k], all[i].name) == 0;
        if (chosen)
            all[i].run();
        fflush(stdout);
    }
    backend = ops->free(backend);
    return 0;
}
