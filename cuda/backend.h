/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the backend is made of.
 */

#include "cuda/attention.h"
#include "cuda/blas.h"
#include "cuda/cuda_backend.h"
#include "cuda/memory.h"
#include "cuda/sampler.h"
#include "cuda/step.h"
#include "cuda/weight.h"

/* Tags have no linkage: each backend in the program defines a Backend of its own. */
struct Backend {
    int i_device;
    uint32_t n_sm;
    bool is_small; /* cuda_product_is_small */
    cudaStream_t stream;
    CudaMemory memory;
    CudaStaging staging;
    CudaBlas *blas;
    float *scales; /* device, kv_scales */
    /* after reserve */
    bool is_reserved;
    CudaStep step;
    CudaSampler sampler;
    CudaAttentionScratch attention;
};
