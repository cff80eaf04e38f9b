/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/work_queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { N_ITEMS = 64 };

typedef struct Item {
    WorkItem work; /* first */
    char name;
} Item;

static struct {
    uv_loop_t loop;
    WorkQueue queue;
    Item items[N_ITEMS];
    uint32_t n_items;
    atomic_bool may_end; /* what runs waits for it */
    char done[N_ITEMS + 1];
    uint32_t n_done;
} world;

static void run(WorkItem *item) {
    (void)item;
    while (!atomic_load(&world.may_end))
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
}

static void done(WorkItem *item) {
    world.done[world.n_done++] = ((Item *)item)->name;
}

static WorkItem *add(char name, uint64_t client, bool is_large) {
    Item *item = &world.items[world.n_items++];

    *item = (Item){ .name = name, .work = { .client = client, .run = run, .done = done } };
    work_queue_add(&world.queue, &item->work, is_large);
    return &item->work;
}

static int set_up(void **state) {
    (void)state;
    memset(&world, 0, sizeof(world));
    if (uv_loop_init(&world.loop))
        return -1;
    work_queue_init(&world.queue, &world.loop);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    return uv_loop_close(&world.loop);
}

static void let_end(void) {
    atomic_store(&world.may_end, true);
    uv_run(&world.loop, UV_RUN_DEFAULT);
}

static uint32_t n_begun(void) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < world.n_items; i++)
        n += world.items[i].work.begun;
    return n;
}

static void test_large_work_leaves_threads_for_small(void **state) {
    WorkItem *small;

    (void)state;
    for (int i = 0; i < 10; i++)
        add('L', (uint64_t)i, true);
    assert_true(n_begun() < WORK_QUEUE_THREADS);
    small = add('s', 1, false);
    assert_true(small->begun);
    let_end();
    assert_int_equal(world.n_done, 11);
}

static void test_no_more_begins_than_there_are_threads(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++)
        add(i % 2 ? 'L' : 's', (uint64_t)i, i % 2);
    assert_int_equal(n_begun(), WORK_QUEUE_THREADS);
    let_end();
    assert_int_equal(world.n_done, 20);
}

/* The order in which waiting items are taken up, by name. */
static void line_text(const WorkLine *line, char *text) {
    list_for_each(link, &line->items)
        *text++ = ((const Item *)(const void *)container_of(link, WorkItem, link))->name;
    *text = 0;
}

static void test_clients_take_turns(void **state) {
    char text[N_ITEMS];

    (void)state;
    for (int i = 0; i < WORK_QUEUE_THREADS; i++)
        add('r', 9, false); /* all threads are busy */
    for (int i = 0; i < 4; i++)
        add('a', 1, false);
    add('b', 2, false);
    add('c', 3, false);
    add('b', 2, false);
    line_text(&world.queue.small, text);
    assert_string_equal(text, "abcabaa");
    let_end();
    assert_int_equal(world.n_done, world.n_items);
}

static void test_dropping(void **state) {
    WorkItem *running, *waiting;

    (void)state;
    running = add('r', 1, false);
    for (int i = 1; i < WORK_QUEUE_THREADS; i++)
        add('r', 1, false);
    waiting = add('w', 1, false);
    assert_false(work_queue_drop(running));
    assert_true(work_queue_drop(waiting));
    assert_false(work_queue_drop(waiting));
    let_end();
    assert_string_equal(world.done, "rrrr");
    assert_false(work_queue_drop(running));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_large_work_leaves_threads_for_small, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_no_more_begins_than_there_are_threads, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_clients_take_turns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dropping, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
