/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Matrix products of f32 activations with weights of every format.
 *
 * An output element depends on its activation row and its weight row alone, to the bit: the order
 * of its sum is the same for every number of tokens, tile and thread.
 *
 * Block formats: each activation row is turned once per op into 16-bit fixed point by blocks of 32
 * (step: the block's largest magnitude / 32767), the integer products of a block are exact, and the
 * blocks are summed in f32, in order. The relative error of a product is about 2e-5. f32, f16 and
 * bf16 weights are multiplied in f32.
 *
 * A NaN or an infinity in an activation row makes that row's outputs NaN (block formats) or what
 * f32 arithmetic makes of it (f32, f16, bf16). In block formats, 32 activations none of which
 * reaches 2^-100 count as zeros.
 */

#include "backend/ops.h"
#include "cpu/cpu_backend.h"
#include "cpu/team.h"
#include "cpu/weight.h"
#include "util/cleanup.h"

typedef struct CpuMatmul CpuMatmul; /* kernels of one instruction set, and the workspace */

/* Borrows the team. -ENOTSUP: this processor or build lacks `isa`. */
int cpu_matmul_new(CpuMatmul **outp, CpuTeam *team, CpuIsa isa, Reason *why);
CpuMatmul *cpu_matmul_free(CpuMatmul *matmul);
CLEANUP_DEFINE(CpuMatmul, cpu_matmul_free);

/* Makes the workspace for inputs of up to n_cols, in place of the one it has, and adds its bytes to
 * *bytesp. cpu_matmul_run allocates nothing. -ENOMEM: it has none. */
int cpu_matmul_reserve(CpuMatmul *matmul, uint32_t n_cols, size_t *bytesp, Reason *why);

/* The op. Addresses are pointers to f32. `out` may not overlap `in`. -EINVAL: parts that differ in
 * n_in, or an n_in larger than what was reserved. */
int cpu_matmul_run(CpuMatmul *matmul, const MatmulArgs *args);

/* The same, by the definition, in double and without a team: for tests. -ENOMEM. */
int cpu_matmul_reference(const MatmulArgs *args);
