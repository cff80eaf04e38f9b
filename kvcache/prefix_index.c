/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of page ids, at most half full, probed linearly from the low bits of the hash. Removal
 * moves later entries of the run back instead of leaving a mark, so that probes stay short however
 * long the server runs.
 */
#include "kvcache/prefix_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* chains */

static void hash_sized(Hasher *hasher, const void *data, size_t size) {
    uint64_t n = size;

    hasher_update(hasher, &n, sizeof(n));
    if (size)
        hasher_update(hasher, data, size);
}

Hash128 prefix_chain_root(const PrefixRoot *root) {
    Hasher hasher;

    hasher_init(&hasher, KV_PAGE_TOKENS);
    hash_sized(&hasher, root->identity, strlen(root->identity));
    hasher_update(&hasher, &root->geometry, sizeof(root->geometry));
    for (uint32_t layer = 0; layer < root->geometry.n_layers; layer++)
        for (KvSide side = KV_SIDE_K; side < KV_SIDES; side++) {
            uint8_t format = (uint8_t)kv_plan_format(root->plan, layer, side);

            hasher_update(&hasher, &format, sizeof(format));
        }
    hasher_update(&hasher, &root->profile, sizeof(root->profile));
    hash_sized(&hasher, root->salt, root->salt_size);
    return hasher_digest(&hasher);
}

/* Half of the parent is the seed, which in XXH3 changes what every byte is mixed with; half stands
 * before the tokens. */
Hash128 prefix_chain_next(Hash128 parent, const uint32_t tokens[KV_PAGE_TOKENS]) {
    struct {
        uint64_t parent_high;
        uint32_t tokens[KV_PAGE_TOKENS];
    } link = { .parent_high = parent.high };

    memcpy(link.tokens, tokens, sizeof(link.tokens));
    return hash128(&link, sizeof(link), parent.low);
}

/* index */

int prefix_index_init(PrefixIndex *index, uint32_t n_pages) {
    *index = (PrefixIndex)PREFIX_INDEX_NULL;
    if (!n_pages)
        return -EINVAL;
    index->n_pages = n_pages;
    for (index->n_slots = 2; index->n_slots < 2 * (size_t)n_pages;)
        index->n_slots *= 2;
    index->slots = malloc(index->n_slots * sizeof(*index->slots));
    index->hashes = calloc(n_pages, sizeof(*index->hashes));
    index->is_in = calloc(n_pages, sizeof(*index->is_in));
    if (!index->slots || !index->hashes || !index->is_in) {
        prefix_index_deinit(index);
        return -ENOMEM;
    }
    for (size_t i = 0; i < index->n_slots; i++)
        index->slots[i] = PREFIX_INDEX_NONE;
    return 0;
}

void prefix_index_deinit(PrefixIndex *index) {
    free(index->slots);
    free(index->hashes);
    free(index->is_in);
    *index = (PrefixIndex)PREFIX_INDEX_NULL;
}

static size_t home_of(const PrefixIndex *index, Hash128 hash) {
    return hash.low & (index->n_slots - 1);
}

static size_t next_slot(const PrefixIndex *index, size_t slot) {
    return (slot + 1) & (index->n_slots - 1);
}

/* The slot that holds the hash, or the empty one where it would go. */
static size_t probe(const PrefixIndex *index, Hash128 hash) {
    size_t slot = home_of(index, hash);

    while (index->slots[slot] != PREFIX_INDEX_NONE &&
           !hash128_equal(index->hashes[index->slots[slot]], hash))
        slot = next_slot(index, slot);
    return slot;
}

uint32_t prefix_index_find(const PrefixIndex *index, Hash128 hash) {
    return index->slots[probe(index, hash)];
}

int prefix_index_insert(PrefixIndex *index, Hash128 hash, uint32_t page) {
    size_t slot = probe(index, hash);

    assert(page < index->n_pages && !index->is_in[page]);
    if (index->slots[slot] != PREFIX_INDEX_NONE)
        return PREFIX_INDEX_E_KNOWN;
    index->slots[slot] = page;
    index->hashes[page] = hash;
    index->is_in[page] = true;
    index->n_in++;
    return 0;
}

void prefix_index_remove(PrefixIndex *index, uint32_t page) {
    size_t mask = index->n_slots - 1, hole, slot;

    assert(prefix_index_has(index, page));
    hole = probe(index, index->hashes[page]);
    index->is_in[page] = false;
    index->n_in--;
    /* Whoever would no longer be reached over the hole moves into it, and leaves one. */
    for (slot = next_slot(index, hole); index->slots[slot] != PREFIX_INDEX_NONE;
         slot = next_slot(index, slot)) {
        size_t home = home_of(index, index->hashes[index->slots[slot]]);

        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            index->slots[hole] = index->slots[slot];
            hole = slot;
        }
    }
    index->slots[hole] = PREFIX_INDEX_NONE;
}

bool prefix_index_has(const PrefixIndex *index, uint32_t page) {
    assert(page < index->n_pages);
    return index->is_in[page];
}

void prefix_index_count(PrefixIndex *index, uint64_t n_query, uint64_t n_hit) {
    index->n_query_tokens += n_query;
    index->n_hit_tokens += n_hit;
}
