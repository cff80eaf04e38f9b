/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The parts of a tokenizer, for the files that fill them in (one for each container) and the file
 * that runs them. Nobody else includes this.
 */

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

struct Tokenizer {
    Vocab tokens; /* every token as its file writes it, added ones included */
    AddedTokens added;
    bool *special;                 /* [tokens.n_ids]; owned */
    TokenFinder given_finder;      /* added tokens to look for in the text as given */
    TokenFinder normalized_finder; /* and in the normalized text */
    Normalizer normalizer;
    PreTokenizer pretokenizer;
    Bpe bpe;
    TokenDecoder decoder;
    TokenIds before, after; /* what the post-processor puts around a text */
    uint32_t bos, eos;      /* TOKEN_NONE: none */
    /* Bytes of text that one id stands for at most, 0 if there is no bound: of text as given, and
     * of normalized text. */
    size_t given_bytes_per_id, normalized_bytes_per_id;
};

Tokenizer *tokenizer_new(void);

/* Adds a token to `tokens` and, if text can become it, to `bpe.pieces`, in the form the model sees
 * it; the pre-tokenizer must be there already. -EINVAL with a sentence. */
int tokenizer_add_token(Tokenizer *tokenizer, uint32_t id, const char *text, size_t size,
                        bool from_text, Reason *why);

/* Adds a token to look for in text; it may be in the vocabulary, under the same id. -EINVAL. */
int tokenizer_add_added(Tokenizer *tokenizer, const AddedToken *token, Reason *why);

/* The merge of two strings into a third that must all be in the vocabulary. -EINVAL. */
int tokenizer_add_merge(Tokenizer *tokenizer, uint32_t rank, const char *left, size_t left_size,
                        const char *right, size_t right_size, Reason *why);

/* The last act of a loader: what depends on all parts. -EINVAL. */
int tokenizer_complete(Tokenizer *tokenizer, bool byte_fallback, Reason *why);

/* Fills in the bytes of text for each id; the last of all. `longest_added`: bytes of the longest
 * added token as it is looked for. */
void tokenizer_bound_ids(Tokenizer *tokenizer, size_t longest_added);

/* The loaders. `path` is a file. */
int tokenizer_open_json(Tokenizer **outp, const char *path, Reason *why);
int tokenizer_open_gguf(Tokenizer **outp, const char *path, Reason *why);
