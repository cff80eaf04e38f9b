/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Byte pair encoding of one piece of text (what the pre-tokenizer cut out): begin with single
 * characters or bytes and join the best adjacent pair until none joins.
 *
 * Two orders exist. `merges`: a ranked list of pairs, as in tokenizer.json and GGUF "gpt2".
 * `scores`: any pair whose joined text is a token, highest score first, as SentencePiece and GGUF
 * "llama". Ties go to the leftmost pair in both.
 */

#include "text/token_ids.h"
#include "text/vocab.h"

#include <stdbool.h>

typedef struct BpeMerge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank;
    uint32_t id; /* what the pair becomes */
} BpeMerge;

typedef struct Bpe {
    /* The strings the model sees. Byte-level models: raw bytes, no alphabet in between. */
    Vocab pieces;
    bool byte_level;        /* a symbol is a byte; otherwise a character */
    bool ignore_merges;     /* a piece that is a token stays whole */
    bool fuse_unknown;      /* neighbouring unknown characters become one unknown token */
    uint32_t unknown_id;    /* TOKEN_NONE: unknown characters vanish, as in the reference */
    uint32_t byte_ids[256]; /* byte-level: the byte; otherwise: byte fallback; or TOKEN_NONE */
    BpeMerge *merges;       /* [merge_mask + 1]; owned; NULL: joined by score */
    uint32_t merge_mask;
    uint32_t *score_ranks; /* [pieces.n_ids]; owned; smaller joins first; NULL: by merges */
} Bpe;

/* One call's memory: reused from piece to piece, never shared between threads. */
typedef struct BpeScratch {
    Account *account; /* charged with all of it; borrowed; NULL: nobody's. Set while empty */
    struct BpeSymbol *symbols;
    uint64_t *heap;
    struct BpeUnit *units;
    size_t symbol_capacity, heap_capacity, unit_capacity;
    size_t charged_bytes;
} BpeScratch;

#define BPE_SCRATCH_NULL \
    { .symbols = NULL }

void bpe_init(Bpe *bpe);
void bpe_deinit(Bpe *bpe);
void bpe_scratch_deinit(BpeScratch *scratch);
CLEANUP_DEINIT_DEFINE(BpeScratch, bpe_scratch_deinit);

/* Room for `n` merges, all free. 0, -ENOMEM. */
int bpe_merges_reserve(Bpe *bpe, size_t n);
/* A pair given twice keeps its later rank, as in the reference. */
void bpe_merge_add(Bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);

/* Sets the order by score: [pieces.n_ids] floats, none of them NaN. 0, -ENOMEM. */
int bpe_scores_set(Bpe *bpe, const float *scores);

/* Appends the ids of `piece`, which is valid UTF-8. 0; -ENOMEM; -ECANCELED (the scratch's account
 * is closed); a long piece ends with -E2BIG soon after `out` holds more than `n_max` ids. Time is
 * O(n log n); scratch memory stays the same however long the piece. */
int bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *piece, size_t size, size_t n_max,
               TokenIds *out);
