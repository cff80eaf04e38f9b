/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/rope.h"

#include "cuda/rope.cuh"
#include "cuda/status.h"
#include "kvcache/key_transform.h"

static_assert(sizeof(KeyTransform) == 64, "the matrices are behind 16 words");

/* Vectors of a block: so many that both arrays fit what every GPU gives a block unasked. */
static uint32_t block_vectors(uint32_t head_dim) {
    return head_dim <= 128 ? 4 * ROPE_BATCH : ROPE_BATCH;
}

int cuda_rope(cudaStream_t stream, const RopeArgs *args, const KvLayer *layer) {
    uint32_t n = block_vectors(args->head_dim);
    dim3 grid(divide_up(args->n_tokens * (args->n_heads / args->n_kv_heads), n), args->n_kv_heads,
              ROPE_KINDS);

    rope_kernel<<<grid, ROPE_THREADS, 2 * (size_t)n * args->head_dim * sizeof(float), stream>>>(
        *args, *layer, n);
    return cuda_launch_status();
}
