/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What tokenizers search for in text: a literal string, or a regular expression in the reference's
 * dialect (Oniguruma with Ruby's syntax), matched by PCRE2 with JIT where the system allows it.
 * Patterns are immutable; a PatternScratch belongs to one call at a time.
 */

#include "util/account.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct TextPattern TextPattern;
typedef struct PatternScratch PatternScratch;

/* Both copy `text`. -EINVAL: empty literal, an expression that does not compile or uses what has
 * no exact equivalent; `why` quotes it. */
int text_pattern_new_literal(TextPattern **outp, const char *text, size_t size, Reason *why);
int text_pattern_new_regex(TextPattern **outp, const char *text, size_t size, Reason *why);
TextPattern *text_pattern_free(TextPattern *pattern);
CLEANUP_DEFINE(TextPattern, text_pattern_free);

/* If the pattern is a literal, its text and size; NULL for an expression. */
const char *text_pattern_literal(const TextPattern *pattern, size_t *size);

/* `account` (borrowed, may be NULL) is charged with the stack of searches that need one; searching
 * stops once it is closed. */
int pattern_scratch_new(PatternScratch **outp, Account *account);
PatternScratch *pattern_scratch_free(PatternScratch *scratch);
CLEANUP_DEFINE(PatternScratch, pattern_scratch_free);

/* All matches in a text, left to right, not overlapping. An empty match right behind the one
 * before is passed over. */
typedef struct PatternMatches {
    const TextPattern *pattern;
    PatternScratch *scratch;
    const char *text; /* valid UTF-8; borrowed */
    size_t size;
    size_t start, end; /* of the match found last */
    size_t search_from;
    bool found_any;
} PatternMatches;

#define PATTERN_MATCHES_INIT(_pattern, _scratch, _text, _size) \
    { .pattern = (_pattern), .scratch = (_scratch), .text = (_text), .size = (_size) }

enum {
    _PATTERN_E_SUCCESS,
    PATTERN_E_END, /* no more matches */
};

/* Moves to the next match. -ENOMEM; -ECANCELED; -EOVERFLOW if the expression needs too many steps
 * for one match, or a match is longer than 16 MiB. No call runs for more than some 50 ms once the
 * account is closed. */
int pattern_matches_next(PatternMatches *matches);
