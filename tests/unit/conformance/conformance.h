/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What every backend must do, as backend/ops.h says it. A subject is a backend opened in one way; a
 * check takes one op of it, or one promise, through random and adversarial cases, and compares with
 * a reference in double that is written down beside the check. Only subjects.c knows which backends
 * there are.
 *
 * Each case takes its memory from the device below, host and backend alike, and case_end gives all
 * of it back: a check frees nothing. Behind every address lie guard bytes, which no op may change.
 */

#include "backend/ops.h"
#include "tests/unit/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* ||out - ref|| / ||ref|| that a subject may have. */
typedef struct Tolerance {
    double rounding;   /* of an op whose arithmetic is a few roundings, the last to an activation */
    double sum;        /* of one that adds up thousands of numbers, which may be equal, in f32 */
    double arithmetic; /* of a few roundings and short sums where none is to an activation */
    double float_product; /* of a product with f32, f16 or bf16 weights */
    double block_product; /* with weights in blocks */
    double attention;     /* times one plus the size of the scores */
} Tolerance;

typedef struct Subject Subject;

struct Subject {
    const char *name;
    const BackendOps *ops;
    int (*open)(Backend **outp, const Subject *subject, Reason *why); /* -ENOTSUP: not here */
    int variant;
    uint32_t n_threads;
    const Tolerance *tolerance;
};

extern const Subject subjects[];
extern const size_t n_subjects;

#define CASE_THINGS_MAX 2048

typedef struct DeviceMemory {
    DevAddr address;
    size_t size_bytes; /* in front of the guard bytes */
} DeviceMemory;

/* An open subject, and what the case at hand took of it. */
typedef struct Device {
    const Subject *subject;
    const BackendOps *ops;
    Backend *backend;
    Random random;
    DeviceMemory memories[CASE_THINGS_MAX];
    Weight *weights[CASE_THINGS_MAX];
    void *hosts[CASE_THINGS_MAX];
    uint32_t n_memories, n_weights, n_hosts;
} Device;

void device_open(Device *d, const Subject *subject, const char *check);
void device_close(Device *d);
void case_end(Device *d);

/* memory of a case */

void *host_new(Device *d, size_t n, size_t each_bytes); /* zeros */
float *host_normals(Device *d, size_t n);
DevAddr device_new(Device *d, size_t size_bytes);
DevAddr device_put(Device *d, const void *from, size_t size_bytes);
void device_get(Device *d, void *to, DevAddr from, size_t size_bytes);

/* Activations are floats here, and what the backend has them as there. */
void acts_round(const Device *d, float *x, size_t n);
void acts_upload(Device *d, DevAddr to, const float *x, size_t n);
DevAddr acts_put(Device *d, float *x, size_t n); /* rounds x to what is put */
DevAddr acts_new(Device *d, size_t n);
float *acts_get(Device *d, DevAddr from, size_t n);
/* The same of the residual stream. */
DevAddr residual_put(Device *d, float *x, size_t n);
DevAddr residual_new(Device *d, size_t n);
float *residual_get(Device *d, DevAddr from, size_t n);

/* weights of a case */

typedef struct Matrix {
    WeightFormat format;
    uint32_t n_rows, n_cols;
    float *values; /* [n_rows][n_cols], as weight_to_f32 reads them */
    Weight *weight;
} Matrix;

/* Random values; the rows are stored in random order where `is_ordered`. */
Matrix matrix_new(Device *d, WeightFormat format, uint32_t n_rows, uint32_t n_cols,
                  bool is_ordered);

/* steps */

/* Reserves for steps of ops that read no cache. */
void reserve_rows(Device *d, uint32_t max_rows, uint32_t n_cols_max, uint32_t n_vocab);
/* A step of one sequence. */
void begin_rows(Device *d, uint32_t n_rows);
void end_step(Device *d);

/* comparing */

/* ||out - ref|| / norm. Numbers below the least normal float may come out as 0, or as each other.
 */
double error_of(const float *out, const double *ref, size_t n, double norm);
double norm_of(const double *x, size_t n);
/* Fails unless every row of out [n_rows, dim] is as near to ref as the tolerance says. */
void expect_rows(const Device *d, const char *what, const float *out, const double *ref,
                 uint32_t n_rows, uint32_t dim, double tolerance);

/* An odd number of n's size, or a border of it: 1, n. */
static inline uint32_t random_size(Random *r, uint32_t n) {
    return random_below(r, 8) ? 1 + random_below(r, n) : random_below(r, 2) ? 1 : n;
}

/* checks: one file an op, or a few that are alike */

void check_memory_is_aligned_zeros(Device *d);
void check_memory_comes_back(Device *d);
void check_memory_is_refused_by_purpose(Device *d);

void check_embed(Device *d);
void check_rmsnorm(Device *d);
void check_gated(Device *d);
void check_moments(Device *d);
void check_covariances(Device *d);
void check_gather_rows(Device *d);

void check_matmul_of_every_format(Device *d);
void check_matmul_of_parts(Device *d);
void check_matmul_of_hard_input(Device *d);
void check_matmul_rows_are_exact(Device *d);

void check_rope_table(Device *d);
void check_rope(Device *d);
void check_rope_holds_what_halves_can(Device *d);

void check_attention_of_every_pair_of_formats(Device *d);
void check_attention_of_every_head_dim(Device *d);
void check_attention_of_many_query_heads(Device *d);
void check_attention_of_a_long_past(Device *d);
void check_attention_of_hard_values(Device *d);
void check_attention_rows_are_exact(Device *d);

void check_sample_takes_the_largest(Device *d);
void check_sample_draws_by_the_distribution(Device *d);
void check_sample_logprobs(Device *d);
void check_sample_stays_in_masks(Device *d);
void check_sample_with_nothing_but_a_mask(Device *d);
void check_sample_follows_what_it_draws(Device *d);
void check_sample_draws_alike_alone(Device *d);
