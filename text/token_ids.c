/* SPDX-License-Identifier: Apache-2.0 */
#include "text/token_ids.h"

#include <errno.h>
#include <string.h>

void token_ids_deinit(TokenIds *ids) {
    free(ids->ids);
    account_release(ids->account, ids->capacity * sizeof(*ids->ids));
    *ids = (TokenIds)TOKEN_IDS_NULL;
}

int token_ids_reserve(TokenIds *ids, size_t n) {
    size_t need, capacity, n_bytes;
    uint32_t *grown;
    int r;

    if (n <= ids->capacity - ids->n)
        return 0;
    if (__builtin_add_overflow(ids->n, n, &need))
        return -ENOMEM;
    capacity = ids->capacity < SIZE_MAX / 2 ? ids->capacity * 2 : need;
    if (capacity < need)
        capacity = need;
    if (capacity < 16)
        capacity = 16;
    if (__builtin_mul_overflow(capacity, sizeof(*grown), &n_bytes))
        return -ENOMEM;
    n_bytes -= ids->capacity * sizeof(*grown);
    r = account_charge(ids->account, n_bytes);
    if (r)
        return r;
    grown = reallocarray(ids->ids, capacity, sizeof(*grown));
    if (!grown) {
        account_release(ids->account, n_bytes);
        return -ENOMEM;
    }
    ids->ids = grown;
    ids->capacity = capacity;
    return 0;
}

int token_ids_append(TokenIds *ids, const uint32_t *more, size_t n) {
    int r = token_ids_reserve(ids, n);

    if (r)
        return r;
    if (n)
        memcpy(ids->ids + ids->n, more, n * sizeof(*more));
    ids->n += n;
    return 0;
}
