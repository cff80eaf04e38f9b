/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tokens found in text before anything else looks at it: control tokens such as <|im_end|> and
 * words added after training. Some are looked for in the text as given, the `normalized` ones in
 * what the normalizer made of it.
 */

#include "text/token_ids.h"
#include "util/cleanup.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct AddedToken {
    uint32_t id;
    char *text; /* owned; not terminated, not empty */
    size_t size;
    bool special; /* left out of plain text; written by people only as a trick */
    bool normalized;
    bool single_word;    /* not inside a word */
    bool lstrip, rstrip; /* takes the white space before, after */
} AddedToken;

typedef struct AddedTokens {
    AddedToken *tokens; /* owned */
    size_t n_tokens;
} AddedTokens;

void added_tokens_deinit(AddedTokens *added);

/* Adds a copy with its own text. 0, -ENOMEM. */
int added_tokens_add(AddedTokens *added, const AddedToken *token);

/* Finds some of the tokens in text: at each place the longest, leftmost first. Immutable once
 * filled. */
typedef struct TokenFinder {
    const AddedTokens *added; /* borrowed */
    struct TrieNode *nodes;   /* owned; [0] is the root */
    size_t n_nodes, capacity;
    bool begins[256]; /* bytes that tokens begin with */
} TokenFinder;

void token_finder_init(TokenFinder *finder, const AddedTokens *added);
void token_finder_deinit(TokenFinder *finder);
/* Looks for token number `index` as `text` from here on; the first of equal texts wins. */
int token_finder_add(TokenFinder *finder, const char *text, size_t size, uint32_t index);

/* Calls for each stretch of text between tokens and for each token, in order; stretches are not
 * empty. 0 or -errno: stop. */
typedef struct TokenFinderSink {
    Account
        *account; /* borrowed; NULL: nobody's; once it is closed, the search ends (-ECANCELED) */
    int (*text)(void *ctx, const char *text, size_t size, bool at_start);
    int (*token)(void *ctx, uint32_t id);
    void *ctx;
} TokenFinderSink;

/* `skip_special`: special tokens are ordinary text here. `at_start`: given on to `text` for the
 * stretch with which the text begins. */
int token_finder_run(const TokenFinder *finder, const char *text, size_t size, bool skip_special,
                     bool at_start, const TokenFinderSink *sink);
