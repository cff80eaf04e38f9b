/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the gate of a gated MLP goes through.
 */

typedef enum Activation {
    ACTIVATION_SILU,      /* x / (1 + exp(-x)) */
    ACTIVATION_GELU_TANH, /* x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) */
} Activation;
