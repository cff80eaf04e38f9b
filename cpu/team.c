/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One word holds the state of the region: its number in the high half, the tasks not yet claimed
 * in the low half. A thread claims a task by lowering the word by one; since the region cannot end
 * before that task is done, fn, arg and n_tasks may be read after the claim, and a worker that
 * comes late finds nothing left and touches nothing. The region's number keeps a claim made with a
 * stale word from succeeding.
 *
 * The caller waits for the count of tasks done, not for workers: one that never woke up is not
 * waited for.
 *
 * Parking: a worker counts itself into n_parked and then looks at the word again; the caller
 * writes the word and then looks at n_parked. Both in sequentially consistent order, so one of
 * them sees the other.
 */

#include "cpu/team.h"

#include "util/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE_BYTES 64
#define SPIN_NS 50000          /* a worker looks for work this long before it parks */
#define SPINS_PER_CLOCK 64     /* pauses between looks at the clock */
#define SPINS_BEFORE_YIELD 512 /* then the caller lets a worker have its core */
#define TEAM_THREADS_MAX 1024

typedef struct TeamWorker {
    CpuTeam *team;
    uint32_t i_thread;
    pthread_t thread;
} TeamWorker;

struct CpuTeam {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t word; /* region << 32 | tasks not yet claimed */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t n_done;
    _Alignas(CACHE_LINE_BYTES) CpuTeamFn fn; /* of the running region, like arg and n_tasks */
    void *arg;
    uint32_t n_tasks;
    _Atomic uint32_t n_parked;
    atomic_bool stopping;
    pthread_mutex_t lock; /* for parking only */
    pthread_cond_t wake;
    uint32_t n_threads; /* the caller included */
    uint32_t n_started; /* workers that run */
    TeamWorker workers[];
};

static inline void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint32_t tasks_left(uint64_t word) {
    return (uint32_t)word;
}

/* Claims and runs tasks until none is left. */
static void team_work(CpuTeam *team, uint32_t i_thread) {
    uint64_t word = atomic_load_explicit(&team->word, memory_order_acquire);
    while (tasks_left(word) > 0) {
        if (!atomic_compare_exchange_weak_explicit(&team->word, &word, word - 1,
                                                   memory_order_acquire, memory_order_acquire))
            continue;
        team->fn(team->arg, team->n_tasks - tasks_left(word), i_thread);
        atomic_fetch_add_explicit(&team->n_done, 1, memory_order_release);
        word = atomic_load_explicit(&team->word, memory_order_acquire);
    }
}

static bool work_or_stop(CpuTeam *team) {
    return tasks_left(atomic_load(&team->word)) > 0 || atomic_load(&team->stopping);
}

/* Spins, then parks, until there is work or the team stops. */
static void worker_wait(CpuTeam *team) {
    uint64_t deadline_ns = clock_ns() + SPIN_NS;
    do {
        for (uint32_t i = 0; i < SPINS_PER_CLOCK; i++) {
            if (work_or_stop(team))
                return;
            spin_pause();
        }
    } while (clock_ns() < deadline_ns);

    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(&team->n_parked, 1);
    while (!work_or_stop(team))
        pthread_cond_wait(&team->wake, &team->lock);
    atomic_fetch_sub(&team->n_parked, 1);
    pthread_mutex_unlock(&team->lock);
}

static void *worker_main(void *arg) {
    TeamWorker *worker = arg;
    while (!atomic_load(&worker->team->stopping)) {
        worker_wait(worker->team);
        team_work(worker->team, worker->i_thread);
    }
    return NULL;
}

static void wake_parked(CpuTeam *team) {
    if (atomic_load(&team->n_parked) == 0)
        return;
    pthread_mutex_lock(&team->lock);
    pthread_cond_broadcast(&team->wake);
    pthread_mutex_unlock(&team->lock);
}

void cpu_team_run(CpuTeam *team, CpuTeamFn fn, void *arg, uint32_t n_tasks) {
    if (n_tasks <= 1 || team->n_threads == 1) {
        for (uint32_t i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }

    uint64_t region = (atomic_load_explicit(&team->word, memory_order_relaxed) >> 32) + 1;
    team->fn = fn;
    team->arg = arg;
    team->n_tasks = n_tasks;
    atomic_store_explicit(&team->n_done, 0, memory_order_relaxed);
    atomic_store(&team->word, region << 32 | n_tasks);
    wake_parked(team);

    team_work(team, 0);
    for (uint32_t i = 0; atomic_load_explicit(&team->n_done, memory_order_acquire) < n_tasks; i++) {
        if (i < SPINS_BEFORE_YIELD)
            spin_pause();
        else
            sched_yield();
    }
}

static uint32_t cores_available(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
        return (uint32_t)CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

/* Workers take no signals: those are the main thread's. */
static int worker_start(TeamWorker *worker) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        pthread_setname_np(worker->thread, "kvasir-cpu");
    return -r;
}

int cpu_team_new(CpuTeam **outp, uint32_t n_threads, Reason *why) {
    if (n_threads == 0)
        n_threads = cores_available();
    if (n_threads > TEAM_THREADS_MAX)
        return reason_set(why, -EINVAL, "%u threads asked for: the most is %d", n_threads,
                          TEAM_THREADS_MAX);

    size_t size = sizeof(CpuTeam) + n_threads * sizeof(TeamWorker);
    size = (size + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    CLEANUP(cpu_team_free) CpuTeam *team = aligned_alloc(CACHE_LINE_BYTES, size);
    if (!team)
        return reason_set(why, -ENOMEM, "no memory for a team of %u threads", n_threads);
    memset(team, 0, size);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->wake, NULL);
    team->n_threads = n_threads;

    for (uint32_t i = 0; i < n_threads - 1; i++) {
        team->workers[i] = (TeamWorker){ .team = team, .i_thread = i + 1 };
        int r = worker_start(&team->workers[i]);
        if (r < 0)
            return reason_set(why, r, "cannot start thread %u of %u: %s", i + 2, n_threads,
                              strerror(-r));
        team->n_started++;
    }
    *outp = TAKE(team);
    return 0;
}

CpuTeam *cpu_team_free(CpuTeam *team) {
    if (!team)
        return NULL;
    atomic_store(&team->stopping, true);
    wake_parked(team);
    for (uint32_t i = 0; i < team->n_started; i++)
        pthread_join(team->workers[i].thread, NULL);
    pthread_cond_destroy(&team->wake);
    pthread_mutex_destroy(&team->lock);
    free(team);
    return NULL;
}

uint32_t cpu_team_threads(const CpuTeam *team) {
    return team->n_threads;
}
