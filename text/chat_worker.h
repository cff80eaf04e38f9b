/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One process that compiles and renders chat templates (chat_worker.py), and the questions it is
 * asked. One question at a time, by one thread; a worker that did not answer in time, or whose
 * answer nobody waits for, is of no more use and must be closed, which ends the process at once.
 */

#include "util/account.h"
#include "util/buffer.h"
#include "util/reason.h"

typedef struct ChatWorker {
    int fd;               /* -1: there is none */
    size_t n_left;        /* bytes of the answer that have not been taken */
    bool ends;            /* it ends with this answer */
    uint64_t deadline_ns; /* of the question at hand */
    Account *account;     /* of the question at hand; borrowed */
} ChatWorker;

#define CHAT_WORKER_NULL \
    { .fd = -1 }

/* Numbers that chat_worker.py knows, too. */
typedef enum ChatWorkerQuestion {
    CHAT_WORKER_OPEN,  /* a model's templates: answered with what CHAT_WORKER_LOAD takes */
    CHAT_WORKER_PROBE, /* what they read: likewise */
    CHAT_WORKER_LOAD,
    CHAT_WORKER_RENDER,
} ChatWorkerQuestion;

/* How a question ended; the first ones are answers. What each answer holds is text for people but
 * for CHAT_WORKER_DONE; of CHAT_WORKER_OUT_OF_MEMORY, nothing. */
typedef enum ChatWorkerOutcome {
    CHAT_WORKER_DONE,
    CHAT_WORKER_NO_TEMPLATE,
    CHAT_WORKER_RAISED,
    CHAT_WORKER_OUTPUT_LIMIT,
    CHAT_WORKER_BAD_MESSAGE,
    CHAT_WORKER_INVALID,
    CHAT_WORKER_OUT_OF_MEMORY,
    CHAT_WORKER_NO_JINJA,
    CHAT_WORKER_BROKEN, /* an error that nobody foresaw */
    N_CHAT_WORKER_ANSWERS,
    CHAT_WORKER_TIMED_OUT = N_CHAT_WORKER_ANSWERS,
    CHAT_WORKER_DIED,
} ChatWorkerOutcome;

typedef struct ChatWorkerLimits {
    uint64_t time_ms;
    uint64_t answer_bytes;
    uint64_t memory_bytes; /* more than the process has now */
} ChatWorkerLimits;

/* 0, or -errno with `why`. Does not wait for the process. */
int chat_worker_start(ChatWorker *worker, Reason *why);
void chat_worker_close(ChatWorker *worker);
CLEANUP_DEINIT_DEFINE(ChatWorker, chat_worker_close);

/* Whether the process is there and waits to be asked. */
bool chat_worker_is_alive(const ChatWorker *worker);

/* Asks, and waits for the answer to begin: a ChatWorkerOutcome, or -ECANCELED as soon as `account`
 * (NULL: nobody's) is closed. `account` must live until the answer is taken. */
int chat_worker_ask(ChatWorker *worker, ChatWorkerQuestion question, const char *body, size_t size,
                    const ChatWorkerLimits *limits, Account *account);
/* Appends the answer to `out`. 0; CHAT_WORKER_TIMED_OUT; CHAT_WORKER_DIED; -ECANCELED; -ENOMEM,
 * with nothing taken. */
int chat_worker_take(ChatWorker *worker, Buffer *out);
