/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_responses_input.h"

#include "server/api/api_responses_items.h"

#include <errno.h>
#include <stdint.h>

/* turns */

static bool is_said(const json_t *item) {
    return api_item_kind(item) == API_ITEM_MESSAGE &&
           json_string_is(json_object_get(item, "role"), "assistant");
}

/* How many of the `n` items from this one on are one message: one, or a turn of the assistant. In
 * that reasoning comes first, and text does not follow other text without a call between them. */
static size_t count_turn(const json_t *item, size_t n) {
    size_t n_texts = 0, n_calls = 0, i;

    for (i = 0; i < n; i++, item = json_next(item)) {
        ApiItemKind kind = api_item_kind(item);
        bool said = is_said(item);

        if (!said && kind != API_ITEM_CALL && kind != API_ITEM_REASONING)
            break;
        if (kind == API_ITEM_REASONING && (n_texts || n_calls))
            break;
        if (said && n_texts && !n_calls)
            break;
        n_texts += said;
        n_calls += kind == API_ITEM_CALL;
    }
    return i ? i : 1;
}

static const json_t *skip(const json_t *item, size_t n) {
    while (n--)
        item = json_next(item);
    return item;
}

size_t api_responses_find_item(const json_t *instructions, const json_t *input, size_t i,
                               size_t call) {
    size_t n = json_array_size(input), at = 0, n_turn;
    const json_t *item = json_first(input);

    if (instructions && !i--)
        return SIZE_MAX;
    for (; at < n; at += n_turn, item = skip(item, n_turn)) {
        n_turn = count_turn(item, n - at);
        if (i--)
            continue;
        while (call != SIZE_MAX && n_turn-- > 1 &&
               (api_item_kind(item) != API_ITEM_CALL || call--)) {
            item = json_next(item);
            at++;
        }
        return at;
    }
    return SIZE_MAX;
}

/* writing */

typedef struct Turn {
    JsonWriter *w;
    const json_t *items; /* the first of [n], with the others behind it */
    size_t n;
} Turn;

#define TURN_FOREACH(_turn, _i, _item) \
    for ((_i) = 0, (_item) = (_turn)->items; (_i) < (_turn)->n; (_i)++, (_item) = json_next(_item))

static void put_member(JsonWriter *w, const char *key, const json_t *string) {
    json_put_string(w, key, json_string_value(string), json_string_length(string));
}

/* The text of a part, wherever it has it. */
static const json_t *text_of(const json_t *part) {
    const json_t *text = json_object_get(part, "text");

    return json_is_string(text) ? text : json_object_get(part, "refusal");
}

static void put_part(JsonWriter *w, const json_t *text) {
    json_begin_object(w, NULL);
    json_put_text(w, "type", "text");
    put_member(w, "text", text);
    json_end_object(w);
}

/* The parts that content has, into an array. */
static void put_parts(JsonWriter *w, const json_t *content) {
    const json_t *part;
    size_t i;

    if (json_is_string(content))
        put_part(w, content);
    json_array_foreach(content, i, part)
        put_part(w, text_of(part));
}

static void put_content(JsonWriter *w, const json_t *content) {
    if (json_is_string(content)) {
        put_member(w, "content", content);
        return;
    }
    json_begin_array(w, "content");
    put_parts(w, content);
    json_end_array(w);
}

static void put_said(const Turn *turn) {
    const json_t *item, *only = NULL;
    size_t n_texts = 0, i;

    TURN_FOREACH(turn, i, item) {
        if (!is_said(item))
            continue;
        only = json_object_get(item, "content");
        n_texts++;
    }
    if (n_texts == 1 && json_array_size(only) == 1)
        put_member(turn->w, "content", text_of(json_first(only)));
    else if (n_texts == 1)
        put_content(turn->w, only);
    if (n_texts < 2)
        return;
    json_begin_array(turn->w, "content");
    TURN_FOREACH(turn, i, item)
    if (is_said(item))
        put_parts(turn->w, json_object_get(item, "content"));
    json_end_array(turn->w);
}

/* What was thought: its text, or else its summary. */
static void join_reasoning(const json_t *item, Buffer *out) {
    const json_t *content = api_item_member(item, "content"), *part;
    size_t i;

    if (!json_array_size(content))
        content = api_item_member(item, "summary");
    json_array_foreach(content, i, part) {
        const json_t *text = text_of(part);

        if (out->size)
            buffer_append_char(out, '\n');
        buffer_append(out, json_string_value(text), json_string_length(text));
    }
}

/* Under both names that templates know it by. */
static int put_reasoning(const Turn *turn, Account *account) {
    CLEANUP(buffer_deinit) Buffer text = { .account = account };
    const json_t *item;
    size_t i;

    TURN_FOREACH(turn, i, item)
    if (api_item_kind(item) == API_ITEM_REASONING)
        join_reasoning(item, &text);
    if (text.size) {
        json_put_string(turn->w, "reasoning_content", buffer_text(&text), text.size);
        json_put_string(turn->w, "reasoning", buffer_text(&text), text.size);
    }
    return buffer_failed(&text) ? -ENOMEM : 0;
}

static void put_call(JsonWriter *w, const json_t *item) {
    json_begin_object(w, NULL);
    put_member(w, "id", json_object_get(item, "call_id"));
    json_put_text(w, "type", "function");
    json_begin_object(w, "function");
    put_member(w, "name", json_object_get(item, "name"));
    put_member(w, "arguments", json_object_get(item, "arguments"));
    json_end_object(w);
    json_end_object(w);
}

static void put_calls(const Turn *turn) {
    const json_t *item;
    size_t i;

    json_begin_array(turn->w, "tool_calls");
    TURN_FOREACH(turn, i, item)
    if (api_item_kind(item) == API_ITEM_CALL)
        put_call(turn->w, item);
    json_end_array(turn->w);
}

static int put_turn(const Turn *turn, Account *account) {
    int r;

    json_begin_object(turn->w, NULL);
    json_put_text(turn->w, "role", "assistant");
    r = put_reasoning(turn, account);
    put_said(turn);
    put_calls(turn);
    json_end_object(turn->w);
    return r;
}

/* An item that is a message by itself. */
static void put_item(JsonWriter *w, const json_t *item) {
    bool is_output = api_item_kind(item) == API_ITEM_CALL_OUTPUT;

    json_begin_object(w, NULL);
    if (!is_output) {
        put_member(w, "role", json_object_get(item, "role"));
    } else {
        json_put_text(w, "role", "tool");
        put_member(w, "tool_call_id", json_object_get(item, "call_id"));
        if (api_item_member(item, "name"))
            put_member(w, "name", json_object_get(item, "name"));
    }
    put_content(w, json_object_get(item, is_output ? "output" : "content"));
    json_end_object(w);
}

static void put_text_message(JsonWriter *w, const char *role, const json_t *text) {
    json_begin_object(w, NULL);
    json_put_text(w, "role", role);
    put_member(w, "content", text);
    json_end_object(w);
}

int api_responses_put_messages(JsonWriter *w, const json_t *instructions, const json_t *input,
                               Account *account) {
    const json_t *item = json_first(input);
    size_t n = json_array_size(input), n_turn;
    int r = 0;

    json_begin_array(w, "messages");
    if (instructions)
        put_text_message(w, "system", instructions);
    if (json_is_string(input))
        put_text_message(w, "user", input);
    for (; n && !r; n -= n_turn, item = skip(item, n_turn)) {
        n_turn = count_turn(item, n);
        if (is_said(item) || api_item_kind(item) == API_ITEM_CALL ||
            api_item_kind(item) == API_ITEM_REASONING)
            r = put_turn(&(Turn){ .w = w, .items = item, .n = n_turn }, account);
        else
            put_item(w, item);
    }
    json_end_array(w);
    return r;
}
