/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ops that treat each row alone: embed, rmsnorm, gated, gather_rows; and what profiles are
 * made of: moments, covariances.
 */
#include "kvcache/kv_format.h"
#include "tests/unit/conformance/conformance.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 40
#define COVARIANCE_ROWS_MAX 200

/* What a row may be made of: each hard on another part of an op. */
typedef enum RowKind {
    ROW_NORMAL,
    ROW_ZEROS,
    ROW_EQUAL,
    ROW_HUGE,
    ROW_TINY,
    ROW_DENORMAL,
    ROW_OUTLIER,
    ROW_KINDS
} RowKind;

static void fill_row(Random *r, RowKind kind, float *x, uint32_t n) {
    static const float sizes[ROW_KINDS] = {
        [ROW_NORMAL] = 1,    [ROW_EQUAL] = 1,         [ROW_HUGE] = 1e15f,
        [ROW_TINY] = 1e-15f, [ROW_DENORMAL] = 1e-40f, [ROW_OUTLIER] = 1,
    };
    float first = random_normal(r);

    for (uint32_t i = 0; i < n; i++)
        x[i] = sizes[kind] * (kind == ROW_EQUAL ? first : random_normal(r));
    if (kind == ROW_OUTLIER)
        x[random_below(r, n)] = 1e6f;
}

/* [n_rows, dim]: the kinds in turn. */
static float *hard_rows(Device *d, uint32_t n_rows, uint32_t dim) {
    float *x = host_new(d, (size_t)n_rows * dim, sizeof(*x));

    for (uint32_t r = 0; r < n_rows; r++)
        fill_row(&d->random, r % ROW_KINDS, x + (size_t)r * dim, dim);
    return x;
}

/* embed */

static void check_embed_of(Device *d, WeightFormat format) {
    uint32_t n_vocab = random_size(&d->random, 300), n_rows = random_size(&d->random, ROWS_MAX);
    uint32_t dim = weight_formats[format].block_values *
                   (1 + random_below(&d->random, 600 / weight_formats[format].block_values));
    Matrix table = matrix_new(d, format, n_vocab, dim, random_below(&d->random, 2));
    DevAddr out = residual_new(d, (size_t)n_rows * dim);
    double *ref = host_new(d, (size_t)n_rows * dim, sizeof(*ref));
    uint32_t *tokens = host_new(d, n_rows, sizeof(*tokens));
    StepSequence sequence = { .n_rows = n_rows, .sink = KV_NO_SINK };
    uint32_t indptr[] = { 0, 1 }, page = 0;
    float scale = random_below(&d->random, 2) ? 1 : 0.5f + (float)random_below(&d->random, 30);
    StepInput input = { .n_rows = n_rows,
                        .n_sequences = 1,
                        .tokens = tokens,
                        .sequences = &sequence,
                        .page_indptr = indptr,
                        .page_indices = &page };

    reserve_rows(d, ROWS_MAX, dim, n_vocab);
    for (uint32_t r = 0; r < n_rows; r++) {
        tokens[r] = r ? random_below(&d->random, n_vocab) : n_vocab - 1;
        for (uint32_t c = 0; c < dim; c++)
            ref[(size_t)r * dim + c] = (double)table.values[(size_t)tokens[r] * dim + c] * scale;
    }
    assert_int_equal(d->ops->step_begin(d->backend, &input), 0);
    memset(tokens, 0xff, n_rows * sizeof(*tokens)); /* they were borrowed for step_begin alone */
    assert_int_equal(
        d->ops->embed(d->backend,
                      &(EmbedArgs){ .out = out, .table = table.weight, .scale = scale }),
        0);
    end_step(d);
    expect_rows(d, weight_formats[format].name, residual_get(d, out, (size_t)n_rows * dim), ref,
                n_rows, dim, d->subject->tolerance->rounding);
    case_end(d);
}

void check_embed(Device *d) {
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++)
        check_embed_of(d, format);
}

/* rmsnorm */

static void rmsnorm_reference(double *out, const float *in, const float *weight, uint32_t dim,
                              float epsilon) {
    double squares = 0;

    for (uint32_t i = 0; i < dim; i++)
        squares += (double)in[i] * in[i];
    for (uint32_t i = 0; i < dim; i++)
        out[i] = in[i] / sqrt(squares / dim + (double)epsilon) * weight[i];
}

/* Where the result goes. */
typedef enum NormOut { NORM_IN_PLACE, NORM_BESIDE, NORM_ADDED, NORM_OUTS } NormOut;

static void check_rmsnorm_of(Device *d, uint32_t n_rows, uint32_t dim, float epsilon, NormOut to) {
    float *x = hard_rows(d, n_rows, dim), *weight = host_normals(d, dim);
    size_t n = (size_t)n_rows * dim;
    float *before = host_normals(d, n);
    bool in_residual = to == NORM_BESIDE && random_below(&d->random, 2);
    DevAddr in = in_residual ? residual_put(d, x, n) : acts_put(d, x, n);
    DevAddr out = to == NORM_IN_PLACE ? in
                  : to == NORM_ADDED  ? residual_put(d, before, n)
                                      : acts_put(d, before, n);
    double *ref = host_new(d, n, sizeof(*ref));

    for (uint32_t r = 0; r < n_rows; r++)
        rmsnorm_reference(ref + (size_t)r * dim, x + (size_t)r * dim, weight, dim, epsilon);
    for (size_t i = 0; to == NORM_ADDED && i < n; i++)
        ref[i] += before[i];
    begin_rows(d, n_rows);
    assert_int_equal(
        d->ops->rmsnorm(d->backend, &(RmsnormArgs){ .out = out,
                                                    .in = in,
                                                    .in_residual = in_residual,
                                                    .accumulate = to == NORM_ADDED,
                                                    .weight = device_put(d, weight, dim * 4),
                                                    .n_rows = n_rows,
                                                    .dim = dim,
                                                    .epsilon = epsilon }),
        0);
    end_step(d);
    expect_rows(d, "rmsnorm", to == NORM_ADDED ? residual_get(d, out, n) : acts_get(d, out, n), ref,
                n_rows, dim, d->subject->tolerance->rounding + d->subject->tolerance->sum);
    case_end(d);
}

void check_rmsnorm(Device *d) {
    static const float epsilons[] = { 1e-5f, 1e-6f, 1e-2f };

    reserve_rows(d, ROWS_MAX, 64, 1);
    for (uint32_t dim = 1; dim < 5000; dim += 1 + dim / 5)
        check_rmsnorm_of(d, random_size(&d->random, ROWS_MAX), dim,
                         epsilons[random_below(&d->random, 3)],
                         (NormOut)random_below(&d->random, NORM_OUTS));
}

/* gated */

/* Gates where exp is at its ends, and one past them. */
static void put_hard_gates(Random *r, float *gate, size_t n) {
    static const float hard[] = {
        0, -0.0f, 87, -87, 88.5f, -88.5f, 103, -103, 1e30f, -1e30f, 1e-40f
    };

    for (size_t i = 0; i < sizeof(hard) / sizeof(*hard); i++)
        gate[random_below(r, (uint32_t)n)] = hard[i];
}

static double activate(Activation activation, double x) {
    if (activation == ACTIVATION_SILU)
        return x / (1 + exp(-x));
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* What a gate far below zero lets through is next to nothing; by tanh it is the difference of two
 * numbers that are nearly equal, so that it is exact only beside the gate. */
static double gated_error(const Device *d, Activation activation, float gate, float up,
                          double ref) {
    double product = fabs((double)gate * up),
           saturated = 1e-36 * product; /* exp ends with floats */

    return d->subject->tolerance->rounding * (activation == ACTIVATION_SILU ? fabs(ref) : product) +
           saturated + FLT_MIN;
}

static void check_gated_of(Device *d, Activation activation, uint32_t n_rows, uint32_t dim,
                           bool in_place) {
    size_t n = (size_t)n_rows * dim;
    float *gate = host_normals(d, n), *up = host_normals(d, n), *got;
    DevAddr in, out;

    put_hard_gates(&d->random, gate, n);
    in = acts_put(d, gate, n);
    out = in_place ? in : acts_new(d, n);
    begin_rows(d, n_rows);
    assert_int_equal(d->ops->gated(d->backend, &(GatedArgs){ .out = out,
                                                             .gate = in,
                                                             .up = acts_put(d, up, n),
                                                             .n_tokens = n_rows,
                                                             .dim = dim,
                                                             .activation = activation }),
                     0);
    end_step(d);
    got = acts_get(d, out, n);
    for (size_t i = 0; i < n; i++) {
        double ref = activate(activation, gate[i]) * up[i];

        if (!(fabs(got[i] - ref) <= gated_error(d, activation, gate[i], up[i], ref)))
            fail_msg("%s: activation %d, gate %g, up %g: %g, not %g", d->subject->name, activation,
                     gate[i], up[i], got[i], ref);
    }
    case_end(d);
}

void check_gated(Device *d) {
    reserve_rows(d, ROWS_MAX, 64, 1);
    for (uint32_t dim = 1; dim < 2000; dim += 1 + dim / 4)
        check_gated_of(d, (Activation)random_below(&d->random, 2),
                       random_size(&d->random, ROWS_MAX), dim, random_below(&d->random, 2));
}

/* moments */

static void add_moments(double *ref, const float *q, const MomentsArgs *args) {
    uint32_t n = args->head_dim, group = args->n_heads / args->n_kv_heads;

    for (uint32_t t = 0; t < args->n_tokens; t++)
        for (uint32_t h = 0; h < args->n_heads; h++) {
            const float *x = q + ((size_t)t * args->n_heads + h) * n;
            double *to = ref + (size_t)(h / group) * n * n;

            for (uint32_t i = 0; i < n * n; i++)
                to[i] += (double)x[i / n] * x[i % n];
        }
}

static void check_moments_of(Device *d, uint32_t n_kv_heads, uint32_t group, uint32_t head_dim) {
    size_t n_out = (size_t)n_kv_heads * head_dim * head_dim;
    MomentsArgs args = { .out = device_new(d, n_out * sizeof(float)), /* zeros */
                         .n_heads = n_kv_heads * group,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = head_dim };
    double *ref = host_new(d, n_out, sizeof(*ref));
    float *out = host_new(d, n_out, sizeof(*out));

    for (int step = 0; step < 2; step++) { /* the second adds to the first */
        float *q;

        args.n_tokens = random_size(&d->random, ROWS_MAX);
        q = host_normals(d, (size_t)args.n_tokens * args.n_heads * head_dim);
        args.q = acts_put(d, q, (size_t)args.n_tokens * args.n_heads * head_dim);
        begin_rows(d, args.n_tokens);
        assert_int_equal(d->ops->moments(d->backend, &args), 0);
        end_step(d);
        add_moments(ref, q, &args);
    }
    device_get(d, out, args.out, n_out * sizeof(float));
    expect_rows(d, "moments", out, ref, n_kv_heads, head_dim * head_dim,
                d->subject->tolerance->sum);
    case_end(d);
}

void check_moments(Device *d) {
    static const uint32_t dims[] = { 2, 30, 64, 80, 128, 256 };

    reserve_rows(d, ROWS_MAX, 64, 1);
    for (size_t i = 0; i < sizeof(dims) / sizeof(*dims); i++)
        check_moments_of(d, 1 + random_below(&d->random, 3), 1 + random_below(&d->random, 4),
                         dims[i]);
}

/* covariances */

static void add_covariances(double *ref, const uint16_t *k, const CovariancesArgs *args) {
    uint32_t n = args->head_dim, n_whole = args->n_tokens / KV_PAGE_TOKENS * KV_PAGE_TOKENS;

    for (uint32_t i = 0; i < args->n_kv_heads * n; i++)
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t first = 0; first < n_whole; first += KV_PAGE_TOKENS) {
                double x_mean = 0, y_mean = 0, product = 0;

                for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++) {
                    const uint16_t *row = k + (size_t)(first + t) * args->n_kv_heads * n;
                    double x = kv_16bit_value(args->format, row[i]);
                    double y = kv_16bit_value(args->format, row[i / n * n + j]);

                    x_mean += x / KV_PAGE_TOKENS;
                    y_mean += y / KV_PAGE_TOKENS;
                    product += x * y;
                }
                ref[(size_t)i * n + j] += product - KV_PAGE_TOKENS * x_mean * y_mean;
            }
}

static uint16_t exact_bits(KvFormat format, float x) {
    uint32_t u;

    if (format == KV_FORMAT_F16)
        return half_nearest(x);
    memcpy(&u, &x, sizeof(u));
    return (uint16_t)(u >> 16);
}

static void check_covariances_of(Device *d, KvFormat format, uint32_t n_kv_heads,
                                 uint32_t head_dim) {
    size_t n_out = (size_t)n_kv_heads * head_dim * head_dim, n_row = (size_t)n_kv_heads * head_dim;
    CovariancesArgs args = { .out = device_new(d, n_out * sizeof(float)), /* zeros */
                             .format = format,
                             .n_kv_heads = n_kv_heads,
                             .head_dim = head_dim };
    double *ref = host_new(d, n_out, sizeof(*ref));
    float *out = host_new(d, n_out, sizeof(*out));

    for (int step = 0; step < 2; step++) { /* the second adds to the first */
        uint16_t *k;

        args.n_tokens =
            KV_PAGE_TOKENS + random_below(&d->random, COVARIANCE_ROWS_MAX - KV_PAGE_TOKENS + 1);
        k = host_new(d, args.n_tokens * n_row, sizeof(*k));
        for (size_t i = 0; i < args.n_tokens * n_row; i++) /* channels have means */
            k[i] = exact_bits(format, random_normal(&d->random) + (float)(i % head_dim % 5));
        args.k = device_put(d, k, args.n_tokens * n_row * sizeof(*k));
        begin_rows(d, args.n_tokens);
        assert_int_equal(d->ops->covariances(d->backend, &args), 0);
        end_step(d);
        add_covariances(ref, k, &args);
    }
    device_get(d, out, args.out, n_out * sizeof(float));
    expect_rows(d, "covariances", out, ref, n_kv_heads, head_dim * head_dim,
                d->subject->tolerance->sum);
    case_end(d);
}

void check_covariances(Device *d) {
    static const uint32_t dims[] = { 2, 30, 64, 80, 128, 256 };

    reserve_rows(d, COVARIANCE_ROWS_MAX, 64, 1);
    for (size_t i = 0; i < sizeof(dims) / sizeof(*dims); i++)
        check_covariances_of(d, random_below(&d->random, 2) ? KV_FORMAT_F16 : KV_FORMAT_BF16,
                             1 + random_below(&d->random, 3), dims[i]);
}

/* gather_rows */

static void check_gather_of(Device *d, uint32_t n_rows, uint32_t dim) {
    uint32_t n_wanted = random_size(&d->random, n_rows), first = random_below(&d->random, n_wanted);
    uint32_t n = n_wanted - first, indptr[] = { 0, 1 }, page = 0;
    float *x = host_normals(d, (size_t)n_rows * dim), *out, *ref = host_new(d, (size_t)n * dim, 4);
    StepLogits *wanted = host_new(d, n_wanted, sizeof(*wanted));
    StepSequence sequence = { .n_rows = n_rows, .sink = KV_NO_SINK };
    StepInput input = { .n_rows = n_rows,
                        .n_sequences = 1,
                        .n_logit_rows = n_wanted,
                        .tokens = host_new(d, n_rows, sizeof(uint32_t)),
                        .sequences = &sequence,
                        .page_indptr = indptr,
                        .page_indices = &page,
                        .logit_rows = wanted };
    GatherRowsArgs args = { .out = residual_new(d, (size_t)n * dim),
                            .in = residual_put(d, x, (size_t)n_rows * dim),
                            .first = first,
                            .n_rows = n,
                            .dim = dim };

    for (uint32_t i = 0; i < n_wanted; i++) {
        wanted[i] = (StepLogits){ .row = random_below(&d->random, n_rows), .n_top_logprobs = -1 };
        if (i >= first)
            memcpy(ref + (size_t)(i - first) * dim, x + (size_t)wanted[i].row * dim, dim * 4);
    }
    assert_int_equal(d->ops->step_begin(d->backend, &input), 0);
    memset(wanted, 0xff, n_wanted * sizeof(*wanted));
    assert_int_equal(d->ops->gather_rows(d->backend, &args), 0);
    end_step(d);
    out = residual_get(d, args.out, (size_t)n * dim);
    assert_memory_equal(out, ref, (size_t)n * dim * sizeof(*out));
    case_end(d);
}

void check_gather_rows(Device *d) {
    reserve_rows(d, ROWS_MAX, 64, 1);
    for (uint32_t dim = 1; dim < 1500; dim += 1 + dim / 4)
        check_gather_of(d, random_size(&d->random, ROWS_MAX), dim);
}
