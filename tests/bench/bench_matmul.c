/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Matrix products against their two floors: bytes of weights over the read bandwidth, and
 * multiply-adds over the system library's f32 product of the same shape.
 *
 * Usage: bench_matmul [threads [instruction set [shapes whose names begin so]]]. Every shape has
 * enough copies of its weight that no cache holds them all; best of several passes.
 */

#include "cpu/matmul.h"
#include "server/commands/bandwidth.h"
#include "server/commands/sgemm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COPIES_BYTES ((size_t)192 << 20)
#define COPIES_MAX 512
#define TOKENS_MAX 512
#define PASS_S 0.25

typedef struct Shape {
    const char *name;
    WeightFormat format;
    uint32_t n_out, n_in;
} Shape;

static const Shape shapes[] = {
    { "135M q, o", WEIGHT_Q4_1, 576, 576 },      { "135M k, v", WEIGHT_Q4_1, 192, 576 },
    { "135M gate, up", WEIGHT_Q4_1, 1536, 576 }, { "135M down", WEIGHT_Q4_1, 576, 1536 },
    { "135M head", WEIGHT_Q8_0, 49152, 576 },    { "8B q, o", WEIGHT_Q4_K, 4096, 4096 },
    { "8B gate, up", WEIGHT_Q4_K, 14336, 4096 }, { "8B down", WEIGHT_Q6_K, 4096, 14336 },
    { "8B q, o", WEIGHT_BF16, 4096, 4096 },      { "8B gate, up", WEIGHT_BF16, 14336, 4096 },
    { "8B q, o", WEIGHT_F32, 4096, 4096 },
};
static const uint32_t batches[] = { 1, 4, 16, TOKENS_MAX };

#define LENGTH(_array) (sizeof(_array) / sizeof((_array)[0]))

typedef struct Bench {
    CpuTeam *team;
    CpuMatmul *matmul;
    double bandwidth; /* bytes a second */
    float *in, *out;
} Bench;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint32_t weights_new(const Bench *bench, const Shape *shape, Weight **weights) {
    size_t size = weight_row_bytes(shape->format, shape->n_in) * shape->n_out;
    uint8_t *data = malloc(size);
    for (size_t i = 0; data && i < size; i++) /* small numbers in every format */
        data[i] = (uint8_t)(i * 0x9e3779b1u >> 24) & 0x3f;
    uint32_t n = 0;
    for (; data && n < COPIES_MAX && (n == 0 || n * size < COPIES_BYTES); n++) {
        Reason why;
        WeightSource source = {
            .format = shape->format, .n_rows = shape->n_out, .n_cols = shape->n_in, .data = data
        };
        if (cpu_weight_new(&weights[n], bench->team, &source, &why) < 0) {
            fprintf(stderr, "%s\n", why.text);
            break;
        }
    }
    free(data);
    return n;
}

/* Seconds of one product. */
static double product_s(const Bench *bench, Weight **weights, uint32_t n_weights,
                        uint32_t n_tokens) {
    double best = 1e9;
    for (double begin = now_s(); now_s() - begin < PASS_S;) {
        uint32_t n = n_tokens > 16 ? 1 : n_weights;
        double start = now_s();
        for (uint32_t i = 0; i < n; i++) {
            MatmulPart part = { .weight = weights[i], .out = (DevAddr)(uintptr_t)bench->out };
            MatmulArgs args = { .in = (DevAddr)(uintptr_t)bench->in,
                                .n_tokens = n_tokens,
                                .n_parts = 1,
                                .parts = &part };
            if (cpu_matmul_run(bench->matmul, &args) < 0)
                abort();
        }
        double took = (now_s() - start) / n;
        if (took < best)
            best = took;
    }
    return best;
}

static void bench_shape(const Bench *bench, const Shape *shape) {
    static Weight *weights[COPIES_MAX];
    uint32_t n_weights = weights_new(bench, shape, weights);
    for (size_t i = 0; n_weights > 0 && i < LENGTH(batches); i++) {
        uint32_t n_tokens = batches[i];
        double seconds = product_s(bench, weights, n_weights, n_tokens);
        double bytes_per_s = (double)cpu_weight_bytes(weights[0]) / seconds;
        double madds_per_s = (double)n_tokens * shape->n_out * shape->n_in / seconds;
        printf("%-14s %-5s %6u x %5u %5u %9.3f %8.1f %5.2f %8.1f", shape->name,
               weight_formats[shape->format].name, shape->n_out, shape->n_in, n_tokens,
               seconds * 1e3, bytes_per_s * 1e-9, bytes_per_s / bench->bandwidth,
               madds_per_s * 1e-9);
        SgemmRate rate;
        if (n_tokens >= 16 && sgemm_measure(cpu_team_threads(bench->team), n_tokens, shape->n_out,
                                            shape->n_in, &rate, NULL) == 0)
            printf(" %5.2f", madds_per_s / rate.madds_per_s);
        printf("\n");
        fflush(stdout);
    }
    for (uint32_t i = 0; i < n_weights; i++)
        cpu_weight_free(weights[i]);
}

static CpuIsa isa_named(const char *name) {
    for (CpuIsa isa = 0; name && isa < CPU_ISAS; isa++)
        if (strcmp(name, cpu_isa_name(isa)) == 0)
            return isa;
    return cpu_isa_detect();
}

static int bench_open(Bench *bench, uint32_t n_threads, CpuIsa isa, Reason *why) {
    size_t n_in_max = 0, n_out_max = 0;
    for (size_t i = 0; i < LENGTH(shapes); i++) {
        n_in_max = shapes[i].n_in > n_in_max ? shapes[i].n_in : n_in_max;
        n_out_max = shapes[i].n_out > n_out_max ? shapes[i].n_out : n_out_max;
    }
    int r = cpu_team_new(&bench->team, n_threads, why);
    if (r == 0)
        r = cpu_matmul_new(&bench->matmul, bench->team, isa, why);
    if (r == 0)
        r = cpu_matmul_reserve(bench->matmul, (uint32_t)n_in_max, &(size_t){ 0 }, why);
    if (r == 0)
        r = bandwidth_measure(bench->team, bandwidth_memory_bytes(), &bench->bandwidth, why);
    bench->in = malloc(TOKENS_MAX * n_in_max * sizeof(float));
    bench->out = malloc(TOKENS_MAX * n_out_max * sizeof(float));
    if (r == 0 && (!bench->in || !bench->out))
        r = reason_set(why, -ENOMEM, "no memory for activations");
    for (size_t i = 0; r == 0 && i < TOKENS_MAX * n_in_max; i++)
        bench->in[i] = (float)(i * 0x9e3779b1u >> 8 & 0xffff) * 0x1p-15f - 1;
    return r;
}

int main(int argc, char **argv) {
    CpuIsa isa = isa_named(argc > 2 ? argv[2] : NULL);
    Bench bench = { 0 };
    Reason why = REASON_NULL;
    int r = bench_open(&bench, argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0, isa, &why);
    if (r < 0) {
        fprintf(stderr, "%s\n", why.text);
    } else {
        printf("%s, %u threads, read bandwidth %.1f GB/s\n", cpu_isa_name(isa),
               cpu_team_threads(bench.team), bench.bandwidth * 1e-9);
        printf("%-14s %-5s %14s %5s %9s %8s %5s %8s %5s\n", "weight", "", "shape", "batch", "ms",
               "GB/s", "/read", "Gmadd/s", "/lib");
        const char *wanted = argc > 3 ? argv[3] : "";
        for (size_t i = 0; i < LENGTH(shapes); i++)
            if (strncmp(shapes[i].name, wanted, strlen(wanted)) == 0)
                bench_shape(&bench, &shapes[i]);
    }
    free(bench.in);
    free(bench.out);
    cpu_matmul_free(bench.matmul);
    cpu_team_free(bench.team);
    return r < 0;
}
