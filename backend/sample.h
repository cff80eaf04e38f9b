/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How a slot draws tokens from rows of logits, and what the sample op answers.
 *
 * A slot is filled when a sequence takes it, and follows by itself what it draws: the last token,
 * how many, and how often each, so that no step carries a sequence's history.
 *
 * Order of operations, the field's usual one (vLLM's):
 *   logprobs are of the raw logits: log softmax(logits)
 *   z = logits + logit_bias;  z = -inf for banned ids (EOS before min_tokens)
 *   z = -inf for ids that the slot's mask leaves out (slot_mask of backend/ops.h)
 *   repetition penalty r on ids in prompt or output: z > 0 ? z / r : z * r
 *   z -= frequency * count in output + presence * [count in output > 0]
 *   temperature 0: argmax (lowest id wins a tie); else z /= temperature
 *   min_p: keep p >= min_p * max p;  top_k: keep the k largest;  top_p: the smallest set of
 *   largest p whose sum reaches top_p;  draw from what is left.
 * The draw uses a counter-based generator keyed by (seed, i_output): the same seed gives the same
 * token whatever else runs in the batch.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAMPLE_TOP_LOGPROBS_MAX 20

typedef struct LogitBias {
    uint32_t token;
    float bias;
} LogitBias;

typedef struct SampleParams {
    float temperature;        /* >= 0; 0 is greedy */
    float top_p;              /* (0, 1]; 1 is off */
    float min_p;              /* [0, 1]; 0 is off */
    uint32_t top_k;           /* 0 is off */
    float repetition_penalty; /* > 0; 1 is off */
    float presence_penalty;   /* [-2, 2]; 0 is off */
    float frequency_penalty;  /* [-2, 2]; 0 is off */
    uint64_t seed;
    const LogitBias *logit_bias; /* [n_logit_bias], no id twice; borrowed */
    uint32_t n_logit_bias;
} SampleParams;

#define SAMPLE_PARAMS_GREEDY \
    { .top_p = 1, .repetition_penalty = 1 }

/* What a slot begins with; all of it is copied. Ids of prompt and output are < n_vocab; others that
 * the model does not have change nothing. */
typedef struct SlotState {
    const SampleParams *params;
    const uint32_t *prompt; /* [n_prompt] */
    const uint32_t *output; /* [n_output] drawn before, by this slot or another */
    const uint32_t *banned; /* [n_banned] ids that are not drawn before there are min_output */
    uint32_t n_prompt, n_output, n_banned, min_output;
} SlotState;

typedef struct SampleResult {
    uint32_t token; /* drawn, or the target */
    float logprob;  /* of `token`, if n_top_logprobs >= 0 */
    uint32_t n_top;
    uint32_t top_tokens[SAMPLE_TOP_LOGPROBS_MAX]; /* falling logprob; ties by rising id */
    float top_logprobs[SAMPLE_TOP_LOGPROBS_MAX];
} SampleResult;
