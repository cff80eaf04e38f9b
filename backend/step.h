/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One step as the engine describes it: which tokens of which sequences are computed, where their
 * cache is, and which rows' logits are wanted. A backend copies it once, in step_begin, to where
 * its ops read it, and plans there what does not depend on a layer; no later op of the step takes
 * a host array.
 *
 * A row is one token of one sequence. Rows of a sequence follow each other, and sequences follow
 * each other in the order of `sequences`, without gaps: a row's position and slot follow from that.
 */

#include <stdint.h>

/* In `tokens`, for a row whose token is what a slot drew last, STEP_TOKEN_DRAWN | slot: the host
 * need not know it yet. */
#define STEP_TOKEN_DRAWN (UINT32_C(1) << 31)
/* As a row's target: the slot draws a token. */
#define STEP_DRAW UINT32_MAX
/* Steps that may have ended and not yet been waited for, the one at hand included. */
#define STEPS_IN_FLIGHT_MAX 2

typedef struct StepSequence {
    uint32_t first_row; /* of this sequence in the step */
    uint32_t n_rows;    /* it has in the step, >= 1 */
    uint32_t n_past;    /* its tokens already in the cache: its first row has position n_past */
    uint32_t slot;      /* where its tail is, and all else that lives as long as it runs */
    uint32_t sink;      /* the sink slot of its first page, or KV_NO_SINK */
} StepSequence;

/* A row whose logits are wanted, and what `sample` does with them, if it is asked to. */
typedef struct StepLogits {
    uint32_t row;       /* of the step */
    uint32_t slot;      /* of the row's sequence; it draws at most once in a step */
    uint32_t target;    /* STEP_DRAW, or the id whose logprob is asked for */
    int n_top_logprobs; /* -1: no logprobs; 0 .. SAMPLE_TOP_LOGPROBS_MAX */
} StepLogits;

/* Everything is borrowed until step_begin returns. */
typedef struct StepInput {
    uint32_t n_rows;
    uint32_t n_sequences;
    uint32_t n_logit_rows;
    const uint32_t *tokens;        /* [n_rows] ids, each < n_vocab; or STEP_TOKEN_DRAWN */
    const StepSequence *sequences; /* [n_sequences] */

    /* The page table. Sequence s has the pages indices[indptr[s]] .. indices[indptr[s + 1] - 1],
     * ceil((n_past + n_rows) / 64) of them or more; its i-th holds tokens 64 i .. 64 i + 63. One
     * that is not full is reserved for the seal to come: until then its tokens lie in the tail. */
    const uint32_t *page_indptr;  /* [n_sequences + 1], from 0 */
    const uint32_t *page_indices; /* [page_indptr[n_sequences]] */

    const StepLogits *logit_rows; /* [n_logit_rows], in any order */
} StepInput;

/* Page i of a sequence of the step. */
static inline uint32_t step_page(const StepInput *input, uint32_t i_sequence, uint32_t i) {
    return input->page_indices[input->page_indptr[i_sequence] + i];
}
