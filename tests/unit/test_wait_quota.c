/* SPDX-License-Identifier: Apache-2.0 */
/* What may wait: both limits by name, threads that reserve at once, and how long it will take. */

#include "server/engine/wait_quota.h"

#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_both_limits_refuse_and_take_nothing(void **state) {
    WaitQuota q;

    (void)state;
    wait_quota_init(&q, 10, 1000);
    assert_int_equal(wait_quota_reserve(&q, 10, 400), 0);
    assert_int_equal(wait_quota_reserve(&q, 1, 1), WAIT_QUOTA_E_SEQUENCES);
    wait_quota_give_back(&q, 5, 0);
    assert_int_equal(wait_quota_reserve(&q, 5, 601), WAIT_QUOTA_E_TOKENS);
    assert_int_equal(q.n_sequences, 5);
    assert_int_equal(wait_quota_reserve(&q, 5, 600), 0);
    wait_quota_give_back(&q, 10, 1000);
    assert_int_equal(q.n_sequences + q.n_tokens, 0);
    assert_int_equal(q.n_refused, 2);
}

static void test_what_never_fits_is_told_apart(void **state) {
    WaitQuota q;

    (void)state;
    wait_quota_init(&q, 10, 1000);
    assert_int_equal(wait_quota_reserve(&q, 11, 1), WAIT_QUOTA_E_SEQUENCES_NEVER);
    assert_int_equal(wait_quota_reserve(&q, 1, 1001), WAIT_QUOTA_E_TOKENS_NEVER);
    assert_int_equal(wait_quota_reserve(&q, UINT64_MAX, UINT64_MAX), WAIT_QUOTA_E_SEQUENCES_NEVER);
    assert_int_equal(wait_quota_reserve(&q, 10, 1000), 0);
    wait_quota_give_back(&q, 10, 1000);
    wait_quota_init(&q, 0, 0); /* any number */
    assert_int_equal(wait_quota_reserve(&q, UINT32_MAX, UINT64_MAX / 2), 0);
}

static void *reserve_often(void *arg) {
    WaitQuota *q = arg;
    uintptr_t n_taken = 0;

    for (int i = 0; i < 20000; i++) {
        int r = wait_quota_reserve(q, 3, 100);

        /* Eight threads of three never meet the tokens' limit before the sequences'. */
        assert(r == 0 || r == WAIT_QUOTA_E_SEQUENCES);
        assert(q->n_sequences <= 20 && q->n_tokens <= 800);
        n_taken += r == 0;
        if (!r)
            wait_quota_give_back(q, 3, 100);
    }
    return (void *)n_taken;
}

static void test_threads_never_pass_the_limits(void **state) {
    pthread_t threads[8];
    WaitQuota q;

    (void)state;
    wait_quota_init(&q, 20, 800);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reserve_often, &q), 0);
    for (int i = 0; i < 8; i++) {
        void *n_taken;

        pthread_join(threads[i], &n_taken);
        assert_true(n_taken != NULL);
    }
    assert_int_equal(q.n_sequences + q.n_tokens, 0);
}

static void test_the_wait_is_what_waits_over_the_recent_rate(void **state) {
    WaitQuota q;

    (void)state;
    wait_quota_init(&q, 0, 0);
    assert_true(wait_quota_estimate_s(&q) == 0);
    wait_quota_reserve(&q, 4, 5000);
    assert_true(wait_quota_estimate_s(&q) == 0); /* nothing is known */
    for (int i = 0; i < 10; i++)
        wait_quota_observe(&q, 100, 0.1);
    assert_float_equal(wait_quota_estimate_s(&q), 5, 0.3);
    /* Nothing begins any more: it looks longer and longer, but for at most an hour. */
    for (int i = 0; i < 100; i++)
        wait_quota_observe(&q, 0, 0.1);
    assert_true(wait_quota_estimate_s(&q) > 20);
    for (int i = 0; i < 10000; i++)
        wait_quota_observe(&q, 0, 1);
    assert_float_equal(wait_quota_estimate_s(&q), 3600, 0.1);
    /* The recent past outweighs that. */
    for (int i = 0; i < 1000; i++)
        wait_quota_observe(&q, 1000, 0.1);
    assert_float_equal(wait_quota_estimate_s(&q), 0.5, 0.05);
    wait_quota_give_back(&q, 4, 5000);
    assert_true(wait_quota_estimate_s(&q) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_limits_refuse_and_take_nothing),
        cmocka_unit_test(test_what_never_fits_is_told_apart),
        cmocka_unit_test(test_threads_never_pass_the_limits),
        cmocka_unit_test(test_the_wait_is_what_waits_over_the_recent_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
