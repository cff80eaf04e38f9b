/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the device of a session can do at most, measured: how fast it reads memory, and how fast the
 * system's or the vendor's library multiplies matrices on it. These are the floors of benchmarks.
 */

#include "server/commands/session.h"

#include <stdbool.h>

typedef struct DeviceRates {
    char name[256];
    bool is_gpu;
    uint32_t n_units;        /* threads, or multiprocessors */
    size_t cache_bytes;      /* of the largest cache */
    double read_bytes_per_s; /* of memory that no cache holds; of a GPU what it reads and writes,
                                copying */
    double weights_read_bytes_per_s; /* of as many bytes as the weights are, over and over */
    const char *library;             /* NULL: none is installed */
    double madds_per_s;              /* by it, multiply-adds a second */
    uint32_t n_tokens, n_in, n_out;  /* of what it multiplies: f32, on a GPU bf16 */
} DeviceRates;

/* `n_threads`: of the CPU, 0: one for each core. weight_bytes: of all weights that a token reads.
 * Takes some seconds. Where there is no library `why` says so, and it is no error. */
int device_rates_measure(DeviceRates *out, Session *session, uint32_t n_threads,
                         double weight_bytes, Reason *why);
