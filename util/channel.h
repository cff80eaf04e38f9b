/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sockets between processes of one machine: bytes, whole or not at all, and descriptors.
 */

#include "util/account.h"

#include <stddef.h>
#include <stdint.h>

/* A pair of connected sockets, closed on exec. 0 or -errno. */
int channel_pair(int fds[2]);

/* Sends or receives all of it, waiting as long as it takes. 0; -EPIPE where the other side has
 * closed, or another -errno. */
int channel_send(int fd, const void *data, size_t size);
int channel_receive(int fd, void *data, size_t size);

enum {
    _CHANNEL_E_SUCCESS,
    CHANNEL_E_TIMEOUT,
};

/* Waits until the socket has one of poll's `events`, or the other side has closed. Returns as
 * channel_receive_until does. */
int channel_wait(int fd, short events, uint64_t deadline_ns, Account *account);

/* Receives, but no longer than to the deadline (CLOCK_MONOTONIC): CHANNEL_E_TIMEOUT; and -ECANCELED
 * within 20 ms of the closing of `account` (NULL: nobody's); or as channel_receive. */
int channel_receive_until(int fd, void *data, size_t size, uint64_t deadline_ns, Account *account);

/* Gives the other side a descriptor, with a byte that says what it is for. 0 or -errno. */
int channel_send_descriptor(int fd, int sent, char purpose);
/* Receives one, for the caller to close. 0 or -errno; -EPIPE where the other side has closed. */
int channel_receive_descriptor(int fd, int *receivedp, char *purposep);
