/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One Knuth-Morris-Pratt automaton a stop string, all fed byte by byte. The longest partial match
 * of any of them is exactly what has to be held back, so no text is scanned twice and none waits
 * longer than it must. Stop strings are whole UTF-8, so what is held begins a character.
 */

#include "server/stop_matcher.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int stop_string_init(StopString *s, const char *text) {
    uint32_t border = 0;

    *s = (StopString){ .text = text, .size = (uint32_t)strlen(text) };
    s->fallback = calloc((size_t)s->size + 1, sizeof(*s->fallback));
    if (!s->fallback)
        return -ENOMEM;
    for (uint32_t i = 1; i < s->size; i++) {
        while (border && text[i] != text[border])
            border = s->fallback[border];
        border += text[i] == text[border];
        s->fallback[i + 1] = border;
    }
    return 0;
}

int stop_matcher_init(StopMatcher *matcher, char *const *stops, uint32_t n_stops) {
    *matcher = (StopMatcher)STOP_MATCHER_NULL;
    if (!n_stops)
        return 0;
    matcher->stops = calloc(n_stops, sizeof(*matcher->stops));
    if (!matcher->stops)
        return -ENOMEM;
    matcher->n_stops = n_stops;
    for (uint32_t i = 0; i < n_stops; i++) {
        if (stop_string_init(&matcher->stops[i], stops[i])) {
            stop_matcher_deinit(matcher);
            return -ENOMEM;
        }
    }
    return 0;
}

void stop_matcher_deinit(StopMatcher *matcher) {
    for (uint32_t i = 0; i < matcher->n_stops; i++)
        free(matcher->stops[i].fallback);
    free(matcher->stops);
    buffer_deinit(&matcher->held);
    *matcher = (StopMatcher)STOP_MATCHER_NULL;
}

/* Whether the stop string is complete with this byte. */
static bool stop_string_feed(StopString *s, char c) {
    if (s->n_matched == s->size)
        s->n_matched = s->fallback[s->n_matched];
    while (s->n_matched && s->text[s->n_matched] != c)
        s->n_matched = s->fallback[s->n_matched];
    s->n_matched += s->text[s->n_matched] == c;
    return s->n_matched == s->size;
}

/* The longest stop string that this byte completes. */
static uint32_t feed_all(StopMatcher *matcher, char c) {
    uint32_t found = STOP_NONE;

    for (uint32_t i = 0; i < matcher->n_stops; i++)
        if (stop_string_feed(&matcher->stops[i], c) &&
            (found == STOP_NONE || matcher->stops[i].size > matcher->stops[found].size))
            found = i;
    return found;
}

/* Bytes at the end of the text that a stop string may still begin with. */
static size_t longest_partial(const StopMatcher *matcher) {
    size_t longest = 0;

    for (uint32_t i = 0; i < matcher->n_stops; i++) {
        const StopString *s = &matcher->stops[i];
        size_t n = s->n_matched == s->size ? s->fallback[s->size] : s->n_matched;

        longest = n > longest ? n : longest;
    }
    return longest;
}

static void give_out(StopMatcher *matcher, size_t size, Buffer *out) {
    if (buffer_failed(&matcher->held))
        return;
    buffer_append(out, buffer_text(&matcher->held), size);
    buffer_consume(&matcher->held, size);
}

uint32_t stop_matcher_push(StopMatcher *matcher, const char *text, size_t size, bool armed,
                           bool include, Buffer *out) {
    Buffer *held = &matcher->held;
    size_t n_before = held->size;

    if (!matcher->n_stops) {
        buffer_append(out, text, size);
        return STOP_NONE;
    }
    buffer_append(held, text, size);
    for (size_t i = 0; i < size; i++) {
        uint32_t found = feed_all(matcher, text[i]);

        if (found == STOP_NONE || !armed || buffer_failed(held))
            continue;
        n_before += i + 1 - (include ? 0 : matcher->stops[found].size);
        give_out(matcher, n_before, out);
        buffer_clear(held);
        return found;
    }
    if (!buffer_failed(held))
        give_out(matcher, held->size - longest_partial(matcher), out);
    return STOP_NONE;
}

void stop_matcher_flush(StopMatcher *matcher, Buffer *out) {
    give_out(matcher, matcher->held.size, out);
}

bool stop_matcher_failed(const StopMatcher *matcher) {
    return buffer_failed(&matcher->held);
}
