/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/kv_layer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const KvGeometry geometry = { .n_layers = 3, .n_kv_heads = 2, .head_dim = 64 };

static void test_sizes_add_up_to_the_byte(void **state) {
    KvStore s;

    (void)state;
    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = geometry, .n_pages = 10, .n_tails = 4 }), 0);
    assert_int_equal(kv_store_page_bytes(&s), 3 * 2 * 2 * 64 * 64 * 2);
    assert_int_equal(kv_store_tail_bytes(&s), 3 * 2 * 2 * 64 * 64 * 2);
    assert_int_equal(s.size_bytes, 14 * kv_store_page_bytes(&s));
}

typedef struct Extent {
    uint64_t start, size;
} Extent;

static int extent_order(const void *a, const void *b) {
    const Extent *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

/* Every block and every tail block lies inside the store, aligned, and no two overlap. */
static void check_extents(const KvGeometry *g, uint32_t n_pages, uint32_t n_tails) {
    size_t n = 0, n_max = (size_t)g->n_layers * KV_SIDES * g->n_kv_heads * (n_pages + n_tails);
    Extent *extents = calloc(n_max, sizeof(*extents));
    KvStore s;

    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = *g, .n_pages = n_pages, .n_tails = n_tails }),
        0);
    s.base = 4096;
    for (uint32_t layer = 0; layer < g->n_layers; layer++) {
        KvLayer l = kv_store_layer(&s, layer);

        for (KvSide side = 0; side < KV_SIDES; side++) {
            for (uint32_t head = 0; head < g->n_kv_heads; head++) {
                for (uint32_t i = 0; i < n_pages; i++)
                    extents[n++] = (Extent){ kv_layer_block(&l, side, i, head),
                                             s.regions[layer][side].block_bytes };
                for (uint32_t i = 0; i < n_tails; i++)
                    extents[n++] = (Extent){ kv_layer_tail(&l, side, i, head), s.tail_block_bytes };
            }
        }
    }
    assert_int_equal(n, n_max);
    qsort(extents, n, sizeof(*extents), extent_order);
    assert_int_equal(extents[0].start, s.base);
    for (size_t i = 0; i < n; i++) {
        uint64_t end = extents[i].start + extents[i].size;

        assert_int_equal(extents[i].start % KV_BLOCK_ALIGN_BYTES, 0);
        assert_true(end <= (i + 1 < n ? extents[i + 1].start : s.base + s.size_bytes));
    }
    free(extents);
}

static void test_blocks_do_not_overlap(void **state) {
    (void)state;
    for (uint32_t head_dim = 2; head_dim <= 96; head_dim += 14)
        check_extents(&(KvGeometry){ .n_layers = 3, .n_kv_heads = 3, .head_dim = head_dim }, 5, 2);
    check_extents(&(KvGeometry){ .n_layers = 1, .n_kv_heads = 1, .head_dim = 256 }, 1, 1);
}

static void test_bad_geometry_is_refused(void **state) {
    static const KvGeometry bad[] = {
        { .n_layers = 0, .n_kv_heads = 2, .head_dim = 64 },
        { .n_layers = KV_LAYERS_MAX + 1, .n_kv_heads = 2, .head_dim = 64 },
        { .n_layers = 3, .n_kv_heads = 0, .head_dim = 64 },
        { .n_layers = 3, .n_kv_heads = 2, .head_dim = 0 },
        { .n_layers = 3, .n_kv_heads = 2, .head_dim = 63 },
    };
    KvStore s;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(
            kv_store_layout(&s, &(KvShape){ .geometry = bad[i], .n_pages = 1, .n_tails = 1 }),
            -EINVAL);
    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = geometry, .n_pages = 0, .n_tails = 1 }),
        -EINVAL);
    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = geometry, .n_pages = 1, .n_tails = 0 }),
        -EINVAL);
}

static void test_overflow_is_refused(void **state) {
    KvGeometry huge = { .n_layers = 512, .n_kv_heads = UINT32_MAX, .head_dim = UINT32_MAX - 1 };
    KvStore s;

    (void)state;
    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = huge, .n_pages = 1, .n_tails = 1 }),
        -EOVERFLOW);
    huge.n_kv_heads = 1;
    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = huge, .n_pages = UINT32_MAX, .n_tails = 1 }),
        -EOVERFLOW);
    assert_int_equal(
        kv_store_layout(&s, &(KvShape){ .geometry = huge, .n_pages = 1, .n_tails = UINT32_MAX }),
        -EOVERFLOW);
}

/* Tails, sinks and a step's own tokens: bf16 only where the pages themselves are. */
static void test_tails_are_f16_but_before_bf16_pages(void **state) {
    KvPlan plan = { 0 };
    KvStore s;

    (void)state;
    for (KvFormat format = 0; format < KV_FORMATS; format++) {
        KvFormat want = format == KV_FORMAT_BF16 ? KV_FORMAT_BF16 : KV_FORMAT_F16;
        KvLayer layer;

        plan.formats[1][KV_SIDE_K] = format;
        assert_int_equal(
            kv_store_layout(
                &s, &(KvShape){ .geometry = geometry, .plan = &plan, .n_pages = 1, .n_tails = 1 }),
            0);
        layer = kv_store_layer(&s, 1);
        assert_int_equal(kv_layer_tail_format(&layer, KV_SIDE_K), want);
        assert_int_equal(kv_layer_tail_format(&layer, KV_SIDE_V), KV_FORMAT_BF16);
        assert_int_equal(kv_layer_quantizes(&layer, KV_SIDE_K), format > KV_FORMAT_F16);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_add_up_to_the_byte),
        cmocka_unit_test(test_blocks_do_not_overlap),
        cmocka_unit_test(test_bad_geometry_is_refused),
        cmocka_unit_test(test_overflow_is_refused),
        cmocka_unit_test(test_tails_are_f16_but_before_bf16_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
