/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A piece is a doubly linked list of symbols in an array; a join widens the left symbol and drops
 * the right one. Short pieces look for the best pair by scanning; long ones (a megabyte without a
 * space is one piece) keep candidates in a heap: 64-bit keys, rank << 32 | place of the left
 * symbol, so that the smallest is the one to join next. A candidate is stale if the symbols that
 * stand at its place by now do not join with its rank.
 */

#include "model/bpe.h"

#include "model/short_hash.h"
#include "model/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Up to here scanning all pairs for each join is faster than a heap. */
#define SCAN_SYMBOLS_MAX 48

#define NO_SYMBOL UINT32_MAX
#define NO_RANK UINT32_MAX

typedef struct BpeSymbol {
    uint32_t id;   /* TOKEN_NONE: a character that is no token (by score only) */
    uint32_t size; /* bytes; 0: joined into the one before */
    uint32_t at;   /* where in the piece */
    uint32_t previous, next;
    uint32_t rank, joined; /* of the pair with `next`; kept while scanning */
} BpeSymbol;

void bpe_init(Bpe *bpe) {
    *bpe = (Bpe){ .unknown_id = TOKEN_NONE };
    for (size_t i = 0; i < 256; i++)
        bpe->byte_ids[i] = TOKEN_NONE;
}

void bpe_deinit(Bpe *bpe) {
    vocab_deinit(&bpe->pieces);
    free(bpe->merges);
    free(bpe->score_ranks);
    bpe_init(bpe);
}

void bpe_scratch_deinit(BpeScratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (BpeScratch)BPE_SCRATCH_NULL;
}

int bpe_merges_reserve(Bpe *bpe, size_t n) {
    size_t n_slots = 16;

    if (n > UINT32_MAX / 4)
        return -ENOMEM;
    while (n_slots < n * 2)
        n_slots *= 2;
    bpe->merges = reallocarray(NULL, n_slots, sizeof(*bpe->merges));
    if (!bpe->merges)
        return -ENOMEM;
    memset(bpe->merges, 0xff, n_slots * sizeof(*bpe->merges));
    bpe->merge_mask = (uint32_t)(n_slots - 1);
    return 0;
}

static BpeMerge *merge_slot(const Bpe *bpe, uint64_t pair) {
    uint32_t at = (uint32_t)hash_mix(pair) & bpe->merge_mask;

    while (bpe->merges[at].pair != pair && bpe->merges[at].pair != UINT64_MAX)
        at = (at + 1) & bpe->merge_mask;
    return &bpe->merges[at];
}

void bpe_merge_add(Bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {
    uint64_t pair = (uint64_t)left << 32 | right;

    *merge_slot(bpe, pair) = (BpeMerge){ .pair = pair, .rank = rank, .id = id };
}

/* Maps floats to integers in falling order: sign-magnitude becomes two's complement, inverted. */
static uint32_t score_rank(float score) {
    uint32_t bits;

    score += 0.0f; /* -0 and 0 are one score */
    memcpy(&bits, &score, sizeof(bits));
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~bits;
}

int bpe_scores_set(Bpe *bpe, const float *scores) {
    bpe->score_ranks = reallocarray(NULL, bpe->pieces.n_ids + 1, sizeof(*bpe->score_ranks));
    if (!bpe->score_ranks)
        return -ENOMEM;
    for (uint32_t i = 0; i < bpe->pieces.n_ids; i++)
        bpe->score_ranks[i] = score_rank(scores[i]);
    return 0;
}

/* What `left` and the symbol after it become: the rank, or NO_RANK if they do not join. */
static uint32_t pair_find(const Bpe *bpe, const char *piece, const BpeSymbol *left,
                          const BpeSymbol *right, uint32_t *id) {
    const BpeMerge *merge;

    if (bpe->score_ranks) {
        *id = vocab_find(&bpe->pieces, piece + left->at, (size_t)left->size + right->size);
        return *id == TOKEN_NONE ? NO_RANK : bpe->score_ranks[*id];
    }
    merge = merge_slot(bpe, (uint64_t)left->id << 32 | right->id);
    *id = merge->id;
    return merge->pair == UINT64_MAX ? NO_RANK : merge->rank;
}

/* Symbols. */

typedef struct SymbolWriter {
    BpeSymbol *symbols;
    uint32_t n;
} SymbolWriter;

static void symbol_push(SymbolWriter *writer, uint32_t id, size_t at, size_t size) {
    writer->symbols[writer->n] = (BpeSymbol){
        .id = id,
        .at = (uint32_t)at,
        .size = (uint32_t)size,
        .previous = writer->n - 1, /* NO_SYMBOL for the first */
        .next = writer->n + 1,
    };
    writer->n++;
}

/* Whether the character could be written as one byte token for each of its bytes. */
static bool symbol_push_bytes(const Bpe *bpe, SymbolWriter *writer, const char *piece, size_t at,
                              size_t size) {
    for (size_t i = 0; i < size; i++)
        if (bpe->byte_ids[(uint8_t)piece[at + i]] == TOKEN_NONE)
            return false;
    for (size_t i = 0; i < size; i++)
        symbol_push(writer, bpe->byte_ids[(uint8_t)piece[at + i]], at + i, 1);
    return true;
}

/* An unknown character waits for its neighbours: it is written when a known one follows or the
 * text ends, and not by byte tokens, exactly as in the reference. */
static uint32_t symbols_from_characters(const Bpe *bpe, const char *piece, size_t size,
                                        BpeSymbol *symbols) {
    SymbolWriter writer = { .symbols = symbols };
    size_t unknown_at = 0, unknown_size = 0, step;

    for (size_t at = 0; at < size; at += step) {
        uint32_t id;

        step = utf8_size(piece[at]);
        id = vocab_find(&bpe->pieces, piece + at, step);
        if (bpe->score_ranks) {
            symbol_push(&writer, id, at, step);
        } else if (id != TOKEN_NONE) {
            if (unknown_size)
                symbol_push(&writer, bpe->unknown_id, unknown_at, unknown_size);
            unknown_size = 0;
            symbol_push(&writer, id, at, step);
        } else if (!symbol_push_bytes(bpe, &writer, piece, at, step) &&
                   bpe->unknown_id != TOKEN_NONE) {
            if (unknown_size && !bpe->fuse_unknown) {
                symbol_push(&writer, bpe->unknown_id, unknown_at, unknown_size);
                unknown_size = 0;
            }
            if (!unknown_size)
                unknown_at = at;
            unknown_size += step;
        }
    }
    if (unknown_size)
        symbol_push(&writer, bpe->unknown_id, unknown_at, unknown_size);
    return writer.n;
}

static uint32_t symbols_from_bytes(const Bpe *bpe, const char *piece, size_t size,
                                   BpeSymbol *symbols) {
    SymbolWriter writer = { .symbols = symbols };
    size_t unknown_at = 0, unknown_size = 0;

    for (size_t at = 0; at < size; at++) {
        uint32_t id = bpe->byte_ids[(uint8_t)piece[at]];

        if (id == TOKEN_NONE && bpe->unknown_id == TOKEN_NONE)
            continue;
        if (unknown_size && (id != TOKEN_NONE || !bpe->fuse_unknown)) {
            symbol_push(&writer, bpe->unknown_id, unknown_at, unknown_size);
            unknown_size = 0;
        }
        if (id != TOKEN_NONE) {
            symbol_push(&writer, id, at, 1);
            continue;
        }
        if (!unknown_size)
            unknown_at = at;
        unknown_size++;
    }
    if (unknown_size)
        symbol_push(&writer, bpe->unknown_id, unknown_at, unknown_size);
    return writer.n;
}

/* Drops the right symbol of a pair into the left one. */
static void symbols_join(BpeSymbol *symbols, BpeSymbol *left, uint32_t id) {
    BpeSymbol *right = &symbols[left->next];

    left->id = id;
    left->size += right->size;
    left->next = right->next;
    if (right->next != NO_SYMBOL)
        symbols[right->next].previous = right->previous;
    right->size = 0;
}

/* Joining by scan. */

static void rank_refresh(const Bpe *bpe, const char *piece, BpeSymbol *symbols, uint32_t left) {
    BpeSymbol *symbol = &symbols[left];

    symbol->rank = symbol->next == NO_SYMBOL
                       ? NO_RANK
                       : pair_find(bpe, piece, symbol, &symbols[symbol->next], &symbol->joined);
}

static void join_by_scan(const Bpe *bpe, const char *piece, BpeSymbol *symbols, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        rank_refresh(bpe, piece, symbols, i);
    for (;;) {
        uint32_t best = NO_SYMBOL, best_rank = NO_RANK;

        for (uint32_t i = 0; i != NO_SYMBOL; i = symbols[i].next) {
            if (symbols[i].rank < best_rank) {
                best = i;
                best_rank = symbols[i].rank;
            }
        }
        if (best == NO_SYMBOL)
            return;
        symbols_join(symbols, &symbols[best], symbols[best].joined);
        rank_refresh(bpe, piece, symbols, best);
        if (symbols[best].previous != NO_SYMBOL)
            rank_refresh(bpe, piece, symbols, symbols[best].previous);
    }
}

/* Joining by heap: a min-heap of four children, which a cache line holds. */

#define HEAP_CHILDREN 4

static void heap_sink(uint64_t *heap, size_t n, size_t at) {
    uint64_t moving = heap[at];

    for (;;) {
        size_t child = at * HEAP_CHILDREN + 1, last = child + HEAP_CHILDREN, least = child;

        if (child >= n)
            break;
        for (child++; child < last && child < n; child++)
            if (heap[child] < heap[least])
                least = child;
        if (moving <= heap[least])
            break;
        heap[at] = heap[least];
        at = least;
    }
    heap[at] = moving;
}

static void heap_rise(uint64_t *heap, size_t at) {
    uint64_t moving = heap[at];

    while (at > 0 && moving < heap[(at - 1) / HEAP_CHILDREN]) {
        heap[at] = heap[(at - 1) / HEAP_CHILDREN];
        at = (at - 1) / HEAP_CHILDREN;
    }
    heap[at] = moving;
}

/* Writes the candidate of `left` and its neighbour; how many there are: 0 or 1. */
static size_t join_find(const Bpe *bpe, const char *piece, const BpeSymbol *symbols, uint32_t left,
                        uint64_t *join) {
    uint32_t id, rank;

    if (left == NO_SYMBOL || symbols[left].next == NO_SYMBOL)
        return 0;
    rank = pair_find(bpe, piece, &symbols[left], &symbols[symbols[left].next], &id);
    *join = (uint64_t)rank << 32 | left;
    return rank != NO_RANK;
}

/* `heap` has room for 2 * n: n at the start, and each of less than n joins takes one candidate out
 * and puts at most two in. */
static void join_by_heap(const Bpe *bpe, const char *piece, BpeSymbol *symbols, uint32_t n,
                         uint64_t *heap) {
    size_t n_heap = 0;

    for (uint32_t i = 0; i < n; i++)
        n_heap += join_find(bpe, piece, symbols, i, &heap[n_heap]);
    for (size_t i = n_heap; i-- > 0;)
        heap_sink(heap, n_heap, i);
    while (n_heap) {
        uint32_t at = (uint32_t)heap[0], rank = (uint32_t)(heap[0] >> 32), id;
        BpeSymbol *left = &symbols[at];

        heap[0] = heap[--n_heap];
        if (n_heap)
            heap_sink(heap, n_heap, 0);
        if (!left->size || left->next == NO_SYMBOL ||
            pair_find(bpe, piece, left, &symbols[left->next], &id) != rank)
            continue;
        symbols_join(symbols, left, id);
        if (join_find(bpe, piece, symbols, at, &heap[n_heap]))
            heap_rise(heap, n_heap++);
        if (join_find(bpe, piece, symbols, left->previous, &heap[n_heap]))
            heap_rise(heap, n_heap++);
    }
}

static int scratch_reserve(BpeScratch *scratch, size_t n_symbols) {
    if (n_symbols > scratch->symbol_capacity) {
        size_t capacity = n_symbols < 256 ? 256 : n_symbols;

        free(scratch->symbols);
        scratch->symbol_capacity = 0;
        scratch->symbols = reallocarray(NULL, capacity, sizeof(*scratch->symbols));
        if (!scratch->symbols)
            return -ENOMEM;
        scratch->symbol_capacity = capacity;
    }
    if (n_symbols > SCAN_SYMBOLS_MAX && n_symbols > scratch->heap_capacity / 2) {
        free(scratch->heap);
        scratch->heap_capacity = 0;
        scratch->heap = reallocarray(NULL, n_symbols, 2 * sizeof(*scratch->heap));
        if (!scratch->heap)
            return -ENOMEM;
        scratch->heap_capacity = n_symbols * 2;
    }
    return 0;
}

/* A symbol that is no token can only be a character nothing joined with: its bytes, or unknown. */
static void symbol_write(const Bpe *bpe, const char *piece, const BpeSymbol *symbol,
                         TokenIds *out) {
    if (symbol->id != TOKEN_NONE) {
        token_ids_push(out, symbol->id);
        return;
    }
    for (uint32_t i = 0; i < symbol->size; i++) {
        uint32_t id = bpe->byte_ids[(uint8_t)piece[symbol->at + i]];

        if (id == TOKEN_NONE)
            id = bpe->unknown_id;
        if (id != TOKEN_NONE)
            token_ids_push(out, id);
    }
}

int bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *piece, size_t size, TokenIds *out) {
    uint32_t n;
    int r;

    if (!size)
        return 0;
    if (size >= UINT32_MAX / 2)
        return -ENOMEM;
    r = token_ids_reserve(out, size);
    if (r)
        return r;
    if (bpe->ignore_merges) {
        uint32_t whole = vocab_find(&bpe->pieces, piece, size);

        if (whole != TOKEN_NONE) {
            token_ids_push(out, whole);
            return 0;
        }
    }
    r = scratch_reserve(scratch, size);
    if (r)
        return r;
    n = bpe->byte_level ? symbols_from_bytes(bpe, piece, size, scratch->symbols)
                        : symbols_from_characters(bpe, piece, size, scratch->symbols);
    if (!n)
        return 0;
    scratch->symbols[n - 1].next = NO_SYMBOL;
    if (n <= SCAN_SYMBOLS_MAX)
        join_by_scan(bpe, piece, scratch->symbols, n);
    else
        join_by_heap(bpe, piece, scratch->symbols, n, scratch->heap);
    for (uint32_t i = 0; i != NO_SYMBOL; i = scratch->symbols[i].next)
        symbol_write(bpe, piece, &scratch->symbols[i], out);
    return 0;
}
