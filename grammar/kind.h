/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What grammar.h shares with C++: kinds, outcomes, masks.
 */

#include <stdint.h>

/* What a grammar is written in. All texts are UTF-8 without NUL. */
typedef enum GrammarKind {
    GRAMMAR_JSON,        /* any JSON object; the text is not read */
    GRAMMAR_JSON_SCHEMA, /* a JSON schema; objects have the properties it names and no others,
                            unless its additionalProperties says otherwise */
    GRAMMAR_REGEX,       /* a regular expression that the whole answer matches */
    GRAMMAR_CHOICE,      /* a JSON array of strings: the answer is one of them */
    GRAMMAR_EBNF,        /* rules in GBNF's notation, `root ::= ...` */
    GRAMMAR_TAGS,        /* XGrammar's structural tag, JSON: text that is free but for what stands
                            between tags, say the calls of tools */
    N_GRAMMAR_KINDS,
} GrammarKind;

enum {
    _GRAMMAR_E_SUCCESS,
    GRAMMAR_E_INVALID,  /* the text is no such thing, or says what nothing can satisfy */
    GRAMMAR_E_LIMIT,    /* it exceeds a limit */
    GRAMMAR_E_REJECTED, /* the token cannot come here */
};

/* Words of a mask for so many ids: bit i % 32 of word i / 32 says whether id i may come. */
static inline uint32_t grammar_mask_words(uint32_t n_vocab) {
    return (n_vocab + 31) / 32;
}
