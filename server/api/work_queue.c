/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/work_queue.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGE_THREADS (WORK_QUEUE_THREADS / 2)

static void work_line_init(WorkLine *line, uint32_t n_running_max) {
    *line = (WorkLine){ .n_running_max = n_running_max };
    list_init(&line->items);
}

void work_queue_init(WorkQueue *queue, uv_loop_t *loop) {
    char n_threads[16];

    snprintf(n_threads, sizeof(n_threads), "%d", WORK_QUEUE_THREADS);
    setenv("UV_THREADPOOL_SIZE", n_threads, 1);
    queue->loop = loop;
    work_line_init(&queue->small, WORK_QUEUE_THREADS);
    work_line_init(&queue->large, LARGE_THREADS);
}

static void begin_what_can(WorkQueue *queue);

static void on_work(uv_work_t *work) {
    WorkItem *item = container_of(work, WorkItem, work);

    item->run(item);
}

static void on_worked(uv_work_t *work, int status) {
    WorkItem *item = container_of(work, WorkItem, work);
    WorkQueue *queue = item->queue;

    (void)status; /* nothing here cancels what has begun */
    item->line->n_running--;
    item->line = NULL;
    begin_what_can(queue);
    item->done(item);
}

static void begin_first(WorkQueue *queue, WorkLine *line) {
    WorkItem *item = container_of(list_pop_front(&line->items), WorkItem, link);
    int r;

    line->round = item->round;
    line->n_running++;
    item->begun = true;
    r = uv_queue_work(queue->loop, &item->work, on_work, on_worked);
    assert(!r); /* fails only without a callback */
}

static bool can_begin(const WorkQueue *queue, const WorkLine *line) {
    return !list_is_empty(&line->items) && line->n_running < line->n_running_max &&
           queue->small.n_running + queue->large.n_running < WORK_QUEUE_THREADS;
}

static void begin_what_can(WorkQueue *queue) {
    while (can_begin(queue, &queue->small))
        begin_first(queue, &queue->small);
    while (can_begin(queue, &queue->large))
        begin_first(queue, &queue->large);
}

/* The round in which a client's next item takes its turn. */
static uint64_t next_round(const WorkLine *line, uint64_t client) {
    for (const List *link = line->items.prev; link != &line->items; link = link->prev) {
        const WorkItem *item = container_of(link, WorkItem, link);

        if (item->client == client)
            return item->round + 1;
    }
    return line->round;
}

void work_queue_add(WorkQueue *queue, WorkItem *item, bool is_large) {
    WorkLine *line = is_large ? &queue->large : &queue->small;
    List *before = line->items.prev;

    assert(!item->line);
    item->queue = queue;
    item->line = line;
    item->begun = false;
    item->round = next_round(line, item->client);
    while (before != &line->items && container_of(before, WorkItem, link)->round > item->round)
        before = before->prev;
    list_push_front(before, &item->link);
    begin_what_can(queue);
}

bool work_queue_drop(WorkItem *item) {
    if (!item->line || item->begun)
        return false;
    list_remove(&item->link);
    item->line = NULL;
    return true;
}
