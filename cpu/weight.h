/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Weight matrices in the CPU backend's own arrangement.
 *
 * A Weight is a copy: the source may be unmapped after cpu_weight_new. Values are as stored, never
 * quantized again; the copy takes about the bytes of the file (exactly those, but for Q4_K and
 * Q5_K, whose 6-bit scales take a byte each, and rows that do not fill a group of 16).
 */

#include "backend/ops.h"
#include "cpu/team.h"
#include "util/cleanup.h"

/* The team shares the rearranging. -EINVAL: empty, or n_cols is not a whole number of blocks;
 * -ENOMEM. */
int cpu_weight_new(Weight **outp, CpuTeam *team, const WeightSource *source, Reason *why);
Weight *cpu_weight_free(Weight *weight);
CLEANUP_DEFINE(Weight, cpu_weight_free);

uint32_t cpu_weight_rows(const Weight *weight);
uint32_t cpu_weight_cols(const Weight *weight);
size_t cpu_weight_bytes(const Weight *weight);

/* Row `row` to dst f32 [n_cols]: exactly the values that weight_to_f32 reads from the source. */
void cpu_weight_row_to_f32(const Weight *weight, uint32_t row, float *dst);
