/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two forms behind the same mark: an array of objects (to tokenizer version 7), and a name, perhaps
 * [CALL_ID] and an id, [ARGS] and the arguments (from version 11).
 */
#include "text/tool_family.h"

enum {
    MISTRAL_OPEN, /* the same as tool_json_step's */
    MISTRAL_NAME = TOOL_JSON_STATES,
    MISTRAL_ID,
    MISTRAL_ARGUMENTS,
};

static bool is_of_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == '/' || c == ':';
}

static ToolStep read_name(ToolSection *s) {
    size_t end = s->name.start;

    while (end < s->size && is_of_name(s->text[end]))
        end++;
    if (end == s->size && !s->last && end - s->name.start <= TOOL_NAME_BYTES_MAX)
        return TOOL_MORE;
    s->at = end;
    if (end == s->name.start || end == s->size || end - s->name.start > TOOL_NAME_BYTES_MAX)
        return TOOL_WRONG;
    s->name.end = end;
    s->has_name = true;
    s->state = MISTRAL_ID;
    return tool_mistral_step(s);
}

/* An id is the model's own; ours is another. */
static ToolStep read_id(ToolSection *s) {
    MarkMatch match = s->head.start ? MARK_NONE : tool_take_mark(s, "[CALL_ID]");

    if (match == MARK_PART)
        return TOOL_MORE;
    if (match == MARK_WHOLE)
        s->head.start = s->at;
    while (s->head.start && s->at < s->size && is_of_name(s->text[s->at]))
        s->at++;
    if (s->head.start && s->at - s->head.start > TOOL_NAME_BYTES_MAX)
        return TOOL_WRONG;
    if (s->at == s->size && !s->last)
        return TOOL_MORE;
    match = tool_take_mark(s, "[ARGS]");
    if (match == MARK_PART)
        return TOOL_MORE;
    s->state = MISTRAL_ARGUMENTS;
    return tool_take_arguments(s);
}

static ToolStep open_section(ToolSection *s) {
    if (!tool_skip_space(s))
        return s->last ? TOOL_WRONG : TOOL_MORE;
    if (s->text[s->at] == '[' || s->text[s->at] == '{')
        return tool_json_step(s);
    s->name.start = s->at;
    s->state = MISTRAL_NAME;
    return read_name(s);
}

ToolStep tool_mistral_step(ToolSection *s) {
    switch (s->state) {
    case MISTRAL_OPEN:
        return open_section(s);
    case MISTRAL_NAME:
        return read_name(s);
    case MISTRAL_ID:
        return read_id(s);
    case MISTRAL_ARGUMENTS:
        return s->n_calls ? TOOL_END : tool_take_arguments(s);
    default:
        return tool_json_step(s);
    }
}
