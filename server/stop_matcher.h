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
    const char *text; /* borrowed */
    uint32_t size;
    uint32_t *fallback; /* [size + 1] Knuth-Morris-Pratt: longest proper border of each prefix */
    uint32_t n_matched; /* bytes of `text` that the text so far ends with */
} StopString;

typedef struct StopMatcher {
    StopString *stops; /* [n_stops], owned */
    uint32_t n_stops;
    Buffer held; /* the end of the text, not given out yet */
} StopMatcher;

#define STOP_MATCHER_NULL \
    { .stops = NULL, .held = BUFFER_NULL }

/* `stops` are borrowed, none empty. 0 or -ENOMEM. */
int stop_matcher_init(StopMatcher *matcher, char *const *stops, uint32_t n_stops);
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
