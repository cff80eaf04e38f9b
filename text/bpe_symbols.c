/* SPDX-License-Identifier: Apache-2.0 */
#include "text/bpe_symbols.h"

#include "util/utf8.h"

void symbol_push(SymbolWriter *writer, uint32_t id, size_t at, size_t size) {
    writer->symbols[writer->n] = (BpeSymbol){
        .id = id,
        .at = (uint32_t)at,
        .size = (uint32_t)size,
        .previous = writer->n - 1, /* NO_SYMBOL for the first */
        .next = writer->n + 1,
    };
    writer->n++;
}

static bool writer_has_room(const SymbolWriter *writer) {
    return writer->capacity - writer->n > CHARACTER_SYMBOLS_MAX;
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

static void unknown_flush(SymbolSource *source, SymbolWriter *writer) {
    if (source->unknown_size)
        symbol_push(writer, source->bpe->unknown_id, source->unknown_at, source->unknown_size);
    source->unknown_size = 0;
}

static void unknown_pass(SymbolSource *source, SymbolWriter *writer, size_t size) {
    if (!source->bpe->fuse_unknown)
        unknown_flush(source, writer);
    if (!source->unknown_size)
        source->unknown_at = source->at;
    source->unknown_size += size;
}

/* An unknown character waits for its neighbours: it is written when a known one follows or the
 * text ends, and not by byte tokens, exactly as in the reference. */
static void symbols_from_characters(SymbolSource *source, SymbolWriter *writer) {
    const Bpe *bpe = source->bpe;
    size_t step;

    for (; source->at < source->size && writer_has_room(writer); source->at += step) {
        const char *character = source->piece + source->at;
        uint32_t id;

        step = utf8_size(*character);
        id = vocab_find(&bpe->pieces, character, step);
        if (bpe->score_ranks) {
            symbol_push(writer, id, source->at, step);
        } else if (id != TOKEN_NONE) {
            unknown_flush(source, writer);
            symbol_push(writer, id, source->at, step);
        } else if (!symbol_push_bytes(bpe, writer, source->piece, source->at, step) &&
                   bpe->unknown_id != TOKEN_NONE) {
            unknown_pass(source, writer, step);
        }
    }
}

static void symbols_from_bytes(SymbolSource *source, SymbolWriter *writer) {
    const Bpe *bpe = source->bpe;

    for (; source->at < source->size && writer_has_room(writer); source->at++) {
        uint32_t id = bpe->byte_ids[(uint8_t)source->piece[source->at]];

        if (id != TOKEN_NONE) {
            unknown_flush(source, writer);
            symbol_push(writer, id, source->at, 1);
        } else if (bpe->unknown_id != TOKEN_NONE) {
            unknown_pass(source, writer, 1);
        }
    }
}

bool symbol_source_read(SymbolSource *source, SymbolWriter *writer) {
    if (source->bpe->byte_level)
        symbols_from_bytes(source, writer);
    else
        symbols_from_characters(source, writer);
    if (source->at < source->size)
        return false;
    unknown_flush(source, writer);
    return true;
}
