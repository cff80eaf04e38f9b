/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sealing, compiled once per instruction set with KV_SEAL naming the function (cpu/meson.build);
 * reached through CpuKvKernels.
 */

#include "cpu/kv_kernels.h"

void KV_SEAL(KvFormat format, KvSide side, uint32_t head_dim, const uint16_t *tail,
             const Rounding *rounding, void *block, CpuKvScratch *scratch);
