/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The readable reference of cuda/kv_block.h: a sealed block of the CUDA backend as numbers.
 */

#include "kvcache/kv_format.h"

/* x [64][head_dim], for keys and values alike. `format` quantizes. */
void cuda_block_to_f32(KvFormat format, KvSide side, uint32_t head_dim, const uint8_t *block,
                       float *x);
