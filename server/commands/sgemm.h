/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How fast the system's matrix library multiplies f32 matrices: what prefill is measured against.
 *
 * oneDNN or OpenBLAS is opened when asked for and used for nothing else: our own kernels are faster
 * on every shape and format that was tried, and a library's result for a row depends on how many
 * rows share the call.
 */

#include "util/reason.h"

#include <stdint.h>

typedef struct SgemmRate {
    const char *library; /* its file's name */
    double madds_per_s;  /* multiply-adds a second */
} SgemmRate;

/* [n_tokens, n_in] · [n_out, n_in]ᵀ on n_threads threads, best of several: about a second.
 * -ENOENT: no library is installed; -ENOMEM. */
int sgemm_measure(uint32_t n_threads, uint32_t n_tokens, uint32_t n_out, uint32_t n_in,
                  SgemmRate *rate, Reason *why);
