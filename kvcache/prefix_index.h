/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Finds full pages by what is in them, and in everything before them. A tree of nodes: a node is 64
 * tokens behind another node, or behind a root, which stands for the model, the plan, the profile
 * and the tenant. Nodes are looked up by a hash, but a hit compares all 64 tokens and the parent
 * node itself, down to the root: equal hashes of different texts do no harm, whoever made them.
 *
 * Of roots alone only the hash is compared, since a salt may be long. It is keyed with a random key
 * of this index (util/keyed_hash.h): without it nobody can make two salts collide, and nothing
 * that a client sees tells of it.
 *
 * A node whose page is evicted stays while it has children, so that they are found again once the
 * same 64 tokens come back; there are as many such nodes as pages, then pages stay out.
 *
 * The index holds no page: who does, and which of the pages nobody holds is dropped first, is the
 * page pool's (kvcache/page_pool.h), which also takes evicted pages out of here. One thread, the
 * engine's. Nothing allocates after init; every call is O(1).
 */

#include "kvcache/kv_layout.h"
#include "util/keyed_hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PREFIX_INDEX_NONE UINT32_MAX

enum {
    _PREFIX_INDEX_E_SUCCESS,
    PREFIX_INDEX_E_KNOWN, /* another page with that content was there first, and stays */
    PREFIX_INDEX_E_FULL,  /* no node is left */
};

typedef struct PrefixNode PrefixNode;

typedef struct PrefixIndex {
    HashKey key;                                                        /* random */
    Hash128 (*hash)(const HashKey *key, const void *data, size_t size); /* of nodes */
    uint32_t *slots;   /* [n_slots] node ids, or none; open addressing, linear probing; owned */
    size_t n_slots;    /* a power of two, at least twice n_nodes */
    PrefixNode *nodes; /* [n_nodes], the first n_touched of them ever used; owned */
    uint32_t n_nodes, n_touched;
    uint32_t free_node;     /* the first of those that are free again, or none */
    uint32_t *node_of_page; /* [n_pages], or none; owned */
    uint32_t n_pages;
    uint32_t n_in; /* pages */
    uint64_t last_serial;
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
    Hash128 salt;       /* prefix_index_salt() of the tenant's; zeros without one */
} PrefixRoot;

/* A node or a root. Whoever keeps one asks prefix_index_is_live before using it again. */
typedef struct PrefixLink {
    Hash128 hash;    /* of everything up to here */
    uint64_t serial; /* of the node, never given twice; 0: a root */
    uint32_t node;   /* PREFIX_INDEX_NONE: a root */
} PrefixLink;

/* -EINVAL (no pages), -ENOMEM, -errno (no random bytes). */
int prefix_index_init(PrefixIndex *index, uint32_t n_pages);
void prefix_index_deinit(PrefixIndex *index);
/* Bytes that an index of so many pages takes. */
uint64_t prefix_index_bytes(uint32_t n_pages);

/* The hash of a tenant's salt, zeros where that is empty; takes time in proportion to its size. Any
 * thread. */
Hash128 prefix_index_salt(const PrefixIndex *index, const void *salt, size_t size);
PrefixLink prefix_index_root(const PrefixIndex *index, const PrefixRoot *root);
/* Roots always live; a node does until its page is evicted and it has no children. */
bool prefix_index_is_live(const PrefixIndex *index, const PrefixLink *link);

/* Returns the page with those tokens behind the live `parent`, with its node in *link (which may be
 * where `parent` is), or PREFIX_INDEX_NONE. Hold it (page_pool_ref) before anything is taken from
 * the pool again. */
uint32_t prefix_index_find(const PrefixIndex *index, const PrefixLink *parent,
                           const uint32_t tokens[KV_PAGE_TOKENS], PrefixLink *link);
/* Makes a page, sealed and held by the caller, findable behind the live `parent`; done already is
 * fine. *link (which may be where `parent` is) becomes the node of that content.
 * PREFIX_INDEX_E_KNOWN: the page stays out and goes back to the free ones with its last holder;
 * *link is the other page's node. PREFIX_INDEX_E_FULL: the page stays out; *link is as it was. */
int prefix_index_insert(PrefixIndex *index, const PrefixLink *parent,
                        const uint32_t tokens[KV_PAGE_TOKENS], uint32_t page, PrefixLink *link);
/* The page must be in. */
void prefix_index_remove(PrefixIndex *index, uint32_t page);
bool prefix_index_has(const PrefixIndex *index, uint32_t page);

/* One request looked for a prefix of its n_query tokens, and did not have to compute n_hit. */
void prefix_index_count(PrefixIndex *index, uint64_t n_query, uint64_t n_hit);
