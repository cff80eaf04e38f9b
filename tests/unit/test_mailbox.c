/* SPDX-License-Identifier: Apache-2.0 */
#include "util/mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

typedef struct Message {
    List link;
    int sender, number;
} Message;

static void count_wake(void *userdata) {
    ++*(int *)userdata;
}

static void test_wakes_only_when_it_was_empty(void **state) {
    Message m[3] = { 0 };
    List taken = LIST_INIT(taken);
    Mailbox box;
    int n_wakes = 0;

    (void)state;
    assert_int_equal(mailbox_init(&box, count_wake, &n_wakes), 0);
    mailbox_send(&box, &m[0].link);
    mailbox_send(&box, &m[1].link);
    assert_int_equal(n_wakes, 1);
    mailbox_take(&box, &taken);
    mailbox_send(&box, &m[2].link);
    assert_int_equal(n_wakes, 2);
    mailbox_take(&box, &taken);
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(list_pop_front(&taken), &m[i].link);
    mailbox_take(&box, &taken);
    assert_true(list_is_empty(&taken));
    mailbox_deinit(&box);
}

enum { N_SENDERS = 4, N_MESSAGES = 5000 };

typedef struct Sender {
    Mailbox *box;
    Message messages[N_MESSAGES];
    int id;
} Sender;

static void *send_all(void *arg) {
    Sender *sender = arg;

    for (int i = 0; i < N_MESSAGES; i++) {
        sender->messages[i] = (Message){ .sender = sender->id, .number = i };
        mailbox_send(sender->box, &sender->messages[i].link);
    }
    return NULL;
}

static void test_waiting_receiver_gets_all_in_each_senders_order(void **state) {
    static Sender senders[N_SENDERS];
    int next[N_SENDERS] = { 0 }, n_left = N_SENDERS * N_MESSAGES;
    pthread_t threads[N_SENDERS];
    List taken = LIST_INIT(taken), *link;
    Mailbox box;

    (void)state;
    assert_int_equal(mailbox_init(&box, NULL, NULL), 0);
    for (int i = 0; i < N_SENDERS; i++) {
        senders[i].box = &box;
        senders[i].id = i;
        assert_int_equal(pthread_create(&threads[i], NULL, send_all, &senders[i]), 0);
    }
    while (n_left) {
        mailbox_wait(&box, &taken);
        assert_false(list_is_empty(&taken));
        while ((link = list_pop_front(&taken))) {
            Message *m = container_of(link, Message, link);

            assert_int_equal(m->number, next[m->sender]++);
            n_left--;
        }
    }
    for (int i = 0; i < N_SENDERS; i++)
        pthread_join(threads[i], NULL);
    mailbox_deinit(&box);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wakes_only_when_it_was_empty),
        cmocka_unit_test(test_waiting_receiver_gets_all_in_each_senders_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
