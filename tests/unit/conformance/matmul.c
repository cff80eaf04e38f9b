/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of every weight format against their definition. Errors are relative to what the norm
 * would be if no terms cancelled: of a few outputs, what is left after cancelling may be anything.
 */
#include "tests/unit/conformance/conformance.h"

#include <stdlib.h>
#include <string.h>

#define COLS_MAX 1024
#define ROWS_MAX 200
#define TOKENS_MAX 150

/* weights */

/* A positive or negative f16 of magnitude 2^-7 .. 2^-2. */
static void put_f16(Random *r, uint8_t *p) {
    uint16_t x = (uint16_t)((random_u64(r) & 0x83ff) | (8 + random_below(r, 5)) << 10);

    memcpy(p, &x, sizeof(x));
}

static void random_plain(Random *r, WeightFormat format, uint8_t *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float x = random_normal(r);

        if (format == WEIGHT_F32)
            memcpy(data + 4 * i, &x, 4);
        else if (format == WEIGHT_BF16)
            memcpy(data + 2 * i, (uint8_t *)&x + 2, 2);
        else
            put_f16(r, data + 2 * i);
    }
}

/* Any bytes make a valid block, but scales must be sane numbers. */
static void random_blocks(Random *r, WeightFormat format, uint8_t *data, size_t n_blocks) {
    size_t block_bytes = weight_formats[format].block_bytes;

    for (size_t i = 0; i < n_blocks * block_bytes; i++)
        data[i] = (uint8_t)random_u64(r);
    for (uint8_t *block = data; block < data + n_blocks * block_bytes; block += block_bytes) {
        put_f16(r, format == WEIGHT_Q6_K ? block + 208 : block);
        if (format == WEIGHT_Q4_1 || format == WEIGHT_Q5_1 || format == WEIGHT_Q4_K ||
            format == WEIGHT_Q5_K)
            put_f16(r, block + 2);
    }
}

static uint32_t *random_order(Device *d, uint32_t n) {
    uint32_t *order = host_new(d, n, sizeof(*order));

    for (uint32_t i = 0; i < n; i++)
        order[i] = random_below(&d->random, n);
    return order;
}

Matrix matrix_new(Device *d, WeightFormat format, uint32_t n_rows, uint32_t n_cols,
                  bool is_ordered) {
    size_t row_bytes = weight_row_bytes(format, n_cols);
    uint8_t *data = host_new(d, n_rows, row_bytes);
    Matrix m = { .format = format,
                 .n_rows = n_rows,
                 .n_cols = n_cols,
                 .values = host_new(d, (size_t)n_rows * n_cols, sizeof(float)) };
    WeightSource source = { .name = "a test's",
                            .format = format,
                            .n_rows = n_rows,
                            .n_cols = n_cols,
                            .data = data,
                            .row_order = is_ordered ? random_order(d, n_rows) : NULL };

    if (weight_formats[format].block_values == 1)
        random_plain(&d->random, format, data, (size_t)n_rows * n_cols);
    else
        random_blocks(&d->random, format, data,
                      (size_t)n_rows * n_cols / weight_formats[format].block_values);
    for (uint32_t r = 0; r < n_rows; r++)
        weight_to_f32(format, data + (is_ordered ? source.row_order[r] : r) * row_bytes,
                      m.values + (size_t)r * n_cols, n_cols);
    assert_true(d->n_weights < CASE_THINGS_MAX);
    assert_int_equal(d->ops->weights_new(d->backend, &m.weight, &source, 1, NULL), 0);
    d->weights[d->n_weights++] = m.weight;
    return m;
}

/* Whole blocks of a format, or any number of columns of a plain one. */
static uint32_t random_cols(Random *r, WeightFormat format) {
    uint32_t block_values = weight_formats[format].block_values;

    return block_values * random_size(r, (block_values == 1 ? 700 : COLS_MAX) / block_values);
}

/* Of a product, and of rounding its result, which may be larger than `norm`, to an activation. */
static double product_tolerance(const Device *d, WeightFormat format, bool to_act,
                                const double *ref, size_t n, double norm) {
    const Tolerance *t = d->subject->tolerance;
    double rounding = to_act && norm > 0 ? t->rounding * norm_of(ref, n) / norm : 0;

    return rounding +
           (weight_formats[format].block_values == 1 ? t->float_product : t->block_product);
}

/* the reference */

/* sqrt of the sum of all (w x)^2 goes into *normp. */
static double *product_reference(Device *d, const Matrix *m, const float *in, uint32_t n_tokens,
                                 double *normp) {
    double *out = host_new(d, (size_t)n_tokens * m->n_rows, sizeof(*out)), squares = 0;

    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < m->n_rows; r++) {
            double sum = 0;

            for (uint32_t c = 0; c < m->n_cols; c++) {
                double term =
                    (double)m->values[(size_t)r * m->n_cols + c] * in[(size_t)t * m->n_cols + c];

                sum += term;
                squares += term * term;
            }
            out[(size_t)t * m->n_rows + r] = sum;
        }
    *normp = sqrt(squares);
    return out;
}

/* One part without anything more. */
static float *product(Device *d, const Matrix *m, DevAddr in, uint32_t n_tokens) {
    size_t n_out = (size_t)n_tokens * m->n_rows;
    MatmulPart part = { .weight = m->weight, .out = acts_new(d, n_out) };

    assert_int_equal(
        d->ops->matmul(
            d->backend,
            &(MatmulArgs){ .in = in, .n_tokens = n_tokens, .n_parts = 1, .parts = &part }),
        0);
    return acts_get(d, part.out, n_out);
}

static void expect_product(Device *d, const Matrix *m, float *x, uint32_t n_tokens) {
    DevAddr in = acts_put(d, x, (size_t)n_tokens * m->n_cols);
    double norm, error;
    const double *ref = product_reference(d, m, x, n_tokens, &norm);

    error = error_of(product(d, m, in, n_tokens), ref, (size_t)n_tokens * m->n_rows, norm);
    if (!(error <= product_tolerance(d, m->format, true, ref, (size_t)n_tokens * m->n_rows, norm)))
        fail_msg("%s: %s [%u, %u] of %u tokens is off by %g", d->subject->name,
                 weight_formats[m->format].name, m->n_rows, m->n_cols, n_tokens, error);
}

/* checks */

void check_matmul_of_every_format(Device *d) {
    reserve_rows(d, TOKENS_MAX, COLS_MAX, 1);
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++)
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t n_tokens = random_size(&d->random, i ? 12 : TOKENS_MAX);
            uint32_t n_rows = random_size(&d->random, i ? ROWS_MAX : 40);
            Matrix m = matrix_new(d, format, n_rows, random_cols(&d->random, format), i % 2);

            begin_rows(d, n_tokens);
            expect_product(d, &m, host_normals(d, (size_t)n_tokens * m.n_cols), n_tokens);
            assert_true(d->ops->weight_bytes(m.weight) < 5 * (size_t)m.n_rows * m.n_cols + 100000);
            end_step(d);
            case_end(d);
        }
}

/* What a part's output is after the op, by the definition. */
static void add_part(const MatmulPart *part, const float *bias, const float *before, double *ref,
                     uint32_t n_tokens, uint32_t n_rows) {
    for (size_t i = 0; i < (size_t)n_tokens * n_rows; i++)
        ref[i] += (part->bias ? bias[i % n_rows] : 0) + (part->accumulate ? before[i] : 0);
}

/* Parts of several formats share an input; each has a bias or not, adds or not. */
static void check_parts(Device *d, uint32_t n_parts, bool out_f32) {
    static const WeightFormat formats[] = { WEIGHT_Q4_K, WEIGHT_BF16, WEIGHT_Q6_K, WEIGHT_Q4_0,
                                            WEIGHT_F32 };
    enum { N_COLS = 512, PARTS_MAX = 4 };
    uint32_t n_tokens = random_size(&d->random, 30);
    float *x = host_normals(d, (size_t)n_tokens * N_COLS), *bias[PARTS_MAX], *before[PARTS_MAX];
    DevAddr in = acts_put(d, x, (size_t)n_tokens * N_COLS);
    Matrix m[PARTS_MAX];
    MatmulPart parts[PARTS_MAX];

    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t n_rows = random_size(&d->random, 90);
        size_t n_out = (size_t)n_tokens * n_rows;

        m[i] = matrix_new(d, formats[random_below(&d->random, 5)], n_rows, N_COLS, false);
        bias[i] = host_normals(d, n_rows);
        before[i] = host_normals(d, n_out);
        parts[i] = (MatmulPart){
            .weight = m[i].weight,
            .bias = random_below(&d->random, 2) ? device_put(d, bias[i], n_rows * 4) : 0,
            .accumulate = random_below(&d->random, 2),
        };
        parts[i].out = out_f32               ? device_put(d, before[i], n_out * 4)
                       : parts[i].accumulate ? residual_put(d, before[i], n_out)
                                             : acts_put(d, before[i], n_out);
    }
    begin_rows(d, n_tokens);
    assert_int_equal(d->ops->matmul(d->backend, &(MatmulArgs){ .in = in,
                                                               .n_tokens = n_tokens,
                                                               .n_parts = n_parts,
                                                               .parts = parts,
                                                               .out_f32 = out_f32 }),
                     0);
    end_step(d);
    for (uint32_t i = 0; i < n_parts; i++) {
        size_t n_out = (size_t)n_tokens * m[i].n_rows;
        double norm, *ref = product_reference(d, &m[i], x, n_tokens, &norm);
        float *out = host_new(d, n_out, sizeof(*out));

        add_part(&parts[i], bias[i], before[i], ref, n_tokens, m[i].n_rows);
        if (out_f32)
            device_get(d, out, parts[i].out, n_out * sizeof(*out));
        else if (parts[i].accumulate)
            out = residual_get(d, parts[i].out, n_out);
        else
            out = acts_get(d, parts[i].out, n_out);
        if (!(error_of(out, ref, n_out, norm) <= product_tolerance(d, m[i].format,
                                                                   !out_f32 && !parts[i].accumulate,
                                                                   ref, n_out, norm)))
            fail_msg("%s: part %u of %u, %s, bias %d, accumulate %d, f32 %d: off by %g",
                     d->subject->name, i, n_parts, weight_formats[m[i].format].name,
                     parts[i].bias != 0, parts[i].accumulate, out_f32,
                     error_of(out, ref, n_out, norm));
    }
    case_end(d);
}

void check_matmul_of_parts(Device *d) {
    reserve_rows(d, TOKENS_MAX, COLS_MAX, 1);
    for (uint32_t i = 0; i < 16; i++)
        check_parts(d, 1 + i % 4, i / 4 % 2);
}

/* Each token alone, so that a loud one hides nothing: one activation 10^6 times the others; zeros;
 * tiny; huge; equal; some tiny and some denormal. */
static void fill_hard(Random *r, uint32_t kind, float *x, uint32_t n) {
    random_normals(r, x, n);
    for (uint32_t i = 0; i < n; i++)
        switch (kind) {
        case 0:
            x[i] *= i ? 1 : 1e6f;
            break;
        case 1:
            x[i] = 0;
            break;
        case 2:
            x[i] *= 1e-25f;
            break;
        case 3:
            x[i] *= 1e20f;
            break;
        case 4:
            x[i] = 0.7f;
            break;
        default:
            x[i] *= i % 64 < 32 ? 1e-40f : 1e-20f;
        }
}

void check_matmul_of_hard_input(Device *d) {
    enum { KINDS = 6 };

    reserve_rows(d, TOKENS_MAX, COLS_MAX, 1);
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++) {
        Matrix m = matrix_new(d, format, 70, 512, false);

        begin_rows(d, 1);
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            float *x = host_new(d, m.n_cols, sizeof(*x));

            fill_hard(&d->random, kind, x, m.n_cols);
            expect_product(d, &m, x, 1);
        }
        end_step(d);
        case_end(d);
    }
}

/* A row among many, and in chunks, is what it is alone. */
static void check_exact_rows(Device *d, WeightFormat format) {
    uint32_t n_tokens = 1 + random_below(&d->random, TOKENS_MAX), chunk;
    Matrix m = matrix_new(d, format, random_size(&d->random, ROWS_MAX),
                          random_cols(&d->random, format), false);
    float *x = host_normals(d, (size_t)n_tokens * m.n_cols), *whole;
    DevAddr in = acts_put(d, x, (size_t)n_tokens * m.n_cols);

    begin_rows(d, n_tokens);
    whole = product(d, &m, in, n_tokens);
    end_step(d);
    for (uint32_t t = 0; t < n_tokens; t += chunk) {
        size_t n_left = n_tokens - t;
        float *part;

        chunk = 1 + random_below(&d->random, random_below(&d->random, 2) ? 1 : 40);
        chunk = chunk < n_left ? chunk : (uint32_t)n_left;
        begin_rows(d, chunk);
        part = product(d, &m, in + (size_t)t * m.n_cols * d->ops->act_bytes, chunk);
        end_step(d);
        if (memcmp(part, whole + (size_t)t * m.n_rows, (size_t)chunk * m.n_rows * sizeof(*part)))
            fail_msg("%s: %s [%u, %u]: tokens %u to %u of %u differ", d->subject->name,
                     weight_formats[format].name, m.n_rows, m.n_cols, t, t + chunk - 1, n_tokens);
    }
    case_end(d);
}

void check_matmul_rows_are_exact(Device *d) {
    if (!d->ops->row_exact)
        skip();
    reserve_rows(d, TOKENS_MAX, COLS_MAX, 1);
    for (WeightFormat format = 0; format < WEIGHT_FORMATS; format++)
        check_exact_rows(d, format);
}
