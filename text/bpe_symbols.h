/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A piece as the symbols that joining begins with: bytes, or characters and what stands for unknown
 * ones. Inside of text/bpe.c, and nobody else includes it.
 */

#include "text/bpe.h"

/* What one character may become: its bytes, and an unknown one before it. */
#define CHARACTER_SYMBOLS_MAX 5

typedef struct BpeSymbol {
    uint32_t id;   /* TOKEN_NONE: a character that is no token (by score only) */
    uint32_t size; /* bytes; 0: joined into the one before */
    uint32_t at;   /* where in the piece */
    uint32_t previous, next;
    uint32_t rank, joined; /* of the pair with `next`; kept while scanning */
} BpeSymbol;

/* The piece on its way to symbols, some at a time. */
typedef struct SymbolSource {
    const Bpe *bpe;
    const char *piece;
    size_t size;
    size_t at;                       /* what comes next */
    size_t unknown_at, unknown_size; /* unknown characters that were passed and not written yet */
} SymbolSource;

typedef struct SymbolWriter {
    BpeSymbol *symbols;
    uint32_t n, capacity;
} SymbolWriter;

/* Writes a symbol that stands behind those there are. */
void symbol_push(SymbolWriter *writer, uint32_t id, size_t at, size_t size);
/* Writes symbols while there is room for what a character may become; whether the piece is at its
 * end. */
bool symbol_source_read(SymbolSource *source, SymbolWriter *writer);
