/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_responses.h"

#include "server/api/api_logprobs.h"
#include "server/api/api_turn.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

size_t api_response_n_items(const ApiResponse *r) {
    return r->items.size / sizeof(ResponseItem);
}

ResponseItem *api_response_item(const ApiResponse *r, size_t i) {
    return (ResponseItem *)(void *)r->items.data + i;
}

/* The item that more may come of; NULL: there is none. */
static ResponseItem *open_item(const ApiResponse *r) {
    size_t n = api_response_n_items(r);
    ResponseItem *last = n ? api_response_item(r, n - 1) : NULL;

    return last && last->is_open ? last : NULL;
}

/* keeping */

static void end_item(ApiResponse *r, bool is_complete, Buffer *events) {
    ResponseItem *item = open_item(r);

    if (!item)
        return;
    item->is_open = false;
    item->is_complete = is_complete;
    if (events)
        api_response_tell_end(r, api_response_n_items(r) - 1, events);
}

/* Begins an item behind the others; `name` is a call's. */
static int begin_item(ApiChoice *choice, ResponseItemKind kind, const OutputEvent *name,
                      Buffer *events) {
    ApiResponse *r = api_response_of(choice->call);
    ResponseItem item = { .kind = kind,
                          .is_open = true,
                          .at = r->text.size,
                          .first_logprob = r->logprobs.size / sizeof(TokenLogprob) };

    end_item(r, true, events);
    if (name) {
        api_output_make_id(&choice->output, item.call_id);
        buffer_append(&r->text, name->text, name->size);
        item.name_size = name->size;
    }
    buffer_append(&r->items, &item, sizeof(item));
    if (buffer_failed(&r->text) || buffer_failed(&r->items))
        return -ENOMEM;
    if (events)
        api_response_tell_item(r, api_response_n_items(r) - 1, events);
    return 0;
}

static int add_text(ApiResponse *r, const char *text, size_t size, Buffer *events) {
    ResponseItem *item = open_item(r);
    size_t n = 0;

    assert(item);
    buffer_append(&r->text, text, size);
    if (item->kind == RESPONSE_MESSAGE) {
        n = r->pending.size / sizeof(TokenLogprob);
        buffer_append(&r->logprobs, r->pending.data, r->pending.size);
    }
    buffer_clear(&r->pending); /* of calls and reasoning there are none to tell */
    if (buffer_failed(&r->text) || buffer_failed(&r->logprobs))
        return -ENOMEM;
    item->size += size;
    item->n_logprobs += n;
    if (events && (size || n))
        api_response_tell_delta(r, text, size, n, events);
    return 0;
}

/* A piece of the item of this kind that is there, or of a new one. */
static int go_on(ApiChoice *choice, ResponseItemKind kind, const OutputEvent *event,
                 Buffer *events) {
    ApiResponse *r = api_response_of(choice->call);
    const ResponseItem *item = open_item(r);
    int result = item && item->kind == kind ? 0 : begin_item(choice, kind, NULL, events);

    return result ? result : add_text(r, event->text, event->size, events);
}

/* An ApiTurnSink. */
static int take_piece(ApiChoice *choice, const OutputEvent *event, void *userdata) {
    ApiResponse *r = api_response_of(choice->call);
    Buffer *events = userdata;

    switch (event->kind) {
    case OUTPUT_CONTENT:
        return go_on(choice, RESPONSE_MESSAGE, event, events);
    case OUTPUT_REASONING:
        return go_on(choice, RESPONSE_REASONING, event, events);
    case OUTPUT_CALL:
        return begin_item(choice, RESPONSE_CALL, event, events);
    case OUTPUT_ARGUMENTS:
        return add_text(r, event->text, event->size, events);
    case OUTPUT_CALL_END:
        end_item(r, true, events);
    }
    return 0;
}

/* A model that says nothing has given an empty message. */
static int finish(ApiChoice *choice, Buffer *events) {
    static const OutputEvent nothing = { .kind = OUTPUT_CONTENT, .text = "" };
    ApiResponse *r = api_response_of(choice->call);
    size_t n = api_response_n_items(r);
    const ResponseItem *last = n ? api_response_item(r, n - 1) : NULL;
    int result = 0;

    if (choice->finish == FINISH_STOP && (!last || last->kind == RESPONSE_REASONING))
        result = go_on(choice, RESPONSE_MESSAGE, &nothing, events);
    else if (last && last->is_open && last->kind == RESPONSE_MESSAGE)
        result = add_text(r, "", 0, events); /* the logprobs of what had no text */
    last = open_item(r);
    end_item(r, last && last->kind != RESPONSE_CALL && choice->finish == FINISH_STOP, events);
    return result;
}

int api_response_take(ApiChoice *choice, const EngineEvent *event, Buffer *events) {
    ApiResponse *r = api_response_of(choice->call);
    bool is_reasoning = output_parser_is_reasoning(&choice->output.parser);
    int result;

    buffer_clear(&choice->logprobs); /* here they are kept by item */
    if (event->logprobs && !is_reasoning)
        buffer_append(&r->pending, event->logprobs, event->n_tokens * sizeof(*event->logprobs));
    if (buffer_failed(&r->pending))
        return -ENOMEM;
    result = api_turn_read(choice, event, take_piece, events);
    return result || event->finish == FINISH_NONE ? result : finish(choice, events);
}

/* telling */

void api_response_item_id(const ApiResponse *r, size_t i, char id[RESPONSE_ITEM_ID_BYTES]) {
    static const char *const prefixes[] = {
        [RESPONSE_REASONING] = "rs",
        [RESPONSE_MESSAGE] = "msg",
        [RESPONSE_CALL] = "fc",
    };

    /* That of the answer, with another prefix and a number. */
    snprintf(id, RESPONSE_ITEM_ID_BYTES, "%s%s%02zx", prefixes[api_response_item(r, i)->kind],
             strchr(r->call.id, '_'), i);
}

void api_response_put_logprobs(JsonWriter *w, const ApiResponse *r, size_t first, size_t n) {
    const TokenLogprob *all = (const TokenLogprob *)(const void *)r->logprobs.data;

    api_put_token_logprobs(w, "logprobs", &r->call.choices[0], n ? all + first : NULL, n);
}

void api_response_put_part(JsonWriter *w, const char *key, const ApiResponse *r, size_t i,
                           bool is_new) {
    const ResponseItem *item = api_response_item(r, i);
    bool is_message = item->kind == RESPONSE_MESSAGE;

    json_begin_object(w, key);
    json_put_text(w, "type", is_message ? "output_text" : "reasoning_text");
    json_put_string(w, "text", buffer_text(&r->text) + item->at, is_new ? 0 : item->size);
    if (is_message) {
        json_begin_array(w, "annotations");
        json_end_array(w);
        api_response_put_logprobs(w, r, item->first_logprob, is_new ? 0 : item->n_logprobs);
    }
    json_end_object(w);
}

static void put_content(JsonWriter *w, const ApiResponse *r, size_t i, bool is_new) {
    json_begin_array(w, "content");
    if (!is_new)
        api_response_put_part(w, NULL, r, i, false);
    json_end_array(w);
}

static void put_reasoning(JsonWriter *w, const ApiResponse *r, size_t i, bool is_new) {
    json_put_text(w, "type", "reasoning");
    json_begin_array(w, "summary");
    json_end_array(w);
    put_content(w, r, i, is_new);
    json_put_null(w, "encrypted_content");
}

static void put_call(JsonWriter *w, const ApiResponse *r, size_t i, bool is_new) {
    const ResponseItem *item = api_response_item(r, i);
    const char *name = buffer_text(&r->text) + item->at;

    json_put_text(w, "type", "function_call");
    json_put_text(w, "call_id", item->call_id);
    json_put_string(w, "name", name, item->name_size);
    json_put_string(w, "arguments", name + item->name_size, is_new ? 0 : item->size);
}

void api_response_put_item(JsonWriter *w, const char *key, const ApiResponse *r, size_t i,
                           bool is_new) {
    const ResponseItem *item = api_response_item(r, i);
    const char *status = item->is_complete ? "completed" : "incomplete";
    char id[RESPONSE_ITEM_ID_BYTES];

    api_response_item_id(r, i, id);
    json_begin_object(w, key);
    json_put_text(w, "id", id);
    if (item->kind == RESPONSE_REASONING) {
        put_reasoning(w, r, i, is_new);
    } else if (item->kind == RESPONSE_CALL) {
        put_call(w, r, i, is_new);
    } else {
        json_put_text(w, "type", "message");
        json_put_text(w, "role", "assistant");
        put_content(w, r, i, is_new);
    }
    json_put_text(w, "status", is_new ? "in_progress" : status);
    json_end_object(w);
}
