/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a GPU can do at most, measured: the ceilings of benchmarks.
 */

#include "backend/ops.h"

typedef struct CudaRates {
    char name[256];
    uint32_t n_multiprocessors;
    size_t cache_bytes;        /* of the last cache before memory */
    double copy_bytes_per_s;   /* read and written, of memory that no cache holds */
    double weight_bytes_per_s; /* of weight_bytes, half of them read and half written, again and
                                  again */
    double madds_per_s;        /* of bf16 products of CUDA_MEASURE_SIDE squared, by cublasLt */
} CudaRates;

#define CUDA_MEASURE_SIDE 8192

/* Takes up to 2 GiB for the while, and some tenths of a second. -ENOMEM. */
int cuda_measure(Backend *backend, size_t weight_bytes, CudaRates *out, Reason *why);
