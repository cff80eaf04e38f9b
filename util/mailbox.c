/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lock, one list. The wake-up happens after unlocking, so that a receiver that runs at once
 * does not bump into the sender.
 */

#include "util/mailbox.h"

#include <assert.h>

int mailbox_init(Mailbox *mailbox, MailboxWakeFn wake, void *userdata) {
    int r;

    *mailbox = (Mailbox){ .wake = wake, .userdata = userdata };
    list_init(&mailbox->messages);
    r = pthread_mutex_init(&mailbox->lock, NULL);
    if (r)
        return -r;
    r = pthread_cond_init(&mailbox->filled, NULL);
    if (r)
        pthread_mutex_destroy(&mailbox->lock);
    return -r;
}

void mailbox_deinit(Mailbox *mailbox) {
    assert(list_is_empty(&mailbox->messages));
    pthread_cond_destroy(&mailbox->filled);
    pthread_mutex_destroy(&mailbox->lock);
}

void mailbox_send(Mailbox *mailbox, List *message) {
    bool was_empty;

    pthread_mutex_lock(&mailbox->lock);
    was_empty = list_is_empty(&mailbox->messages);
    list_push_back(&mailbox->messages, message);
    if (was_empty)
        pthread_cond_signal(&mailbox->filled);
    pthread_mutex_unlock(&mailbox->lock);
    if (was_empty && mailbox->wake)
        mailbox->wake(mailbox->userdata);
}

void mailbox_take(Mailbox *mailbox, List *to) {
    pthread_mutex_lock(&mailbox->lock);
    list_splice(to, &mailbox->messages);
    pthread_mutex_unlock(&mailbox->lock);
}

void mailbox_wait(Mailbox *mailbox, List *to) {
    pthread_mutex_lock(&mailbox->lock);
    while (list_is_empty(&mailbox->messages))
        pthread_cond_wait(&mailbox->filled, &mailbox->lock);
    list_splice(to, &mailbox->messages);
    pthread_mutex_unlock(&mailbox->lock);
}
