/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The orthogonal transform H that keys, queries and values go through before pages are sealed:
 * blocks of the Hadamard matrix (Sylvester's order, scaled by block^-1/2) along the diagonal. H is
 * its own inverse and transpose.
 */

#include <stdint.h>

/* The size of a block for vectors of n: the largest power of two that divides n. */
uint32_t hadamard_block(uint32_t n);

/* x = H x, x [n] */
void hadamard_apply(float *x, uint32_t n);
