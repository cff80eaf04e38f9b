/* SPDX-License-Identifier: Apache-2.0 */

/*
 * PCRE2's just-in-time code needs a stack beyond the default 32 KiB only on odd inputs, so that one
 * is made when a match first asks for it, and a larger one when that is too small. Without JIT
 * (some hardened systems forbid writable code) the interpreter gives the same matches, slower.
 *
 * Nothing stops PCRE2 once it runs, so it never gets much to do: it sees the text up to the end of
 * a window, and says (PCRE2_PARTIAL_HARD) whether a match depends on what lies behind. Then the
 * window grows; what it finds otherwise is what it would find in the whole text. From how many
 * places one call searches is limited too, since at each it may run through the whole window.
 */

#define PCRE2_CODE_UNIT_WIDTH 8

#include "text/text_pattern.h"

#include "text/pattern_syntax.h"
#include "util/utf8.h"

#include <errno.h>
#include <pcre2.h>

/* Steps from one place: real patterns go back over each character of a run once. At most 50 ms. */
#define MATCH_STEPS 10000000u
#define JIT_STACK_BYTES_MIN ((size_t)1 << 20)
#define JIT_STACK_BYTES_MAX ((size_t)64 << 20)
/* Of the interpreter, which keeps what JIT has on its stack. */
#define HEAP_KIB_MAX 8192

/* A byte takes 1 to 5 ns, so that the longest window takes less than 50 ms. */
#ifndef WINDOW_BYTES
#define WINDOW_BYTES 8192
#endif
#define WINDOW_BYTES_MAX ((size_t)16 << 20)
/* Places to search from times the window's bytes. */
#define WINDOW_WORK_MAX ((size_t)16 << 20)
/* How many searches pass before the account is asked. */
#define SEARCHES_PER_POLL 64

struct TextPattern {
    char *literal; /* owned; NULL: `code` is used */
    size_t literal_size;
    pcre2_code *code;
    bool jit;
};

struct PatternScratch {
    Account *account; /* borrowed; NULL: nobody's */
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *jit_stack;
    size_t jit_stack_bytes; /* 0: none; charged */
    unsigned n_searches;
};

TextPattern *text_pattern_free(TextPattern *pattern) {
    if (!pattern)
        return NULL;
    free(pattern->literal);
    pcre2_code_free(pattern->code);
    free(pattern);
    return NULL;
}

int text_pattern_new_literal(TextPattern **outp, const char *text, size_t size, Reason *why) {
    CLEANUP(text_pattern_free) TextPattern *pattern = NULL;

    if (!size)
        return reason_set(why, -EINVAL, "a pattern is empty");
    pattern = calloc(1, sizeof(*pattern));
    if (!pattern)
        return -ENOMEM;
    pattern->literal = malloc(size);
    if (!pattern->literal)
        return -ENOMEM;
    memcpy(pattern->literal, text, size);
    pattern->literal_size = size;
    *outp = TAKE(pattern);
    return 0;
}

static void compile_context_free(pcre2_compile_context **context) {
    pcre2_compile_context_free(*context);
}

/* ^ and $ match at every line, and only LF ends a line: Ruby's rules. */
static int code_compile(TextPattern *pattern, const char *regex, size_t size, Reason *why) {
    __attribute__((__cleanup__(compile_context_free))) pcre2_compile_context *context =
        pcre2_compile_context_create(NULL);
    CLEANUP(buffer_deinit) Buffer rewritten = BUFFER_NULL;
    char message[256];
    PCRE2_SIZE offset;
    int r, error;

    if (!context)
        return -ENOMEM;
    r = pattern_syntax_rewrite(regex, size, &rewritten, why);
    if (r)
        return r;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pattern->code = pcre2_compile((PCRE2_SPTR)buffer_text(&rewritten), rewritten.size,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                      PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT,
                                  &error, &offset, context);
    if (!pattern->code) {
        pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof(message));
        return reason_set(why, -EINVAL, "pattern \"%.*s\": %s", (int)(size < 200 ? size : 200),
                          regex, message);
    }
    pattern->jit = !pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return 0;
}

int text_pattern_new_regex(TextPattern **outp, const char *text, size_t size, Reason *why) {
    CLEANUP(text_pattern_free) TextPattern *pattern = calloc(1, sizeof(*pattern));
    int r;

    if (!pattern)
        return -ENOMEM;
    r = code_compile(pattern, text, size, why);
    if (r)
        return r;
    *outp = TAKE(pattern);
    return 0;
}

const char *text_pattern_literal(const TextPattern *pattern, size_t *size) {
    *size = pattern->literal_size;
    return pattern->literal;
}

PatternScratch *pattern_scratch_free(PatternScratch *scratch) {
    if (!scratch)
        return NULL;
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->jit_stack);
    account_release(scratch->account, scratch->jit_stack_bytes);
    free(scratch);
    return NULL;
}

int pattern_scratch_new(PatternScratch **outp, Account *account) {
    CLEANUP(pattern_scratch_free) PatternScratch *scratch = calloc(1, sizeof(*scratch));

    if (!scratch)
        return -ENOMEM;
    scratch->account = account;
    scratch->match = pcre2_match_data_create(1, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    if (!scratch->match || !scratch->context)
        return -ENOMEM;
    pcre2_set_match_limit(scratch->context, MATCH_STEPS);
    pcre2_set_heap_limit(scratch->context, HEAP_KIB_MAX);
    *outp = TAKE(scratch);
    return 0;
}

/* A stack in place of the one that is too small. */
static int jit_stack_grow(PatternScratch *scratch) {
    size_t n = scratch->jit_stack_bytes ? scratch->jit_stack_bytes * 4 : JIT_STACK_BYTES_MIN;
    int r;

    if (n > JIT_STACK_BYTES_MAX)
        return -EOVERFLOW;
    pcre2_jit_stack_assign(scratch->context, NULL, NULL);
    pcre2_jit_stack_free(scratch->jit_stack);
    scratch->jit_stack = NULL;
    r = account_charge(scratch->account, n - scratch->jit_stack_bytes);
    if (r)
        return r;
    scratch->jit_stack_bytes = n;
    scratch->jit_stack = pcre2_jit_stack_create(JIT_STACK_BYTES_MIN, n, NULL);
    if (!scratch->jit_stack)
        return -ENOMEM;
    pcre2_jit_stack_assign(scratch->context, NULL, scratch->jit_stack);
    return 0;
}

/* Searches the text up to `size` from the matches' place on; a match may begin up to `last`. */
static int code_match(const PatternMatches *m, size_t size, size_t last) {
    const TextPattern *pattern = m->pattern;
    PatternScratch *scratch = m->scratch;
    uint32_t options = PCRE2_NO_UTF_CHECK | (size < m->size ? PCRE2_PARTIAL_HARD : 0);

    pcre2_set_offset_limit(scratch->context, last);
    if (pattern->jit)
        return pcre2_jit_match(pattern->code, (PCRE2_SPTR)m->text, size, m->search_from, options,
                               scratch->match, scratch->context);
    return pcre2_match(pattern->code, (PCRE2_SPTR)m->text, size, m->search_from, options,
                       scratch->match, scratch->context);
}

/* The beginning of the character at `at`. */
static size_t character_start(const char *text, size_t size, size_t at) {
    while (at < size && ((unsigned char)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}

static bool is_canceled(PatternScratch *scratch) {
    return !(++scratch->n_searches % SEARCHES_PER_POLL) && account_is_closed(scratch->account);
}

enum {
    SEARCH_E_AGAIN = PATTERN_E_END + 1, /* from another place, or with another window */
};

/* One call of PCRE2. */
static int search_window(PatternMatches *m, size_t *window) {
    size_t left = m->size - m->search_from, from = m->search_from;
    size_t end = *window < left ? character_start(m->text, m->size, from + *window) : m->size;
    size_t n_places = WINDOW_WORK_MAX / (end - from + 1);
    size_t last = end < m->size ? character_start(m->text, m->size, end - 1) : end;
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(m->scratch->match);
    int r;

    if (last - from > n_places)
        last = character_start(m->text, m->size, from + n_places);
    r = code_match(m, end, last);
    if (r > 0) {
        m->start = ends[0];
        m->end = ends[1];
        return 0;
    }
    switch (r) {
    case PCRE2_ERROR_PARTIAL: /* no match begins before this one, which may go on behind `end` */
        m->search_from = ends[0] > from ? ends[0] : from;
        *window = 2 * (end - m->search_from);
        if (*window < WINDOW_BYTES)
            *window = WINDOW_BYTES;
        return *window > WINDOW_BYTES_MAX ? -EOVERFLOW : SEARCH_E_AGAIN;
    case PCRE2_ERROR_NOMATCH:
        if (last >= m->size)
            return PATTERN_E_END;
        m->search_from = last + utf8_size(m->text[last]);
        *window = WINDOW_BYTES;
        return SEARCH_E_AGAIN;
    case PCRE2_ERROR_JIT_STACKLIMIT:
        r = jit_stack_grow(m->scratch);
        return r ? r : SEARCH_E_AGAIN;
    default:
        return r == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EOVERFLOW;
    }
}

static int search_code(PatternMatches *m) {
    size_t window = WINDOW_BYTES;
    int r;

    do {
        r = search_window(m, &window);
        if (r == SEARCH_E_AGAIN && account_is_closed(m->scratch->account))
            r = -ECANCELED;
    } while (r == SEARCH_E_AGAIN);
    return r;
}

static int search_literal(PatternMatches *matches) {
    const TextPattern *pattern = matches->pattern;
    const char *found =
        memmem(matches->text + matches->search_from, matches->size - matches->search_from,
               pattern->literal, pattern->literal_size);

    if (!found)
        return PATTERN_E_END;
    matches->start = (size_t)(found - matches->text);
    matches->end = matches->start + pattern->literal_size;
    return 0;
}

int pattern_matches_next(PatternMatches *matches) {
    size_t end_before = matches->end;
    int r;

    while (matches->search_from <= matches->size) {
        if (is_canceled(matches->scratch))
            return -ECANCELED;
        r = matches->pattern->literal ? search_literal(matches) : search_code(matches);
        if (r)
            return r;
        matches->search_from = matches->end;
        if (matches->start != matches->end || !matches->found_any || matches->end != end_before) {
            matches->found_any = true;
            return 0;
        }
        matches->search_from += matches->search_from < matches->size
                                    ? utf8_size(matches->text[matches->search_from])
                                    : 1;
    }
    return PATTERN_E_END;
}
