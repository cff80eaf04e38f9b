/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The ops as one would write them on paper: no vectors, no blocks, no threads; sums in double. The
 * `scalar` backend runs on these, and every fast version is tested against them.
 */

#include "backend/ops.h"
#include "cpu/vector_kernels.h"

/* The small kernels, same contracts as the vector ones. */
extern const CpuVectorKernels cpu_reference_kernels;

/* Attention by the definition: softmax over all visible keys of each row, read one by one through
 * the store's accessors. Reads the cache as it is before the step and leaves it so. It allocates,
 * as a reference may. */
void cpu_reference_attention(const AttentionArgs *args, const StepInput *input);
