/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the GPU seals, code by code: blocks read back by cuda/kv_block.h are to be the definition's
 * numbers (tests/unit/conformance/seal.h), every one of them. Skipped where there is no GPU.
 *
 *   test_cuda_seal [head_dim]
 */
#include "cuda/cuda_backend.h"
#include "kvcache/rounding.h"
#include "tests/unit/conformance/seal.h"
#include "tests/unit/cuda_block.h"
#include "tests/unit/random.h"
#include "util/half.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HEADS 3 /* plain rounding, one path, and as many as there are */
#define PAGES 3
#define TOKENS (PAGES * KV_PAGE_TOKENS)

static const BackendOps *ops = &cuda_ops;

typedef struct Sealing {
    Backend *backend;
    Random random;
    uint32_t only; /* head_dim; 0: all */
    uint32_t n;    /* head_dim */
    KvStore store;
    KvPlan plan;
    Rounding *roundings[HEADS];
    uint16_t *own[KV_SIDES]; /* [TOKENS, HEADS, n] */
    DevAddr device[KV_SIDES];
} Sealing;

static DevAddr device_new(Sealing *s, size_t n_bytes) {
    Reason why = REASON_NULL;
    DevAddr at;

    assert_int_equal(ops->memory_new(s->backend, &at, n_bytes, "a test", &why), 0);
    return at;
}

/* Some channels louder than others; now and then steps of equal numbers, huge ones, none at all. */
static uint16_t random_half(Random *r, uint32_t c) {
    float x = random_normal(r) * expf(0.7f * sinf((float)(7 * c)));

    switch (random_below(r, 40)) {
    case 0:
        return half_nearest(x * 1000);
    case 1:
        return half_nearest(rintf(x * 2) / 2);
    case 2:
        return random_below(r, 50) ? 0 : 0x7c00; /* infinity */
    case 3:
        return random_below(r, 50) ? 0x8000 : 0x7e01; /* not a number */
    default:
        return half_nearest(x);
    }
}

static void new_roundings(Sealing *s) {
    uint32_t n = s->n;
    float *moment = calloc((size_t)n * n, sizeof(*moment)), *q = calloc(2 * n, sizeof(*q));

    random_normals(&s->random, q + n, n);
    for (uint32_t k = 0; k < 2 * n; k++) {
        float common = 3 * random_normal(&s->random);

        for (uint32_t i = 0; i < n; i++)
            q[i] = (random_normal(&s->random) + common) * expf(q[n + i]);
        for (size_t i = 0; i < (size_t)n * n; i++)
            moment[i] += q[i / n] * q[i % n];
    }
    for (uint32_t h = 0; h < HEADS; h++) {
        s->roundings[h] = malloc(rounding_bytes(n));
        if (h)
            assert_int_equal(
                rounding_init(s->roundings[h], moment, n, 0.03, h == 1 ? 1 : ROUNDING_PATHS_MAX),
                0);
        else
            rounding_init_plain(s->roundings[h], n);
    }
    free(moment);
    free(q);
}

static void sealing_init(Sealing *s, KvFormat k, KvFormat v) {
    static const uint32_t windows[] = { 0 };
    KvGeometry geometry = { 1, HEADS, s->n };
    Reason why = REASON_NULL;
    size_t bytes = 0;

    s->plan.formats[0][KV_SIDE_K] = k;
    s->plan.formats[0][KV_SIDE_V] = v;
    assert_int_equal(kv_store_layout(&s->store, &(KvShape){ .geometry = geometry,
                                                            .plan = &s->plan,
                                                            .n_pages = PAGES,
                                                            .n_tails = 1,
                                                            .n_sinks = 1 }),
                     0);
    s->store.base = device_new(s, s->store.size_bytes);
    new_roundings(s);
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
        size_t n_own = (size_t)TOKENS * HEADS * s->n;

        s->own[side] = malloc(n_own * 2);
        for (size_t i = 0; i < n_own; i++)
            s->own[side][i] = random_half(&s->random, (uint32_t)(i % s->n));
        s->device[side] = device_new(s, n_own * 2);
    }
    assert_int_equal(ops->reserve(s->backend,
                                  &(ReserveArgs){ .geometry = geometry,
                                                  .n_heads = HEADS,
                                                  .n_cols_max = HEADS * s->n,
                                                  .n_vocab = 64,
                                                  .windows = windows,
                                                  .n_windows = 1,
                                                  .max_rows = TOKENS,
                                                  .max_sequences = 1,
                                                  .max_pages = PAGES },
                                  &bytes, &why),
                     0);
}

static void sealing_deinit(Sealing *s) {
    ops->memory_free(s->backend, s->store.base);
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
        ops->memory_free(s->backend, s->device[side]);
        free(s->own[side]);
    }
    for (uint32_t h = 0; h < HEADS; h++)
        free(s->roundings[h]);
}

/* Tokens n_past .. n_past + n_rows - 1 into the cache. */
static void hold(Sealing *s, const KvLayer *layer, uint32_t n_past, uint32_t n_rows) {
    static const uint32_t tokens[TOKENS], indptr[] = { 0, PAGES }, indices[PAGES] = { 2, 0, 1 };
    StepSequence sequence = { 0, n_rows, n_past, 0, 0 };
    size_t row_bytes = (size_t)HEADS * s->n * 2;
    const SampleResult *results;

    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
        assert_int_equal(ops->upload(s->backend, s->device[side],
                                     (uint8_t *)s->own[side] + n_past * row_bytes,
                                     n_rows * row_bytes),
                         0);
    assert_int_equal(ops->step_begin(s->backend, &(StepInput){ .n_rows = n_rows,
                                                               .n_sequences = 1,
                                                               .tokens = tokens,
                                                               .sequences = &sequence,
                                                               .page_indptr = indptr,
                                                               .page_indices = indices }),
                     0);
    assert_int_equal(ops->attention(s->backend, &(AttentionArgs){ .k = s->device[KV_SIDE_K],
                                                                  .v = s->device[KV_SIDE_V],
                                                                  .layer = layer,
                                                                  .n_heads = HEADS,
                                                                  .scale = 1 }),
                     0);
    assert_int_equal(ops->step_end(s->backend), 0);
    assert_int_equal(ops->step_wait(s->backend, &results), 0);
}

/* Page `page` of the sequence, which lies in page i of the store. */
static void check_block(Sealing *s, const KvLayer *layer, KvSide side, uint32_t head, uint32_t page,
                        uint32_t i_page) {
    KvFormat format = layer->sides[side].format;
    size_t n_numbers = (size_t)KV_PAGE_TOKENS * s->n;
    uint8_t *block = malloc(layer->sides[side].block_bytes);
    float *expected = malloc(n_numbers * 4), *sealed = malloc(n_numbers * 4);

    for (size_t i = 0; i < n_numbers; i++)
        expected[i] = half_value(
            s->own[side][((page * KV_PAGE_TOKENS + i / s->n) * HEADS + head) * s->n + i % s->n]);
    sealed_values(format, side, s->n, expected, s->roundings[head]);
    assert_int_equal(ops->download(s->backend, block, kv_layer_block(layer, side, i_page, head),
                                   layer->sides[side].block_bytes),
                     0);
    cuda_block_to_f32(format, side, s->n, block, sealed);
    for (size_t i = 0; i < n_numbers; i++)
        if (sealed[i] != expected[i])
            fail_msg("%c at %s, head_dim %u, head %u, page %u, token %zu, channel %zu: %a, not %a",
                     side == KV_SIDE_K ? 'K' : 'V', kv_formats[format].name, s->n, head, page,
                     i / s->n, i % s->n, sealed[i], expected[i]);
    free(block);
    free(expected);
    free(sealed);
}

/* Pages out of a step's own tokens, out of a tail alone but for one token, and out of both. */
static void check_formats(Sealing *s, KvFormat k, KvFormat v) {
    uint32_t cut = 1 + random_below(&s->random, KV_PAGE_TOKENS - 2);
    KvLayer layer;

    sealing_init(s, k, v);
    layer = kv_store_layer(&s->store, 0);
    for (uint32_t h = 0; h < HEADS; h++)
        assert_int_equal(ops->upload(s->backend, kv_layer_rounding(&layer, h), s->roundings[h],
                                     s->store.rounding_bytes),
                         0);
    hold(s, &layer, 0, KV_PAGE_TOKENS + cut);
    hold(s, &layer, KV_PAGE_TOKENS + cut, KV_PAGE_TOKENS - cut - 1);
    hold(s, &layer, 2 * KV_PAGE_TOKENS - 1, 1);
    hold(s, &layer, 2 * KV_PAGE_TOKENS, cut);
    hold(s, &layer, 2 * KV_PAGE_TOKENS + cut, KV_PAGE_TOKENS - cut);
    for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
        for (uint32_t h = 0; h < HEADS; h++)
            for (uint32_t page = 0; page < PAGES; page++)
                check_block(s, &layer, side, h, page, (page + 2) % PAGES);
    sealing_deinit(s);
}

static void test_blocks_are_the_definitions(void **state) {
    static const uint32_t dims[] = { 8, 24, 64, 80, 96, 128, 136, 256, 264, 512 };
    const uint32_t n_formats = KV_FORMATS - KV_FORMAT_F16 - 1;
    Sealing *s = *state;

    for (size_t i = 0; i < sizeof(dims) / sizeof(*dims); i++)
        for (uint32_t f = 0; f < n_formats && (!s->only || dims[i] == s->only); f++) {
            s->n = dims[i];
            check_formats(s, (KvFormat)(KV_FORMAT_F16 + 1 + f),
                          (KvFormat)(KV_FORMAT_F16 + 1 + (f + i) % n_formats));
        }
}

int main(int argc, char **argv) {
    static Sealing sealing;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_blocks_are_the_definitions, &sealing),
    };
    Reason why = REASON_NULL;
    int r;

    sealing.random = random_start("cuda_seal");
    sealing.only = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    r = cuda_backend_new(&sealing.backend, &(CudaBackendOptions){ .i_device = 0 }, &why);
    if (r == -ENODEV || r == -ENOTSUP) {
        printf("skipped: %s\n", why.text);
        return 77;
    }
    r = r ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
    sealing.backend = ops->free(sealing.backend);
    return r;
}
