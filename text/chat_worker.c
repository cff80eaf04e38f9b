/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames in the machine's own byte order, since both sides are the same machine. The process is not
 * trusted: a template may have got the better of it. So a header that cannot be is taken for its
 * death, and nothing is taken that is longer than was allowed.
 */
#include "text/chat_worker.h"

#include "text/chat_nursery.h"
#include "util/channel.h"
#include "util/clock.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

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

    r = channel_pair(pair);
    if (r)
        return reason_set(why, r, "no socket for a chat template: %s", strerror(-r));
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

/* What a channel's outcome means for a worker. */
static int outcome_of(int r) {
    switch (r) {
    case 0:
    case -ECANCELED:
        return r;
    case CHANNEL_E_TIMEOUT:
        return CHAT_WORKER_TIMED_OUT;
    default:
        return CHAT_WORKER_DIED;
    }
}

static int receive(const ChatWorker *worker, void *data, size_t size) {
    return outcome_of(
        channel_receive_until(worker->fd, data, size, worker->deadline_ns, worker->account));
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
        else if ((r = channel_wait(worker->fd, POLLIN | POLLOUT, worker->deadline_ns,
                                   worker->account)))
            return outcome_of(r);
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
    worker->deadline_ns = clock_ns() + limits->time_ms * 1000000;
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
