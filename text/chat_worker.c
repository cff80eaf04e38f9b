/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames in the machine's own byte order, since both sides are the same machine. The process is not
 * trusted: a template may have got the better of it. So a header that cannot be is taken for its
 * death, and nothing is taken that is longer than was allowed.
 */
#include "text/chat_worker.h"

#include "text/chat_nursery.h"
#include "util/clock.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define LOOK_UP_AFTER_MS 10 /* whether anybody still waits */
#define WORDS_BYTES_MAX 1024

typedef struct Question {
    uint32_t question, unused;
    uint64_t answer_bytes, memory_bytes, size;
} Question;

typedef struct Answer {
    uint32_t outcome, ends;
    uint64_t size;
} Answer;

int chat_worker_start(ChatWorker *worker, Reason *why) {
    int r, pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return reason_set(why, -errno, "no socket for a chat template: %s", strerror(errno));
    r = chat_nursery_fork(pair[1], why);
    close(pair[1]);
    if (r < 0) {
        close(pair[0]);
        return r;
    }
    *worker = (ChatWorker){ .fd = pair[0] };
    return 0;
}

void chat_worker_close(ChatWorker *worker) {
    if (worker->fd >= 0)
        close(worker->fd);
    *worker = (ChatWorker)CHAT_WORKER_NULL;
}

bool chat_worker_is_alive(const ChatWorker *worker) {
    char byte;

    return worker->fd >= 0 && !worker->ends &&
           recv(worker->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

/* Waits until the socket can be read, or written where `events` says so. 0, or the end. */
static int wait_for(const ChatWorker *worker, short events) {
    struct pollfd p = { .fd = worker->fd, .events = events };
    int64_t left_ns;
    int n;

    do {
        if (account_is_closed(worker->account))
            return -ECANCELED;
        left_ns = worker->deadline_ns - (int64_t)clock_ns();
        if (left_ns <= 0)
            return CHAT_WORKER_TIMED_OUT;
        n = poll(&p, 1,
                 left_ns < LOOK_UP_AFTER_MS * 1000000 ? (int)(left_ns / 1000000) + 1
                                                      : LOOK_UP_AFTER_MS);
    } while (n == 0 || (n < 0 && errno == EINTR));
    return n < 0 ? CHAT_WORKER_DIED : 0;
}

static int receive(const ChatWorker *worker, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(worker->fd, (char *)data + got, size - got, MSG_DONTWAIT);

        if (n > 0)
            got += (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return CHAT_WORKER_DIED;
        else {
            int r = wait_for(worker, POLLIN);

            if (r)
                return r;
        }
    }
    return 0;
}

/* Ends early, with success, where the other side has closed or answers before it has read
 * everything. */
static int send_all(const ChatWorker *worker, const void *data, size_t size) {
    for (size_t sent = 0; sent < size;) {
        struct pollfd p = { .fd = worker->fd, .events = POLLIN };
        ssize_t n;
        int r;

        if (poll(&p, 1, 0) > 0)
            return 0;
        n = send(worker->fd, (const char *)data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            return 0;
        else if ((r = wait_for(worker, POLLIN | POLLOUT)))
            return r;
    }
    return 0;
}

int chat_worker_ask(ChatWorker *worker, ChatWorkerQuestion question, const char *body, size_t size,
                    const ChatWorkerLimits *limits, Account *account) {
    const Question head = { .question = question,
                            .answer_bytes = limits->answer_bytes,
                            .memory_bytes = limits->memory_bytes,
                            .size = size };
    Answer answer;
    int r;

    worker->account = account;
    worker->deadline_ns = (int64_t)clock_ns() + (int64_t)limits->time_ms * 1000000;
    worker->ends = true; /* unless it comes through */
    r = send_all(worker, &head, sizeof(head));
    if (!r)
        r = send_all(worker, body, size);
    if (!r)
        r = receive(worker, &answer, sizeof(answer));
    if (r)
        return r;
    if (answer.outcome >= N_CHAT_WORKER_ANSWERS ||
        answer.size > (answer.outcome ? WORDS_BYTES_MAX : limits->answer_bytes))
        return CHAT_WORKER_DIED;
    worker->ends = answer.ends != 0;
    worker->n_left = answer.size;
    return (int)answer.outcome;
}

int chat_worker_take(ChatWorker *worker, Buffer *out) {
    char *data = buffer_reserve(out, worker->n_left);
    int r = -ENOMEM;

    if (data)
        r = receive(worker, data, worker->n_left);
    else if (account_is_closed(worker->account))
        r = -ECANCELED;
    if (r) {
        worker->ends = true;
        return r;
    }
    out->size += worker->n_left;
    out->data[out->size] = 0;
    worker->n_left = 0;
    return 0;
}
