/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: arrays of the most a step may have. Runs on the engine's thread; the team's threads
 * read. Copying costs a few microseconds a step, and keeps this backend as far from the engine's
 * arrays as one on a device is.
 */
#include "cpu/step.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void *array_new(size_t n, size_t each_bytes, size_t *bytesp) {
    *bytesp += n * each_bytes;
    return calloc(n, each_bytes);
}

int cpu_step_init(CpuStep *step, const ReserveArgs *reserve, size_t *bytesp) {
    size_t bytes = 0, n_rows = reserve->max_rows, n_sequences = reserve->max_sequences;

    *step = (CpuStep){ .max_rows = reserve->max_rows,
                       .max_sequences = reserve->max_sequences,
                       .max_pages = reserve->max_pages };
    step->tokens = array_new(n_rows, sizeof(*step->tokens), &bytes);
    step->logit_rows = array_new(n_rows, sizeof(*step->logit_rows), &bytes);
    step->results = array_new(STEPS_IN_FLIGHT_MAX * n_rows, sizeof(*step->results), &bytes);
    step->sequences = array_new(n_sequences, sizeof(*step->sequences), &bytes);
    step->page_indptr = array_new(n_sequences + 1, sizeof(*step->page_indptr), &bytes);
    step->page_indices = array_new(reserve->max_pages, sizeof(*step->page_indices), &bytes);
    if (!step->tokens || !step->logit_rows || !step->results || !step->sequences ||
        !step->page_indptr || !step->page_indices) {
        cpu_step_deinit(step);
        return -ENOMEM;
    }
    *bytesp += bytes;
    return 0;
}

void cpu_step_deinit(CpuStep *step) {
    free(step->tokens);
    free(step->logit_rows);
    free(step->results);
    free(step->sequences);
    free(step->page_indptr);
    free(step->page_indices);
    *step = (CpuStep)CPU_STEP_NULL;
}

void cpu_step_set(CpuStep *step, const StepInput *input) {
    uint32_t n_pages = input->page_indptr[input->n_sequences];

    assert(step->n_ended - step->n_waited < STEPS_IN_FLIGHT_MAX);
    assert(input->n_rows && input->n_rows <= step->max_rows);
    assert(input->n_sequences <= step->max_sequences && n_pages <= step->max_pages);
    assert(input->n_logit_rows <= input->n_rows);
    memcpy(step->tokens, input->tokens, input->n_rows * sizeof(*step->tokens));
    memcpy(step->sequences, input->sequences, input->n_sequences * sizeof(*step->sequences));
    memcpy(step->page_indptr, input->page_indptr,
           (input->n_sequences + 1) * sizeof(*step->page_indptr));
    memcpy(step->page_indices, input->page_indices, n_pages * sizeof(*step->page_indices));
    if (input->n_logit_rows)
        memcpy(step->logit_rows, input->logit_rows,
               input->n_logit_rows * sizeof(*step->logit_rows));
    step->input = (StepInput){ .n_rows = input->n_rows,
                               .n_sequences = input->n_sequences,
                               .n_logit_rows = input->n_logit_rows,
                               .tokens = step->tokens,
                               .sequences = step->sequences,
                               .page_indptr = step->page_indptr,
                               .page_indices = step->page_indices,
                               .logit_rows = step->logit_rows };
}

static SampleResult *results_of(CpuStep *step, uint32_t turn) {
    return step->results + (size_t)(turn % STEPS_IN_FLIGHT_MAX) * step->max_rows;
}

SampleResult *cpu_step_results(CpuStep *step) {
    return results_of(step, step->n_ended);
}

void cpu_step_end(CpuStep *step) {
    step->n_ended++;
}

const SampleResult *cpu_step_wait(CpuStep *step) {
    assert(step->n_waited != step->n_ended);
    return results_of(step, step->n_waited++);
}
