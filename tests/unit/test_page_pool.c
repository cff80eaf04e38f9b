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
    assert_int_equal(page_pool_init(&pool, 5, 1), 0);
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
    assert_int_equal(page_pool_init(&pool, 1, 1), 0);
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
    assert_int_equal(page_pool_init(&pool, 1, 2), 0);
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
    assert_int_equal(page_pool_init(&pool, N, 1), 0);
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

static void test_an_empty_pool_is_refused(void **state) {
    PagePool pool;

    (void)state;
    assert_int_equal(page_pool_init(&pool, 0, 1), -EINVAL);
    assert_int_equal(page_pool_init(&pool, 1, 0), -EINVAL);
    page_pool_deinit(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_gives_distinct_pages_or_none),
        cmocka_unit_test(test_shared_page_comes_back_with_its_last_holder),
        cmocka_unit_test(test_tails_run_out_and_come_back),
        cmocka_unit_test(test_random_traffic_never_loses_a_page),
        cmocka_unit_test(test_an_empty_pool_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
