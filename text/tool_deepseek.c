/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls between marks, each with a separator: V3 and R1 write a type in front of it, and behind it
 * the name and a fenced block of JSON; V3.1 writes the name in front and bare JSON behind.
 */
#include "text/tool_family.h"

#include <string.h>

enum {
    DEEPSEEK_OPEN,
    DEEPSEEK_HEAD,      /* up to the separator */
    DEEPSEEK_BODY,      /* behind it */
    DEEPSEEK_FENCE,     /* behind a name */
    DEEPSEEK_ARGUMENTS, /* in them, or behind them */
    DEEPSEEK_CALL_END,
};

static const char *call_begin(const ToolSection *s) {
    return s->family->begins[1];
}

static const char *calls_end(const ToolSection *s) {
    return s->family->other_marks[0];
}

static const char *call_end(const ToolSection *s) {
    return s->family->other_marks[1];
}

static const char *separator(const ToolSection *s) {
    return s->family->other_marks[2];
}

/* Where `mark` begins at or behind `at`, if not too far; NULL: nowhere yet. */
static const char *find(const ToolSection *s, const char *mark) {
    size_t n = strlen(mark), left = s->size - s->at;

    return memmem(s->text + s->at, left < TOOL_NAME_BYTES_MAX + n ? left : TOOL_NAME_BYTES_MAX + n,
                  mark, n);
}

/* Something that was not found: TOOL_MORE if it may still come. */
static ToolStep wait_for(const ToolSection *s, const char *mark) {
    return !s->last && s->size - s->at < TOOL_NAME_BYTES_MAX + strlen(mark) ? TOOL_MORE
                                                                            : TOOL_WRONG;
}

/* Between calls: another one, the end, or what belongs to nobody. */
static ToolStep open_call(ToolSection *s) {
    size_t begin = s->at;
    bool is_begun = s->begin == 1 && !s->n_calls; /* by the section's mark */
    MarkMatch match;

    if (!is_begun && !tool_skip_space(s) && !s->last) {
        s->at = begin;
        return TOOL_MORE;
    }
    match = is_begun ? MARK_WHOLE : tool_take_mark(s, call_begin(s));
    if (match == MARK_WHOLE) {
        s->state = DEEPSEEK_HEAD;
        return tool_deepseek_step(s);
    }
    if (match == MARK_NONE && s->n_calls)
        match = tool_take_mark(s, calls_end(s));
    if (match == MARK_PART || (match == MARK_NONE && s->at < s->size))
        s->at = begin;
    if (match == MARK_PART)
        return TOOL_MORE;
    return s->n_calls ? TOOL_END : TOOL_WRONG;
}

static ToolStep read_head(ToolSection *s) {
    const char *end = find(s, separator(s));

    if (!end)
        return wait_for(s, separator(s));
    s->head = (ToolSpan){ s->at, (size_t)(end - s->text) };
    s->at = s->head.end + strlen(separator(s));
    s->state = DEEPSEEK_BODY;
    return tool_deepseek_step(s);
}

static void set_name(ToolSection *s, ToolSpan name) {
    while (name.start < name.end && json_is_space(s->text[name.start]))
        name.start++;
    while (name.start < name.end && json_is_space(s->text[name.end - 1]))
        name.end--;
    s->name = name;
    s->has_name = true;
}

static ToolStep read_body(ToolSection *s) {
    const char *end;

    if (s->at == s->size)
        return wait_for(s, "\n");
    if (s->text[s->at] == '{') {
        set_name(s, s->head);
        s->state = DEEPSEEK_ARGUMENTS;
        return tool_take_arguments(s);
    }
    end = find(s, "\n");
    if (!end)
        return wait_for(s, "\n");
    set_name(s, (ToolSpan){ s->at, (size_t)(end - s->text) });
    s->at = (size_t)(end - s->text);
    s->state = DEEPSEEK_FENCE;
    return tool_deepseek_step(s);
}

static ToolStep read_fence(ToolSection *s) {
    MarkMatch match;

    if (!tool_skip_space(s))
        return wait_for(s, "\n");
    match = tool_take_mark(s, "```json");
    if (match == MARK_PART)
        return TOOL_MORE;
    if (match == MARK_NONE && s->text[s->at] != '{')
        return TOOL_WRONG;
    s->state = DEEPSEEK_ARGUMENTS;
    return tool_take_arguments(s);
}

/* Behind the arguments stand the fence and the call's end, if the model writes what it should. */
static ToolStep take_closing(ToolSection *s, const char *mark, uint32_t next_state) {
    size_t begin = s->at;
    MarkMatch match = tool_skip_space(s) || s->last ? tool_take_mark(s, mark) : MARK_PART;

    if (match != MARK_WHOLE)
        s->at = begin;
    if (match == MARK_PART)
        return TOOL_MORE;
    s->state = next_state;
    return tool_deepseek_step(s);
}

ToolStep tool_deepseek_step(ToolSection *s) {
    switch (s->state) {
    case DEEPSEEK_OPEN:
        return open_call(s);
    case DEEPSEEK_HEAD:
        return read_head(s);
    case DEEPSEEK_BODY:
        return read_body(s);
    case DEEPSEEK_FENCE:
        return read_fence(s);
    case DEEPSEEK_ARGUMENTS:
        return s->has_name ? tool_take_arguments(s) : take_closing(s, "```", DEEPSEEK_CALL_END);
    default:
        return take_closing(s, call_end(s), DEEPSEEK_OPEN);
    }
}
