/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Finds stop strings in text that comes in pieces, and holds back what may still turn out to be
 * the beginning of one. The answer does not depend on how the text was cut into pieces: of several
 * stop strings the one that is complete first wins, of those that end together the longest.
 */

#include "util/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STOP_NONE UINT32_MAX

typedef struct StopString {
    const char *text; /* of `size` bytes and a NUL, in the set's memory */
    uint32_t size;
    uint32_t *fallback; /* [size + 1] Knuth-Morris-Pratt: longest proper border of each prefix */
} StopString;

/* Stop strings ready to be looked for: made once, then only read, by any number of matchers. */
typedef struct StopSet {
    StopString *stops; /* [n_stops], owned, with what they point at */
    uint32_t n_stops;
    Account *account; /* charged with `n_bytes`; borrowed */
    uint64_t n_bytes;
} StopSet;

#define STOP_SET_NULL \
    { .stops = NULL }

/* Makes room for `n_stops` strings of `n_text_bytes` together. 0, -ENOMEM, or account_charge's
 * error; `set` is STOP_SET_NULL before. */
int stop_set_init(StopSet *set, uint32_t n_stops, size_t n_text_bytes, Account *account);
void stop_set_deinit(StopSet *set);
CLEANUP_DEINIT_DEFINE(StopSet, stop_set_deinit);
/* Copies one string, not empty, of those there is room for. */
void stop_set_add(StopSet *set, const char *text, size_t size);

typedef struct StopMatcher {
    const StopSet *set;  /* borrowed; NULL: no stop strings */
    uint32_t *n_matched; /* [n_stops] bytes of each stop string that the text so far ends with;
                            owned */
    Buffer held;         /* the end of the text, not given out yet */
} StopMatcher;

#define STOP_MATCHER_NULL \
    { .set = NULL, .held = BUFFER_NULL }

/* `set` may be NULL. What is held back is charged to the set's account. 0 or -ENOMEM. */
int stop_matcher_init(StopMatcher *matcher, const StopSet *set);
void stop_matcher_deinit(StopMatcher *matcher);
CLEANUP_DEINIT_DEFINE(StopMatcher, stop_matcher_deinit);

/* Takes a piece of text and appends to `out` what is certain. Returns the index of the stop string
 * that was found, or STOP_NONE. When one was found, `out` got the text before it (and the stop
 * string itself if `include`), the rest of the piece is dropped, and nothing is held any more.
 * While not `armed` a complete stop string counts as ordinary text. */
uint32_t stop_matcher_push(StopMatcher *matcher, const char *text, size_t size, bool armed,
                           bool include, Buffer *out);
/* No more text comes: appends what was held. */
void stop_matcher_flush(StopMatcher *matcher, Buffer *out);
/* Whether memory ran out: text may be missing. */
bool stop_matcher_failed(const StopMatcher *matcher);
