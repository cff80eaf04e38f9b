/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Memory that somebody answers for. An account counts bytes against its own limit and against those
 * of its parents. Whoever is about to make something large charges it first, and releases the
 * charge when the last holder lets go of it.
 *
 * An account also knows whether anybody still waits for what is made on it: once it is closed, no
 * charge succeeds any more, and long work that asks `account_is_closed` now and then stops.
 *
 * Every function takes NULL for "nobody answers for it": then everything succeeds. Any thread may
 * call any of them.
 */

#include "util/cleanup.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Account Account;

struct Account {
    Account *parent;        /* NULL: none; held by those made by account_new, else borrowed */
    const char *limit_name; /* the option that sets the limit; static */
    atomic_ullong limit;    /* bytes */
    atomic_ullong used;     /* bytes charged to it and to its children */
    atomic_bool closed;
    _Atomic(const Account *) refused_by; /* whose limit refused a charge last; NULL: none did */
    atomic_uint n_refs;                  /* holders, children made by account_new among them */
};

/* An account inside another object. All that was charged must have been released by deinit. */
void account_init(Account *account, Account *parent, uint64_t limit_bytes, const char *limit_name);
void account_deinit(Account *account);

/* An account with holders: the first is the caller. It holds its parent. NULL without memory. */
Account *account_new(Account *parent, uint64_t limit_bytes, const char *limit_name);
Account *account_ref(Account *account);
/* The last holder's call frees it; all that was charged must have been released. Returns NULL. */
Account *account_unref(Account *account);
CLEANUP_DEFINE(Account, account_unref);

/* 0; -ENOMEM if a limit is reached; -ECANCELED if it or a parent is closed. Where it fails, nothing
 * is charged. */
int account_charge(Account *account, uint64_t n_bytes);
void account_release(Account *account, uint64_t n_bytes);
/* Bytes that could be charged now. */
uint64_t account_room(const Account *account);

/* The name of the limit that refused a charge of this account last; NULL: none did. */
const char *account_refusal(const Account *account);

/* A lower limit than what is in use refuses more and takes nothing back. */
void account_set_limit(Account *account, uint64_t limit_bytes);

/* Nobody waits any more. Its children are closed with it. */
void account_close(Account *account);
bool account_is_closed(const Account *account);
