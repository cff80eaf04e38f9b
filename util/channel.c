/* SPDX-License-Identifier: Apache-2.0 */
#include "util/channel.h"

#include "util/clock.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOOK_UP_AFTER_MS 10 /* whether anybody still waits */

typedef union Control {
    struct cmsghdr head;
    char space[CMSG_SPACE(sizeof(int))];
} Control;

int channel_pair(int fds[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
}

int channel_send(int fd, const void *data, size_t size) {
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(fd, (const char *)data + sent, size - sent, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return -errno;
        sent += n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

int channel_receive(int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(fd, (char *)data + got, size - got, 0);

        if (n == 0)
            return -EPIPE;
        if (n < 0 && errno != EINTR)
            return -errno;
        got += n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

int channel_wait(int fd, short events, uint64_t deadline_ns, Account *account) {
    struct pollfd p = { .fd = fd, .events = events };
    int n;

    do {
        int64_t left_ns = (int64_t)(deadline_ns - clock_ns());

        if (account_is_closed(account))
            return -ECANCELED;
        if (left_ns <= 0)
            return CHANNEL_E_TIMEOUT;
        n = poll(&p, 1,
                 left_ns < LOOK_UP_AFTER_MS * 1000000 ? (int)(left_ns / 1000000) + 1
                                                      : LOOK_UP_AFTER_MS);
    } while (n == 0 || (n < 0 && errno == EINTR));
    return n < 0 ? -errno : 0;
}

int channel_receive_until(int fd, void *data, size_t size, uint64_t deadline_ns, Account *account) {
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(fd, (char *)data + got, size - got, MSG_DONTWAIT);
        int r = 0;

        if (n == 0)
            return -EPIPE;
        if (n > 0)
            got += (size_t)n;
        else if (errno == EAGAIN)
            r = channel_wait(fd, POLLIN, deadline_ns, account);
        else if (errno != EINTR)
            r = -errno;
        if (r)
            return r;
    }
    return 0;
}

int channel_send_descriptor(int fd, int sent, char purpose) {
    Control control = { .space = { 0 } };
    struct iovec part = { .iov_base = &purpose, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &part,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control) };
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    ssize_t n;

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &sent, sizeof(int));
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int channel_receive_descriptor(int fd, int *receivedp, char *purposep) {
    Control control = { .space = { 0 } };
    struct iovec part = { .iov_base = purposep, .iov_len = 1 };
    struct msghdr message = { .msg_iov = &part,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control) };
    struct cmsghdr *head;
    ssize_t n;

    do
        n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    head = CMSG_FIRSTHDR(&message);
    if (n == 0 || !head || head->cmsg_type != SCM_RIGHTS)
        return -EPIPE;
    memcpy(receivedp, CMSG_DATA(head), sizeof(int));
    return 0;
}
