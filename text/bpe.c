/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A piece is a doubly linked list of symbols in an array; a join widens the left symbol and drops
 * the right one. Short pieces look for the best pair by scanning; long ones (a megabyte without a
 * space is one piece) keep candidates in a heap: 64-bit keys, rank << 32 | place of the left
 * symbol, so that the smallest is the one to join next. A candidate is stale if the symbols that
 * stand at its place by now do not join with its rank.
 *
 * A piece of more than a window's symbols is encoded window by window, so that scratch memory does
 * not grow with it; the ids are the same. Whether two symbols join depends on nothing but
 * themselves, and so:
 * - what stands between two tokens' ends in an encoding is encoded the same way alone;
 * - if a and b are encodings and their neighbours (a's last token, b's first) stand side by side in
 *   some encoding, then the two texts together become a followed by b, since a first join across
 *   the border would have happened among those two tokens alone.
 * A window begins at a token of the one before, half a window back. From the first token that both
 * windows found at the same place, the later window is right about what follows.
 */

#include "text/bpe.h"

#include "text/bpe_symbols.h"

#include "text/short_hash.h"
#include "util/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Up to here scanning all pairs for each join is faster than a heap. */
#define SCAN_SYMBOLS_MAX 48

/* Symbols of a window; more where tokens are so long that a window could hold only few of them. */
#ifndef BPE_WINDOW_SYMBOLS
#define BPE_WINDOW_SYMBOLS 16384
#endif
#define WINDOW_TOKENS_MIN 4
#define NO_SYMBOL UINT32_MAX
#define NO_RANK UINT32_MAX

/* A symbol as it was before any join, and the token that the window before made of it and those
 * behind it. */
typedef struct BpeUnit {
    uint32_t id, at, size;
    uint32_t token, token_size; /* size 0: no token begins here */
} BpeUnit;

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
    Account *account = scratch->account;

    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->units);
    account_release(account, scratch->charged_bytes);
    *scratch = (BpeScratch){ .account = account };
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

static void symbols_join_all(const Bpe *bpe, const char *piece, BpeScratch *scratch, uint32_t n) {
    if (!n)
        return;
    scratch->symbols[n - 1].next = NO_SYMBOL;
    if (n <= SCAN_SYMBOLS_MAX)
        join_by_scan(bpe, piece, scratch->symbols, n);
    else
        join_by_heap(bpe, piece, scratch->symbols, n, scratch->heap);
}

/* Scratch. */

/* A longer array in place of `old`, charged; the content is lost. `*r`: 0, or why it failed. */
static void *array_renew(BpeScratch *scratch, void *old, size_t n_old, size_t n, size_t size,
                         int *r) {
    void *array;

    *r = account_charge(scratch->account, (n - n_old) * size);
    if (*r)
        return old;
    scratch->charged_bytes += (n - n_old) * size;
    free(old);
    array = reallocarray(NULL, n, size);
    *r = array ? 0 : -ENOMEM;
    return array;
}

static int scratch_reserve(BpeScratch *scratch, size_t n_symbols) {
    size_t n_heap = n_symbols * 2;
    int r = 0;

    if (n_symbols > scratch->symbol_capacity) {
        size_t n = n_symbols < 256 ? 256 : n_symbols;

        scratch->symbols = array_renew(scratch, scratch->symbols, scratch->symbol_capacity, n,
                                       sizeof(*scratch->symbols), &r);
        if (r)
            return r;
        scratch->symbol_capacity = n;
    }
    if (n_symbols > SCAN_SYMBOLS_MAX && n_heap > scratch->heap_capacity) {
        scratch->heap = array_renew(scratch, scratch->heap, scratch->heap_capacity, n_heap,
                                    sizeof(*scratch->heap), &r);
        if (!r)
            scratch->heap_capacity = n_heap;
    }
    return r;
}

static int units_reserve(BpeScratch *scratch, size_t n) {
    int r = 0;

    if (n <= scratch->unit_capacity)
        return 0;
    scratch->units = array_renew(scratch, scratch->units, scratch->unit_capacity, n,
                                 sizeof(*scratch->units), &r);
    if (!r)
        scratch->unit_capacity = n;
    return r;
}

/* Ids. */

/* A symbol that is no token can only be a character nothing joined with: its bytes, or unknown. */
static int token_write(const Bpe *bpe, const char *text, uint32_t size, uint32_t token,
                       TokenIds *out) {
    int r = token_ids_reserve(out, token == TOKEN_NONE ? size : 1);

    if (r)
        return r;
    if (token != TOKEN_NONE) {
        token_ids_push(out, token);
        return 0;
    }
    for (uint32_t i = 0; i < size; i++) {
        uint32_t id = bpe->byte_ids[(uint8_t)text[i]];

        if (id == TOKEN_NONE)
            id = bpe->unknown_id;
        if (id != TOKEN_NONE)
            token_ids_push(out, id);
    }
    return 0;
}

/* Writes the tokens from symbol `from`, which begins one, up to `to`. */
static int symbols_write(const Bpe *bpe, const char *piece, const BpeSymbol *symbols, uint32_t from,
                         uint32_t to, TokenIds *out) {
    int r = 0;

    for (uint32_t i = from; !r && i < to; i = symbols[i].next)
        r = token_write(bpe, piece + symbols[i].at, symbols[i].size, symbols[i].id, out);
    return r;
}

/* Windows. */

typedef struct Windows {
    SymbolSource source;
    BpeScratch *scratch;
    TokenIds *out;
    SymbolWriter writer; /* the window's symbols */
    bool is_first;
} Windows;

/* Keeps what joining is about to change. */
static void units_save(const Windows *w) {
    for (uint32_t i = 0; i < w->writer.n; i++) {
        const BpeSymbol *symbol = &w->scratch->symbols[i];
        BpeUnit *unit = &w->scratch->units[i];

        unit->id = symbol->id;
        unit->at = symbol->at;
        unit->size = symbol->size;
    }
}

/* The first token that the window before had, too; NO_SYMBOL if there is none. */
static uint32_t common_find(const Windows *w) {
    const BpeSymbol *symbols = w->scratch->symbols;
    const BpeUnit *units = w->scratch->units;

    for (uint32_t i = 0; i < w->writer.n; i = symbols[i].next)
        if (units[i].token_size == symbols[i].size && units[i].token == symbols[i].id)
            return i;
    return NO_SYMBOL;
}

/* Writes the tokens of the window before, up to where this one is right. */
static int before_write(const Windows *w, uint32_t to) {
    const BpeUnit *units = w->scratch->units;
    int r = 0;

    for (uint32_t i = 0; !r && i < to; i++)
        if (units[i].token_size)
            r = token_write(w->source.bpe, w->source.piece + units[i].at, units[i].token_size,
                            units[i].token, w->out);
    return r;
}

/* Moves the window: what begins at `from` is its beginning, with the tokens found there. */
static void window_move(Windows *w, uint32_t from) {
    BpeSymbol *symbols = w->scratch->symbols;
    BpeUnit *units = w->scratch->units;
    uint32_t n = w->writer.n - from;

    for (uint32_t i = from; i < w->writer.n; i++)
        units[i].token_size = 0;
    for (uint32_t i = from; i < w->writer.n; i = symbols[i].next) {
        units[i].token = symbols[i].id;
        units[i].token_size = symbols[i].size;
    }
    memmove(units, units + from, n * sizeof(*units));
    w->writer.n = 0;
    for (uint32_t i = 0; i < n; i++)
        symbol_push(&w->writer, units[i].id, units[i].at, units[i].size);
    for (uint32_t i = n; i < w->writer.capacity; i++)
        units[i].token_size = 0;
}

/* The first token that begins in the window's second half, behind `after`. */
static uint32_t middle_find(const Windows *w, uint32_t after) {
    const BpeSymbol *symbols = w->scratch->symbols;
    uint32_t i = after;

    while (i < w->writer.n && (i < w->writer.n / 2 || i == after))
        i = symbols[i].next;
    return i;
}

enum {
    _WINDOW_E_SUCCESS,
    WINDOW_E_END,
    WINDOW_E_NARROW, /* two windows agree on nothing */
};

static int window_encode(Windows *w) {
    const Bpe *bpe = w->source.bpe;
    const char *piece = w->source.piece;
    BpeSymbol *symbols = w->scratch->symbols;
    bool at_end = symbol_source_read(&w->source, &w->writer);
    uint32_t from = 0, to;
    int r;

    units_save(w);
    symbols_join_all(bpe, piece, w->scratch, w->writer.n);
    if (!w->is_first) {
        from = common_find(w);
        if (from == NO_SYMBOL)
            return WINDOW_E_NARROW;
    }
    to = at_end ? w->writer.n : middle_find(w, from);
    if (to >= w->writer.n && !at_end)
        return WINDOW_E_NARROW;
    r = before_write(w, from);
    if (!r)
        r = symbols_write(bpe, piece, symbols, from, to, w->out);
    if (r || at_end)
        return r ? r : WINDOW_E_END;
    window_move(w, to);
    w->is_first = false;
    return 0;
}

/* Window by window, `n_symbols` each. */
static int encode_windows(const SymbolSource *source, BpeScratch *scratch, uint32_t n_symbols,
                          size_t n_max, TokenIds *out) {
    Windows w = { .source = *source, .scratch = scratch, .out = out, .is_first = true };
    int r = scratch_reserve(scratch, n_symbols);

    if (!r)
        r = units_reserve(scratch, n_symbols);
    if (r)
        return r;
    w.writer = (SymbolWriter){ .symbols = scratch->symbols, .capacity = n_symbols };
    do {
        if (account_is_closed(scratch->account))
            return -ECANCELED;
        r = window_encode(&w);
        if (out->n > n_max)
            return -E2BIG;
    } while (!r);
    return r;
}

static int encode_long(const SymbolSource *source, BpeScratch *scratch, size_t n_max,
                       TokenIds *out) {
    uint64_t n_symbols = (uint64_t)source->bpe->pieces.longest * WINDOW_TOKENS_MIN;
    size_t n_before = out->n;
    int r;

    if (n_symbols < BPE_WINDOW_SYMBOLS)
        n_symbols = BPE_WINDOW_SYMBOLS;
    for (;; n_symbols *= 2) {
        out->n = n_before;
        if (n_symbols > source->size + CHARACTER_SYMBOLS_MAX)
            n_symbols = source->size + CHARACTER_SYMBOLS_MAX + 1;
        r = encode_windows(source, scratch, (uint32_t)n_symbols, n_max, out);
        if (r != WINDOW_E_NARROW)
            return r == WINDOW_E_END ? 0 : r;
    }
}

static int encode_short(SymbolSource *source, BpeScratch *scratch, TokenIds *out) {
    SymbolWriter writer = { .capacity = (uint32_t)source->size + CHARACTER_SYMBOLS_MAX + 1 };
    int r = scratch_reserve(scratch, writer.capacity);

    if (r)
        return r;
    writer.symbols = scratch->symbols;
    symbol_source_read(source, &writer);
    symbols_join_all(source->bpe, source->piece, scratch, writer.n);
    return symbols_write(source->bpe, source->piece, writer.symbols, 0, writer.n, out);
}

int bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *piece, size_t size, size_t n_max,
               TokenIds *out) {
    SymbolSource source = { .bpe = bpe, .piece = piece, .size = size };

    if (size >= UINT32_MAX / 2)
        return -ENOMEM;
    if (bpe->ignore_merges && size) {
        uint32_t whole = vocab_find(&bpe->pieces, piece, size);

        if (whole != TOKEN_NONE)
            return token_ids_append(out, &whole, 1);
    }
    return size > BPE_WINDOW_SYMBOLS ? encode_long(&source, scratch, n_max, out)
                                     : encode_short(&source, scratch, out);
}
