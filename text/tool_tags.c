/* SPDX-License-Identifier: Apache-2.0 */
#include "text/tool_tags.h"

#include "util/json_writer.h"

#include <errno.h>
#include <string.h>

/* formats: each is an object, an item of an array or a member */

static void begin_format(JsonWriter *w, const char *key, const char *type) {
    json_begin_object(w, key);
    json_put_text(w, "type", type);
}

/* A format of several in order, as items between these. */
static void begin_sequence(JsonWriter *w, const char *key) {
    begin_format(w, key, "sequence");
    json_begin_array(w, "elements");
}

static void end_sequence(JsonWriter *w) {
    json_end_array(w);
    json_end_object(w);
}

static void put_constant(JsonWriter *w, const char *text, size_t size) {
    if (!size)
        return;
    begin_format(w, NULL, "const_string");
    json_put_string(w, "value", text, size);
    json_end_object(w);
}

static void put_token(JsonWriter *w, uint32_t id) {
    begin_format(w, NULL, "token");
    json_put_u64(w, "token", id);
    json_end_object(w);
}

/* marks */

static uint32_t token_of(const ToolDemand *d, const char *mark) {
    return d->tokenizer ? tokenizer_find_special(d->tokenizer, mark, strlen(mark)) : TOKEN_NONE;
}

/* The mark of the family that begins at `text` and is a token: its size, or 0. */
static size_t match_token(const ToolDemand *d, const char *text, uint32_t *id) {
    const ToolFamily *family = d->family;
    const char *const end[] = { family->end, NULL };
    const char *const *const lists[] = { family->begins, family->other_marks, end };

    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        for (const char *const *mark = lists[i]; *mark; mark++) {
            if (strncmp(text, *mark, strlen(*mark)) != 0)
                continue;
            *id = token_of(d, *mark);
            return *id == TOKEN_NONE ? 0 : strlen(*mark);
        }
    return 0;
}

/* Constant text, in which marks may stand. */
static void put_text(JsonWriter *w, const ToolDemand *d, const char *text) {
    size_t at = 0;
    uint32_t id;

    while (text[at]) {
        size_t size = match_token(d, text + at, &id);

        if (!size) {
            at++;
            continue;
        }
        put_constant(w, text, at);
        put_token(w, id);
        text += at + size;
        at = 0;
    }
    put_constant(w, text, at);
}

/* calls */

/* JSON of a schema; NULL: any object. Between its parts there is room for one character of white
 * space, so that a model writes as it is used to, and does not go astray in it. */
static void put_schema(JsonWriter *w, const json_t *schema) {
    begin_format(w, NULL, "json_schema");
    json_put_u64(w, "max_whitespace_cnt", 1);
    if (json_is_object(schema) && json_object_size(schema)) {
        json_put_value(w, "json_schema", schema);
    } else {
        json_begin_object(w, "json_schema");
        json_put_text(w, "type", "object");
        json_put_bool(w, "additionalProperties", true);
        json_end_object(w);
    }
    json_end_object(w);
}

static void put_call(JsonWriter *w, const ToolDemand *d, const json_t *function, bool is_loose) {
    const ToolWriting *writing = &d->family->writing;
    const json_t *name = json_object_get(function, "name");

    begin_sequence(w, NULL);
    put_text(w, d, writing->call);
    put_constant(w, json_string_value(name), json_string_length(name));
    put_text(w, d, writing->arguments);
    put_schema(w, is_loose ? NULL : json_object_get(function, "parameters"));
    put_text(w, d, writing->end);
    end_sequence(w);
}

/* A call of one of the tools. */
static void put_any_call(JsonWriter *w, const ToolDemand *d, const char *key) {
    size_t i;
    const json_t *tool;

    begin_format(w, key, "or");
    json_begin_array(w, "elements");
    json_array_foreach(d->tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");

        if (!d->name || json_string_is(json_object_get(function, "name"), d->name))
            put_call(w, d, function, d->is_loose && d->is_loose[i]);
    }
    json_end_array(w);
    json_end_object(w);
}

/* A call with its separator and mark in front. */
static void put_next_call(JsonWriter *w, const ToolDemand *d) {
    const ToolWriting *writing = &d->family->writing;

    begin_sequence(w, "content");
    put_text(w, d, writing->separator);
    if (writing->marks_each)
        put_text(w, d, d->family->begins[0]);
    put_any_call(w, d, NULL);
    end_sequence(w);
}

/* What stands behind the first mark; `several`: more than one call may. */
static void put_section(JsonWriter *w, const ToolDemand *d, bool several) {
    put_text(w, d, d->family->writing.before);
    put_any_call(w, d, NULL);
    if (several) {
        begin_format(w, NULL, "star");
        put_next_call(w, d);
        json_end_object(w);
    }
    put_text(w, d, d->family->writing.after);
}

static void put_calls(JsonWriter *w, const ToolDemand *d, const char *key) {
    begin_sequence(w, key);
    if (!d->family->writing.has_no_mark)
        put_text(w, d, d->family->begins[0]);
    put_section(w, d, d->parallel);
    end_sequence(w);
}

static void put_forced(JsonWriter *w, const ToolDemand *d) {
    if (!d->has_answer) {
        put_calls(w, d, "format");
        return;
    }
    begin_format(w, "format", "or");
    json_begin_array(w, "elements");
    put_calls(w, d, NULL);
    put_schema(w, d->answer);
    json_end_array(w);
    json_end_object(w);
}

/* Calls of which each has a mark are sections of their own. */
static void put_free(JsonWriter *w, const ToolDemand *d) {
    const char *mark = d->family->begins[0];
    uint32_t id = token_of(d, mark);

    begin_format(w, "format", id == TOKEN_NONE ? "dispatch" : "token_dispatch");
    json_begin_array(w, "rules");
    json_begin_array(w, NULL);
    if (id == TOKEN_NONE)
        json_put_text(w, NULL, mark);
    else
        json_put_u64(w, NULL, id);
    begin_sequence(w, NULL);
    put_section(w, d, d->parallel && !d->family->writing.marks_each);
    end_sequence(w);
    json_end_array(w);
    json_end_array(w);
    json_put_bool(w, "loop", d->parallel);
    json_end_object(w);
}

int tool_tags_write(const ToolDemand *demand, Buffer *out) {
    JsonWriter w = JSON_WRITER(out);

    begin_format(&w, NULL, "structural_tag");
    if (demand->forced)
        put_forced(&w, demand);
    else
        put_free(&w, demand);
    json_end_object(&w);
    return buffer_failed(out) ? -ENOMEM : 0;
}
