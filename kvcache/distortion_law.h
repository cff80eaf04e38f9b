/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How distortion falls with bits: D(b) = alpha beta^-b (RateQuant, arXiv 2605.06675), b the bits of
 * a code, fitted to what a profile has of one side. 4^-b is what a uniform quantizer of many levels
 * would do; the formats of this cache do not.
 */

#include "kvcache/profile.h"

typedef struct DistortionLaw {
    double alpha;    /* geometric mean of the layers' */
    double beta;     /* what a bit divides by */
    double residual; /* root mean square of ln(D / fitted D), each layer with its own alpha */
    uint32_t n;      /* numbers it rests on; 0: there was nothing to fit, and all others are 0 */
} DistortionLaw;

/* Least squares of ln D over the layers and formats of a side, one beta for all layers. Numbers
 * that are 0 are left out. */
DistortionLaw distortion_law_fit(const ProfileTable table, uint32_t n_layers, KvSide side);
