/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * IEEE half floats (binary16: 1 bit of sign, 5 of exponent, 10 of mantissa) as 16-bit patterns.
 * What is made here is at most 65504 in size: no float becomes an infinity. NaN stays NaN.
 */

#include <stdint.h>
#include <string.h>

/* The half nearest to x; of two as near, the even one. */
uint16_t half_nearest(float x);

/* The least half that is not below x, which must not be negative. */
uint16_t half_ceil(float x);

static inline float half_value(uint16_t half) {
    /* Exponent and mantissa moved to f32's places are 2^-112 of the value, subnormals included;
     * exponent 31 (infinity, NaN) becomes 255. */
    uint32_t u = (half & 0x7fffu) << 13, special = (half & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
    float x;

    memcpy(&x, &u, sizeof(x));
    x *= 0x1p112f;
    memcpy(&u, &x, sizeof(u));
    u |= special | (half & 0x8000u) << 16;
    memcpy(&x, &u, sizeof(x));
    return x;
}
