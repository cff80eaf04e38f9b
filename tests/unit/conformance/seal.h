/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the tokens of a page are once it is sealed, by kvcache/kv_format.h and kvcache/rounding.h:
 * one token and one channel after the other. Where a number decides which code is taken, it is an
 * f32, rounded once an operation (fused where the comment says so): a code is one or another, and
 * a sum in double would now and then choose the other.
 */

#include "kvcache/kv_format.h"
#include "kvcache/rounding.h"

/* One KV head's page x [64][head_dim], after the Hadamard transform, to what its codes stand for,
 * in place. `rounding` is for keys. */
void sealed_values(KvFormat format, KvSide side, uint32_t head_dim, float *x,
                   const Rounding *rounding);
