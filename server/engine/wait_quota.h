/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How much may wait for the engine at once: sequences, and tokens of their prompts. Whoever brings
 * a call reserves room for all its sequences before it makes them; each gives its part back when it
 * first runs, or ends without. Any thread may reserve and give back.
 *
 * It also says how long what waits now will take: the reserved tokens over the rate at which
 * waiting tokens began to run lately. Only time in which something waited counts, so that an idle
 * night does not make the engine look slow.
 */

#include <stdatomic.h>
#include <stdint.h>

typedef struct WaitQuota {
    uint64_t n_sequences_max, n_tokens_max; /* 0: any number */
    atomic_ullong n_sequences, n_tokens;    /* reserved */
    atomic_ullong n_refused;                /* total of reservations refused */
    atomic_ullong ns_per_token;             /* 0: not known yet */

    /* Of the recent past, each second weighing less than the one after it; engine thread only. */
    double recent_tokens, recent_s;
} WaitQuota;

enum {
    _WAIT_QUOTA_E_SUCCESS,
    WAIT_QUOTA_E_SEQUENCES,       /* too many wait now */
    WAIT_QUOTA_E_TOKENS,          /* too much text waits now */
    WAIT_QUOTA_E_SEQUENCES_NEVER, /* more than may ever wait */
    WAIT_QUOTA_E_TOKENS_NEVER,
};

void wait_quota_init(WaitQuota *quota, uint64_t n_sequences_max, uint64_t n_tokens_max);
/* 0, or one of the above; then nothing is reserved. */
int wait_quota_reserve(WaitQuota *quota, uint64_t n_sequences, uint64_t n_tokens);
void wait_quota_give_back(WaitQuota *quota, uint64_t n_sequences, uint64_t n_tokens);

/* In the last elapsed_s something waited, and n_tokens of it began to run. Engine thread. */
void wait_quota_observe(WaitQuota *quota, uint64_t n_tokens, double elapsed_s);
/* Seconds until what is reserved now will have begun to run; 0 where nothing is, at most an hour.
 */
double wait_quota_estimate_s(const WaitQuota *quota);
