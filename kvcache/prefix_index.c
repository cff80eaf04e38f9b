/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of node ids, at most half full, probed linearly from the low bits of the hash. Removal
 * moves later entries of the run back instead of leaving a mark, so that probes stay short however
 * long the server runs.
 *
 * A node's id says who it is as long as it is there, and it is there as long as a page or a child
 * needs it. So a child names its parent by id alone; only links that outsiders keep need a serial.
 */
#include "kvcache/prefix_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct PrefixNode {
    uint32_t tokens[KV_PAGE_TOKENS];
    Hash128 hash, parent_hash;
    uint64_t serial;     /* 0: free */
    uint32_t parent;     /* a node; none: the root of parent_hash. Of a free node: the next free */
    uint32_t page;       /* or none */
    uint32_t n_children; /* nodes */
};

/* life */

static uint32_t n_nodes_of(uint32_t n_pages) {
    return n_pages < UINT32_MAX / 2 ? 2 * n_pages : UINT32_MAX - 1;
}

static size_t n_slots_of(uint32_t n_nodes) {
    size_t n = 2;

    while (n < 2 * (size_t)n_nodes)
        n *= 2;
    return n;
}

uint64_t prefix_index_bytes(uint32_t n_pages) {
    uint32_t n_nodes = n_nodes_of(n_pages);

    return n_nodes * (uint64_t)sizeof(PrefixNode) +
           (n_pages + (uint64_t)n_slots_of(n_nodes)) * sizeof(uint32_t);
}

int prefix_index_init(PrefixIndex *index, uint32_t n_pages) {
    int r;

    *index = (PrefixIndex)PREFIX_INDEX_NULL;
    if (!n_pages)
        return -EINVAL;
    r = hash_key_init(&index->key);
    if (r)
        return r;
    index->hash = keyed_hash128;
    index->n_pages = n_pages;
    index->n_nodes = n_nodes_of(n_pages);
    index->n_slots = n_slots_of(index->n_nodes);
    index->free_node = PREFIX_INDEX_NONE;
    index->slots = malloc(index->n_slots * sizeof(*index->slots));
    index->nodes = calloc(index->n_nodes, sizeof(*index->nodes));
    index->node_of_page = malloc(n_pages * sizeof(*index->node_of_page));
    if (!index->slots || !index->nodes || !index->node_of_page) {
        prefix_index_deinit(index);
        return -ENOMEM;
    }
    for (size_t i = 0; i < index->n_slots; i++)
        index->slots[i] = PREFIX_INDEX_NONE;
    for (uint32_t page = 0; page < n_pages; page++)
        index->node_of_page[page] = PREFIX_INDEX_NONE;
    return 0;
}

void prefix_index_deinit(PrefixIndex *index) {
    free(index->slots);
    free(index->nodes);
    free(index->node_of_page);
    *index = (PrefixIndex)PREFIX_INDEX_NULL;
}

/* roots and links */

Hash128 prefix_index_salt(const PrefixIndex *index, const void *salt, size_t size) {
    return size ? keyed_hash128(&index->key, salt, size) : (Hash128){ 0 };
}

PrefixLink prefix_index_root(const PrefixIndex *index, const PrefixRoot *root) {
    struct {
        Hash128 identity, formats, profile, salt;
        KvGeometry geometry;
        uint32_t page_tokens;
    } parts = { .profile = root->profile,
                .salt = root->salt,
                .geometry = root->geometry,
                .page_tokens = KV_PAGE_TOKENS };
    uint8_t formats[KV_LAYERS_MAX][KV_SIDES];

    assert(root->geometry.n_layers <= KV_LAYERS_MAX);
    for (uint32_t layer = 0; layer < root->geometry.n_layers; layer++)
        for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++)
            formats[layer][side] = (uint8_t)kv_plan_format(root->plan, layer, side);
    parts.identity = keyed_hash128(&index->key, root->identity, strlen(root->identity));
    parts.formats = keyed_hash128(&index->key, formats, root->geometry.n_layers * sizeof(*formats));
    return (PrefixLink){ .hash = keyed_hash128(&index->key, &parts, sizeof(parts)),
                         .node = PREFIX_INDEX_NONE };
}

bool prefix_index_is_live(const PrefixIndex *index, const PrefixLink *link) {
    return link->node == PREFIX_INDEX_NONE || index->nodes[link->node].serial == link->serial;
}

static PrefixLink link_of(const PrefixIndex *index, uint32_t id) {
    const PrefixNode *node = &index->nodes[id];

    return (PrefixLink){ .hash = node->hash, .serial = node->serial, .node = id };
}

/* the table */

static Hash128 hash_behind(const PrefixIndex *index, const PrefixLink *parent,
                           const uint32_t *tokens) {
    struct {
        Hash128 parent;
        uint32_t tokens[KV_PAGE_TOKENS];
    } text = { .parent = parent->hash };

    memcpy(text.tokens, tokens, sizeof(text.tokens));
    return index->hash(&index->key, &text, sizeof(text));
}

static size_t home_of(const PrefixIndex *index, Hash128 hash) {
    return hash.low & (index->n_slots - 1);
}

static size_t next_slot(const PrefixIndex *index, size_t slot) {
    return (slot + 1) & (index->n_slots - 1);
}

static bool is_node(const PrefixNode *node, Hash128 hash, const PrefixLink *parent,
                    const uint32_t *tokens) {
    return hash128_equal(node->hash, hash) && node->parent == parent->node &&
           hash128_equal(node->parent_hash, parent->hash) &&
           memcmp(node->tokens, tokens, sizeof(node->tokens)) == 0;
}

/* The slot of that node, or the empty one where it would go. */
static size_t probe(const PrefixIndex *index, Hash128 hash, const PrefixLink *parent,
                    const uint32_t *tokens) {
    size_t slot = home_of(index, hash);

    while (index->slots[slot] != PREFIX_INDEX_NONE &&
           !is_node(&index->nodes[index->slots[slot]], hash, parent, tokens))
        slot = next_slot(index, slot);
    return slot;
}

static void empty_slot_of(PrefixIndex *index, uint32_t id) {
    size_t mask = index->n_slots - 1, hole = home_of(index, index->nodes[id].hash), slot;

    while (index->slots[hole] != id)
        hole = next_slot(index, hole);
    /* Whoever would no longer be reached over the hole moves into it, and leaves one. */
    for (slot = next_slot(index, hole); index->slots[slot] != PREFIX_INDEX_NONE;
         slot = next_slot(index, slot)) {
        size_t home = home_of(index, index->nodes[index->slots[slot]].hash);

        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            index->slots[hole] = index->slots[slot];
            hole = slot;
        }
    }
    index->slots[hole] = PREFIX_INDEX_NONE;
}

/* nodes */

static uint32_t take_node(PrefixIndex *index) {
    uint32_t id = index->free_node;

    if (id != PREFIX_INDEX_NONE)
        index->free_node = index->nodes[id].parent;
    else if (index->n_touched < index->n_nodes)
        id = index->n_touched++;
    return id;
}

/* Frees the node if nothing needs it any more, and then its parent likewise. */
static void drop_node(PrefixIndex *index, uint32_t id) {
    while (id != PREFIX_INDEX_NONE) {
        PrefixNode *node = &index->nodes[id];
        uint32_t parent = node->parent;

        if (node->page != PREFIX_INDEX_NONE || node->n_children)
            return;
        empty_slot_of(index, id);
        node->serial = 0;
        node->parent = index->free_node;
        index->free_node = id;
        if (parent != PREFIX_INDEX_NONE)
            index->nodes[parent].n_children--;
        id = parent;
    }
}

/* Puts a node without a page into an empty slot. PREFIX_INDEX_NONE: there is none left. */
static uint32_t make_node(PrefixIndex *index, size_t slot, Hash128 hash, const PrefixLink *parent,
                          const uint32_t *tokens) {
    uint32_t id = take_node(index);
    PrefixNode *node = &index->nodes[id];

    if (id == PREFIX_INDEX_NONE)
        return id;
    *node = (PrefixNode){ .hash = hash,
                          .parent_hash = parent->hash,
                          .serial = ++index->last_serial,
                          .parent = parent->node,
                          .page = PREFIX_INDEX_NONE };
    memcpy(node->tokens, tokens, sizeof(node->tokens));
    if (parent->node != PREFIX_INDEX_NONE)
        index->nodes[parent->node].n_children++;
    index->slots[slot] = id;
    return id;
}

/* pages */

uint32_t prefix_index_find(const PrefixIndex *index, const PrefixLink *parent,
                           const uint32_t tokens[KV_PAGE_TOKENS], PrefixLink *link) {
    uint32_t id, page;

    assert(prefix_index_is_live(index, parent));
    id = index->slots[probe(index, hash_behind(index, parent, tokens), parent, tokens)];
    page = id == PREFIX_INDEX_NONE ? id : index->nodes[id].page;
    if (page != PREFIX_INDEX_NONE)
        *link = link_of(index, id);
    return page;
}

int prefix_index_insert(PrefixIndex *index, const PrefixLink *parent,
                        const uint32_t tokens[KV_PAGE_TOKENS], uint32_t page, PrefixLink *link) {
    Hash128 hash;
    uint32_t id;
    size_t slot;

    assert(page < index->n_pages && prefix_index_is_live(index, parent));
    hash = hash_behind(index, parent, tokens);
    slot = probe(index, hash, parent, tokens);
    id = index->slots[slot];
    if (id == PREFIX_INDEX_NONE)
        id = make_node(index, slot, hash, parent, tokens);
    if (id == PREFIX_INDEX_NONE)
        return PREFIX_INDEX_E_FULL;
    *link = link_of(index, id);
    if (index->nodes[id].page != PREFIX_INDEX_NONE)
        return index->nodes[id].page == page ? 0 : PREFIX_INDEX_E_KNOWN;
    assert(!prefix_index_has(index, page)); /* with another content */
    index->nodes[id].page = page;
    index->node_of_page[page] = id;
    index->n_in++;
    return 0;
}

void prefix_index_remove(PrefixIndex *index, uint32_t page) {
    uint32_t id = index->node_of_page[page];

    assert(prefix_index_has(index, page));
    index->nodes[id].page = PREFIX_INDEX_NONE;
    index->node_of_page[page] = PREFIX_INDEX_NONE;
    index->n_in--;
    drop_node(index, id);
}

bool prefix_index_has(const PrefixIndex *index, uint32_t page) {
    assert(page < index->n_pages);
    return index->node_of_page[page] != PREFIX_INDEX_NONE;
}

void prefix_index_count(PrefixIndex *index, uint64_t n_query, uint64_t n_hit) {
    index->n_query_tokens += n_query;
    index->n_hit_tokens += n_hit;
}
