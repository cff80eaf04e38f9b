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

typedef struct Attention Attention;

/* Allocates all scratch for steps of the given size; adds its bytes to *bytesp. `team` is
 * borrowed. */
int attention_new(Attention **outp, Team *team, const VectorKernels *kernels,
                  const KvKernels *kv_kernels, const ReserveArgs *reserve, size_t *bytesp);
Attention *attention_free(Attention *attention);
CLEANUP_DEFINE(Attention, attention_free);

/* Plans a step for each window that was reserved; once, before the ops of its layers. `input` is
 * borrowed until the next plan. */
void attention_plan(Attention *attention, const StepInput *input);
/* The op of backend/ops.h, of the planned step. */
void attention_run(Attention *attention, const AttentionArgs *args);
