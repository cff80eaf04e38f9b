/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One Knuth-Morris-Pratt automaton a stop string, all fed byte by byte. The longest partial match
 * of any of them is exactly what has to be held back, so no text is scanned twice and none waits
 * longer than it must. Stop strings are whole UTF-8, so what is held begins a character.
 */

#include "server/engine/stop_matcher.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* the set */

/* One allocation: the array, the fallbacks, then the texts. */
int stop_set_init(StopSet *set, uint32_t n_stops, size_t n_text_bytes, Account *account) {
    uint64_t n_fallbacks = (uint64_t)n_text_bytes + n_stops, n_bytes;
    int r;

    if (n_text_bytes >= UINT32_MAX)
        return -ENOMEM;
    n_bytes =
        n_stops * sizeof(StopString) + n_fallbacks * sizeof(uint32_t) + n_text_bytes + n_stops;
    r = account_charge(account, n_bytes);
    if (r)
        return r;
    set->stops = calloc(1, n_bytes ? n_bytes : 1);
    if (!set->stops) {
        account_release(account, n_bytes);
        return -ENOMEM;
    }
    set->account = account;
    set->n_bytes = n_bytes;
    if (n_stops) { /* the first string begins where the room does */
        set->stops[0].fallback = (uint32_t *)(void *)(set->stops + n_stops);
        set->stops[0].text = (char *)(set->stops[0].fallback + n_fallbacks);
    }
    return 0;
}

void stop_set_deinit(StopSet *set) {
    free(set->stops);
    account_release(set->account, set->n_bytes);
    *set = (StopSet)STOP_SET_NULL;
}

static void fill_fallback(StopString *s) {
    uint32_t border = 0;

    for (uint32_t i = 1; i < s->size; i++) {
        while (border && s->text[i] != s->text[border])
            border = s->fallback[border];
        border += s->text[i] == s->text[border];
        s->fallback[i + 1] = border;
    }
}

void stop_set_add(StopSet *set, const char *text, size_t size) {
    StopString *s = &set->stops[set->n_stops++];

    assert(size && size < UINT32_MAX);
    if (s != set->stops) {
        s->fallback = s[-1].fallback + s[-1].size + 1;
        s->text = s[-1].text + s[-1].size + 1;
    }
    s->size = (uint32_t)size;
    memcpy((char *)(uintptr_t)s->text, text, size);
    fill_fallback(s);
}

/* the matcher */

int stop_matcher_init(StopMatcher *matcher, const StopSet *set) {
    *matcher = (StopMatcher)STOP_MATCHER_NULL;
    if (!set || !set->n_stops)
        return 0;
    matcher->n_matched = calloc(set->n_stops, sizeof(*matcher->n_matched));
    if (!matcher->n_matched)
        return -ENOMEM;
    matcher->set = set;
    matcher->held.account = set->account;
    return 0;
}

void stop_matcher_deinit(StopMatcher *matcher) {
    free(matcher->n_matched);
    buffer_deinit(&matcher->held);
    *matcher = (StopMatcher)STOP_MATCHER_NULL;
}

/* Whether the stop string is complete with this byte; `*n_matchedp` bytes of it were. */
static bool stop_string_feed(const StopString *s, uint32_t *n_matchedp, char c) {
    uint32_t n_matched = *n_matchedp;

    if (n_matched == s->size)
        n_matched = s->fallback[n_matched];
    while (n_matched && s->text[n_matched] != c)
        n_matched = s->fallback[n_matched];
    n_matched += s->text[n_matched] == c;
    *n_matchedp = n_matched;
    return n_matched == s->size;
}

/* The longest stop string that this byte completes. */
static uint32_t feed_all(StopMatcher *matcher, char c) {
    const StopString *stops = matcher->set->stops;
    uint32_t found = STOP_NONE;

    for (uint32_t i = 0; i < matcher->set->n_stops; i++)
        if (stop_string_feed(&stops[i], &matcher->n_matched[i], c) &&
            (found == STOP_NONE || stops[i].size > stops[found].size))
            found = i;
    return found;
}

/* Bytes at the end of the text that a stop string may still begin with. */
static size_t longest_partial(const StopMatcher *matcher) {
    size_t longest = 0;

    for (uint32_t i = 0; i < matcher->set->n_stops; i++) {
        const StopString *s = &matcher->set->stops[i];
        size_t n = matcher->n_matched[i] == s->size ? s->fallback[s->size] : matcher->n_matched[i];

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

    if (!matcher->set) {
        buffer_append(out, text, size);
        return STOP_NONE;
    }
    buffer_append(held, text, size);
    for (size_t i = 0; i < size; i++) {
        uint32_t found = feed_all(matcher, text[i]);

        if (found == STOP_NONE || !armed || buffer_failed(held))
            continue;
        n_before += i + 1 - (include ? 0 : matcher->set->stops[found].size);
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
