/* SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/page_pool.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_take_gives_distinct_pages_or_none(void **state) {
    PagePool pool;
    uint32_t pages[5], seen = 0;

    (void)state;
    assert_int_equal(page_pool_init(&pool, 5, 1, 0, NULL), 0);
    assert_int_equal(page_pool_take(&pool, 3, pages), 0);
    assert_int_equal(page_pool_take(&pool, 3, pages + 3), PAGE_POOL_E_FULL);
    assert_int_equal(pool.n_free, 2);
    assert_int_equal(page_pool_take(&pool, 2, pages + 3), 0);
    for (int i = 0; i < 5; i++)
        seen |= 1u << pages[i];
    assert_int_equal(seen, 31);
    assert_int_equal(page_pool_used(&pool), 5);
    assert_int_equal(page_pool_take(&pool, 0, NULL), 0);
    page_pool_release(&pool, pages, 5);
    assert_int_equal(page_pool_used(&pool), 0);
    page_pool_deinit(&pool);
}

static void test_shared_page_comes_back_with_its_last_holder(void **state) {
    PagePool pool;
    uint32_t page, other;

    (void)state;
    assert_int_equal(page_pool_init(&pool, 1, 1, 0, NULL), 0);
    assert_int_equal(page_pool_take(&pool, 1, &page), 0);
    page_pool_ref(&pool, page);
    page_pool_release(&pool, &page, 1);
    assert_int_equal(page_pool_take(&pool, 1, &other), PAGE_POOL_E_FULL);
    page_pool_release(&pool, &page, 1);
    assert_int_equal(page_pool_take(&pool, 1, &other), 0);
    page_pool_release(&pool, &other, 1);
    page_pool_deinit(&pool);
}

static void test_tails_run_out_and_come_back(void **state) {
    PagePool pool;
    uint32_t a, b, c;

    (void)state;
    assert_int_equal(page_pool_init(&pool, 1, 2, 0, NULL), 0);
    assert_int_equal(page_pool_take_tail(&pool, &a), 0);
    assert_int_equal(page_pool_take_tail(&pool, &b), 0);
    assert_int_not_equal(a, b);
    assert_int_equal(page_pool_take_tail(&pool, &c), PAGE_POOL_E_FULL);
    page_pool_release_tail(&pool, a);
    assert_int_equal(page_pool_take_tail(&pool, &c), 0);
    assert_int_equal(c, a);
    page_pool_release_tail(&pool, b);
    page_pool_release_tail(&pool, c);
    page_pool_deinit(&pool);
}

/* Random takes, references and releases against a plain count of holders. */
static void test_random_traffic_never_loses_a_page(void **state) {
    enum { N = 37 };
    uint32_t holders[N] = { 0 }, pages[N], n_free = N;
    PagePool pool;

    (void)state;
    srand(1);
    assert_int_equal(page_pool_init(&pool, N, 1, 0, NULL), 0);
    for (int i = 0; i < 20000; i++) {
        uint32_t n = (uint32_t)rand() % 6, page = (uint32_t)rand() % N;

        if (rand() % 3 == 0) {
            int r = page_pool_take(&pool, n, pages);

            assert_int_equal(r, n > n_free ? PAGE_POOL_E_FULL : 0);
            for (uint32_t j = 0; !r && j < n; j++) {
                assert_int_equal(holders[pages[j]]++, 0);
                n_free--;
            }
        } else if (holders[page] && rand() % 3 == 0) {
            page_pool_ref(&pool, page);
            holders[page]++;
        } else if (holders[page]) {
            page_pool_release(&pool, &page, 1);
            n_free += !--holders[page];
        }
        assert_int_equal(pool.n_free, n_free);
    }
    for (uint32_t page = 0; page < N; page++)
        for (; holders[page]; holders[page]--)
            page_pool_release(&pool, &page, 1);
    page_pool_deinit(&pool);
}

/* Pages of texts that have nothing in common. */
static uint32_t find(const PrefixIndex *index, uint32_t n) {
    uint32_t tokens[KV_PAGE_TOKENS] = { n };
    PrefixLink root = { .node = PREFIX_INDEX_NONE }, link;

    return prefix_index_find(index, &root, tokens, &link);
}

static int insert(PrefixIndex *index, uint32_t n, uint32_t page) {
    uint32_t tokens[KV_PAGE_TOKENS] = { n };
    PrefixLink root = { .node = PREFIX_INDEX_NONE }, link;

    return prefix_index_insert(index, &root, tokens, page, &link);
}

static void test_indexed_page_is_cached_until_pages_run_out(void **state) {
    PrefixIndex index;
    PagePool pool;
    uint32_t pages[4];

    (void)state;
    assert_int_equal(prefix_index_init(&index, 4), 0);
    assert_int_equal(page_pool_init(&pool, 4, 1, 0, &index), 0);
    assert_int_equal(page_pool_take(&pool, 3, pages), 0);
    assert_int_equal(insert(&index, 0, pages[0]), 0);
    assert_int_equal(insert(&index, 1, pages[1]), 0);
    page_pool_release(&pool, pages, 3);
    assert_int_equal(page_pool_used(&pool), 0);
    assert_int_equal(page_pool_cached(&pool), 2);
    assert_int_equal(pool.n_free, 4);

    /* Blank pages go first, then the deeper one of the chain; the root is held as it is. */
    assert_int_equal(page_pool_take(&pool, 2, pages + 2), 0);
    assert_int_equal(find(&index, 1), pages[1]);
    page_pool_ref(&pool, pages[0]);
    assert_int_equal(page_pool_used(&pool), 3);
    page_pool_release(&pool, pages, 1);
    assert_int_equal(page_pool_take(&pool, 1, pages + 1), 0);
    assert_int_equal(find(&index, 1), PREFIX_INDEX_NONE);
    assert_int_equal(find(&index, 0), pages[0]);
    page_pool_ref(&pool, pages[0]);
    assert_int_equal(page_pool_take(&pool, 1, pages), PAGE_POOL_E_FULL);
    page_pool_release(&pool, pages, 4);
    page_pool_deinit(&pool);
    prefix_index_deinit(&index);
}

static void test_cached_page_held_again_is_used_last(void **state) {
    PrefixIndex index;
    PagePool pool;
    uint32_t pages[3], taken[2];

    (void)state;
    assert_int_equal(prefix_index_init(&index, 3), 0);
    assert_int_equal(page_pool_init(&pool, 3, 1, 0, &index), 0);
    assert_int_equal(page_pool_take(&pool, 3, pages), 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(insert(&index, i, pages[i]), 0);
        page_pool_release(&pool, &pages[i], 1);
    }
    page_pool_ref(&pool, pages[0]);
    page_pool_release(&pool, &pages[0], 1);
    assert_int_equal(page_pool_take(&pool, 2, taken), 0);
    assert_int_equal(taken[0], pages[1]);
    assert_int_equal(taken[1], pages[2]);
    page_pool_release(&pool, taken, 2);
    page_pool_deinit(&pool);
    prefix_index_deinit(&index);
}

static void test_sink_lives_as_long_as_its_page(void **state) {
    PrefixIndex index;
    PagePool pool;
    uint32_t pages[4], sink;

    (void)state;
    assert_int_equal(prefix_index_init(&index, 4), 0);
    assert_int_equal(page_pool_init(&pool, 4, 1, 2, &index), 0);
    assert_int_equal(page_pool_take(&pool, 4, pages), 0);
    assert_int_equal(page_pool_sink(&pool, pages[0]), PAGE_POOL_NONE);
    assert_int_equal(page_pool_take_sink(&pool, pages[0]), 0);
    assert_int_equal(page_pool_take_sink(&pool, pages[1]), 0);
    assert_int_not_equal(page_pool_sink(&pool, pages[0]), page_pool_sink(&pool, pages[1]));
    assert_int_equal(page_pool_take_sink(&pool, pages[2]), PAGE_POOL_E_FULL);
    assert_int_equal(page_pool_sink(&pool, pages[2]), PAGE_POOL_NONE);

    /* With a page nobody knows, a slot comes back. */
    sink = page_pool_sink(&pool, pages[1]);
    page_pool_release(&pool, &pages[1], 1);
    assert_int_equal(page_pool_take_sink(&pool, pages[2]), 0);
    assert_int_equal(page_pool_sink(&pool, pages[2]), sink);

    /* A cached page keeps its slot until somebody needs one. */
    assert_int_equal(insert(&index, 0, pages[0]), 0);
    assert_int_equal(insert(&index, 2, pages[2]), 0);
    page_pool_release(&pool, &pages[0], 1);
    page_pool_release(&pool, &pages[2], 1);
    assert_int_equal(page_pool_sink(&pool, pages[2]), sink);
    page_pool_ref(&pool, pages[0]);
    assert_int_equal(page_pool_take_sink(&pool, pages[3]), 0);
    assert_int_equal(page_pool_sink(&pool, pages[3]), sink);
    assert_int_equal(page_pool_sink(&pool, pages[2]), PAGE_POOL_NONE);
    assert_int_equal(find(&index, 2), PREFIX_INDEX_NONE);
    assert_int_equal(find(&index, 0), pages[0]);
    page_pool_release(&pool, &pages[0], 1);
    page_pool_release(&pool, &pages[3], 1);
    page_pool_deinit(&pool);
    prefix_index_deinit(&index);
}

static void test_pool_without_sinks_is_out_of_them(void **state) {
    PagePool pool;
    uint32_t page;

    (void)state;
    assert_int_equal(page_pool_init(&pool, 1, 1, 0, NULL), 0);
    assert_int_equal(page_pool_take(&pool, 1, &page), 0);
    assert_int_equal(page_pool_take_sink(&pool, page), PAGE_POOL_E_FULL);
    page_pool_release(&pool, &page, 1);
    page_pool_deinit(&pool);
}

static void test_an_empty_pool_is_refused(void **state) {
    PagePool pool;

    (void)state;
    assert_int_equal(page_pool_init(&pool, 0, 1, 0, NULL), -EINVAL);
    assert_int_equal(page_pool_init(&pool, 1, 0, 0, NULL), -EINVAL);
    assert_int_equal(page_pool_init(&pool, 1, 1, 0, &(PrefixIndex){ .n_pages = 2 }), -EINVAL);
    page_pool_deinit(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_gives_distinct_pages_or_none),
        cmocka_unit_test(test_shared_page_comes_back_with_its_last_holder),
        cmocka_unit_test(test_tails_run_out_and_come_back),
        cmocka_unit_test(test_random_traffic_never_loses_a_page),
        cmocka_unit_test(test_indexed_page_is_cached_until_pages_run_out),
        cmocka_unit_test(test_cached_page_held_again_is_used_last),
        cmocka_unit_test(test_sink_lives_as_long_as_its_page),
        cmocka_unit_test(test_pool_without_sinks_is_out_of_them),
        cmocka_unit_test(test_an_empty_pool_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
