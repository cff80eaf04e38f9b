/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What people write after --kv: a uniform pair, or a plan by layer from a file.
 *
 *   f16, bf16     both sides of every layer in 16-bit floats of that kind
 *   k4v2          K at 4 bits, V at 2; each of 16 (f16), 8, 6, 5, 4, 3, 2
 *   plan:FILE     JSON: {"layers": [{"k": 4, "v": 2}, ...]}, one entry a layer
 */

#include "kvcache/kv_layout.h"
#include "util/reason.h"

/* -EINVAL with the words in `why`: a bad spec, or a plan that does not fit n_layers. */
int kv_spec_parse(KvPlan *plan, const char *spec, uint32_t n_layers, Reason *why);
