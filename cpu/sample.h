/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The sample op on the CPU: rows of f32 logits in, tokens and logprobs out, as backend/sample.h
 * defines it. Rows are independent tasks of the team.
 *
 * What that header leaves open is settled so: a NaN logit counts as -inf and +inf as the largest
 * float; ids of equal rank go lowest first, also where top_k and top_p cut; alternatives of
 * logprob -inf are not listed; a row with nothing left to draw (every logit -inf or banned)
 * answers the lowest id that is not banned, 0 if all are. A token is always < n_vocab.
 */

#include "backend/ops.h"
#include "cpu/team.h"

typedef struct CpuSampler CpuSampler; /* scratch of every thread */

/* `n_threads`: of the team that cpu_sample will be given; 1 without one. 0 or -ENOMEM. */
int cpu_sampler_new(CpuSampler **outp, uint32_t n_threads);
CpuSampler *cpu_sampler_free(CpuSampler *sampler);
CLEANUP_DEFINE(CpuSampler, cpu_sampler_free);

/* `team` may be NULL. -ENOMEM: the scratch, which grows with the widest vocabulary it meets, could
 * not be made; no result was written. */
int cpu_sample(CpuSampler *sampler, Team *team, const SampleArgs *args);
