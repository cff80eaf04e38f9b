/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rotation tables at near and far positions, and the rotation of queries, keys and values on the
 * way to what the tails are.
 */
#include "kvcache/hadamard.h"
#include "kvcache/key_transform.h"
#include "kvcache/kv_format.h"
#include "tests/unit/conformance/conformance.h"

#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 40

static float *random_frequencies(Device *d, uint32_t n_freqs) {
    float *inv_freq = host_new(d, n_freqs, sizeof(*inv_freq));

    for (uint32_t c = 0; c < n_freqs; c++)
        inv_freq[c] = (float)pow(10000, -(double)c / n_freqs);
    return inv_freq;
}

/* rope_table */

typedef struct TableCase {
    StepSequence sequences[3];
    uint32_t n_sequences, n_rows;
    uint32_t indptr[4];
} TableCase;

/* Sequences with pasts from none to 100,000 tokens. */
static TableCase random_table_case(Random *r) {
    static const uint32_t pasts[] = { 0, 1, 63, 4097, 100003 };
    TableCase c = { .n_sequences = 1 + random_below(r, 3) };

    for (uint32_t i = 0; i < c.n_sequences; i++) {
        StepSequence *s = &c.sequences[i];

        *s = (StepSequence){ .first_row = c.n_rows,
                             .n_rows = random_size(r, 12),
                             .n_past = pasts[random_below(r, 5)],
                             .slot = i,
                             .sink = KV_NO_SINK };
        c.n_rows += s->n_rows;
        c.indptr[i + 1] = c.indptr[i] + (s->n_past + s->n_rows + 63) / KV_PAGE_TOKENS;
    }
    return c;
}

static double *table_reference(Device *d, const TableCase *c, const float *inv_freq, uint32_t n,
                               float scale) {
    double *ref = host_new(d, (size_t)c->n_rows * 2 * n, sizeof(*ref));

    for (uint32_t i = 0; i < c->n_sequences; i++)
        for (uint32_t r = 0; r < c->sequences[i].n_rows; r++) {
            double *row = ref + (size_t)(c->sequences[i].first_row + r) * 2 * n;

            for (uint32_t k = 0; k < n; k++) {
                float angle = (float)(c->sequences[i].n_past + r) * inv_freq[k];

                row[k] = cos((double)angle) * scale;
                row[n + k] = sin((double)angle) * scale;
            }
        }
    return ref;
}

static void check_table_of(Device *d, uint32_t n_freqs, float scale) {
    TableCase c = random_table_case(&d->random);
    float *inv_freq = random_frequencies(d, n_freqs);
    size_t n_out = (size_t)c.n_rows * 2 * n_freqs;
    float *out = host_new(d, n_out, sizeof(*out));
    StepInput input = { .n_rows = c.n_rows,
                        .n_sequences = c.n_sequences,
                        .tokens = host_new(d, c.n_rows, sizeof(uint32_t)),
                        .sequences = c.sequences,
                        .page_indptr = c.indptr,
                        .page_indices = host_new(d, c.indptr[c.n_sequences], sizeof(uint32_t)) };
    RopeTableArgs args = { .out = device_new(d, n_out * sizeof(*out)),
                           .inv_freq = device_put(d, inv_freq, n_freqs * sizeof(*inv_freq)),
                           .n_freqs = n_freqs,
                           .scale = scale };

    assert_int_equal(d->ops->step_begin(d->backend, &input), 0);
    assert_int_equal(d->ops->rope_table(d->backend, &args), 0);
    end_step(d);
    device_get(d, out, args.out, n_out * sizeof(*out));
    expect_rows(d, "rope_table", out, table_reference(d, &c, inv_freq, n_freqs, scale), c.n_rows,
                2 * n_freqs, d->subject->tolerance->arithmetic);
    case_end(d);
}

void check_rope_table(Device *d) {
    reserve_rows(d, 6000, 64, 1); /* for the pages of long pasts */
    for (uint32_t n = 1; n <= 256; n += 1 + n / 3)
        check_table_of(d, n, random_below(&d->random, 2) ? 1 : 1.25f);
}

/* rope */

typedef struct RopeCase {
    uint32_t n_rows, n_heads, n_kv_heads, head_dim, n_freqs;
    KvLayer layer; /* rope asks it for formats and transforms alone: no other memory is there */
    KeyTransform **transforms; /* [n_kv_heads]; NULL where keys are not quantized */
    float *q, *k, *v, *table;
} RopeCase;

/* Any matrices, or those of the Hadamard transform. */
static void init_transform(Device *d, KeyTransform *t, uint32_t n) {
    float *matrices = (float *)(void *)(t + 1);

    key_transform_init_plain(t, n);
    if (random_below(&d->random, 4) == 0)
        return;
    t->is_plain = false;
    for (size_t i = 0; i < 2 * (size_t)n * n; i++)
        matrices[i] = random_normal(&d->random) / sqrtf((float)n);
}

static void init_transforms(Device *d, RopeCase *c) {
    size_t bytes = key_transform_bytes(c->head_dim);

    c->layer.transform_bytes = (uint32_t)bytes;
    c->layer.transforms = device_new(d, c->n_kv_heads * bytes);
    c->transforms = host_new(d, c->n_kv_heads, sizeof(*c->transforms));
    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        c->transforms[h] = host_new(d, 1, bytes);
        init_transform(d, c->transforms[h], c->head_dim);
        assert_int_equal(
            d->ops->upload(d->backend, kv_layer_transform(&c->layer, h), c->transforms[h], bytes),
            0);
    }
}

static RopeCase rope_case(Device *d, KvFormat k, KvFormat v, uint32_t head_dim) {
    RopeCase c = { .n_rows = random_size(&d->random, ROWS_MAX),
                   .n_kv_heads = 1 + random_below(&d->random, 3),
                   .head_dim = head_dim,
                   .n_freqs = random_below(&d->random, 2)
                                  ? head_dim / 2
                                  : 1 + random_below(&d->random, head_dim / 2) };

    c.n_heads = c.n_kv_heads * (1 + random_below(&d->random, 4));
    c.layer = (KvLayer){ .sides = { { .format = k }, { .format = v } },
                         .n_kv_heads = c.n_kv_heads,
                         .head_dim = head_dim };
    if (kv_layer_rotates(&c.layer, KV_SIDE_K))
        init_transforms(d, &c);
    c.q = host_normals(d, (size_t)c.n_rows * c.n_heads * head_dim);
    c.k = host_normals(d, (size_t)c.n_rows * c.n_kv_heads * head_dim);
    c.v = host_normals(d, (size_t)c.n_rows * c.n_kv_heads * head_dim);
    c.table = host_new(d, (size_t)c.n_rows * 2 * c.n_freqs, sizeof(float));
    for (uint32_t i = 0; i < c.n_rows * c.n_freqs; i++) {
        float *row = c.table + (size_t)(i / c.n_freqs) * 2 * c.n_freqs;
        double angle = 2 * M_PI * random_uniform(&d->random);

        row[i % c.n_freqs] = (float)cos(angle);
        row[c.n_freqs + i % c.n_freqs] = (float)sin(angle);
    }
    return c;
}

/* x = H x, in double: entry (i, j) of a block of Sylvester's matrix is -1 to the bits that i and j
 * share. */
static void hadamard_reference(double *x, uint32_t n) {
    uint32_t block = hadamard_block(n);
    double y[KV_HEAD_DIM_MAX];

    for (uint32_t i = 0; i < n; i++) {
        y[i] = 0;
        for (uint32_t j = 0; j < block; j++)
            y[i] += (__builtin_popcount(i % block & j) % 2 ? -1 : 1) * x[i - i % block + j];
    }
    for (uint32_t i = 0; i < n; i++)
        x[i] = y[i] / sqrt(block);
}

/* x = matrix x, in double. */
static void transform_reference(double *x, const float *matrix, uint32_t n) {
    double y[KV_HEAD_DIM_MAX] = { 0 };

    for (uint32_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < n; i++)
            y[i] += x[j] * matrix[(size_t)j * n + i];
    memcpy(x, y, n * sizeof(*x));
}

typedef enum RopeVector { ROPE_QUERY, ROPE_KEY, ROPE_VALUE } RopeVector;

/* What a vector of KV head `head` goes through after the table. */
static void cache_reference(const RopeCase *c, RopeVector kind, uint32_t head, double *x) {
    if (!kv_layer_rotates(&c->layer, kind == ROPE_VALUE ? KV_SIDE_V : KV_SIDE_K))
        return;
    if (kind == ROPE_VALUE || c->transforms[head]->is_plain)
        hadamard_reference(x, c->head_dim);
    else
        transform_reference(x,
                            kind == ROPE_KEY ? key_transform_of_keys(c->transforms[head])
                                             : key_transform_of_queries(c->transforms[head]),
                            c->head_dim);
}

/* [n_rows, n_heads, head_dim] of the case, rotated by the table (or not, for values), and as the
 * cache has them. */
static double *rope_reference(Device *d, const RopeCase *c, RopeVector kind) {
    const float *const inputs[] = { c->q, c->k, c->v }, *x = inputs[kind];
    uint32_t n_heads = kind == ROPE_QUERY ? c->n_heads : c->n_kv_heads;
    bool by_table = kind != ROPE_VALUE;
    double *out = host_new(d, (size_t)c->n_rows * n_heads * c->head_dim, sizeof(*out));

    for (uint32_t i = 0; i < c->n_rows * n_heads; i++) {
        const float *row = c->table + (size_t)(i / n_heads) * 2 * c->n_freqs;
        const float *from = x + (size_t)i * c->head_dim;
        double *to = out + (size_t)i * c->head_dim;

        for (uint32_t j = 0; j < c->head_dim; j++)
            to[j] = from[j];
        for (uint32_t j = 0; by_table && j < c->n_freqs; j++) {
            double a = from[j], b = from[j + c->n_freqs];

            to[j] = a * row[j] - b * row[c->n_freqs + j];
            to[j + c->n_freqs] = b * row[j] + a * row[c->n_freqs + j];
        }
        cache_reference(c, kind, i % n_heads / (n_heads / c->n_kv_heads), to);
    }
    return out;
}

/* Every number is the 16-bit one nearest to the reference, but for the arithmetic before. */
static void expect_exact(const Device *d, KvFormat format, const uint16_t *out, const double *ref,
                         uint32_t n_vectors, uint32_t dim) {
    double half_step = format == KV_FORMAT_F16 ? 0x1p-11 : 0x1p-8;

    for (uint32_t i = 0; i < n_vectors; i++) {
        const double *r = ref + (size_t)i * dim;
        double slack = d->subject->tolerance->arithmetic * norm_of(r, dim) + 0x1p-25;

        for (uint32_t j = 0; j < dim; j++) {
            double got = kv_16bit_value(format, out[(size_t)i * dim + j]);

            if (!(fabs(got - r[j]) <= half_step * fabs(r[j]) + slack))
                fail_msg("%s: %s of %.9g is %.9g", d->subject->name, kv_formats[format].name, r[j],
                         got);
        }
    }
}

static void check_side(Device *d, const RopeCase *c, KvSide side, DevAddr out) {
    size_t n = (size_t)c->n_rows * c->n_kv_heads * c->head_dim;
    uint16_t *got = host_new(d, n, sizeof(*got));

    device_get(d, got, out, n * sizeof(*got));
    expect_exact(d, kv_layer_tail_format(&c->layer, side), got,
                 rope_reference(d, c, side == KV_SIDE_K ? ROPE_KEY : ROPE_VALUE),
                 c->n_rows * c->n_kv_heads, c->head_dim);
}

/* The op, on a case's inputs. */
static RopeArgs rope(Device *d, const RopeCase *c) {
    size_t n_q = (size_t)c->n_rows * c->n_heads * c->head_dim;
    size_t n_kv = (size_t)c->n_rows * c->n_kv_heads * c->head_dim;
    RopeArgs args = { .q = acts_put(d, c->q, n_q),
                      .k = acts_put(d, c->k, n_kv),
                      .v = acts_put(d, c->v, n_kv),
                      .k_out = device_new(d, n_kv * 2),
                      .v_out = device_new(d, n_kv * 2),
                      .table = device_put(d, c->table, (size_t)c->n_rows * 2 * c->n_freqs * 4),
                      .n_tokens = c->n_rows,
                      .n_heads = c->n_heads,
                      .n_kv_heads = c->n_kv_heads,
                      .head_dim = c->head_dim,
                      .n_freqs = c->n_freqs,
                      .layer = &c->layer };

    begin_rows(d, c->n_rows);
    assert_int_equal(d->ops->rope(d->backend, &args), 0);
    end_step(d);
    return args;
}

static void check_rope_of(Device *d, KvFormat k, KvFormat v, uint32_t head_dim) {
    const Tolerance *tolerance = d->subject->tolerance;
    RopeCase c = rope_case(d, k, v, head_dim);
    RopeArgs args = rope(d, &c);

    expect_rows(d, "rope's queries", acts_get(d, args.q, (size_t)c.n_rows * c.n_heads * head_dim),
                rope_reference(d, &c, ROPE_QUERY), c.n_rows * c.n_heads, head_dim,
                tolerance->rounding + (c.transforms ? tolerance->arithmetic : 0));
    check_side(d, &c, KV_SIDE_K, args.k_out);
    check_side(d, &c, KV_SIDE_V, args.v_out);
    case_end(d);
}

void check_rope(Device *d) {
    static const KvFormat pairs[][2] = { { KV_FORMAT_BF16, KV_FORMAT_BF16 },
                                         { KV_FORMAT_F16, KV_FORMAT_F16 },
                                         { KV_FORMAT_4, KV_FORMAT_F16 },
                                         { KV_FORMAT_F16, KV_FORMAT_2 },
                                         { KV_FORMAT_8, KV_FORMAT_3 } };
    static const uint32_t dims[] = { 8, 40, 64, 96, 256 };

    reserve_rows(d, ROWS_MAX, 64, 1);
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
        for (size_t j = 0; j < sizeof(dims) / sizeof(*dims); j++)
            check_rope_of(d, pairs[i][0], pairs[i][1], dims[j]);
    check_rope_of(d, KV_FORMAT_2, KV_FORMAT_2, 512);
    check_rope_of(d, KV_FORMAT_BF16, KV_FORMAT_BF16, 2);
    check_rope_of(d, KV_FORMAT_F16, KV_FORMAT_F16, 54);
}

/* In f16, what is beyond +-65504 becomes that, and NaN stays; bf16 keeps them all. */
void check_rope_holds_what_halves_can(Device *d) {
    static const float odd[] = { INFINITY, -INFINITY, 65504, 65520, -1e30f, NAN, 1e-40f, -3e-6f };
    enum { N_ODD = sizeof(odd) / sizeof(*odd) };

    reserve_rows(d, ROWS_MAX, 64, 1);
    for (KvFormat format = KV_FORMAT_BF16; format <= KV_FORMAT_F16; format++)
        for (uint32_t dim = 32; dim < 100; dim += 14) {
            RopeCase c = rope_case(d, format, format, dim);
            size_t n = (size_t)c.n_rows * c.n_kv_heads * dim;
            uint16_t *got = host_new(d, n, sizeof(*got));

            for (size_t i = 0; i < n; i++)
                c.v[i] = odd[random_below(&d->random, N_ODD)];
            device_get(d, got, rope(d, &c).v_out, n * sizeof(*got));
            for (size_t i = 0; i < n; i++) {
                double most = format == KV_FORMAT_F16 ? 65504 : INFINITY;
                double want = fmax(-most, fmin(most, c.v[i])), is = kv_16bit_value(format, got[i]);

                if (isnan(c.v[i]) ? !isnan(is)
                    : isinf(want) ? is != want
                                  : !(fabs(is - want) <= 0x1p-8 * fabs(want) + 0x1p-25))
                    fail_msg("%s: %s of %g is %g", d->subject->name, kv_formats[format].name,
                             c.v[i], is);
            }
            case_end(d);
        }
}
