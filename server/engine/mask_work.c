/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A work is its sequence's while it is idle, a thread's while it is busy; the lock passes it from
 * one to the other. Threads take the oldest that waits. One that is dropped while it is busy is
 * freed by the thread that had it.
 */
#include "server/engine/mask_work.h"

#include "util/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MASK_THREADS 4

struct MaskPool {
    pthread_mutex_t lock;
    pthread_cond_t came, ended;
    List waiting, running; /* MaskWork.link, oldest first */
    bool stops;
    uint32_t n_threads;
    pthread_t threads[MASK_THREADS];
};

/* work */

static void leave_out_stops(MaskWork *w) {
    uint32_t kept[64], n = w->n_stop_ids < 64 ? w->n_stop_ids : 64, any = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t *word = &w->mask[w->stop_ids[i] / 32], bit = UINT32_C(1) << w->stop_ids[i] % 32;

        kept[i] = *word & bit;
        *word &= ~bit;
    }
    for (uint32_t i = 0; i < w->n_words; i++)
        any |= w->mask[i];
    for (uint32_t i = 0; !any && i < n; i++)
        w->mask[w->stop_ids[i] / 32] |= kept[i];
}

/* A text that has ended has no next token. */
static int fill(MaskWork *w) {
    uint32_t any = 0;
    int r;

    if (w->reasoning.place == REASONING_INSIDE)
        return reasoning_watch_fill(&w->reasoning, w->mask, w->n_vocab);
    if (grammar_matcher_is_terminated(w->matcher))
        return 0;
    r = grammar_matcher_fill(w->matcher, w->mask);
    for (uint32_t i = 0; !r && i < w->n_words; i++)
        any |= w->mask[i];
    if (r || !any)
        return r ? r : GRAMMAR_E_REJECTED;
    if (w->n_stop_ids)
        leave_out_stops(w);
    return reasoning_watch_add(&w->reasoning, w->mask, w->n_vocab);
}

/* A token of reasoning, or of the answer. */
static int follow(MaskWork *w) {
    int r;

    w->n_forced = 0;
    r = reasoning_watch_take(&w->reasoning, w->token);
    if (r != REASONING_E_ANSWER)
        return r ? (r < 0 ? r : GRAMMAR_E_REJECTED) : fill(w);
    r = grammar_matcher_accept(w->matcher, w->token);
    if (!r && w->n_forced_max && !grammar_matcher_is_terminated(w->matcher))
        r = grammar_matcher_forced(w->matcher, w->forced, w->n_forced_max, &w->n_forced);
    for (uint32_t i = 0; !r && i < w->n_forced; i++)
        r = grammar_matcher_accept(w->matcher, w->forced[i]);
    return r ? r : fill(w);
}

int mask_work_new(MaskWork **outp, GrammarEngine *engine, Grammar *grammar, Account *account,
                  const ReasoningForm *reasoning, const uint32_t *stop_ids, uint32_t n_stop_ids) {
    CLEANUP(mask_work_free) MaskWork *w = NULL;
    uint32_t n_vocab = grammar_engine_n_vocab(engine), n_words = grammar_mask_words(n_vocab);
    uint64_t n_bytes = sizeof(*w) + n_words * sizeof(*w->mask);
    int r;

    r = account_charge(account, n_bytes);
    if (r)
        return r;
    w = calloc(1, sizeof(*w));
    if (!w) {
        account_release(account, n_bytes);
        return -ENOMEM;
    }
    list_init(&w->link);
    w->account = account_ref(account);
    w->n_bytes = n_bytes;
    w->n_vocab = n_vocab;
    w->n_words = n_words;
    w->stop_ids = stop_ids;
    w->n_stop_ids = n_stop_ids;
    if (reasoning)
        reasoning_watch_init(&w->reasoning, reasoning, w->account);
    w->mask = calloc(n_words, sizeof(*w->mask));
    r = w->mask ? grammar_matcher_new(&w->matcher, grammar, account) : -ENOMEM;
    if (!r)
        r = fill(w);
    if (!r)
        *outp = TAKE(w);
    return r;
}

static void destroy(MaskWork *w) {
    grammar_matcher_free(w->matcher);
    reasoning_watch_deinit(&w->reasoning);
    account_release(w->account, w->n_bytes);
    account_unref(w->account);
    free(w->mask);
    free(w);
}

MaskWork *mask_work_free(MaskWork *w) {
    bool busy = false;

    if (!w)
        return NULL;
    if (w->pool) {
        pthread_mutex_lock(&w->pool->lock);
        busy = w->dropped = w->busy;
        pthread_mutex_unlock(&w->pool->lock);
    }
    if (!busy)
        destroy(w);
    return NULL;
}

/* threads */

static void *work_on(void *arg) {
    MaskPool *p = arg;
    List *link;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        MaskWork *w;
        bool dropped;

        while (!(link = list_pop_front(&p->waiting)) && !p->stops)
            pthread_cond_wait(&p->came, &p->lock);
        if (!link)
            break;
        w = container_of(link, MaskWork, link);
        list_push_back(&p->running, link);
        dropped = w->dropped;
        pthread_mutex_unlock(&p->lock);
        if (!dropped)
            w->result = follow(w);
        pthread_mutex_lock(&p->lock);
        list_remove(link);
        w->busy = false;
        dropped = w->dropped;
        pthread_cond_broadcast(&p->ended);
        if (dropped) {
            pthread_mutex_unlock(&p->lock);
            destroy(w);
            pthread_mutex_lock(&p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int mask_pool_new(MaskPool **outp) {
    CLEANUP(mask_pool_free) MaskPool *p = calloc(1, sizeof(*p));
    pthread_condattr_t monotonic;

    if (!p)
        return -ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->came, NULL);
    pthread_cond_init(&p->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    list_init(&p->waiting);
    list_init(&p->running);
    for (; p->n_threads < MASK_THREADS; p->n_threads++) {
        int r = pthread_create(&p->threads[p->n_threads], NULL, work_on, p);

        if (r)
            return -r;
        pthread_setname_np(p->threads[p->n_threads], "masks");
    }
    *outp = TAKE(p);
    return 0;
}

MaskPool *mask_pool_free(MaskPool *p) {
    if (!p)
        return NULL;
    pthread_mutex_lock(&p->lock);
    p->stops = true;
    pthread_cond_broadcast(&p->came);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->came);
    pthread_cond_destroy(&p->ended);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return NULL;
}

/* the engine's side */

void mask_pool_begin(MaskPool *p, MaskWork *w) {
    pthread_mutex_lock(&p->lock);
    assert(!w->busy);
    w->pool = p;
    w->busy = true;
    w->begin_ns = clock_ns();
    list_push_back(&p->waiting, &w->link);
    pthread_cond_signal(&p->came);
    pthread_mutex_unlock(&p->lock);
}

bool mask_work_is_busy(MaskWork *w) {
    bool busy;

    if (!w->pool)
        return false;
    pthread_mutex_lock(&w->pool->lock);
    busy = w->busy;
    pthread_mutex_unlock(&w->pool->lock);
    return busy;
}

void mask_work_wait(MaskWork *w) {
    if (!w->pool)
        return;
    pthread_mutex_lock(&w->pool->lock);
    while (w->busy)
        pthread_cond_wait(&w->pool->ended, &w->pool->lock);
    pthread_mutex_unlock(&w->pool->lock);
}

static void wait_until(MaskPool *p, uint64_t until_ns) {
    struct timespec until = { .tv_sec = (time_t)(until_ns / 1000000000),
                              .tv_nsec = (long)(until_ns % 1000000000) };

    pthread_cond_timedwait(&p->ended, &p->lock, &until);
}

/* The latest that somebody began; 0: nobody. */
static uint64_t youngest_ns(const MaskPool *p) {
    const List *last = list_is_empty(&p->waiting) ? p->running.prev : p->waiting.prev;

    return list_is_empty(&p->waiting) && list_is_empty(&p->running)
               ? 0
               : container_of(last, const MaskWork, link)->begin_ns;
}

void mask_pool_wait(MaskPool *p, uint64_t wait_ns) {
    uint64_t begun_ns;

    pthread_mutex_lock(&p->lock);
    while ((begun_ns = youngest_ns(p)) && begun_ns + wait_ns > clock_ns())
        wait_until(p, begun_ns + wait_ns);
    pthread_mutex_unlock(&p->lock);
}

void mask_pool_wait_for_one(MaskPool *p, uint64_t wait_ns) {
    pthread_mutex_lock(&p->lock);
    if (youngest_ns(p))
        wait_until(p, clock_ns() + wait_ns);
    pthread_mutex_unlock(&p->lock);
}
