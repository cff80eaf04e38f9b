/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The CPU's copy of the step at hand, in memory taken once, at start: what the ops read after
 * step_begin; and the results of the steps in flight.
 */

#include "backend/ops.h"

typedef struct CpuStep {
    StepInput input;            /* points into the arrays below */
    uint32_t n_ended, n_waited; /* steps; a step's turn is the number of those that ended before */
    uint32_t max_rows, max_sequences, max_pages;
    uint32_t *tokens;        /* [max_rows] */
    StepLogits *logit_rows;  /* [max_rows] */
    SampleResult *results;   /* [STEPS_IN_FLIGHT_MAX, max_rows] of steps in turn */
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
/* Of the step at hand, [n_logit_rows]. */
SampleResult *cpu_step_results(CpuStep *step);
/* The step at hand has ended; its results stay until it has been waited for. */
void cpu_step_end(CpuStep *step);
/* Results of the oldest step that has ended and was not waited for. */
const SampleResult *cpu_step_wait(CpuStep *step);
