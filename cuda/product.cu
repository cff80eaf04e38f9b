/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/product.h"

#include "cuda/product.cuh"
#include "cuda/status.h"

template <int TILES, int AHEAD> static int prepare() {
    return cuda_allow_shared((const void *)product_few_kernel<TILES, AHEAD>,
                             sizeof(CudaProductMemory<TILES, AHEAD>));
}

bool cuda_product_is_small(size_t block_shared_bytes) {
    return block_shared_bytes < sizeof(CudaProductMemory<2, PRODUCT_AHEAD>);
}

int cuda_product_prepare(bool is_small) {
    int r = is_small ? prepare<1, PRODUCT_AHEAD_SMALL>() : prepare<1, PRODUCT_AHEAD>();

    if (r)
        return r;
    return is_small ? prepare<2, PRODUCT_AHEAD_SMALL>() : prepare<2, PRODUCT_AHEAD>();
}

template <int TILES, int AHEAD>
static int launch_few(cudaStream_t stream, const CudaProduct &product, uint32_t n_sm) {
    auto kernel = product_few_kernel<TILES, AHEAD>;
    uint32_t n_groups = product_groups(product), n_blocks = n_groups < n_sm ? n_groups : n_sm;

    kernel<<<n_blocks, PRODUCT_THREADS, sizeof(CudaProductMemory<TILES, AHEAD>), stream>>>(product);
    return cuda_launch_status();
}

int cuda_product_few(cudaStream_t stream, const CudaProduct *product, uint32_t n_sm,
                     bool is_small) {
    if (product->n_tokens <= 8)
        return is_small ? launch_few<1, PRODUCT_AHEAD_SMALL>(stream, *product, n_sm)
                        : launch_few<1, PRODUCT_AHEAD>(stream, *product, n_sm);
    return is_small ? launch_few<2, PRODUCT_AHEAD_SMALL>(stream, *product, n_sm)
                    : launch_few<2, PRODUCT_AHEAD>(stream, *product, n_sm);
}

int cuda_product_odd(cudaStream_t stream, const CudaProduct *product) {
    for (uint32_t i = 0; i < product->n_parts; i++)
        product_odd_kernel<<<dim3(product->parts[i].n_out, divide_up(product->n_tokens, 8)), 256, 0,
                             stream>>>(*product, i);
    return cuda_launch_status();
}

int cuda_product_bias(cudaStream_t stream, const CudaPart *part, uint32_t n_tokens) {
    size_t n = (size_t)n_tokens * part->n_out;

    product_bias_kernel<<<(uint32_t)((n + 255) / 256), 256, 0, stream>>>(*part, n_tokens);
    return cuda_launch_status();
}
