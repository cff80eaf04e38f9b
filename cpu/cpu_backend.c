/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The op table of the CPU: activations are f32, addresses are pointers, and an op is done when its
 * call returns. State: the worker team, the kernels picked for this processor, scratch of matmul
 * and attention, the step at hand. Runs on the engine's thread.
 */
#include "cpu/cpu_backend.h"

#include "cpu/attention.h"
#include "cpu/matmul.h"
#include "cpu/memory_info.h"
#include "cpu/reference.h"
#include "cpu/sample.h"
#include "cpu/step.h"
#include "cpu/team.h"
#include "cpu/vector_kernels.h"
#include "cpu/weight.h"
#include "kvcache/key_transform.h"
#include "kvcache/kv_format.h"
#include "kvcache/rounding.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ROWS_PER_TASK 8 /* of the ops that treat each row alone */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

_Static_assert(BACKEND_ALIGN_BYTES % KV_BLOCK_ALIGN_BYTES == 0, "a store begins where memory does");

/* Tags have no linkage: each backend in the program defines a Backend of its own. */
struct Backend {
    CpuTeam *team;
    const CpuVectorKernels *kernels;
    const CpuKvKernels *kv_kernels;
    CpuMatmul *matmul;
    /* after reserve */
    CpuAttention *attention;
    CpuSampler *sampler;
    CpuStep step;
};

static float *floats(DevAddr address) {
    return (float *)(uintptr_t)address;
}

/* memory */

static int cpu_memory_new(Backend *backend, DevAddr *outp, size_t size_bytes, const char *purpose,
                          Reason *why) {
    bool is_large = size_bytes >= HUGE_PAGE_BYTES;
    void *memory = NULL;

    (void)backend;
    if (posix_memalign(&memory, is_large ? HUGE_PAGE_BYTES : BACKEND_ALIGN_BYTES, size_bytes))
        return reason_set(why, -ENOMEM, "no memory for %s: %zu bytes were refused", purpose,
                          size_bytes);
    /* Attention reads blocks of some KiB from all over the store: with small pages the processor
     * would spend as much time on looking up addresses. */
    if (is_large)
        madvise(memory, size_bytes, MADV_HUGEPAGE);
    memset(memory, 0, size_bytes);
    *outp = (DevAddr)(uintptr_t)memory;
    return 0;
}

static void cpu_memory_free(Backend *backend, DevAddr address) {
    (void)backend;
    free((void *)(uintptr_t)address);
}

static int cpu_upload(Backend *backend, DevAddr to, const void *from, size_t size_bytes) {
    (void)backend;
    memcpy((void *)(uintptr_t)to, from, size_bytes);
    return 0;
}

static int cpu_download(Backend *backend, void *to, DevAddr from, size_t size_bytes) {
    (void)backend;
    memcpy(to, (const void *)(uintptr_t)from, size_bytes);
    return 0;
}

static int cpu_weights_new(Backend *backend, Weight *outs[], const WeightSource *sources,
                           uint32_t n_sources, Reason *why) {
    for (uint32_t i = 0; i < n_sources; i++) {
        int r = cpu_weight_new(&outs[i], backend->team, &sources[i], why);

        if (!r)
            continue;
        for (uint32_t j = 0; j < i; j++)
            outs[j] = cpu_weight_free(outs[j]);
        return reason_prefix(why, r, "tensor %s: ", sources[i].name);
    }
    return 0;
}

static Weight *cpu_weight_free_op(Backend *backend, Weight *weight) {
    (void)backend;
    return cpu_weight_free(weight);
}

static int cpu_reserve(Backend *backend, const ReserveArgs *args, size_t *bytesp, Reason *why) {
    int r;

    backend->attention = cpu_attention_free(backend->attention);
    cpu_step_deinit(&backend->step);
    r = cpu_step_init(&backend->step, args, bytesp);
    if (r)
        return reason_set(why, r, "no memory for the input of a step");
    r = cpu_attention_new(&backend->attention, backend->team, backend->kernels, backend->kv_kernels,
                          args, bytesp);
    if (r)
        return reason_set(why, r, "no memory for the scratch of attention");
    r = cpu_matmul_reserve(backend->matmul, args->n_cols_max, bytesp, why);
    if (r)
        return r;
    backend->sampler = cpu_sampler_free(backend->sampler);
    r = cpu_sampler_new(&backend->sampler, cpu_team_threads(backend->team), args->max_sequences,
                        args->n_vocab, bytesp);
    if (r)
        return reason_set(why, r, "no memory for sampling in %u slots; lower max_num_seqs",
                          args->max_sequences);
    return 0;
}

static int cpu_slot_set(Backend *backend, uint32_t slot, const SlotState *state) {
    cpu_sampler_set(backend->sampler, slot, state);
    return 0;
}

static int cpu_slot_mask(Backend *backend, uint32_t slot, const uint32_t *mask) {
    cpu_sampler_mask(backend->sampler, slot, mask);
    return 0;
}

static int cpu_step_begin(Backend *backend, const StepInput *input) {
    assert(backend->attention);
    cpu_step_set(&backend->step, input);
    cpu_attention_plan(backend->attention, &backend->step.input);
    return 0;
}

/* ops on rows */

typedef void (*RowFn)(Backend *backend, const void *args, uint32_t row);

typedef struct RowsRegion {
    Backend *backend;
    RowFn fn;
    const void *args;
    uint32_t n_rows;
} RowsRegion;

static void rows_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const RowsRegion *region = arg;
    uint32_t first = i_task * ROWS_PER_TASK;

    (void)i_thread;
    for (uint32_t row = first; row < first + ROWS_PER_TASK && row < region->n_rows; row++)
        region->fn(region->backend, region->args, row);
}

static void for_rows(Backend *backend, RowFn fn, const void *args, uint32_t n_rows) {
    RowsRegion region = { .backend = backend, .fn = fn, .args = args, .n_rows = n_rows };

    cpu_team_run(backend->team, rows_task, &region, (n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK);
}

static void embed_row(Backend *backend, const void *arg, uint32_t row) {
    const EmbedArgs *args = arg;
    uint32_t token = backend->step.input.tokens[row], n = cpu_weight_cols(args->table);
    float *out = floats(args->out) + (size_t)row * n;

    if (token & STEP_TOKEN_DRAWN)
        token = cpu_sampler_drawn(backend->sampler, token & ~STEP_TOKEN_DRAWN);
    cpu_weight_row_to_f32(args->table, token, out);
    for (uint32_t c = 0; c < n; c++)
        out[c] *= args->scale;
}

static int cpu_embed(Backend *backend, const EmbedArgs *args) {
    for_rows(backend, embed_row, args, backend->step.input.n_rows);
    return 0;
}

static void rmsnorm_row(Backend *backend, const void *arg, uint32_t row) {
    const RmsnormArgs *args = arg;
    size_t at = (size_t)row * args->dim;

    backend->kernels->rmsnorm(floats(args->out) + at, floats(args->in) + at, floats(args->weight),
                              args->dim, args->epsilon, args->accumulate);
}

static int cpu_rmsnorm(Backend *backend, const RmsnormArgs *args) {
    for_rows(backend, rmsnorm_row, args, args->n_rows);
    return 0;
}

static int cpu_matmul(Backend *backend, const MatmulArgs *args) {
    return cpu_matmul_run(backend->matmul, args);
}

static int cpu_rope_table(Backend *backend, const RopeTableArgs *args) {
    const float *inv_freq = floats(args->inv_freq);
    float *out = floats(args->out);

    for (uint32_t i = 0; i < backend->step.input.n_sequences; i++) {
        const StepSequence *s = &backend->step.input.sequences[i];

        for (uint32_t r = 0; r < s->n_rows; r++) {
            float *row = out + (size_t)(s->first_row + r) * 2 * args->n_freqs;

            for (uint32_t c = 0; c < args->n_freqs; c++) {
                float angle = (float)(s->n_past + r) * inv_freq[c];

                row[c] = cosf(angle) * args->scale;
                row[args->n_freqs + c] = sinf(angle) * args->scale;
            }
        }
    }
    return 0;
}

/* n_rows rows of one KV head: its queries, its keys and its values. */
typedef struct RopeHead {
    const RopeArgs *args;
    float *q, *k, *v; /* of the first row; the next row's are a stride behind */
    size_t q_stride, kv_stride;
    uint32_t first_row, n_rows, head, group;
} RopeHead;

static RopeHead rope_head(const RopeArgs *args, uint32_t first_row, uint32_t n_rows,
                          uint32_t head) {
    RopeHead h = { .args = args,
                   .q_stride = (size_t)args->n_heads * args->head_dim,
                   .kv_stride = (size_t)args->n_kv_heads * args->head_dim,
                   .first_row = first_row,
                   .n_rows = n_rows,
                   .head = head,
                   .group = args->n_heads / args->n_kv_heads };
    size_t kv_at = first_row * h.kv_stride + (size_t)head * args->head_dim;

    h.q = floats(args->q) + first_row * h.q_stride + (size_t)head * h.group * args->head_dim;
    h.k = floats(args->k) + kv_at;
    h.v = floats(args->v) + kv_at;
    return h;
}

static void rotate_head(const CpuVectorKernels *kernels, const RopeHead *h) {
    const RopeArgs *args = h->args;

    for (uint32_t r = 0; r < h->n_rows; r++) {
        const float *cos = floats(args->table) + (size_t)(h->first_row + r) * 2 * args->n_freqs;
        const float *sin = cos + args->n_freqs;

        for (uint32_t g = 0; g < h->group; g++)
            kernels->rotate(h->q + r * h->q_stride + (size_t)g * args->head_dim, cos, sin,
                            args->n_freqs);
        kernels->rotate(h->k + r * h->kv_stride, cos, sin, args->n_freqs);
    }
}

static void transform_head(const CpuVectorKernels *kernels, const RopeHead *h) {
    const RopeArgs *args = h->args;
    const KeyTransform *t =
        (const KeyTransform *)(uintptr_t)kv_layer_transform(args->layer, h->head);
    uint32_t n = args->head_dim;

    if (t->is_plain) {
        for (uint32_t r = 0; r < h->n_rows; r++) {
            kernels->hadamard(h->q + r * h->q_stride, h->group, n);
            kernels->hadamard(h->k + r * h->kv_stride, 1, n);
        }
        return;
    }
    for (uint32_t g = 0; g < h->group; g++)
        kernels->transform(h->q + (size_t)g * n, h->q_stride, h->n_rows,
                           key_transform_of_queries(t), n);
    kernels->transform(h->k, h->kv_stride, h->n_rows, key_transform_of_keys(t), n);
}

static void round_head(const CpuVectorKernels *kernels, const RopeHead *h) {
    const RopeArgs *args = h->args;
    uint32_t n = args->head_dim;

    for (uint32_t r = 0; r < h->n_rows; r++) {
        size_t at = (h->first_row + r) * h->kv_stride + (size_t)h->head * n;

        kernels->to_16bit(kv_layer_tail_format(args->layer, KV_SIDE_K),
                          (uint16_t *)(uintptr_t)args->k_out + at, h->k + r * h->kv_stride, n);
        kernels->to_16bit(kv_layer_tail_format(args->layer, KV_SIDE_V),
                          (uint16_t *)(uintptr_t)args->v_out + at, h->v + r * h->kv_stride, n);
    }
}

typedef struct RopeRegion {
    const CpuVectorKernels *kernels;
    const RopeArgs *args;
} RopeRegion;

/* A KV head's matrices serve all rows of a task. */
static void rope_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const RopeRegion *region = arg;
    const RopeArgs *args = region->args;
    uint32_t first = i_task / args->n_kv_heads * ROWS_PER_TASK, left = args->n_tokens - first;
    RopeHead h = rope_head(args, first, left < ROWS_PER_TASK ? left : ROWS_PER_TASK,
                           i_task % args->n_kv_heads);

    (void)i_thread;
    rotate_head(region->kernels, &h);
    if (kv_layer_rotates(args->layer, KV_SIDE_K))
        transform_head(region->kernels, &h);
    for (uint32_t r = 0; kv_layer_rotates(args->layer, KV_SIDE_V) && r < h.n_rows; r++)
        region->kernels->hadamard(h.v + r * h.kv_stride, 1, args->head_dim);
    round_head(region->kernels, &h);
}

static int cpu_rope(Backend *backend, const RopeArgs *args) {
    RopeRegion region = { .kernels = backend->kernels, .args = args };
    uint32_t n_blocks = (args->n_tokens + ROWS_PER_TASK - 1) / ROWS_PER_TASK;

    cpu_team_run(backend->team, rope_task, &region, n_blocks * args->n_kv_heads);
    return 0;
}

static void gated_row(Backend *backend, const void *arg, uint32_t row) {
    const GatedArgs *args = arg;
    size_t at = (size_t)row * args->dim;

    backend->kernels->gated(floats(args->out) + at, floats(args->gate) + at, floats(args->up) + at,
                            args->dim, args->activation);
}

static int cpu_gated(Backend *backend, const GatedArgs *args) {
    for_rows(backend, gated_row, args, args->n_tokens);
    return 0;
}

/* One row of one KV head's moment. */
static void moments_row(Backend *backend, const void *arg, uint32_t i) {
    const MomentsArgs *args = arg;
    uint32_t n = args->head_dim, head = i / n, c = i % n, group = args->n_heads / args->n_kv_heads;
    float *out = floats(args->out) + (size_t)i * n;

    (void)backend;
    for (uint32_t k = 0; k < args->n_tokens * group; k++) {
        const float *q =
            floats(args->q) + ((size_t)(k / group) * args->n_heads + head * group + k % group) * n;

        for (uint32_t j = 0; j < n; j++)
            out[j] += q[c] * q[j];
    }
}

static int cpu_moments(Backend *backend, const MomentsArgs *args) {
    for_rows(backend, moments_row, args, args->n_kv_heads * args->head_dim);
    return 0;
}

/* Channels whose rows of a covariance are one task: each task reads all of a head's keys. */
#define COVARIANCE_CHANNELS 32

static void key_to_f32(const CovariancesArgs *args, uint32_t token, uint32_t head, float *out) {
    const uint16_t *k = (const uint16_t *)(uintptr_t)args->k +
                        ((size_t)token * args->n_kv_heads + head) * args->head_dim;

    for (uint32_t c = 0; c < args->head_dim; c++)
        out[c] = kv_16bit_value(args->format, k[c]);
}

static void add_page_covariance(const CovariancesArgs *args, uint32_t first_token, uint32_t head,
                                uint32_t low, uint32_t high) {
    uint32_t n = args->head_dim;
    float *out = floats(args->out) + (size_t)head * n * n;
    float k[KV_HEAD_DIM_MAX], mean[KV_HEAD_DIM_MAX] = { 0 };

    for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++) {
        key_to_f32(args, first_token + t, head, k);
        for (uint32_t c = 0; c < n; c++)
            mean[c] += k[c] / KV_PAGE_TOKENS;
    }
    for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++) {
        key_to_f32(args, first_token + t, head, k);
        for (uint32_t c = 0; c < n; c++)
            k[c] -= mean[c];
        for (uint32_t c = low; c < high; c++)
            for (uint32_t j = 0; j < n; j++)
                out[(size_t)c * n + j] += k[c] * k[j];
    }
}

static void covariances_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    const CovariancesArgs *args = arg;
    uint32_t head = i_task % args->n_kv_heads;
    uint32_t low = i_task / args->n_kv_heads * COVARIANCE_CHANNELS;
    uint32_t high =
        low + COVARIANCE_CHANNELS < args->head_dim ? low + COVARIANCE_CHANNELS : args->head_dim;

    (void)i_thread;
    for (uint32_t t = 0; t + KV_PAGE_TOKENS <= args->n_tokens; t += KV_PAGE_TOKENS)
        add_page_covariance(args, t, head, low, high);
}

static int cpu_covariances(Backend *backend, const CovariancesArgs *args) {
    CovariancesArgs copy = *args;
    uint32_t n_blocks = (args->head_dim + COVARIANCE_CHANNELS - 1) / COVARIANCE_CHANNELS;

    assert(args->head_dim <= KV_HEAD_DIM_MAX);
    cpu_team_run(backend->team, covariances_task, &copy, n_blocks * args->n_kv_heads);
    return 0;
}

static int cpu_gather_rows(Backend *backend, const GatherRowsArgs *args) {
    const StepInput *input = &backend->step.input;

    assert(args->first + args->n_rows <= input->n_logit_rows);
    for (uint32_t i = 0; i < args->n_rows; i++)
        memcpy(floats(args->out) + (size_t)i * args->dim,
               floats(args->in) + (size_t)input->logit_rows[args->first + i].row * args->dim,
               args->dim * sizeof(float));
    return 0;
}

/* attention and sampling */

static int cpu_attention(Backend *backend, const AttentionArgs *args) {
    AttentionArgs rest = *args;

    if (backend->kernels == &cpu_reference_kernels && args->out) {
        cpu_reference_attention(args, &backend->step.input);
        rest.out = 0;
    }
    cpu_attention_run(backend->attention, &rest);
    return 0;
}

static int cpu_sample_op(Backend *backend, const SampleArgs *args) {
    assert(args->first + args->n_rows <= backend->step.input.n_logit_rows);
    cpu_sample(backend->sampler, backend->team, floats(args->logits), args->n_vocab,
               backend->step.logit_rows + args->first, args->n_rows,
               cpu_step_results(&backend->step) + args->first);
    return 0;
}

static int cpu_step_end_op(Backend *backend) {
    cpu_step_end(&backend->step);
    return 0;
}

static int cpu_step_wait_op(Backend *backend, const SampleResult **resultsp) {
    *resultsp = cpu_step_wait(&backend->step);
    return 0;
}

static int cpu_sync(Backend *backend) {
    (void)backend;
    return 0;
}

/* life */

static const CpuVectorKernels *kernels_for(CpuIsa isa) {
    switch (isa) {
    case CPU_ISA_REFERENCE:
        return &cpu_reference_kernels;
#if defined(__x86_64__)
    case CPU_ISA_AVX2:
        return &cpu_vector_kernels_avx2;
    case CPU_ISA_AVX512:
    case CPU_ISA_AVX512_VNNI:
        return &cpu_vector_kernels_avx512;
#endif
    default:
        return &cpu_vector_kernels_baseline;
    }
}

static const CpuKvKernels *kv_kernels_for(CpuIsa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case CPU_ISA_AVX2:
        return &cpu_kv_kernels_avx2;
    case CPU_ISA_AVX512:
    case CPU_ISA_AVX512_VNNI:
        return &cpu_kv_kernels_avx512;
#endif
    default:
        return &cpu_kv_kernels_baseline;
    }
}

const CpuVectorKernels *cpu_vector_kernels(void) {
    return kernels_for(cpu_isa_detect());
}

static Backend *cpu_free(Backend *backend) {
    if (!backend)
        return NULL;
    cpu_sampler_free(backend->sampler);
    cpu_attention_free(backend->attention);
    cpu_step_deinit(&backend->step);
    cpu_matmul_free(backend->matmul);
    cpu_team_free(backend->team);
    free(backend);
    return NULL;
}

CLEANUP_DEFINE(Backend, cpu_free);

int cpu_backend_new(Backend **outp, const CpuBackendOptions *options, Reason *why) {
    CLEANUP(cpu_free) Backend *backend = NULL;
    CpuIsa isa = options->isa_forced ? options->isa : cpu_isa_detect();
    int r;

    if (!cpu_isa_available(isa))
        return reason_set(why, -ENOTSUP, "this processor does not run %s code", cpu_isa_name(isa));
    backend = calloc(1, sizeof(*backend));
    if (!backend)
        return reason_set(why, -ENOMEM, "out of memory");
    backend->kernels = kernels_for(isa);
    backend->kv_kernels = kv_kernels_for(isa);
    r = cpu_team_new(&backend->team, options->n_threads, why);
    if (!r)
        r = cpu_matmul_new(&backend->matmul, backend->team, isa, why);
    if (!r)
        *outp = TAKE(backend);
    return r;
}

const BackendOps cpu_ops = {
    .name = "cpu",
    .act_bytes = sizeof(float),
    .residual_bytes = sizeof(float),
    .row_exact = true,
    .rounding_paths = ROUNDING_PATHS_MAX,
    .free = cpu_free,
    .memory_new = cpu_memory_new,
    .memory_free = cpu_memory_free,
    .memory_info = cpu_memory_info,
    .upload = cpu_upload,
    .download = cpu_download,
    .weights_new = cpu_weights_new,
    .weight_free = cpu_weight_free_op,
    .weight_bytes = cpu_weight_bytes,
    .reserve = cpu_reserve,
    .slot_set = cpu_slot_set,
    .slot_mask = cpu_slot_mask,
    .step_begin = cpu_step_begin,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .matmul = cpu_matmul,
    .rope_table = cpu_rope_table,
    .rope = cpu_rope,
    .attention = cpu_attention,
    .gated = cpu_gated,
    .moments = cpu_moments,
    .covariances = cpu_covariances,
    .gather_rows = cpu_gather_rows,
    .sample = cpu_sample_op,
    .step_end = cpu_step_end_op,
    .step_wait = cpu_step_wait_op,
    .sync = cpu_sync,
};
