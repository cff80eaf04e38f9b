/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/hadamard.h"

#include <math.h>
#include <stddef.h>

uint32_t hadamard_block(uint32_t n) {
    return n & (0 - n);
}

void hadamard_apply(float *x, uint32_t n) {
    uint32_t block = hadamard_block(n);
    float scale = (float)(1 / sqrt((double)block));

    for (uint32_t half = 1; half < block; half *= 2)
        for (uint32_t i = 0; i < n; i += 2 * half)
            for (uint32_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];

                x[j] = a + b;
                x[j + half] = a - b;
            }
    for (uint32_t i = 0; i < n; i++)
        x[i] *= scale;
}
