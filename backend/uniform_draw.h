/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The random number of a draw, which is common to all backends: equal seeds draw alike.
 */

#include "util/device_fn.h"

#include <stdint.h>

/* Uniform in [0, 1), 53 bits, from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
 * as 1, 2, 3", SC 2011): key = seed, counter = i_output. */
DEVICE_FN double uniform_draw(uint64_t seed, uint32_t i_output) {
    uint32_t c[4] = { i_output, 0, 0, 0 };
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53 * c[0], b = (uint64_t)0xCD9E8D57 * c[2];
        uint32_t c1 = c[1], c3 = c[3];

        c[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return (double)((((uint64_t)c[1] << 32) | c[0]) >> 11) * 0x1p-53;
}
