/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The tokenizer as a whole: opening, and lookups by id and by string. Encoding and decoding have
 * files of their own (tokenizer_encode.c, tokenizer_decode.c); everything here and there only
 * reads the Tokenizer once it is open.
 */

#include "text/tokenizer.h"

#include "text/byte_alphabet.h"
#include "text/tokenizer_impl.h"
#include "util/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* U+2581, SentencePiece's sign for a space. */
#define MARK "\xe2\x96\x81"
#define MARK_BYTES 3

Tokenizer *tokenizer_new(void) {
    Tokenizer *tokenizer = calloc(1, sizeof(*tokenizer));

    if (!tokenizer)
        return NULL;
    bpe_init(&tokenizer->bpe);
    token_finder_init(&tokenizer->given_finder, &tokenizer->added);
    token_finder_init(&tokenizer->normalized_finder, &tokenizer->added);
    tokenizer->bos = TOKEN_NONE;
    tokenizer->eos = TOKEN_NONE;
    return tokenizer;
}

Tokenizer *tokenizer_free(Tokenizer *tokenizer) {
    if (!tokenizer)
        return NULL;
    vocab_deinit(&tokenizer->tokens);
    added_tokens_deinit(&tokenizer->added);
    free(tokenizer->special);
    token_finder_deinit(&tokenizer->given_finder);
    token_finder_deinit(&tokenizer->normalized_finder);
    normalizer_deinit(&tokenizer->normalizer);
    pretokenizer_deinit(&tokenizer->pretokenizer);
    bpe_deinit(&tokenizer->bpe);
    token_decoder_deinit(&tokenizer->decoder);
    token_ids_deinit(&tokenizer->before);
    token_ids_deinit(&tokenizer->after);
    free(tokenizer);
    return NULL;
}

static bool has_suffix(const char *text, const char *suffix) {
    size_t n = strlen(text), n_suffix = strlen(suffix);

    return n >= n_suffix && !strcmp(text + n - n_suffix, suffix);
}

int tokenizer_open(Tokenizer **outp, const char *path, Reason *why) {
    CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;
    struct stat status;
    int r;

    buffer_append_text(&file, path);
    if (stat(path, &status) < 0) {
        r = -errno;
        return reason_set(why, r, "%s: %s", path, strerror(-r));
    }
    if (S_ISDIR(status.st_mode))
        buffer_append_text(&file, "/tokenizer.json");
    if (buffer_failed(&file))
        return -ENOMEM;
    if (has_suffix(path, ".gguf"))
        return tokenizer_open_gguf(outp, buffer_text(&file), why);
    return tokenizer_open_json(outp, buffer_text(&file), why);
}

/* What the loaders share. */

static int refuse_token(Reason *why, int outcome, uint32_t id, const char *text, size_t size) {
    const char *what = outcome == VOCAB_E_ID_TAKEN     ? "two tokens have this id"
                       : outcome == VOCAB_E_TEXT_TAKEN ? "two ids have this token"
                                                       : "id or length is out of range";

    return reason_set(why, -EINVAL, "token \"%.*s\" with id %u: %s", (int)(size < 80 ? size : 80),
                      text, id, what);
}

int tokenizer_add_token(Tokenizer *tokenizer, uint32_t id, const char *text, size_t size,
                        bool from_text, Reason *why) {
    CLEANUP(buffer_deinit) Buffer bytes = BUFFER_NULL;
    const char *piece = text;
    size_t piece_size = size;
    int r;

    if (!utf8_is_valid(text, size))
        return reason_set(why, -EINVAL, "the token with id %u is not UTF-8", id);
    r = vocab_add(&tokenizer->tokens, id, text, size);
    if (!r && from_text && tokenizer->pretokenizer.byte_level) {
        /* What does not stand for bytes can never be met: the model sees nothing else. */
        from_text = byte_alphabet_decode(text, size, &bytes);
        if (buffer_failed(&bytes))
            return -ENOMEM;
        piece = buffer_text(&bytes);
        piece_size = bytes.size;
    }
    if (!r && from_text)
        r = vocab_add(&tokenizer->bpe.pieces, id, piece, piece_size);
    return r > 0 ? refuse_token(why, r, id, text, size) : r;
}

int tokenizer_add_added(Tokenizer *tokenizer, const AddedToken *token, Reason *why) {
    uint32_t known = vocab_find(&tokenizer->tokens, token->text, token->size);
    int r = 0;

    if (!token->size)
        return reason_set(why, -EINVAL, "the added token with id %u is empty", token->id);
    if (!utf8_is_valid(token->text, token->size))
        return reason_set(why, -EINVAL, "the added token with id %u is not UTF-8", token->id);
    if (known == TOKEN_NONE)
        r = vocab_add(&tokenizer->tokens, token->id, token->text, token->size);
    else if (known != token->id)
        r = VOCAB_E_TEXT_TAKEN;
    if (r > 0)
        return refuse_token(why, r, token->id, token->text, token->size);
    return r ? r : added_tokens_add(&tokenizer->added, token);
}

static int refuse_merge(Reason *why, uint32_t rank, const char *text, size_t size) {
    return reason_set(why, -EINVAL, "merge %u: \"%.*s\" is not in the vocabulary", rank,
                      (int)(size < 80 ? size : 80), text);
}

int tokenizer_add_merge(Tokenizer *tokenizer, uint32_t rank, const char *left, size_t left_size,
                        const char *right, size_t right_size, Reason *why) {
    uint32_t left_id = vocab_find(&tokenizer->tokens, left, left_size);
    uint32_t right_id = vocab_find(&tokenizer->tokens, right, right_size);
    char both[256];
    CLEANUP(free) char *large = NULL;
    char *joined = both;
    uint32_t id;

    if (left_id == TOKEN_NONE)
        return refuse_merge(why, rank, left, left_size);
    if (right_id == TOKEN_NONE)
        return refuse_merge(why, rank, right, right_size);
    if (left_size + right_size > sizeof(both)) {
        large = malloc(left_size + right_size);
        if (!large)
            return -ENOMEM;
        joined = large;
    }
    memcpy(joined, left, left_size);
    memcpy(joined + left_size, right, right_size);
    id = vocab_find(&tokenizer->tokens, joined, left_size + right_size);
    if (id == TOKEN_NONE)
        return refuse_merge(why, rank, joined, left_size + right_size);
    bpe_merge_add(&tokenizer->bpe, left_id, right_id, rank, id);
    return 0;
}

/* Fills the finders. A `normalized` token is looked for as the normalizer leaves it. */
static int finders_fill(Tokenizer *tokenizer, size_t *longest) {
    CLEANUP(normalizer_scratch_deinit) NormalizerScratch scratch = NORMALIZER_SCRATCH_INIT(NULL);
    CLEANUP(pattern_scratch_free) PatternScratch *patterns = NULL;
    int r = pattern_scratch_new(&patterns, NULL);

    for (uint32_t i = 0; i < tokenizer->added.n_tokens && !r; i++) {
        const AddedToken *token = &tokenizer->added.tokens[i];
        const char *text = token->text;
        size_t size = token->size;

        tokenizer->special[token->id] |= token->special;
        if (token->normalized)
            r = normalizer_run(&tokenizer->normalizer, &scratch, patterns, &text, &size);
        *longest = size > *longest ? size : *longest;
        if (!r)
            r = token_finder_add(token->normalized ? &tokenizer->normalized_finder
                                                   : &tokenizer->given_finder,
                                 text, size, i);
    }
    return r;
}

/* The ids that single bytes have, for models that see bytes or fall back on them. */
static void byte_ids_fill(Tokenizer *tokenizer, bool byte_fallback) {
    Bpe *bpe = &tokenizer->bpe;

    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8] = { (char)byte };

        if (bpe->byte_level)
            bpe->byte_ids[byte] = vocab_find(&bpe->pieces, name, 1);
        else if (byte_fallback)
            bpe->byte_ids[byte] =
                vocab_find(&tokenizer->tokens, name, (size_t)snprintf(name, 8, "<0x%02X>", byte));
    }
}

/* Whether a piece holds the mark behind something else than a mark. */
static bool has_mark_inside(const char *text, size_t size) {
    bool other = false;

    for (size_t at = 0; at < size; at += utf8_size(text[at])) {
        bool mark = size - at >= MARK_BYTES && !memcmp(text + at, MARK, MARK_BYTES);

        if (mark && other)
            return true;
        other |= !mark;
    }
    return false;
}

/* SentencePiece-style models see the whole text as one piece. If no token has a mark inside, no
 * join ever crosses from another character to a mark, so cutting there changes no id, and words
 * can be remembered. */
static int cut_at_marks(Tokenizer *tokenizer) {
    CutStep step = { .kind = CUT_AT_MARKS, .mark = MARK, .mark_size = MARK_BYTES };
    const Vocab *pieces = &tokenizer->bpe.pieces;
    size_t size;

    if (tokenizer->pretokenizer.n_steps || tokenizer->pretokenizer.byte_level ||
        tokenizer->bpe.ignore_merges || vocab_find(pieces, MARK, MARK_BYTES) == TOKEN_NONE)
        return 0;
    for (uint32_t id = 0; id < pieces->n_ids; id++) {
        const char *text = vocab_text(pieces, id, &size);

        if (text && has_mark_inside(text, size))
            return 0;
    }
    return pretokenizer_add(&tokenizer->pretokenizer, step);
}

int tokenizer_complete(Tokenizer *tokenizer, bool byte_fallback, Reason *why) {
    size_t longest = 0;
    int r;

    if (!tokenizer->tokens.n_tokens)
        return reason_set(why, -EINVAL, "the vocabulary is empty");
    tokenizer->special = calloc(tokenizer->tokens.n_ids, sizeof(*tokenizer->special));
    if (!tokenizer->special)
        return -ENOMEM;
    tokenizer->bpe.byte_level = tokenizer->pretokenizer.byte_level;
    byte_ids_fill(tokenizer, byte_fallback);
    r = cut_at_marks(tokenizer);
    if (!r)
        r = finders_fill(tokenizer, &longest);
    if (!r)
        tokenizer_bound_ids(tokenizer, longest);
    return r;
}

uint32_t tokenizer_size(const Tokenizer *tokenizer) {
    return tokenizer->tokens.n_ids;
}

uint32_t tokenizer_bos(const Tokenizer *tokenizer) {
    return tokenizer->bos;
}

uint32_t tokenizer_eos(const Tokenizer *tokenizer) {
    return tokenizer->eos;
}

bool tokenizer_is_special(const Tokenizer *tokenizer, uint32_t id) {
    return id < tokenizer->tokens.n_ids && tokenizer->special[id];
}

uint32_t tokenizer_find(const Tokenizer *tokenizer, const char *token, size_t size) {
    return vocab_find(&tokenizer->tokens, token, size);
}

bool tokenizer_is_added(const Tokenizer *tokenizer, uint32_t id) {
    for (size_t i = 0; i < tokenizer->added.n_tokens; i++)
        if (tokenizer->added.tokens[i].id == id)
            return true;
    return false;
}

uint32_t tokenizer_find_special(const Tokenizer *tokenizer, const char *token, size_t size) {
    uint32_t id = tokenizer_find(tokenizer, token, size);

    return tokenizer_is_special(tokenizer, id) ? id : TOKEN_NONE;
}

const char *tokenizer_token(const Tokenizer *tokenizer, uint32_t id, size_t *size) {
    return vocab_text(&tokenizer->tokens, id, size);
}
