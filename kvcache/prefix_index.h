/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Finds full pages by what is in them. The hash of a page is chained: it covers the page's 64
 * tokens and, through the hash of the page before, everything earlier, down to a root that stands
 * for the model, the plan, the profile and the tenant. Equal hash, equal content.
 *
 * The index maps hashes to page ids and holds nothing: who holds a page, and which of the pages
 * nobody holds is dropped first, is the page pool's (kvcache/page_pool.h), which also takes evicted
 * pages out of here. One thread, the engine's. Nothing allocates after init; every call is O(1).
 *
 * XXH3 is no cryptographic hash. Who knows the root can look for two texts that collide and so
 * make another request read a page that is not its own; tenants who do not trust each other get
 * a salt each, and a salt with a secret in it keeps the root unknown.
 */

#include "kvcache/kv_layout.h"
#include "util/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PREFIX_INDEX_NONE UINT32_MAX

enum {
    _PREFIX_INDEX_E_SUCCESS,
    PREFIX_INDEX_E_KNOWN, /* another page with that hash was there first, and stays */
};

typedef struct PrefixIndex {
    uint32_t *slots; /* [n_slots] page ids, or none; open addressing, linear probing; owned */
    Hash128 *hashes; /* [n_pages] of the pages that are in; owned */
    bool *is_in;     /* [n_pages]; owned */
    size_t n_slots;  /* a power of two, at least twice n_pages */
    uint32_t n_pages;
    uint32_t n_in;
    uint64_t n_query_tokens, n_hit_tokens; /* totals, by prefix_index_count */
} PrefixIndex;

#define PREFIX_INDEX_NULL \
    { .slots = NULL }

/* What a chain begins with. */
typedef struct PrefixRoot {
    const char *identity; /* of the model, text */
    KvGeometry geometry;
    const KvPlan *plan; /* NULL: f16 */
    Hash128 profile;    /* profile_hash(); zeros without one */
    const void *salt;   /* [salt_size] of the tenant; NULL when 0 */
    size_t salt_size;
} PrefixRoot;

Hash128 prefix_chain_root(const PrefixRoot *root);
/* Of the page with those tokens behind the page (or root) of hash `parent`. */
Hash128 prefix_chain_next(Hash128 parent, const uint32_t tokens[KV_PAGE_TOKENS]);

/* -EINVAL (no pages), -ENOMEM. */
int prefix_index_init(PrefixIndex *index, uint32_t n_pages);
void prefix_index_deinit(PrefixIndex *index);

/* The page with that hash, or PREFIX_INDEX_NONE. Hold it (page_pool_ref) before anything is taken
 * from the pool again. */
uint32_t prefix_index_find(const PrefixIndex *index, Hash128 hash);
/* Makes a page, just sealed and held by the caller, findable; it must not be in yet.
 * PREFIX_INDEX_E_KNOWN: the page stays out and goes back to the free ones with its last holder. */
int prefix_index_insert(PrefixIndex *index, Hash128 hash, uint32_t page);
/* The page must be in. */
void prefix_index_remove(PrefixIndex *index, uint32_t page);
bool prefix_index_has(const PrefixIndex *index, uint32_t page);

/* One request looked for a prefix of its n_query tokens, and did not have to compute n_hit. */
void prefix_index_count(PrefixIndex *index, uint64_t n_query, uint64_t n_hit);
