/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/product.h"

#include "cuda/product.cuh"
#include "cuda/status.h"

int cuda_product_few(cudaStream_t stream, const CudaProduct *product) {
    uint32_t n_blocks = 0, n_threads = PRODUCT_WARPS * CUDA_WARP;

    for (uint32_t i = 0; i < product->n_parts; i++)
        n_blocks += divide_up(product->parts[i].n_out, PRODUCT_ROWS);
    if (product->n_tokens <= 8)
        product_few_kernel<1><<<n_blocks, n_threads, 0, stream>>>(*product);
    else if (product->n_tokens <= 16)
        product_few_kernel<2><<<n_blocks, n_threads, 0, stream>>>(*product);
    else
        product_few_kernel<4><<<n_blocks, n_threads, 0, stream>>>(*product);
    return cuda_launch_status();
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
