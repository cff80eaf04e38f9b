/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The sample op on the CPU: rows of f32 logits in, tokens and logprobs out, as backend/sample.h
 * defines it. Rows are independent tasks of the team.
 *
 * What that header leaves open is settled so: a NaN logit counts as -inf and +inf as the largest
 * float; ids of equal rank go lowest first, also where top_k and top_p cut; alternatives of
 * logprob -inf are not listed; a row with nothing left to draw (every logit -inf, banned or left
 * out by the mask) answers the lowest id that is neither banned nor left out; where there is none,
 * the lowest one that the mask leaves in; else 0. A token is always < n_vocab.
 */

#include "backend/ops.h"
#include "cpu/team.h"

typedef struct CpuSampler CpuSampler; /* the slots, and scratch of every thread */

/* Takes all its memory: 8 bytes and a bit for each slot and id of the vocabulary, and 12 for each
 * thread and id; adds that to *bytesp. `n_threads`: of the team that cpu_sample will be given; 1
 * without one. 0 or -ENOMEM. */
int cpu_sampler_new(CpuSampler **outp, uint32_t n_threads, uint32_t n_slots, uint32_t n_vocab,
                    size_t *bytesp);
CpuSampler *cpu_sampler_free(CpuSampler *sampler);
CLEANUP_DEFINE(CpuSampler, cpu_sampler_free);

/* The op slot_set. */
void cpu_sampler_set(CpuSampler *sampler, uint32_t slot, const SlotState *state);
/* The op slot_mask. */
void cpu_sampler_mask(CpuSampler *sampler, uint32_t slot, const uint32_t *mask);
/* What a slot drew last. */
uint32_t cpu_sampler_drawn(const CpuSampler *sampler, uint32_t slot);

/* f32 `logits` [n_rows, n_vocab] of `rows` [n_rows], into `results` [n_rows]; n_vocab is at most
 * the sampler's. `team` may be NULL. */
void cpu_sample(CpuSampler *sampler, CpuTeam *team, const float *logits, uint32_t n_vocab,
                const StepLogits *rows, uint32_t n_rows, SampleResult *results);
