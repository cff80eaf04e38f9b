/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The op table: every op checks nothing that the CPU's does not, launches, and returns. State: the
 * GPU's stream and memory, weights' staging, the step at hand and what reserve took. Runs on the
 * engine's thread; the GPU is another, and is waited for in step_wait, sync, download and
 * memory_free alone.
 */
#include "cuda/backend.h"

#include "cuda/prefill.h"
#include "cuda/product.h"
#include "cuda/rope.h"
#include "cuda/rows.h"
#include "cuda/seal.h"
#include "cuda/status.h"
#include "kvcache/rounding.h"
#include "util/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STAGING_BYTES ((size_t)16 << 20)
#define COMPUTE_MAJOR_MIN 8 /* bf16 on tensor cores, asynchronous copies */
#define CACHE_SHARE 0.9     /* of what is free: the rest is for the driver, and for others */

static void *pointer(DevAddr address) {
    return (void *)(uintptr_t)address;
}

/* The driver's calls are for the thread's GPU. */
static void choose_device(const Backend *backend) {
    static _Thread_local int i_chosen = -1;

    if (i_chosen != backend->i_device)
        cudaSetDevice(backend->i_device);
    i_chosen = backend->i_device;
}

/* memory */

static int cuda_memory_new(Backend *backend, DevAddr *outp, size_t size_bytes, const char *purpose,
                           Reason *why) {
    void *memory = NULL;
    int r;

    choose_device(backend);
    r = cuda_memory_take(&backend->memory, &memory, size_bytes);
    if (r)
        return cuda_memory_refused(&backend->memory, r, purpose,
                                   "lower kv_memory, max_num_seqs or max_batched_tokens", why);
    r = cuda_status(cudaMemsetAsync(memory, 0, size_bytes, backend->stream));
    if (r)
        return reason_set(why, r, "the GPU was lost when it was asked for memory for %s", purpose);
    *outp = (DevAddr)(uintptr_t)memory;
    return 0;
}

static void cuda_memory_free(Backend *backend, DevAddr address) {
    choose_device(backend);
    cuda_memory_give(&backend->memory, pointer(address));
}

static int cuda_memory_info(Backend *backend, MemoryInfo *info) {
    size_t free_bytes, total_bytes, max_bytes = backend->memory.max_bytes;
    int r;

    choose_device(backend);
    r = cuda_status(cudaMemGetInfo(&free_bytes, &total_bytes));
    if (r)
        return r;
    free_bytes = cuda_memory_left(&backend->memory, free_bytes);
    *info =
        (MemoryInfo){ .total_bytes = max_bytes && max_bytes < total_bytes ? max_bytes : total_bytes,
                      .free_bytes = free_bytes,
                      .cache_bytes = (uint64_t)(CACHE_SHARE * (double)free_bytes) };
    return 0;
}

static int cuda_upload(Backend *backend, DevAddr to, const void *from, size_t size_bytes) {
    choose_device(backend);
    return cuda_status(
        cudaMemcpyAsync(pointer(to), from, size_bytes, cudaMemcpyHostToDevice, backend->stream));
}

static int cuda_sync(Backend *backend) {
    choose_device(backend);
    return cuda_status(cudaStreamSynchronize(backend->stream));
}

static int cuda_download(Backend *backend, void *to, DevAddr from, size_t size_bytes) {
    int r;

    choose_device(backend);
    r = cuda_status(
        cudaMemcpyAsync(to, pointer(from), size_bytes, cudaMemcpyDeviceToHost, backend->stream));
    return r ? r : cuda_sync(backend);
}

/* weights */

static int cuda_weights_new(Backend *backend, Weight *outs[], const WeightSource *sources,
                            uint32_t n_sources, Reason *why) {
    choose_device(backend);
    for (uint32_t i = 0; i < n_sources; i++) {
        int r = cuda_weight_new(&outs[i], &backend->staging, backend->stream, &sources[i], why);

        if (!r)
            continue;
        for (uint32_t j = 0; j < i; j++)
            outs[j] = cuda_weight_free(outs[j]);
        return reason_prefix(why, r, "tensor %s: ", sources[i].name);
    }
    return 0;
}

static Weight *cuda_weight_free_op(Backend *backend, Weight *weight) {
    choose_device(backend);
    return cuda_weight_free(weight);
}

/* scratch */

static void release(Backend *backend) {
    cudaStreamSynchronize(backend->stream);
    cuda_step_deinit(&backend->step);
    cuda_sampler_deinit(&backend->sampler);
    cuda_attention_scratch_deinit(&backend->attention);
    backend->is_reserved = false;
}

static int prepare_kernels(const Backend *backend, const ReserveArgs *args, Reason *why) {
    uint32_t head_dim = args->geometry.head_dim;
    int r;

    if (head_dim > CUDA_HEAD_DIM_MAX)
        return reason_set(why, -ENOTSUP, "head_dim is %u; device cuda has kernels up to %u",
                          head_dim, CUDA_HEAD_DIM_MAX);
    r = cuda_attention_prepare(head_dim);
    if (!r)
        r = cuda_product_prepare(backend->is_small);
    if (!r)
        r = cuda_hold_prepare(head_dim);
    if (r == -EINVAL)
        return reason_set(why, -ENOTSUP,
                          "head_dim is %u: attention needs more shared memory than a block of this "
                          "GPU has; use device cpu",
                          head_dim);
    return r ? reason_set(why, r, "the GPU was lost") : 0;
}

static int cuda_reserve(Backend *backend, const ReserveArgs *args, size_t *bytesp, Reason *why) {
    bool has_tiles;
    int r;

    choose_device(backend);
    release(backend);
    r = prepare_kernels(backend, args, why);
    if (r)
        return r;
    has_tiles = cuda_prefill_has(args->geometry.head_dim) &&
                cuda_prefill_prepare(args->geometry.head_dim) == 0;
    r = cuda_step_init(&backend->step, &backend->memory, args, backend->n_sm, has_tiles, bytesp);
    if (r == -EINVAL)
        return reason_set(why, -ENOTSUP, "%u distinct windows; device cuda has room for %u",
                          args->n_windows, CUDA_WINDOWS_MAX);
    if (r)
        return cuda_memory_refused(&backend->memory, r, "the input of a step",
                                   "lower max_batched_tokens or max_num_seqs", why);
    r = cuda_attention_scratch_init(&backend->attention, &backend->step, bytesp);
    if (r)
        return cuda_memory_refused(&backend->memory, r, "the scratch of attention",
                                   "lower kv_memory or max_batched_tokens", why);
    r = cuda_sampler_init(&backend->sampler, &backend->memory, args->max_sequences, args->n_vocab,
                          bytesp);
    if (r)
        return cuda_memory_refused(&backend->memory, r, "sampling in as many slots",
                                   "lower max_num_seqs", why);
    r = cuda_blas_reserve(backend->blas, &backend->memory, bytesp);
    if (r)
        return cuda_memory_refused(&backend->memory, r, "the workspace of products",
                                   "lower kv_memory", why);
    backend->is_reserved = true;
    return 0;
}

static int cuda_slot_set(Backend *backend, uint32_t slot, const SlotState *state) {
    choose_device(backend);
    return cuda_sampler_set(&backend->sampler, &backend->staging, backend->stream, slot, state);
}

static int cuda_slot_mask_op(Backend *backend, uint32_t slot, const uint32_t *mask) {
    choose_device(backend);
    return cuda_sampler_mask(&backend->sampler, &backend->staging, backend->stream, slot, mask);
}

/* steps */

static int cuda_step_begin(Backend *backend, const StepInput *input) {
    assert(backend->is_reserved);
    choose_device(backend);
    return cuda_step_set(&backend->step, backend->stream, input);
}

static int cuda_embed_op(Backend *backend, const EmbedArgs *args) {
    return cuda_embed(backend->stream, &backend->step.view, backend->sampler.device.drawn, args);
}

static int cuda_rmsnorm_op(Backend *backend, const RmsnormArgs *args) {
    return cuda_rmsnorm(backend->stream, args);
}

static CudaPart part_of(const MatmulArgs *args, const MatmulPart *part, uint32_t first_token) {
    bool is_f32 = args->out_f32 || part->accumulate;
    size_t at = (size_t)first_token * part->weight->n_rows * (is_f32 ? 4 : 2);

    return (CudaPart){ .weight = part->weight->data,
                       .bias = pointer(part->bias),
                       .out = (uint8_t *)pointer(part->out) + at,
                       .n_out = part->weight->n_rows,
                       .is_f32 = is_f32,
                       .accumulate = part->accumulate };
}

/* Parts first .. first + n - 1 for some tokens, by our own kernels. */
static int multiply_few(Backend *backend, const MatmulArgs *args, uint32_t first, uint32_t n,
                        uint32_t first_token, uint32_t n_tokens) {
    uint32_t n_in = args->parts[0].weight->n_cols;
    CudaProduct product = { .in = (uint8_t *)pointer(args->in) + (size_t)first_token * n_in * 2,
                            .n_tokens = n_tokens,
                            .n_in = n_in,
                            .n_parts = n };

    for (uint32_t i = 0; i < n; i++)
        product.parts[i] = part_of(args, &args->parts[first + i], first_token);
    return n_in % CUDA_PRODUCT_COLS
               ? cuda_product_odd(backend->stream, &product)
               : cuda_product_few(backend->stream, &product, backend->n_sm, backend->is_small);
}

/* One part, by the library, which takes rows that begin at multiples of 16 bytes. */
static int multiply_many(Backend *backend, const MatmulArgs *args, const MatmulPart *part) {
    CudaProduct product = { .in = pointer(args->in),
                            .n_tokens = args->n_tokens,
                            .n_in = part->weight->n_cols };
    CudaPart p = part_of(args, part, 0);
    int r = cuda_blas_product(backend->blas, backend->stream, &product, &p);

    return r || !p.bias ? r : cuda_product_bias(backend->stream, &p, args->n_tokens);
}

static bool is_for_library(const MatmulArgs *args, const MatmulPart *part) {
    return args->n_tokens > CUDA_PRODUCT_TOKENS && part->weight->n_cols % 8 == 0 &&
           part->weight->n_rows % 8 == 0 && (args->in | part->out) % 16 == 0;
}

static int cuda_matmul(Backend *backend, const MatmulArgs *args) {
    int r = 0;

    for (uint32_t i = 0; i < args->n_parts; i++)
        if (args->parts[i].weight->n_cols != args->parts[0].weight->n_cols)
            return -EINVAL;
    for (uint32_t i = 0, n; !r && args->n_tokens && i < args->n_parts; i += n) {
        n = 1;
        if (is_for_library(args, &args->parts[i])) {
            r = multiply_many(backend, args, &args->parts[i]);
            continue;
        }
        while (i + n < args->n_parts && n < CUDA_PRODUCT_PARTS_MAX &&
               !is_for_library(args, &args->parts[i + n]))
            n++;
        for (uint32_t t = 0; !r && t < args->n_tokens; t += CUDA_PRODUCT_TOKENS_MAX) {
            uint32_t left = args->n_tokens - t;

            r = multiply_few(backend, args, i, n, t,
                             left < CUDA_PRODUCT_TOKENS_MAX ? left : CUDA_PRODUCT_TOKENS_MAX);
        }
    }
    return r;
}

static int cuda_rope_table_op(Backend *backend, const RopeTableArgs *args) {
    return cuda_rope_table(backend->stream, &backend->step.view, args);
}

static int cuda_rope_op(Backend *backend, const RopeArgs *args) {
    return cuda_rope(backend->stream, args, args->layer);
}

static int hold(Backend *backend, const AttentionArgs *args, const CudaKvFormat *formats) {
    CudaHoldArgs h = { .step = backend->step.view,
                       .layer = *args->layer,
                       .formats = { formats[0], formats[1] },
                       .own = { pointer(args->k), pointer(args->v) },
                       .scales = backend->scales,
                       .n_seals = backend->step.n_seals };

    return cuda_hold(backend->stream, &h);
}

static int cuda_attention_op(Backend *backend, const AttentionArgs *args) {
    const CudaPlan *plan = cuda_step_plan(&backend->step, args->window);
    uint32_t n = args->layer->head_dim;
    CudaAttentionArgs a = {
        .step = backend->step.view,
        .layer = *args->layer,
        .formats = { cuda_kv_format(args->layer->sides[KV_SIDE_K].format, KV_SIDE_K, n),
                     cuda_kv_format(args->layer->sides[KV_SIDE_V].format, KV_SIDE_V, n) },
        .out = pointer(args->out),
        .q = pointer(args->q),
        .own = { pointer(args->k), pointer(args->v) },
        .scales = backend->scales,
        .n_heads = args->n_heads,
        .group = args->n_heads / args->layer->n_kv_heads,
        .window = args->window,
        .scale = args->scale,
        .scratch = backend->attention
    };
    int r = 0;

    if (args->out && !plan)
        return -EINVAL;
    if (args->out) {
        a.items = plan->items;
        a.n_items = plan->n_items;
        a.n_tiles = plan->n_tiles;
        r = cuda_attention(backend->stream, &a);
        if (!r)
            r = cuda_prefill(backend->stream, &a);
    }
    return r ? r : hold(backend, args, a.formats);
}

static int cuda_gated_op(Backend *backend, const GatedArgs *args) {
    return cuda_gated(backend->stream, args);
}

static int cuda_moments_op(Backend *backend, const MomentsArgs *args) {
    return cuda_moments(backend->stream, args);
}

static int cuda_covariances_op(Backend *backend, const CovariancesArgs *args) {
    return cuda_covariances(backend->stream, args);
}

static int cuda_gather_rows_op(Backend *backend, const GatherRowsArgs *args) {
    assert(args->first + args->n_rows <= backend->step.view.n_logit_rows);
    return cuda_gather_rows(backend->stream, &backend->step.view, args);
}

static int cuda_sample_op(Backend *backend, const SampleArgs *args) {
    CudaSampleArgs a = { .slots = backend->sampler.device,
                         .logits = pointer(args->logits),
                         .rows = backend->step.view.logit_rows + args->first,
                         .results = backend->step.results + args->first,
                         .n_rows = args->n_rows,
                         .n_vocab = args->n_vocab };

    assert(args->first + args->n_rows <= backend->step.view.n_logit_rows);
    assert(args->n_vocab && args->n_vocab <= backend->sampler.device.n_vocab);
    return cuda_sample(backend->stream, &a);
}

static int cuda_step_end_op(Backend *backend) {
    return cuda_step_end(&backend->step, backend->stream);
}

static int cuda_step_wait_op(Backend *backend, const SampleResult **resultsp) {
    choose_device(backend);
    return cuda_step_wait(&backend->step, resultsp);
}

/* life */

static Backend *cuda_free(Backend *backend) {
    if (!backend)
        return NULL;
    choose_device(backend);
    if (backend->stream)
        release(backend);
    cuda_blas_free(backend->blas);
    cuda_staging_deinit(&backend->staging);
    cuda_memory_give(&backend->memory, backend->scales);
    cuda_memory_deinit(&backend->memory);
    if (backend->stream)
        cudaStreamDestroy(backend->stream);
    free(backend);
    return NULL;
}

CLEANUP_DEFINE(Backend, cuda_free);

/* Whether the GPU is there and new enough. */
static int check_device(Backend *backend, uint32_t i_device, Reason *why) {
    struct cudaDeviceProp properties;
    cudaError_t error;
    int n_devices = 0;

    error = cudaGetDeviceCount(&n_devices);
    if (error || !n_devices)
        return reason_set(why, -ENODEV, "no GPU that CUDA can use: %s",
                          error ? cudaGetErrorString(error) : "the driver finds none");
    if (i_device >= (uint32_t)n_devices)
        return reason_set(why, -ENODEV, "device is \"cuda:%u\", but there are %d GPUs, from cuda:0",
                          i_device, n_devices);
    error = cudaGetDeviceProperties(&properties, (int)i_device);
    if (!error)
        error = cudaSetDevice((int)i_device);
    if (error)
        return reason_set(why, -ENODEV, "GPU cuda:%u cannot be opened: %s", i_device,
                          cudaGetErrorString(error));
    if (properties.major < COMPUTE_MAJOR_MIN)
        return reason_set(
            why, -ENOTSUP, "GPU cuda:%u (%s) has compute capability %d.%d; device cuda needs %d.0",
            i_device, properties.name, properties.major, properties.minor, COMPUTE_MAJOR_MIN);
    backend->i_device = (int)i_device;
    backend->n_sm = (uint32_t)properties.multiProcessorCount;
    backend->is_small = cuda_product_is_small(properties.sharedMemPerBlockOptin);
    return 0;
}

static int take_resources(Backend *backend) {
    int r = cuda_status(cudaStreamCreateWithFlags(&backend->stream, cudaStreamNonBlocking));

    if (!r)
        r = cuda_staging_init(&backend->staging, &backend->memory, STAGING_BYTES);
    if (!r)
        r = cuda_memory_take(&backend->memory, (void **)&backend->scales, sizeof(kv_scales));
    if (!r)
        r = cuda_status(
            cudaMemcpy(backend->scales, kv_scales, sizeof(kv_scales), cudaMemcpyHostToDevice));
    return r;
}

int cuda_backend_new(Backend **outp, const CudaBackendOptions *options, Reason *why) {
    CLEANUP(cuda_free) Backend *backend = calloc(1, sizeof(*backend));
    int r;

    if (!backend)
        return reason_set(why, -ENOMEM, "out of memory");
    backend->memory.max_bytes = options->max_bytes;
    r = check_device(backend, options->i_device, why);
    if (!r)
        r = cuda_blas_new(&backend->blas, why);
    if (r)
        return r;
    r = take_resources(backend);
    if (r)
        return cuda_memory_refused(&backend->memory, r, "the staging of weights",
                                   "take another GPU", why);
    *outp = TAKE(backend);
    return 0;
}

const BackendOps cuda_ops = {
    .name = "cuda",
    .act_bytes = 2,
    .residual_bytes = 4,
    .row_exact = false,
    .rounding_paths = ROUNDING_PATHS_MAX,
    .is_async = true,
    .free = cuda_free,
    .memory_new = cuda_memory_new,
    .memory_free = cuda_memory_free,
    .memory_info = cuda_memory_info,
    .upload = cuda_upload,
    .download = cuda_download,
    .weights_new = cuda_weights_new,
    .weight_free = cuda_weight_free_op,
    .weight_bytes = cuda_weight_bytes,
    .reserve = cuda_reserve,
    .slot_set = cuda_slot_set,
    .slot_mask = cuda_slot_mask_op,
    .step_begin = cuda_step_begin,
    .embed = cuda_embed_op,
    .rmsnorm = cuda_rmsnorm_op,
    .matmul = cuda_matmul,
    .rope_table = cuda_rope_table_op,
    .rope = cuda_rope_op,
    .attention = cuda_attention_op,
    .gated = cuda_gated_op,
    .moments = cuda_moments_op,
    .covariances = cuda_covariances_op,
    .gather_rows = cuda_gather_rows_op,
    .sample = cuda_sample_op,
    .step_end = cuda_step_end_op,
    .step_wait = cuda_step_wait_op,
    .sync = cuda_sync,
};
