/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Byte strings with ids, found from either side. Ids may have holes. Filled once, then only read.
 */

#include "text/token_ids.h"
#include "util/buffer.h"
#include "util/cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Far above any real vocabulary; keeps tables indexed by id small whatever a file says. */
#define VOCAB_IDS_MAX (1u << 22)
#define VOCAB_TOKEN_BYTES_MAX (1u << 20)

typedef struct VocabEntry {
    size_t at; /* in `text` */
    uint32_t size;
    bool present;
} VocabEntry;

typedef struct VocabSlot {
    uint32_t hash; /* of the string; its low bits chose the place */
    uint32_t id;   /* TOKEN_NONE: free */
} VocabSlot;

typedef struct Vocab {
    VocabEntry *entries; /* [n_ids] */
    uint32_t n_ids;      /* highest id + 1 */
    uint32_t n_tokens;
    uint32_t entry_capacity;
    uint32_t longest; /* bytes of the longest string */
    VocabSlot *slots; /* [slot_mask + 1] */
    uint32_t slot_mask;
    Buffer text;
} Vocab;

#define VOCAB_NULL \
    { .entries = NULL }

enum {
    _VOCAB_E_SUCCESS,
    VOCAB_E_ID_TAKEN,
    VOCAB_E_TEXT_TAKEN,
    VOCAB_E_RANGE, /* id or size above the limits */
};

void vocab_deinit(Vocab *vocab);
CLEANUP_DEINIT_DEFINE(Vocab, vocab_deinit);

/* Adds one string. 0, one of the outcomes above, or -ENOMEM. */
int vocab_add(Vocab *vocab, uint32_t id, const char *text, size_t size);

/* The id of a string, or TOKEN_NONE. */
uint32_t vocab_find(const Vocab *vocab, const char *text, size_t size);

/* The string of an id: NULL (size 0) if there is none. Valid until the next vocab_add. */
const char *vocab_text(const Vocab *vocab, uint32_t id, size_t *size);
