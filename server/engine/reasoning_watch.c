/* SPDX-License-Identifier: Apache-2.0 */
#include "server/engine/reasoning_watch.h"

#include "grammar/kind.h"
#include "util/json_scan.h"

#include <errno.h>
#include <string.h>

#define TAIL_BYTES 64

/* The id of a mark; TOKEN_NONE: it is none. */
static uint32_t id_of(const ReasoningWatch *w, const char *mark) {
    return tokenizer_find(w->form.tokenizer, mark, strlen(mark));
}

static bool can_begin(const ReasoningWatch *w) {
    for (const char *const *begin = w->form.family->begins; *begin; begin++)
        if (id_of(w, *begin) != TOKEN_NONE)
            return true;
    return false;
}

void reasoning_watch_init(ReasoningWatch *w, const ReasoningForm *form, Account *account) {
    *w = (ReasoningWatch){ .form = *form, .tail.account = account };
    if (form->family && form->begun)
        w->place = REASONING_INSIDE;
    else if (form->family && can_begin(w))
        w->place = REASONING_AT_START;
}

void reasoning_watch_deinit(ReasoningWatch *w) {
    buffer_deinit(&w->tail);
}

/* Where behind the first mark that ends reasoning in the text; NULL: there is none. */
static const char *find_end(const ReasoningWatch *w, const char *text, size_t size) {
    const char *first = NULL, *behind = NULL;

    for (const char *const *end = w->form.family->ends; *end; end++) {
        const char *found = memmem(text, size, *end, strlen(*end));

        if (found && (!first || found < first)) {
            first = found;
            behind = found + strlen(*end);
        }
    }
    return behind;
}

static bool is_space(const char *text, const char *end) {
    while (text < end && json_is_space(*text))
        text++;
    return text == end;
}

static int take_inside(ReasoningWatch *w, uint32_t token) {
    Buffer *tail = &w->tail;
    const char *behind;

    if (tokenizer_token_bytes(w->form.tokenizer, token, tail) || buffer_failed(tail))
        return -ENOMEM;
    behind = find_end(w, buffer_text(tail), tail->size);
    if (!behind) {
        if (tail->size > TAIL_BYTES)
            buffer_consume(tail, tail->size - TAIL_BYTES);
        return 0;
    }
    w->place = behind == tail->data + tail->size ? REASONING_BEHIND : REASONING_OVER;
    return is_space(behind, tail->data + tail->size) ? 0 : REASONING_E_MIXED;
}

static int take_first(ReasoningWatch *w, uint32_t token) {
    w->place = REASONING_OVER;
    for (const char *const *begin = w->form.family->begins; *begin; begin++)
        if (id_of(w, *begin) == token)
            w->place = REASONING_INSIDE;
    return w->place == REASONING_INSIDE ? 0 : REASONING_E_ANSWER;
}

/* Whether a token is line breaks and nothing else; `text` is room for its bytes. */
static int is_breaks(const ReasoningWatch *w, uint32_t token, Buffer *text, bool *is) {
    buffer_clear(text);
    if (tokenizer_token_bytes(w->form.tokenizer, token, text) || buffer_failed(text))
        return -ENOMEM;
    *is = text->size && strspn(buffer_text(text), "\n") == text->size;
    return 0;
}

static int take_behind(ReasoningWatch *w, uint32_t token) {
    bool is = false;
    int r = is_breaks(w, token, &w->tail, &is);

    w->place = REASONING_OVER;
    return r || is ? r : REASONING_E_ANSWER;
}

int reasoning_watch_take(ReasoningWatch *w, uint32_t token) {
    switch (w->place) {
    case REASONING_AT_START:
        return take_first(w, token);
    case REASONING_INSIDE:
        return take_inside(w, token);
    case REASONING_BEHIND:
        return take_behind(w, token);
    default:
        return REASONING_E_ANSWER;
    }
}

/* masks */

static void set(uint32_t *mask, uint32_t n_vocab, uint32_t id, bool value) {
    if (id < n_vocab)
        mask[id / 32] = (mask[id / 32] & ~(UINT32_C(1) << id % 32)) | (uint32_t)value << id % 32;
}

/* Bytes at the end of the tail that a mark begins with; 0: none. */
static size_t begun_mark(const ReasoningWatch *w) {
    size_t most = 0;

    for (const char *const *end = w->form.family->ends; *end; end++)
        for (size_t n = strlen(*end) - 1; n > most; n--)
            if (n <= w->tail.size && !memcmp(w->tail.data + w->tail.size - n, *end, n))
                most = n;
    return most;
}

/* Leaves out tokens that would end a mark that has begun, and go on with something else. */
static int leave_out_mixed(ReasoningWatch *w, uint32_t *mask, uint32_t n_vocab) {
    CLEANUP(buffer_deinit) Buffer text = { .account = w->tail.account };
    size_t n = begun_mark(w);

    if (!n)
        return 0;
    for (uint32_t id = 0; id < n_vocab && id < tokenizer_size(w->form.tokenizer); id++) {
        const char *behind;

        buffer_clear(&text);
        buffer_append(&text, w->tail.data + w->tail.size - n, n);
        if (tokenizer_token_bytes(w->form.tokenizer, id, &text) || buffer_failed(&text))
            return -ENOMEM;
        behind = find_end(w, text.data, text.size);
        if (behind && !is_space(behind, text.data + text.size))
            set(mask, n_vocab, id, false);
    }
    return 0;
}

int reasoning_watch_fill(ReasoningWatch *w, uint32_t *mask, uint32_t n_vocab) {
    memset(mask, 0xff, grammar_mask_words(n_vocab) * sizeof(*mask));
    if (n_vocab % 32)
        mask[n_vocab / 32] = (UINT32_C(1) << n_vocab % 32) - 1;
    for (uint32_t i = 0; i < w->form.n_ends; i++)
        set(mask, n_vocab, w->form.ends[i], false);
    return leave_out_mixed(w, mask, n_vocab);
}

static int add_breaks(const ReasoningWatch *w, uint32_t *mask, uint32_t n_vocab) {
    CLEANUP(buffer_deinit) Buffer text = { .account = w->tail.account };
    bool is = false;
    int r = 0;

    for (uint32_t id = 0; !r && id < n_vocab && id < tokenizer_size(w->form.tokenizer); id++) {
        r = is_breaks(w, id, &text, &is);
        if (!r && is)
            set(mask, n_vocab, id, true);
    }
    return r;
}

int reasoning_watch_add(const ReasoningWatch *w, uint32_t *mask, uint32_t n_vocab) {
    if (w->place == REASONING_BEHIND)
        return add_breaks(w, mask, n_vocab);
    if (w->place == REASONING_AT_START)
        for (const char *const *begin = w->form.family->begins; *begin; begin++)
            set(mask, n_vocab, id_of(w, *begin), true);
    return 0;
}
