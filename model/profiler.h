/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What of a profile is read off the weights alone.
 */

#include "kvcache/profile.h"
#include "model/checkpoint.h"

/* Frobenius and spectral norms of W_K and W_V of every layer, arXiv 2502.15075's: of the matrices
 * that make keys and values of hidden states, all heads together, without their biases. -ENOMEM;
 * -ERANGE: weights that are not finite. */
int profiler_weight_norms(Profile *profile, const Checkpoint *checkpoint);
