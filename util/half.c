/* SPDX-License-Identifier: Apache-2.0 */
#include "util/half.h"

#include <math.h>

static uint32_t float_bits(float x) {
    uint32_t u;

    memcpy(&u, &x, sizeof(u));
    return u;
}

/* `subnormal`: |x| rounded to a multiple of 2^-24, the step of subnormal halves, which normal ones
 * go on from; `carry`: what rounding adds below the 10 bits of mantissa that stay. */
static uint16_t half_of(float x, float subnormal, uint32_t carry) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;

    if (isnan(x))
        return sign | 0x7e00;
    if (fabsf(x) >= 65504)
        return sign | 0x7bff;
    if (fabsf(x) < 0x1p-14f)
        return sign | (uint16_t)subnormal;
    /* Rounding up to the next power of two carries into the exponent field, as it should. */
    return sign | (uint16_t)(((float_bits(fabsf(x)) + carry) >> 13) - ((127 - 15) << 10));
}

uint16_t half_nearest(float x) {
    return half_of(x, rintf(fabsf(x) * 0x1p24f), 0xfff + (float_bits(x) >> 13 & 1));
}

uint16_t half_ceil(float x) {
    return half_of(x, ceilf(fabsf(x) * 0x1p24f), 0x1fff);
}
