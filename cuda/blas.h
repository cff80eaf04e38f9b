/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Large products, by the vendor's matrix library (libcublasLt). It is loaded when a GPU is opened,
 * not linked: a program that has it linked would not start where it is missing, and its static form
 * is ten times the size of everything else.
 */

#include "cuda/memory.h"
#include "cuda/product.h"
#include "util/reason.h"

typedef struct CudaBlas CudaBlas;

/* -ENOTSUP: the library is not installed, or not one we know. */
int cuda_blas_new(CudaBlas **outp, Reason *why);
CudaBlas *cuda_blas_free(CudaBlas *blas);
/* Takes the library's workspace, once; adds its bytes to *bytesp. */
int cuda_blas_reserve(CudaBlas *blas, CudaMemory *memory, size_t *bytesp);
/* One part of a product, without its bias. n_in and n_out are multiples of 8, and all addresses of
 * 16. */
int cuda_blas_product(CudaBlas *blas, cudaStream_t stream, const CudaProduct *product,
                      const CudaPart *part);
