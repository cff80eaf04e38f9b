/* SPDX-License-Identifier: Apache-2.0 */
#include "server/engine/wait_quota.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>

#define RECENT_S 10.0 /* what was this long ago weighs 1/e */
#define ESTIMATE_S_MAX 3600.0

void wait_quota_init(WaitQuota *q, uint64_t n_sequences_max, uint64_t n_tokens_max) {
    q->n_sequences_max = n_sequences_max;
    q->n_tokens_max = n_tokens_max;
    q->recent_tokens = q->recent_s = 0;
    atomic_init(&q->n_sequences, 0);
    atomic_init(&q->n_tokens, 0);
    atomic_init(&q->n_refused, 0);
    atomic_init(&q->ns_per_token, 0);
}

static bool take(atomic_ullong *used, uint64_t n, uint64_t max) {
    unsigned long long now = atomic_load_explicit(used, memory_order_relaxed);

    do {
        if (max && (n > max || now > max - n))
            return false;
    } while (!atomic_compare_exchange_weak_explicit(used, &now, now + n, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static void put(atomic_ullong *used, uint64_t n) {
    unsigned long long before = atomic_fetch_sub_explicit(used, n, memory_order_relaxed);

    assert(before >= n);
}

static int refuse(WaitQuota *q, int outcome) {
    atomic_fetch_add_explicit(&q->n_refused, 1, memory_order_relaxed);
    return outcome;
}

int wait_quota_reserve(WaitQuota *q, uint64_t n_sequences, uint64_t n_tokens) {
    if (q->n_sequences_max && n_sequences > q->n_sequences_max)
        return refuse(q, WAIT_QUOTA_E_SEQUENCES_NEVER);
    if (q->n_tokens_max && n_tokens > q->n_tokens_max)
        return refuse(q, WAIT_QUOTA_E_TOKENS_NEVER);
    if (!take(&q->n_sequences, n_sequences, q->n_sequences_max))
        return refuse(q, WAIT_QUOTA_E_SEQUENCES);
    if (!take(&q->n_tokens, n_tokens, q->n_tokens_max)) {
        put(&q->n_sequences, n_sequences);
        return refuse(q, WAIT_QUOTA_E_TOKENS);
    }
    return 0;
}

void wait_quota_give_back(WaitQuota *q, uint64_t n_sequences, uint64_t n_tokens) {
    put(&q->n_sequences, n_sequences);
    put(&q->n_tokens, n_tokens);
}

void wait_quota_observe(WaitQuota *q, uint64_t n_tokens, double elapsed_s) {
    double keep = exp(-elapsed_s / RECENT_S), ns_per_token;

    q->recent_tokens = q->recent_tokens * keep + (double)n_tokens;
    q->recent_s = q->recent_s * keep + elapsed_s;
    if (q->recent_tokens <= 0)
        return;
    ns_per_token = fmin(q->recent_s / q->recent_tokens, ESTIMATE_S_MAX) * 1e9;
    atomic_store_explicit(&q->ns_per_token, (unsigned long long)ns_per_token, memory_order_relaxed);
}

double wait_quota_estimate_s(const WaitQuota *q) {
    double n_tokens = (double)atomic_load_explicit(&q->n_tokens, memory_order_relaxed);
    double ns_per_token = (double)atomic_load_explicit(&q->ns_per_token, memory_order_relaxed);

    return fmin(n_tokens * ns_per_token * 1e-9, ESTIMATE_S_MAX);
}
