/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call is an object that has a name and arguments, in any order and with other members between
 * them. Only the members of that object itself are looked at; what is deeper is the arguments'.
 */
#include "text/tool_family.h"

#include <string.h>

enum {
    JSON_OPEN,  /* '{' or '[' must come */
    JSON_CALLS, /* within them */
    JSON_CLOSE, /* the value has ended */
};
_Static_assert(JSON_CLOSE < TOOL_JSON_STATES, "states of other steps are above");

static const char *const name_keys[] = { "name", NULL };
static const char *const arguments_keys[] = { "arguments", "parameters", NULL };
/* What a call may have besides, where nothing but its members tells that it is one. */
static const char *const other_keys[] = { "type", "id", NULL };

static bool key_is(const ToolSection *s, const char *const *names) {
    size_t n = s->key.end - s->key.start - 2; /* without its quotes */

    for (; *names; names++)
        if (strlen(*names) == n && !memcmp(s->text + s->key.start + 1, *names, n))
            return true;
    return false;
}

static bool key_is_known(const ToolSection *s) {
    return key_is(s, name_keys) || key_is(s, arguments_keys) || key_is(s, other_keys);
}

static void begin_value(ToolSection *s, size_t at) {
    if (key_is(s, name_keys)) {
        s->name = (ToolSpan){ .start = at };
        s->has_name = false;
    } else if (key_is(s, arguments_keys)) {
        s->arguments = (ToolSpan){ .start = at };
        s->arguments_started = true;
    }
}

static void end_value(ToolSection *s, size_t end) {
    if (key_is(s, name_keys)) {
        s->name.end = end;
        s->has_name = true;
    } else if (key_is(s, arguments_keys)) {
        s->arguments.end = end;
    }
}

/* What the byte before `at` did within the object of a call; false: this is none. */
static bool take_member(ToolSection *s, JsonScanState before) {
    JsonScanState now = s->scan.state;

    switch (before) {
    case JSON_SCAN_FIRST_KEY:
    case JSON_SCAN_KEY:
        if (now == JSON_SCAN_STRING)
            s->key = (ToolSpan){ .start = s->at - 1 };
        return true;
    case JSON_SCAN_STRING:
        if (now == JSON_SCAN_COLON)
            s->key.end = s->at;
        else if (now == JSON_SCAN_NEXT)
            end_value(s, s->at);
        return now != JSON_SCAN_COLON || !s->is_bare || key_is_known(s);
    case JSON_SCAN_VALUE:
        if (now == JSON_SCAN_STRING || now == JSON_SCAN_SCALAR)
            begin_value(s, s->at - 1);
        return true;
    case JSON_SCAN_SCALAR:
        if (now != JSON_SCAN_SCALAR)
            end_value(s, s->at - 1);
        return true;
    default:
        return true;
    }
}

/* What the byte before `at` did; TOOL_MORE: nothing by which the section ends. */
static ToolStep take_byte(ToolSection *s, JsonScanState before, uint32_t depth, int r) {
    const uint32_t call_depth = s->is_list ? 2 : 1; /* within the object of a call */
    uint32_t now = s->scan.depth;
    bool deeper = now > depth;

    if (depth == call_depth && now == depth)
        return take_member(s, before) ? TOOL_MORE : TOOL_WRONG;
    if (depth == call_depth && deeper) {
        begin_value(s, s->at - 1);
    } else if (depth == call_depth + 1 && now == call_depth) {
        end_value(s, s->at);
    } else if (depth + 1 == call_depth && deeper) {
        s->object.start = s->at - 1;
        return s->text[s->at - 1] == '{' ? TOOL_MORE : TOOL_WRONG;
    } else if (depth == call_depth) {
        if (before == JSON_SCAN_SCALAR)
            end_value(s, s->at - 1);
        s->object.end = s->at;
        return TOOL_CALL;
    } else if (s->is_list && depth == 1 && r != JSON_SCAN_E_END &&
               (s->scan.state == JSON_SCAN_STRING || s->scan.state == JSON_SCAN_SCALAR)) {
        return TOOL_WRONG; /* an array of other things */
    }
    return TOOL_MORE;
}

static ToolStep open_value(ToolSection *s) {
    if (!tool_skip_space(s))
        return s->last ? TOOL_WRONG : TOOL_MORE;
    if (s->text[s->at] != '{' && s->text[s->at] != '[')
        return TOOL_WRONG;
    s->is_list = s->text[s->at] == '[';
    s->in_json = true;
    s->scan = (JsonScan)JSON_SCAN_NULL;
    s->state = JSON_CALLS;
    return tool_json_step(s);
}

/* Where the text is over: what is left behind a call of an array is nobody's. */
static ToolStep cut_off(ToolSection *s) {
    return s->is_list && s->n_calls && !s->object.start && s->scan.depth == 1 ? TOOL_END
                                                                              : TOOL_WRONG;
}

static ToolStep read_calls(ToolSection *s) {
    while (s->at < s->size) {
        JsonScanState before = s->scan.state;
        uint32_t depth = s->scan.depth;
        int r = json_scan_byte(&s->scan, s->text[s->at]);
        ToolStep step;

        if (r < 0)
            return TOOL_WRONG;
        s->at++;
        step = take_byte(s, before, depth, r);
        if (r == JSON_SCAN_E_END)
            s->state = JSON_CLOSE;
        if (step != TOOL_MORE)
            return step;
        if (r == JSON_SCAN_E_END)
            return tool_take_end(s);
    }
    return s->last ? cut_off(s) : TOOL_MORE;
}

ToolStep tool_json_step(ToolSection *s) {
    switch (s->state) {
    case JSON_OPEN:
        return open_value(s);
    case JSON_CALLS:
        return read_calls(s);
    default:
        return tool_take_end(s);
    }
}
