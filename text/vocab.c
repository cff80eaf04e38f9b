/* SPDX-License-Identifier: Apache-2.0 */

/*
 * All strings lie in one buffer, entries point into it by id, and an open-addressed table of ids
 * (at most half full) leads from a string to its entry.
 */

#include "text/vocab.h"

#include "text/short_hash.h"

#include <errno.h>
#include <string.h>

void vocab_deinit(Vocab *vocab) {
    free(vocab->entries);
    free(vocab->slots);
    buffer_deinit(&vocab->text);
    *vocab = (Vocab)VOCAB_NULL;
}

static bool slot_holds(const Vocab *vocab, const VocabSlot *slot, uint32_t hash, const char *text,
                       size_t size) {
    const VocabEntry *entry;

    if (slot->hash != hash)
        return false;
    entry = &vocab->entries[slot->id];
    return entry->size == size && !memcmp(vocab->text.data + entry->at, text, size);
}

/* The slot that holds the string, or the free one where it would go. The table exists. */
static VocabSlot *slot_find(const Vocab *vocab, uint32_t hash, const char *text, size_t size) {
    uint32_t at = hash & vocab->slot_mask;

    while (vocab->slots[at].id != TOKEN_NONE &&
           !slot_holds(vocab, &vocab->slots[at], hash, text, size))
        at = (at + 1) & vocab->slot_mask;
    return &vocab->slots[at];
}

static int slots_grow(Vocab *vocab) {
    uint32_t n = vocab->slots ? (vocab->slot_mask + 1) * 2 : 1024;
    VocabSlot *old = vocab->slots, *slots;
    uint32_t n_old = old ? vocab->slot_mask + 1 : 0;

    slots = reallocarray(NULL, n, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    memset(slots, 0xff, n * sizeof(*slots));
    vocab->slots = slots;
    vocab->slot_mask = n - 1;
    for (uint32_t i = 0; i < n_old; i++) {
        uint32_t at = old[i].hash & vocab->slot_mask;

        if (old[i].id == TOKEN_NONE)
            continue;
        while (slots[at].id != TOKEN_NONE)
            at = (at + 1) & vocab->slot_mask;
        slots[at] = old[i];
    }
    free(old);
    return 0;
}

static int entries_grow(Vocab *vocab, uint32_t n_ids) {
    uint32_t capacity = vocab->entry_capacity ? vocab->entry_capacity : 1024;
    VocabEntry *entries;

    if (n_ids <= vocab->n_ids)
        return 0;
    while (capacity < n_ids)
        capacity *= 2;
    if (capacity > vocab->entry_capacity) {
        entries = reallocarray(vocab->entries, capacity, sizeof(*entries));
        if (!entries)
            return -ENOMEM;
        vocab->entries = entries;
        vocab->entry_capacity = capacity;
    }
    memset(vocab->entries + vocab->n_ids, 0, (n_ids - vocab->n_ids) * sizeof(*vocab->entries));
    vocab->n_ids = n_ids;
    return 0;
}

int vocab_add(Vocab *vocab, uint32_t id, const char *text, size_t size) {
    uint32_t hash = short_hash(text, size);
    VocabSlot *slot;
    int r;

    if (id >= VOCAB_IDS_MAX || size > VOCAB_TOKEN_BYTES_MAX)
        return VOCAB_E_RANGE;
    if (id < vocab->n_ids && vocab->entries[id].present)
        return VOCAB_E_ID_TAKEN;
    if (vocab_find(vocab, text, size) != TOKEN_NONE)
        return VOCAB_E_TEXT_TAKEN;
    if (!vocab->slots || vocab->n_tokens >= vocab->slot_mask / 2) {
        r = slots_grow(vocab);
        if (r)
            return r;
    }
    r = entries_grow(vocab, id + 1);
    if (r)
        return r;
    vocab->entries[id] =
        (VocabEntry){ .at = vocab->text.size, .size = (uint32_t)size, .present = true };
    buffer_append(&vocab->text, text, size);
    if (buffer_failed(&vocab->text))
        return -ENOMEM;
    slot = slot_find(vocab, hash, text, size);
    *slot = (VocabSlot){ .hash = hash, .id = id };
    vocab->n_tokens++;
    if (size > vocab->longest)
        vocab->longest = (uint32_t)size;
    return 0;
}

uint32_t vocab_find(const Vocab *vocab, const char *text, size_t size) {
    if (!vocab->slots || size > vocab->longest)
        return TOKEN_NONE;
    return slot_find(vocab, short_hash(text, size), text, size)->id;
}

const char *vocab_text(const Vocab *vocab, uint32_t id, size_t *size) {
    const VocabEntry *entry;

    *size = 0;
    if (id >= vocab->n_ids || !vocab->entries[id].present)
        return NULL;
    entry = &vocab->entries[id];
    *size = entry->size;
    return vocab->text.data + entry->at;
}
