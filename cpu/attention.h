/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Paged attention and cache writes on the CPU.
 */

#include "backend/ops.h"
#include "cpu/kv_kernels.h"
#include "cpu/team.h"
#include "cpu/vector_kernels.h"
#include "util/cleanup.h"

typedef struct CpuAttention CpuAttention;

/* Allocates all scratch for steps of the given size; adds its bytes to *bytesp. `team` is
 * borrowed. */
int cpu_attention_new(CpuAttention **outp, CpuTeam *team, const CpuVectorKernels *kernels,
                      const CpuKvKernels *kv_kernels, const ReserveArgs *reserve, size_t *bytesp);
CpuAttention *cpu_attention_free(CpuAttention *attention);
CLEANUP_DEFINE(CpuAttention, cpu_attention_free);

/* Plans a step for each window that was reserved; once, before the ops of its layers. `input` is
 * borrowed until the next plan. */
void cpu_attention_plan(CpuAttention *attention, const StepInput *input);
/* The op of backend/ops.h, of the planned step. */
void cpu_attention_run(CpuAttention *attention, const AttentionArgs *args);
