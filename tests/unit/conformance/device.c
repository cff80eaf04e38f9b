/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/conformance/conformance.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#define GUARD_BYTES 128
#define GUARD 0xa5

/* life */

void device_open(Device *d, const Subject *subject, const char *check) {
    Reason why = REASON_NULL;

    *d = (Device){ .subject = subject, .ops = subject->ops, .random = random_start(check) };
    if (subject->open(&d->backend, subject, &why))
        fail_msg("%s: %s", subject->name, why.text);
}

void device_close(Device *d) {
    case_end(d);
    d->backend = d->ops->free(d->backend);
}

static void check_guard(Device *d, const DeviceMemory *memory) {
    uint8_t guard[GUARD_BYTES];

    device_get(d, guard, memory->address + memory->size_bytes, GUARD_BYTES);
    for (uint32_t i = 0; i < GUARD_BYTES; i++)
        if (guard[i] != GUARD)
            fail_msg("%s: byte %u behind %zu was written", d->subject->name, i, memory->size_bytes);
}

void case_end(Device *d) {
    for (; d->n_memories; d->n_memories--) {
        check_guard(d, &d->memories[d->n_memories - 1]);
        d->ops->memory_free(d->backend, d->memories[d->n_memories - 1].address);
    }
    for (; d->n_weights; d->n_weights--)
        assert_null(d->ops->weight_free(d->backend, d->weights[d->n_weights - 1]));
    for (; d->n_hosts; d->n_hosts--)
        free(d->hosts[d->n_hosts - 1]);
}

/* memory */

void *host_new(Device *d, size_t n, size_t each_bytes) {
    void *memory = calloc(n + 1, each_bytes);

    assert_non_null(memory);
    assert_true(d->n_hosts < CASE_THINGS_MAX);
    return d->hosts[d->n_hosts++] = memory;
}

float *host_normals(Device *d, size_t n) {
    float *x = host_new(d, n, sizeof(*x));

    random_normals(&d->random, x, n);
    return x;
}

DevAddr device_new(Device *d, size_t size_bytes) {
    uint8_t guard[GUARD_BYTES];
    DevAddr address = 0;

    memset(guard, GUARD, sizeof(guard));
    assert_true(d->n_memories < CASE_THINGS_MAX);
    assert_int_equal(
        d->ops->memory_new(d->backend, &address, size_bytes + GUARD_BYTES, "a test", NULL), 0);
    assert_int_equal(d->ops->upload(d->backend, address + size_bytes, guard, GUARD_BYTES), 0);
    d->memories[d->n_memories++] = (DeviceMemory){ address, size_bytes };
    return address;
}

DevAddr device_put(Device *d, const void *from, size_t size_bytes) {
    DevAddr address = device_new(d, size_bytes);

    assert_int_equal(d->ops->upload(d->backend, address, from, size_bytes), 0);
    return address;
}

void device_get(Device *d, void *to, DevAddr from, size_t size_bytes) {
    assert_int_equal(d->ops->download(d->backend, to, from, size_bytes), 0);
}

/* activations */

/* To nearest even. */
static uint16_t bf16_of(float x) {
    uint32_t u;

    memcpy(&u, &x, sizeof(u));
    return (uint16_t)(isnan(x) ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float bf16_value(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float x;

    memcpy(&x, &u, sizeof(x));
    return x;
}

static void numbers_round(uint32_t each_bytes, float *x, size_t n) {
    for (size_t i = 0; each_bytes == 2 && i < n; i++)
        x[i] = bf16_value(bf16_of(x[i]));
}

static void numbers_upload(Device *d, uint32_t each_bytes, DevAddr to, const float *x, size_t n) {
    uint16_t *halves;

    if (each_bytes == 4) {
        assert_int_equal(d->ops->upload(d->backend, to, x, n * sizeof(*x)), 0);
        return;
    }
    halves = malloc(n * sizeof(*halves));
    assert_non_null(halves);
    for (size_t i = 0; i < n; i++)
        halves[i] = bf16_of(x[i]);
    assert_int_equal(d->ops->upload(d->backend, to, halves, n * sizeof(*halves)), 0);
    free(halves);
}

static DevAddr numbers_put(Device *d, uint32_t each_bytes, float *x, size_t n) {
    DevAddr address = device_new(d, n * each_bytes);

    numbers_round(each_bytes, x, n);
    numbers_upload(d, each_bytes, address, x, n);
    return address;
}

static float *numbers_get(Device *d, uint32_t each_bytes, DevAddr from, size_t n) {
    float *x = host_new(d, n, sizeof(*x));
    uint16_t *halves = (uint16_t *)x;

    device_get(d, x, from, n * each_bytes);
    for (size_t i = n; each_bytes == 2 && i--;)
        x[i] = bf16_value(halves[i]);
    return x;
}

void acts_round(const Device *d, float *x, size_t n) {
    numbers_round(d->ops->act_bytes, x, n);
}

void acts_upload(Device *d, DevAddr to, const float *x, size_t n) {
    numbers_upload(d, d->ops->act_bytes, to, x, n);
}

DevAddr acts_new(Device *d, size_t n) {
    return device_new(d, n * d->ops->act_bytes);
}

DevAddr acts_put(Device *d, float *x, size_t n) {
    return numbers_put(d, d->ops->act_bytes, x, n);
}

float *acts_get(Device *d, DevAddr from, size_t n) {
    return numbers_get(d, d->ops->act_bytes, from, n);
}

DevAddr residual_new(Device *d, size_t n) {
    return device_new(d, n * d->ops->residual_bytes);
}

DevAddr residual_put(Device *d, float *x, size_t n) {
    return numbers_put(d, d->ops->residual_bytes, x, n);
}

float *residual_get(Device *d, DevAddr from, size_t n) {
    return numbers_get(d, d->ops->residual_bytes, from, n);
}

/* steps */

void reserve_rows(Device *d, uint32_t max_rows, uint32_t n_cols_max, uint32_t n_vocab) {
    static const uint32_t windows[] = { 0 };
    size_t bytes = 0;

    assert_int_equal(
        d->ops->reserve(
            d->backend,
            &(ReserveArgs){ .geometry = { .n_layers = 1, .n_kv_heads = 1, .head_dim = 64 },
                            .n_heads = 1,
                            .n_cols_max = n_cols_max,
                            .n_vocab = n_vocab,
                            .windows = windows,
                            .n_windows = 1,
                            .max_rows = max_rows,
                            .max_sequences = max_rows,
                            .max_pages = max_rows + max_rows / KV_PAGE_TOKENS },
            &bytes, NULL),
        0);
    assert_true(bytes > 0);
}

void begin_rows(Device *d, uint32_t n_rows) {
    uint32_t n_pages = (n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    StepSequence sequence = { .n_rows = n_rows, .sink = KV_NO_SINK };
    uint32_t indptr[] = { 0, n_pages };
    StepInput input = { .n_rows = n_rows,
                        .n_sequences = 1,
                        .tokens = host_new(d, n_rows, sizeof(uint32_t)),
                        .sequences = &sequence,
                        .page_indptr = indptr,
                        .page_indices = host_new(d, n_pages, sizeof(uint32_t)) };

    assert_int_equal(d->ops->step_begin(d->backend, &input), 0);
}

void end_step(Device *d) {
    const SampleResult *results;

    assert_int_equal(d->ops->step_end(d->backend), 0);
    assert_int_equal(d->ops->step_wait(d->backend, &results), 0);
}

/* comparing */

double norm_of(const double *x, size_t n) {
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    return sqrt(squares);
}

double error_of(const float *out, const double *ref, size_t n, double norm) {
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += (out[i] - ref[i]) * (out[i] - ref[i]);
    return sqrt(squares) <= FLT_MIN * sqrt((double)n) ? 0 : sqrt(squares) / norm;
}

void expect_rows(const Device *d, const char *what, const float *out, const double *ref,
                 uint32_t n_rows, uint32_t dim, double tolerance) {
    for (uint32_t r = 0; r < n_rows; r++) {
        size_t at = (size_t)r * dim;
        double error = error_of(out + at, ref + at, dim, norm_of(ref + at, dim));

        if (!(error <= tolerance))
            fail_msg("%s: %s of %u rows of %u: row %u is off by %g", d->subject->name, what, n_rows,
                     dim, r, error);
    }
}
