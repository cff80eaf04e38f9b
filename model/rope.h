/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Rotary frequencies (arXiv 2104.09864) and their scalings: linear (arXiv 2306.15595), yarn (arXiv
 * 2309.00071, section 3), llama3 (Llama 3.1's by-parts rule). As Transformers computes them.
 */

#include "model/checkpoint.h"

/* Fills inv_freq [head_dim / 2], radians per position; returns the factor that cosines and sines
 * carry (1 except for yarn). */
float rope_frequencies(const RopeConfig *rope, uint32_t head_dim, float *inv_freq);
