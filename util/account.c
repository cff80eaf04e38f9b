/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A charge climbs from the account to its topmost parent, and is taken back on the way down where
 * one of them refuses; meanwhile another thread may be refused what would have fitted a moment
 * later. No count ever passes its limit.
 */
#include "util/account.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

void account_init(Account *account, Account *parent, uint64_t limit_bytes, const char *limit_name) {
    *account = (Account){ .parent = parent, .limit_name = limit_name };
    atomic_init(&account->limit, limit_bytes);
    atomic_init(&account->n_refs, 1);
}

void account_deinit(Account *account) {
    assert(!atomic_load(&account->used));
    assert(atomic_load(&account->n_refs) <= 1);
}

Account *account_new(Account *parent, uint64_t limit_bytes, const char *limit_name) {
    Account *account = malloc(sizeof(*account));

    if (account)
        account_init(account, account_ref(parent), limit_bytes, limit_name);
    return account;
}

Account *account_ref(Account *account) {
    if (account)
        atomic_fetch_add(&account->n_refs, 1);
    return account;
}

Account *account_unref(Account *account) {
    while (account && atomic_fetch_sub(&account->n_refs, 1) == 1) {
        Account *parent = account->parent;

        account_deinit(account);
        free(account);
        account = parent;
    }
    return NULL;
}

static void give_back(Account *from, const Account *end, uint64_t n_bytes) {
    for (Account *a = from; a != end; a = a->parent) {
        uint64_t before = atomic_fetch_sub(&a->used, n_bytes);

        assert(before >= n_bytes);
    }
}

/* Whether it fitted under this one account's limit. */
static bool take(Account *a, uint64_t n_bytes) {
    unsigned long long used = atomic_load(&a->used), limit = atomic_load(&a->limit);

    do
        if (used > limit || n_bytes > limit - used)
            return false;
    while (!atomic_compare_exchange_weak(&a->used, &used, used + n_bytes));
    return true;
}

int account_charge(Account *account, uint64_t n_bytes) {
    if (account_is_closed(account))
        return -ECANCELED;
    for (Account *a = account; a; a = a->parent) {
        if (take(a, n_bytes))
            continue;
        atomic_store(&account->refused_by, a);
        give_back(account, a, n_bytes);
        return -ENOMEM;
    }
    return 0;
}

void account_release(Account *account, uint64_t n_bytes) {
    give_back(account, NULL, n_bytes);
}

uint64_t account_room(const Account *account) {
    uint64_t room = UINT64_MAX;

    for (const Account *a = account; a; a = a->parent) {
        uint64_t used = atomic_load(&a->used), limit = atomic_load(&a->limit);
        uint64_t own = limit > used ? limit - used : 0;

        room = own < room ? own : room;
    }
    return room;
}

const char *account_refusal(const Account *account) {
    const Account *by = account ? atomic_load(&account->refused_by) : NULL;

    return by ? by->limit_name : NULL;
}

void account_set_limit(Account *account, uint64_t limit_bytes) {
    if (account)
        atomic_store(&account->limit, limit_bytes);
}

void account_close(Account *account) {
    if (account)
        atomic_store(&account->closed, true);
}

bool account_is_closed(const Account *account) {
    for (const Account *a = account; a; a = a->parent)
        if (atomic_load_explicit(&a->closed, memory_order_relaxed))
            return true;
    return false;
}
