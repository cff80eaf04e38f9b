/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Growable token ids. */

#include "util/account.h"
#include "util/cleanup.h"

#include <stddef.h>
#include <stdint.h>

#define TOKEN_NONE UINT32_MAX

typedef struct TokenIds {
    uint32_t *ids; /* owned */
    size_t n, capacity;
    Account *account; /* charged with the capacity; borrowed; NULL: nobody's. Set while empty */
} TokenIds;

#define TOKEN_IDS_NULL \
    { .ids = NULL }

void token_ids_deinit(TokenIds *ids);
CLEANUP_DEINIT_DEFINE(TokenIds, token_ids_deinit);

/* Makes room for `n` more, so that `token_ids_push` may be called `n` times. 0, -ENOMEM, or
 * account_charge's error. */
int token_ids_reserve(TokenIds *ids, size_t n);
int token_ids_append(TokenIds *ids, const uint32_t *more, size_t n);

static inline void token_ids_push(TokenIds *ids, uint32_t id) {
    ids->ids[ids->n++] = id;
}
