/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention and the vector kernels it is made of, where they promise the same bits: a row over a
 * bf16 or f16 cache for every chunking and batch, and rounding and the Hadamard transform on every
 * instruction set. That they are right is for tests/unit/conformance.
 */
#include "cpu/attention.h"
#include "cpu/cpu_backend.h"
#include "cpu/reference.h"
#include "tests/unit/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define TOKENS_MAX 900
#define SEQUENCES 3
#define Q_SIZE_LARGE 3072 /* floats of a token's queries: more of them have fewer tokens */

/* One whole conversation of each sequence, and a cache to put it in. */
typedef struct World {
    uint32_t n_heads, n_kv_heads, head_dim, window, other_window;
    uint32_t n_steps;
    uint32_t n_tokens[SEQUENCES];
    float *q[SEQUENCES], *out[SEQUENCES];  /* [n_tokens, n_heads, head_dim] */
    uint16_t *k[SEQUENCES], *v[SEQUENCES]; /* [n_tokens, n_kv_heads, head_dim] */
    uint32_t pages[SEQUENCES][TOKENS_MAX / KV_PAGE_TOKENS + 1];
    KvStore store;
    CpuTeam *team;
    CpuAttention *attention;
} World;

static size_t q_size(const World *w) {
    return (size_t)w->n_heads * w->head_dim;
}

static size_t kv_size(const World *w) {
    return (size_t)w->n_kv_heads * w->head_dim;
}

static void random_exact(Random *r, KvFormat format, uint16_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float x = random_normal(r);

        cpu_reference_kernels.to_16bit(format, &out[i], &x, 1);
    }
}

/* Attention over n tokens takes n^2 times the queries' size: the largest of them see fewer tokens,
 * but some pages at least, so that no seed takes minutes. */
static uint32_t bound_tokens(const World *w, uint32_t n_tokens_max) {
    const uint32_t n_least = 3 * KV_PAGE_TOKENS;
    double n = n_tokens_max / sqrt((double)q_size(w) / Q_SIZE_LARGE);

    if (n >= n_tokens_max)
        return n_tokens_max;
    return n < n_least ? n_least : (uint32_t)n;
}

static void world_init(World *w, Random *r, const CpuVectorKernels *kernels,
                       const CpuKvKernels *kv_kernels, uint32_t n_tokens_max) {
    static const uint32_t dims[] = { 32, 64, 80, 96, 128, 256 };
    KvGeometry g;
    KvPlan plan = { 0 }; /* layer 0 is 16-bit, layer 1 may be quantized */
    size_t bytes = 0;
    uint32_t n_pages = 0, windows[2];
    KvLayer layer;
    Reason why;

    memset(w, 0, sizeof(*w));
    w->n_kv_heads = 1 + random_below(r, 3);
    w->n_heads = w->n_kv_heads * (random_below(r, 6) ? 1 + random_below(r, 4) : 71);
    w->head_dim = dims[random_below(r, 6)];
    n_tokens_max = bound_tokens(w, n_tokens_max);
    w->window = random_below(r, 2) ? 1 + random_below(r, 200) : 0;
    w->other_window = w->window ? 0 : 77;
    windows[0] = w->other_window;
    windows[1] = w->window;
    g = (KvGeometry){ .n_layers = 2, .n_kv_heads = w->n_kv_heads, .head_dim = w->head_dim };
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
        KvFormat tail_format = random_below(r, 2) ? KV_FORMAT_BF16 : KV_FORMAT_F16;

        plan.formats[0][side] = plan.formats[1][side] = tail_format;
        if (tail_format == KV_FORMAT_F16) /* tails before quantized pages are f16, too */
            plan.formats[1][side] += random_below(r, KV_FORMATS - KV_FORMAT_F16);
    }
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        uint32_t n = w->n_tokens[s] = 1 + random_below(r, n_tokens_max - 1);

        w->q[s] = malloc(n * q_size(w) * sizeof(float));
        w->out[s] = calloc(n * q_size(w), sizeof(float));
        w->k[s] = malloc(n * kv_size(w) * 2);
        w->v[s] = malloc(n * kv_size(w) * 2);
        random_normals(r, w->q[s], n * q_size(w));
        random_exact(r, plan.formats[0][KV_SIDE_K], w->k[s], n * kv_size(w));
        random_exact(r, plan.formats[0][KV_SIDE_V], w->v[s], n * kv_size(w));
        for (uint32_t p = 0; p <= n / KV_PAGE_TOKENS; p++)
            w->pages[s][p] = n_pages++;
    }
    assert_int_equal(kv_store_layout(&w->store, &(KvShape){ .geometry = g,
                                                            .plan = &plan,
                                                            .n_pages = n_pages,
                                                            .n_tails = SEQUENCES,
                                                            .n_sinks = SEQUENCES }),
                     0);
    w->store.base = (DevAddr)(uintptr_t)aligned_alloc(64, (w->store.size_bytes + 63) / 64 * 64);
    memset((void *)(uintptr_t)w->store.base, 0, w->store.size_bytes);
    layer = kv_store_layer(&w->store, 1);
    for (uint32_t h = 0; w->store.rounding_bytes && h < w->n_kv_heads; h++)
        rounding_init_plain((Rounding *)(uintptr_t)kv_layer_rounding(&layer, h), w->head_dim);
    assert_int_equal(cpu_team_new(&w->team, 2, &why), 0);
    assert_int_equal(cpu_attention_new(&w->attention, w->team, kernels, kv_kernels,
                                       &(ReserveArgs){ .geometry = g,
                                                       .n_heads = w->n_heads,
                                                       .windows = windows,
                                                       .n_windows = 2,
                                                       .max_rows = SEQUENCES * TOKENS_MAX,
                                                       .max_sequences = SEQUENCES },
                                       &bytes),
                     0);
    assert_true(bytes > 0);
}

static void world_deinit(World *w) {
    cpu_attention_free(w->attention);
    cpu_team_free(w->team);
    free((void *)(uintptr_t)w->store.base);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        free(w->q[s]);
        free(w->out[s]);
        free(w->k[s]);
        free(w->v[s]);
    }
}

/* The operands of one step, gathered from the sequences, and where its outputs go back to. */
typedef struct Step {
    StepSequence sequences[SEQUENCES];
    uint32_t owner[SEQUENCES];
    StepInput input;
    uint32_t page_indptr[SEQUENCES + 1];
    uint32_t page_indices[SEQUENCES * (TOKENS_MAX / KV_PAGE_TOKENS + 1)];
    float *q, *out;
    uint16_t *k, *v;
} Step;

static void step_gather(Step *step, const World *w, const uint32_t *n_done, const uint32_t *n_now) {
    uint32_t n = 0;

    memset(step, 0, sizeof(*step));
    for (uint32_t s = 0; s < SEQUENCES; s++)
        n += n_now[s];
    step->q = malloc(n * q_size(w) * sizeof(float));
    step->out = malloc(n * q_size(w) * sizeof(float));
    step->k = malloc(n * kv_size(w) * 2);
    step->v = malloc(n * kv_size(w) * 2);
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        uint32_t at = step->input.n_rows, i = step->input.n_sequences;
        uint32_t n_pages = (n_done[s] + n_now[s] + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;

        if (!n_now[s])
            continue;
        memcpy(step->q + at * q_size(w), w->q[s] + n_done[s] * q_size(w),
               n_now[s] * q_size(w) * sizeof(float));
        memcpy(step->k + at * kv_size(w), w->k[s] + n_done[s] * kv_size(w),
               n_now[s] * kv_size(w) * 2);
        memcpy(step->v + at * kv_size(w), w->v[s] + n_done[s] * kv_size(w),
               n_now[s] * kv_size(w) * 2);
        step->owner[i] = s;
        step->sequences[i] = (StepSequence){ .first_row = at,
                                             .n_rows = n_now[s],
                                             .n_past = n_done[s],
                                             .slot = s,
                                             .sink = s % 2 ? s : KV_NO_SINK };
        memcpy(step->page_indices + step->page_indptr[i], w->pages[s],
               n_pages * sizeof(*w->pages[s]));
        step->page_indptr[i + 1] = step->page_indptr[i] + n_pages;
        step->input.n_rows += n_now[s];
        step->input.n_sequences++;
    }
    step->input.sequences = step->sequences;
    step->input.page_indptr = step->page_indptr;
    step->input.page_indices = step->page_indices;
}

/* The step at the other layer first, now with the same window and now with another: one plan serves
 * all layers of a step. */
static void run_other_layer(World *w, AttentionArgs args, uint32_t i_layer) {
    KvLayer layer = kv_store_layer(&w->store, !i_layer);

    args.layer = &layer;
    args.window = w->n_steps++ % 2 ? w->window : w->other_window;
    cpu_attention_run(w->attention, &args);
}

static void step_run(Step *step, World *w, uint32_t i_layer) {
    KvLayer layer = kv_store_layer(&w->store, i_layer);
    AttentionArgs args = {
        .out = (DevAddr)(uintptr_t)step->out,
        .q = (DevAddr)(uintptr_t)step->q,
        .k = (DevAddr)(uintptr_t)step->k,
        .v = (DevAddr)(uintptr_t)step->v,
        .layer = &layer,
        .n_heads = w->n_heads,
        .window = w->window,
        .scale = 1 / sqrtf((float)w->head_dim),
    };

    cpu_attention_plan(w->attention, &step->input);
    run_other_layer(w, args, i_layer);
    cpu_attention_run(w->attention, &args);
    for (uint32_t i = 0; i < step->input.n_sequences; i++) {
        const StepSequence *s = &step->sequences[i];
        size_t bytes = s->n_rows * q_size(w) * sizeof(float);

        memcpy(w->out[step->owner[i]] + s->n_past * q_size(w), step->out + s->first_row * q_size(w),
               bytes);
    }
    free(step->q);
    free(step->out);
    free(step->k);
    free(step->v);
}

/* Feeds all sequences, in random chunks of at most `chunk_max`, together or one after another. */
static void world_run(World *w, Random *r, uint32_t layer, uint32_t chunk_max, bool together) {
    uint32_t n_done[SEQUENCES] = { 0 };

    for (;;) {
        uint32_t n_now[SEQUENCES] = { 0 }, n_left = 0;
        Step step;

        for (uint32_t s = 0; s < SEQUENCES && (together || !n_left); s++) {
            uint32_t left = w->n_tokens[s] - n_done[s];

            n_now[s] = 1 + random_below(r, chunk_max);
            if (n_now[s] > left)
                n_now[s] = left;
            n_left += left;
        }
        if (!n_left)
            return;
        step_gather(&step, w, n_done, n_now);
        step_run(&step, w, layer);
        for (uint32_t s = 0; s < SEQUENCES; s++)
            n_done[s] += n_now[s];
    }
}

static const CpuVectorKernels *const all_kernels[] = {
    &cpu_vector_kernels_baseline,
#if defined(__x86_64__)
    &cpu_vector_kernels_avx2,
    &cpu_vector_kernels_avx512,
#endif
};
static const CpuKvKernels *const all_kv_kernels[] = {
    &cpu_kv_kernels_baseline,
#if defined(__x86_64__)
    &cpu_kv_kernels_avx2,
    &cpu_kv_kernels_avx512,
#endif
};
static const CpuIsa kernels_need[] = { CPU_ISA_BASELINE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
#define N_KERNELS (sizeof(all_kernels) / sizeof(*all_kernels))

static void a_row_is_the_same_to_the_bit_for_every_chunking_and_batch(void **state) {
    Random r = random_start("a_row_is_the_same_to_the_bit_for_every_chunking_and_batch");

    (void)state;
    for (size_t i = 0; i < N_KERNELS; i++) {
        static const uint32_t chunks[] = { 1, 7, 64, 500 };
        float *first[SEQUENCES] = { NULL };
        World w;

        if (!cpu_isa_available(kernels_need[i]))
            continue;
        world_init(&w, &r, all_kernels[i], all_kv_kernels[i], TOKENS_MAX);
        for (size_t c = 0; c < sizeof(chunks) / sizeof(*chunks); c++) {
            world_run(&w, &r, 0, chunks[c], c % 2);
            for (uint32_t s = 0; s < SEQUENCES; s++) {
                size_t bytes = w.n_tokens[s] * q_size(&w) * sizeof(float);

                if (!first[s]) {
                    first[s] = malloc(bytes);
                    memcpy(first[s], w.out[s], bytes);
                }
                assert_memory_equal(first[s], w.out[s], bytes);
            }
        }
        for (uint32_t s = 0; s < SEQUENCES; s++)
            free(first[s]);
        world_deinit(&w);
    }
}

static void rounding_to_16_bits_is_the_same_to_the_bit(void **state) {
    Random r = random_start("rounding_to_16_bits_is_the_same_to_the_bit");

    (void)state;
    for (size_t i = 0; i < N_KERNELS; i++)
        for (uint32_t n = 1; cpu_isa_available(kernels_need[i]) && n < 200; n += 1 + n / 9)
            for (KvFormat f = KV_FORMAT_BF16; f <= KV_FORMAT_F16; f++) {
                uint16_t h[200], h_ref[200];
                float a[200];

                random_normals(&r, a, n);
                all_kernels[i]->to_16bit(f, h, a, n);
                cpu_reference_kernels.to_16bit(f, h_ref, a, n);
                assert_memory_equal(h, h_ref, n * sizeof(*h));
            }
}

static void divergence_agrees_with_the_reference(void **state) {
    Random r = random_start("divergence_agrees_with_the_reference");
    enum { N = 3001 };
    static float p[N], q[N];

    (void)state;
    random_normals(&r, p, N);
    random_normals(&r, q, N);
    for (uint32_t i = 0; i < N; i++) {
        p[i] = 2 * p[i] - 40; /* so spread that no few of them decide */
        q[i] = p[i] + 0.01f * q[i];
    }
    for (size_t i = 0; i < N_KERNELS; i++) {
        const CpuVectorKernels *fast = all_kernels[i];
        double p_log = cpu_reference_kernels.log_sum_exp(p, N);
        double q_log = cpu_reference_kernels.log_sum_exp(q, N);
        double want = cpu_reference_kernels.divergence(p, p_log, q, q_log, N);

        if (!cpu_isa_available(kernels_need[i]))
            continue;
        assert_true(fabs(fast->log_sum_exp(p, N) - p_log) < 1e-6);
        assert_true(want > 1e-6 && fabs(fast->divergence(p, p_log, q, q_log, N) - want) < 1e-7);
    }
}

static void the_hadamard_transform_is_the_same_to_the_bit(void **state) {
    static const uint32_t dims[] = { 8, 32, 64, 80, 96, 128, 256, 512 };
    Random r = random_start("the_hadamard_transform_is_the_same_to_the_bit");
    float out[3 * 512], ref[3 * 512];

    (void)state;
    for (size_t i = 0; i < N_KERNELS; i++)
        for (size_t d = 0; cpu_isa_available(kernels_need[i]) && d < sizeof(dims) / 4; d++) {
            random_normals(&r, ref, 3 * dims[d]);
            memcpy(out, ref, sizeof(out));
            all_kernels[i]->hadamard(out, 3, dims[d]);
            cpu_reference_kernels.hadamard(ref, 3, dims[d]);
            assert_memory_equal(out, ref, 3 * dims[d] * sizeof(float));
        }
}

/* Near the reference, and for each vector the same to the bit however many there are. */
static void the_transform_of_keys_matches_the_reference(void **state) {
    static const uint32_t dims[] = { 2, 8, 40, 64, 80, 96, 128, 256, 512 };
    enum { VECTORS = 7, GAP = 5 };
    Random r = random_start("the_transform_of_keys_matches_the_reference");
    float *matrix = malloc(512 * 512 * sizeof(*matrix));
    float in[VECTORS * (512 + GAP)], out[VECTORS * (512 + GAP)], ref[VECTORS * (512 + GAP)];

    (void)state;
    assert_non_null(matrix);
    for (size_t d = 0; d < sizeof(dims) / sizeof(*dims); d++) {
        uint32_t n = dims[d];
        size_t stride = n + GAP;

        random_normals(&r, matrix, (size_t)n * n);
        random_normals(&r, in, VECTORS * stride);
        memcpy(ref, in, sizeof(ref));
        cpu_reference_kernels.transform(ref, stride, VECTORS, matrix, n);
        for (size_t i = 0; i < N_KERNELS; i++) {
            if (!cpu_isa_available(kernels_need[i]))
                continue;
            memcpy(out, in, sizeof(out));
            all_kernels[i]->transform(out, stride, VECTORS, matrix, n);
            for (uint32_t v = 0; v < VECTORS; v++) {
                float *x = out + v * stride, alone[512 + GAP];

                assert_true(relative_error(x, ref + v * stride, n) < 2e-6);
                assert_memory_equal(x + n, in + v * stride + n, GAP * sizeof(float));
                memcpy(alone, in + v * stride, n * sizeof(*alone));
                all_kernels[i]->transform(alone, n, 1, matrix, n);
                assert_memory_equal(x, alone, n * sizeof(*x));
            }
        }
    }
    free(matrix);
}

static void check_rounding(KvFormat format, const float *in, const uint16_t *want, uint32_t n) {
    uint16_t out[64];

    for (size_t i = 0; i < N_KERNELS; i++) {
        if (!cpu_isa_available(kernels_need[i]))
            continue;
        all_kernels[i]->to_16bit(format, out, in, n);
        assert_memory_equal(out, want, n * sizeof(*want));
    }
    cpu_reference_kernels.to_16bit(format, out, in, n);
    assert_memory_equal(out, want, n * sizeof(*want));
}

static void rounding_to_bf16_keeps_nan_and_infinity(void **state) {
    const float in[] = { NAN, INFINITY, -INFINITY, 3.4e38f, 1.00390625f, 1.01171875f, 1e-40f };
    const uint16_t want[] = { 0x7fc0, 0x7f80, 0xff80, 0x7f80, 0x3f80, 0x3f82, 0x0001 };

    (void)state;
    check_rounding(KV_FORMAT_BF16, in, want, 7);
}

/* Sixteen and one: a whole vector of any instruction set, and what is left over. */
static void rounding_to_f16_keeps_nan_and_ends_at_65504(void **state) {
    const float in[17] = { NAN,      INFINITY, -INFINITY,    3.4e38f,  65504,    65505,
                           -65519,   65520,    1 + 0x1p-11f, 0x1p-24f, 0x1p-25f, -0.0f,
                           0x3p-25f, 0x1p-14f, 0x1.ffep-15f, -1,       INFINITY };
    const uint16_t want[17] = { 0x7e00, 0x7bff, 0xfbff, 0x7bff, 0x7bff, 0x7bff,
                                0xfbff, 0x7bff, 0x3c00, 0x0001, 0x0000, 0x8000,
                                0x0002, 0x0400, 0x0400, 0xbc00, 0x7bff };

    (void)state;
    check_rounding(KV_FORMAT_F16, in, want, 17);
    check_rounding(KV_FORMAT_F16, in, want, 11);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_is_the_same_to_the_bit_for_every_chunking_and_batch),
        cmocka_unit_test(rounding_to_16_bits_is_the_same_to_the_bit),
        cmocka_unit_test(divergence_agrees_with_the_reference),
        cmocka_unit_test(the_hadamard_transform_is_the_same_to_the_bit),
        cmocka_unit_test(the_transform_of_keys_matches_the_reference),
        cmocka_unit_test(rounding_to_bf16_keeps_nan_and_infinity),
        cmocka_unit_test(rounding_to_f16_keeps_nan_and_ends_at_65504),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
