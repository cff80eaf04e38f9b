/* SPDX-License-Identifier: Apache-2.0 */

/* The worker team: every task once, results visible, no processor time used while parked. */

#include "cpu/team.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define TASKS_MAX 500

typedef struct Counts {
    uint32_t n_threads;
    uint32_t runs[TASKS_MAX];  /* plain: each task is one thread's */
    _Atomic uint32_t busy[64]; /* thread numbers in use now */
    atomic_bool number_shared;
} Counts;

static void count_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    Counts *counts = arg;
    if (i_thread >= counts->n_threads || atomic_fetch_add(&counts->busy[i_thread], 1) != 0)
        atomic_store(&counts->number_shared, true);
    counts->runs[i_task]++;
    atomic_fetch_sub(&counts->busy[i_thread], 1);
}

static void sleep_ms(long ms) {
    struct timespec t = { .tv_nsec = ms * 1000000 };
    nanosleep(&t, NULL);
}

static void test_every_task_once(void **state) {
    (void)state;
    static const uint32_t sizes[] = { 1, 2, 3, 7 };
    for (uint32_t s = 0; s < 4; s++) {
        CLEANUP(cpu_team_free) CpuTeam *team = NULL;
        assert_int_equal(cpu_team_new(&team, sizes[s], NULL), 0);
        assert_int_equal(cpu_team_threads(team), sizes[s]);
        for (uint32_t round = 0; round < 2000; round++) {
            Counts counts = { .n_threads = sizes[s] };
            uint32_t n_tasks = round * 7 % TASKS_MAX;
            cpu_team_run(team, count_task, &counts, n_tasks);
            for (uint32_t i = 0; i < TASKS_MAX; i++)
                assert_int_equal(counts.runs[i], i < n_tasks);
            assert_false(atomic_load(&counts.number_shared));
            if (round % 400 == 0)
                sleep_ms(1); /* long enough to park */
        }
    }
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_parked_team_rests(void **state) {
    (void)state;
    CLEANUP(cpu_team_free) CpuTeam *team = NULL;
    assert_int_equal(cpu_team_new(&team, 3, NULL), 0);
    Counts counts = { .n_threads = 3 };
    cpu_team_run(team, count_task, &counts, 100);
    sleep_ms(20);
    double before = cpu_seconds();
    sleep_ms(300);
    assert_true(cpu_seconds() - before < 0.03);
}

static void test_default_and_bad_sizes(void **state) {
    (void)state;
    Reason why = REASON_NULL;
    CLEANUP(cpu_team_free) CpuTeam *team = NULL;
    assert_int_equal(cpu_team_new(&team, 100000, &why), -EINVAL);
    assert_non_null(strstr(why.text, "100000"));
    assert_null(team);
    assert_int_equal(cpu_team_new(&team, 0, &why), 0);
    assert_true(cpu_team_threads(team) >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_once),
        cmocka_unit_test(test_parked_team_rests),
        cmocka_unit_test(test_default_and_bad_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
