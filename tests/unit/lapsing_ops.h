/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The CPU's op table, where what an op may only borrow is gone when its call returns: a backend
 * that keeps pointers into the engine's arrays reads rubbish here, and is caught by sanitizers.
 */

#include "cpu/cpu_backend.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void *lend(const void *from, size_t n, size_t each_bytes) {
    void *copy = malloc(n * each_bytes + 1);

    assert(copy);
    if (n)
        memcpy(copy, from, n * each_bytes);
    return copy;
}

static void lapse(const void *lent, size_t n, size_t each_bytes) {
    void *copy = (void *)(uintptr_t)lent;

    memset(copy, 0xa5, n * each_bytes);
    __asm__ volatile("" ::"r"(copy) : "memory"); /* a store before free() is a store */
    free(copy);
}

static int lapsing_step_begin(Backend *backend, const StepInput *input) {
    size_t n_sequences = input->n_sequences, n_pages = input->page_indptr[n_sequences];
    StepInput lent = *input;
    int r;

    lent.tokens = lend(input->tokens, input->n_rows, sizeof(*lent.tokens));
    lent.sequences = lend(input->sequences, n_sequences, sizeof(*lent.sequences));
    lent.page_indptr = lend(input->page_indptr, n_sequences + 1, sizeof(*lent.page_indptr));
    lent.page_indices = lend(input->page_indices, n_pages, sizeof(*lent.page_indices));
    lent.logit_rows = lend(input->logit_rows, input->n_logit_rows, sizeof(*lent.logit_rows));
    r = cpu_ops.step_begin(backend, &lent);
    lapse(lent.tokens, input->n_rows, sizeof(*lent.tokens));
    lapse(lent.sequences, n_sequences, sizeof(*lent.sequences));
    lapse(lent.page_indptr, n_sequences + 1, sizeof(*lent.page_indptr));
    lapse(lent.page_indices, n_pages, sizeof(*lent.page_indices));
    lapse(lent.logit_rows, input->n_logit_rows, sizeof(*lent.logit_rows));
    return r;
}

static int lapsing_slot_set(Backend *backend, uint32_t slot, const SlotState *state) {
    SampleParams params = *state->params;
    SlotState lent = *state;
    int r;

    params.logit_bias = lend(params.logit_bias, params.n_logit_bias, sizeof(*params.logit_bias));
    lent.params = lend(&params, 1, sizeof(params));
    lent.prompt = lend(state->prompt, state->n_prompt, sizeof(*lent.prompt));
    lent.output = lend(state->output, state->n_output, sizeof(*lent.output));
    lent.banned = lend(state->banned, state->n_banned, sizeof(*lent.banned));
    r = cpu_ops.slot_set(backend, slot, &lent);
    lapse(params.logit_bias, params.n_logit_bias, sizeof(*params.logit_bias));
    lapse(lent.params, 1, sizeof(params));
    lapse(lent.prompt, state->n_prompt, sizeof(*lent.prompt));
    lapse(lent.output, state->n_output, sizeof(*lent.output));
    lapse(lent.banned, state->n_banned, sizeof(*lent.banned));
    return r;
}

static BackendOps lapsing_ops(void) {
    BackendOps ops = cpu_ops;

    ops.step_begin = lapsing_step_begin;
    ops.slot_set = lapsing_slot_set;
    return ops;
}
