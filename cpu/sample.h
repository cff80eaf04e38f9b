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

/* Makes the scratch for rows of up to n_vocab logits, in place of the one it has, and adds its
 * bytes to *bytesp. 0, or -ENOMEM: it has none. */
int cpu_sampler_reserve(CpuSampler *sampler, uint32_t n_vocab, size_t *bytesp);

/* `team` may be NULL. Rows may be no wider than what was reserved. Returns 0. */
int cpu_sample(CpuSampler *sampler, Team *team, const SampleArgs *args);
