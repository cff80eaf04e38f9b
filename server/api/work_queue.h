/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which work libuv's pool does next. The pool itself works first come, first served, and forgets
 * nothing it was given; so this hands it no more than its threads can begin at once, and keeps the
 * rest where it can be put in order and dropped.
 *
 * Small work does not wait behind large: large items never have all threads. Among items of one
 * kind clients take turns: the k-th waiting item of a client comes in the k-th round, and within a
 * round the first to arrive comes first. Loop's thread only, but for `run`.
 */

#include "util/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define WORK_QUEUE_THREADS 4 /* of the pool */

typedef struct WorkQueue WorkQueue;
typedef struct WorkItem WorkItem;

/* Items of one kind that wait, by their turn. */
typedef struct WorkLine {
    List items;         /* WorkItem.link */
    uint64_t round;     /* of the item that began last */
    uint32_t n_running; /* items that the pool works on */
    uint32_t n_running_max;
} WorkLine;

struct WorkQueue {
    uv_loop_t *loop; /* borrowed */
    WorkLine small, large;
};

/* Embedded by whoever has work to do. */
struct WorkItem {
    List link;
    WorkQueue *queue; /* set by work_queue_add */
    WorkLine *line;   /* its kind; NULL: it neither waits nor runs */
    uv_work_t work;
    uint64_t client; /* whose turn it takes */
    uint64_t round;
    bool begun;
    void (*run)(WorkItem *item);  /* on the pool */
    void (*done)(WorkItem *item); /* on the loop, after `run` */
};

/* Sets the pool's size, so it comes before the pool's first use in the process. */
void work_queue_init(WorkQueue *queue, uv_loop_t *loop);

/* Queues an item whose `client`, `run` and `done` are set; it must not be queued already. */
void work_queue_add(WorkQueue *queue, WorkItem *item, bool is_large);
/* True if the item had not begun: it is out of the queue, and `done` will not be called. False if
 * it runs, has run, or was never queued. */
bool work_queue_drop(WorkItem *item);
