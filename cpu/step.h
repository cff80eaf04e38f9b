/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The CPU's copy of the step at hand, in memory taken once, at start: what the ops read after
 * step_begin.
 */

#include "backend/ops.h"

typedef struct CpuStep {
    StepInput input; /* points into the arrays below */
    uint32_t max_rows, max_sequences, max_pages;
    uint32_t *tokens;        /* [max_rows] */
    StepLogits *logit_rows;  /* [max_rows] */
    SampleResult *results;   /* [max_rows], of the logit rows that were sampled */
    StepSequence *sequences; /* [max_sequences] */
    uint32_t *page_indptr;   /* [max_sequences + 1] */
    uint32_t *page_indices;  /* [max_pages] */
} CpuStep;

#define CPU_STEP_NULL \
    { .max_rows = 0 }

/* Adds the bytes it took to *bytesp. 0 or -ENOMEM. */
int cpu_step_init(CpuStep *step, const ReserveArgs *reserve, size_t *bytesp);
void cpu_step_deinit(CpuStep *step);
/* Copies a step's input, which must be no more than was reserved. */
void cpu_step_set(CpuStep *step, const StepInput *input);
