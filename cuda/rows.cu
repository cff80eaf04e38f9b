/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/rows.h"

#include "cuda/rows.cuh"
#include "cuda/status.h"

#define ROW_THREADS 256
#define GATED_BLOCKS_MAX 4096

int cuda_embed(cudaStream_t stream, const CudaStepView *step, const uint32_t *drawn,
               const EmbedArgs *args) {
    embed_kernel<<<step->n_rows, ROW_THREADS, 0, stream>>>(*step, drawn, at<float>(args->out),
                                                           (const __nv_bfloat16 *)args->table->data,
                                                           args->table->n_cols, args->scale);
    return cuda_launch_status();
}

int cuda_rmsnorm(cudaStream_t stream, const RmsnormArgs *args) {
    uint32_t n_threads = args->dim <= 128 ? 64 : args->dim <= 2048 ? ROW_THREADS : 512;
    __nv_bfloat16 *out = at<__nv_bfloat16>(args->out);
    const float *weight = at<const float>(args->weight);

    if (!args->n_rows)
        return 0;
    if (args->accumulate)
        rmsnorm_kernel<<<args->n_rows, n_threads, 0, stream>>>(at<float>(args->out),
                                                               at<const __nv_bfloat16>(args->in),
                                                               weight, args->dim, args->epsilon);
    else if (args->in_residual)
        rmsnorm_kernel<<<args->n_rows, n_threads, 0, stream>>>(out, at<const float>(args->in),
                                                               weight, args->dim, args->epsilon);
    else
        rmsnorm_kernel<<<args->n_rows, n_threads, 0, stream>>>(
            out, at<const __nv_bfloat16>(args->in), weight, args->dim, args->epsilon);
    return cuda_launch_status();
}

static uint32_t blocks_for(size_t n) {
    size_t n_blocks = (n + ROW_THREADS - 1) / ROW_THREADS;

    return (uint32_t)(n_blocks < GATED_BLOCKS_MAX ? n_blocks : GATED_BLOCKS_MAX);
}

int cuda_gated(cudaStream_t stream, const GatedArgs *args) {
    size_t n = (size_t)args->n_tokens * args->dim;

    if (!n)
        return 0;
    if (n % 8 == 0 && (args->out | args->gate | args->up) % 16 == 0)
        gated_wide_kernel<<<blocks_for(n / 8), ROW_THREADS, 0, stream>>>(
            at<uint4>(args->out), at<const uint4>(args->gate), at<const uint4>(args->up), n / 8,
            args->activation);
    else
        gated_kernel<<<blocks_for(n), ROW_THREADS, 0, stream>>>(
            at<__nv_bfloat16>(args->out), at<const __nv_bfloat16>(args->gate),
            at<const __nv_bfloat16>(args->up), n, args->activation);
    return cuda_launch_status();
}

int cuda_gather_rows(cudaStream_t stream, const CudaStepView *step, const GatherRowsArgs *args) {
    if (!args->n_rows)
        return 0;
    gather_kernel<<<args->n_rows, ROW_THREADS, 0, stream>>>(
        *step, at<float>(args->out), at<const float>(args->in), args->first, args->dim);
    return cuda_launch_status();
}

int cuda_rope_table(cudaStream_t stream, const CudaStepView *step, const RopeTableArgs *args) {
    rope_table_kernel<<<step->n_rows, 64, 0, stream>>>(
        *step, at<float>(args->out), at<const float>(args->inv_freq), args->n_freqs, args->scale);
    return cuda_launch_status();
}

static dim3 moment_grid(uint32_t head_dim, uint32_t n_kv_heads) {
    uint32_t n = divide_up(head_dim, MOMENTS_TILE);

    return dim3(n, n, n_kv_heads);
}

int cuda_moments(cudaStream_t stream, const MomentsArgs *args) {
    moments_kernel<<<moment_grid(args->head_dim, args->n_kv_heads), MOMENTS_TILE * MOMENTS_TILE, 0,
                     stream>>>(*args);
    return cuda_launch_status();
}

int cuda_covariances(cudaStream_t stream, const CovariancesArgs *args) {
    covariances_kernel<<<moment_grid(args->head_dim, args->n_kv_heads), MOMENTS_TILE * MOMENTS_TILE,
                         0, stream>>>(*args);
    return cuda_launch_status();
}
