/* SPDX-License-Identifier: Apache-2.0 */
#include "util/account.h"
#include "util/buffer.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define N_THREADS 4
#define N_ROUNDS 20000

static void test_limits_of_child_and_parent(void **state) {
    Account all, one, other;

    (void)state;
    account_init(&all, NULL, 100, "all");
    account_init(&one, &all, 80, "one");
    account_init(&other, &all, 80, "other");
    assert_int_equal(account_charge(&one, 80), 0);
    assert_int_equal(account_charge(&one, 1), -ENOMEM);
    assert_string_equal(atomic_load(&one.refused_by)->limit_name, "one");
    assert_int_equal(account_room(&other), 20);
    assert_int_equal(account_charge(&other, 21), -ENOMEM);
    assert_string_equal(atomic_load(&other.refused_by)->limit_name, "all");
    assert_int_equal(atomic_load(&other.used), 0); /* what is refused is not charged anywhere */
    assert_int_equal(atomic_load(&all.used), 80);
    assert_int_equal(account_charge(&other, 20), 0);
    account_release(&one, 80);
    assert_int_equal(atomic_load(&all.used), 20);
    account_release(&other, 20);
    account_deinit(&one);
    account_deinit(&other);
    account_deinit(&all);
}

static void test_sums_that_overflow_are_refused(void **state) {
    Account all, one;

    (void)state;
    account_init(&all, NULL, 100, "all");
    account_init(&one, &all, UINT64_MAX, "one");
    assert_int_equal(account_charge(&one, 50), 0);
    assert_int_equal(account_charge(&one, UINT64_MAX - 10), -ENOMEM);
    assert_int_equal(atomic_load(&one.used), 50);
    account_set_limit(&one, 10);
    assert_int_equal(account_room(&one), 0);
    assert_int_equal(account_charge(&one, 1), -ENOMEM);
    account_release(&one, 50);
    account_deinit(&one);
}

static void test_closing(void **state) {
    Account all, one;

    (void)state;
    account_init(&all, NULL, 100, "all");
    account_init(&one, &all, 100, "one");
    assert_int_equal(account_charge(&one, 10), 0);
    account_close(&one);
    assert_true(account_is_closed(&one));
    assert_false(account_is_closed(&all));
    assert_int_equal(account_charge(&one, 1), -ECANCELED);
    account_release(&one, 10); /* what was charged still comes back */
    account_deinit(&one);
    account_init(&one, &all, 100, "one");
    account_close(&all);
    assert_int_equal(account_charge(&one, 1), -ECANCELED);
    account_deinit(&one);
    account_deinit(&all);
}

static void test_nobody_answers(void **state) {
    (void)state;
    assert_int_equal(account_charge(NULL, UINT64_MAX), 0);
    account_release(NULL, UINT64_MAX);
    account_close(NULL);
    assert_false(account_is_closed(NULL));
    assert_null(account_ref(NULL));
    assert_null(account_unref(NULL));
}

static void test_the_last_holder_frees(void **state) {
    Account all;
    Account *one;

    (void)state;
    account_init(&all, NULL, 100, "all");
    one = account_new(&all, 100, "one");
    account_ref(one);
    assert_int_equal(account_charge(one, 7), 0);
    assert_null(account_unref(one));
    assert_int_equal(atomic_load(&all.used), 7);
    account_release(one, 7);
    account_unref(one);
    account_deinit(&all);
}

static void test_buffers_charge_their_capacity(void **state) {
    char text[300];
    Account all, other;
    Buffer b = { .account = &all };

    (void)state;
    memset(text, 'x', sizeof(text));
    account_init(&all, NULL, 1000, "all");
    account_init(&other, NULL, 100, "other");
    buffer_append(&b, text, sizeof(text));
    assert_false(buffer_failed(&b));
    assert_int_equal(atomic_load(&all.used), b.capacity);
    assert_int_equal(buffer_move_charge(&b, &other), -ENOMEM);
    assert_ptr_equal(b.account, &all);
    account_set_limit(&other, 2000);
    assert_int_equal(buffer_move_charge(&b, &other), 0);
    assert_int_equal(atomic_load(&all.used), 0);
    for (int i = 0; i < 10; i++)
        buffer_append(&b, text, sizeof(text));
    assert_true(buffer_failed(&b)); /* beyond the limit */
    assert_true(b.size <= 2000);
    assert_int_equal(atomic_load(&other.used), b.capacity);
    buffer_deinit(&b);
    assert_int_equal(atomic_load(&other.used), 0);
}

static void *charge_and_release(void *arg) {
    Account *one = arg;

    for (int i = 0; i < N_ROUNDS; i++)
        if (!account_charge(one, 3))
            account_release(one, 3);
    return NULL;
}

static void test_threads(void **state) {
    pthread_t threads[N_THREADS];
    Account all, one;

    (void)state;
    account_init(&all, NULL, 7, "all");
    account_init(&one, &all, 8, "one");
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_and_release, &one), 0);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&one.used), 0);
    assert_int_equal(atomic_load(&all.used), 0);
    account_deinit(&one);
    account_deinit(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits_of_child_and_parent),
        cmocka_unit_test(test_sums_that_overflow_are_refused),
        cmocka_unit_test(test_closing),
        cmocka_unit_test(test_nobody_answers),
        cmocka_unit_test(test_the_last_holder_frees),
        cmocka_unit_test(test_buffers_charge_their_capacity),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
