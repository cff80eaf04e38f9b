/* SPDX-License-Identifier: Apache-2.0 */

/*
 * PCRE2's just-in-time code needs a stack beyond the default 32 KiB only on odd inputs, so that one
 * is made when a match first asks for it. Without JIT (some hardened systems forbid writable code)
 * the interpreter gives the same matches, slower.
 */

#define PCRE2_CODE_UNIT_WIDTH 8

#include "model/text_pattern.h"

#include "model/pattern_syntax.h"
#include "model/utf8.h"

#include <errno.h>
#include <pcre2.h>

/* Steps of one search: real patterns need a few for each character of a run. */
#define MATCH_STEPS 1000000u
#define MATCH_STEPS_PER_BYTE 64u
#define JIT_STACK_BYTES_MAX (64u << 20)

struct TextPattern {
    char *literal; /* owned; NULL: `code` is used */
    size_t literal_size;
    pcre2_code *code;
    bool jit;
};

struct PatternScratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *jit_stack;
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
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &error, &offset, context);
    if (!pattern->code) {
        pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof(message));
        return reason_set(why, -EINVAL, "pattern \"%.*s\": %s", (int)(size < 200 ? size : 200),
                          regex, message);
    }
    pattern->jit = !pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
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
    free(scratch);
    return NULL;
}

int pattern_scratch_new(PatternScratch **outp) {
    CLEANUP(pattern_scratch_free) PatternScratch *scratch = calloc(1, sizeof(*scratch));

    if (!scratch)
        return -ENOMEM;
    scratch->match = pcre2_match_data_create(1, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    if (!scratch->match || !scratch->context)
        return -ENOMEM;
    *outp = TAKE(scratch);
    return 0;
}

static int jit_stack_make(PatternScratch *scratch) {
    scratch->jit_stack = pcre2_jit_stack_create(1u << 20, JIT_STACK_BYTES_MAX, NULL);
    if (!scratch->jit_stack)
        return -ENOMEM;
    pcre2_jit_stack_assign(scratch->context, NULL, scratch->jit_stack);
    return 0;
}

static int code_match(const TextPattern *pattern, PatternScratch *scratch, const char *text,
                      size_t size, size_t from) {
    if (pattern->jit)
        return pcre2_jit_match(pattern->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK,
                               scratch->match, scratch->context);
    return pcre2_match(pattern->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK,
                       scratch->match, scratch->context);
}

static int search_code(PatternMatches *matches) {
    PatternScratch *scratch = matches->scratch;
    const PCRE2_SIZE *ends;
    uint32_t steps;
    int r;

    if (__builtin_mul_overflow(matches->size, MATCH_STEPS_PER_BYTE, &steps) ||
        __builtin_add_overflow(steps, MATCH_STEPS, &steps))
        steps = UINT32_MAX;
    pcre2_set_match_limit(scratch->context, steps);
    r = code_match(matches->pattern, scratch, matches->text, matches->size, matches->search_from);
    if (r == PCRE2_ERROR_JIT_STACKLIMIT && !scratch->jit_stack) {
        r = jit_stack_make(scratch);
        if (r)
            return r;
        r = code_match(matches->pattern, scratch, matches->text, matches->size,
                       matches->search_from);
    }
    if (r == PCRE2_ERROR_NOMATCH)
        return PATTERN_E_END;
    if (r < 0)
        return r == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -EOVERFLOW;
    ends = pcre2_get_ovector_pointer(scratch->match);
    matches->start = ends[0];
    matches->end = ends[1];
    return 0;
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
