/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Messages from one or more threads to one: lock, append, wake the receiver only if it was empty;
 * the receiver swaps the whole list out, unlocks, then deals with it. Messages are embedded links;
 * ownership passes with the message.
 */

#include "util/list.h"

#include <pthread.h>
#include <stdbool.h>

typedef void (*MailboxWakeFn)(void *userdata);

typedef struct Mailbox {
    pthread_mutex_t lock;
    pthread_cond_t filled; /* for receivers that wait; those in an event loop use `wake` */
    List messages;
    MailboxWakeFn wake; /* called outside the lock, on the sender's thread; may be NULL */
    void *userdata;
} Mailbox;

int mailbox_init(Mailbox *mailbox, MailboxWakeFn wake, void *userdata);
void mailbox_deinit(Mailbox *mailbox); /* must be empty */

void mailbox_send(Mailbox *mailbox, List *message);
/* Moves all messages to the end of `to`; never waits. */
void mailbox_take(Mailbox *mailbox, List *to);
/* The same, but waits for at least one message. */
void mailbox_wait(Mailbox *mailbox, List *to);
