/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The events of a stream, in OpenAI's order: the response has begun; of each item that it was
 * added, its part, the part's pieces, and that part and item are done; the response is done.
 */
#include "server/api/api_responses.h"

#include <errno.h>

static void begin_event(JsonWriter *w, ApiResponse *r, const char *type) {
    buffer_printf(w->out, "event: %s\ndata: ", type);
    json_begin_object(w, NULL);
    json_put_text(w, "type", type);
    json_put_u64(w, "sequence_number", r->n_events++);
}

static void end_event(JsonWriter *w) {
    json_end_object(w);
    buffer_append_text(w->out, "\n\n");
    w->comma = false;
}

/* An event about an item, from its id on. */
static void begin_item_event(JsonWriter *w, ApiResponse *r, const char *type, size_t i) {
    char id[RESPONSE_ITEM_ID_BYTES];

    begin_event(w, r, type);
    api_response_item_id(r, i, id);
    json_put_text(w, "item_id", id);
    json_put_u64(w, "output_index", i);
    if (api_response_item(r, i)->kind != RESPONSE_CALL)
        json_put_u64(w, "content_index", 0);
}

static void tell_response(ApiResponse *r, const char *type, ResponseStatus status, Buffer *events) {
    JsonWriter w = JSON_WRITER(events);

    begin_event(&w, r, type);
    api_response_put(&w, "response", r, status);
    end_event(&w);
}

static void begin_stream(ApiResponse *r, Buffer *events) {
    tell_response(r, "response.created", RESPONSE_IN_PROGRESS, events);
    tell_response(r, "response.in_progress", RESPONSE_IN_PROGRESS, events);
}

void api_response_tell_item(ApiResponse *r, size_t i, Buffer *events) {
    JsonWriter w = JSON_WRITER(events);

    begin_event(&w, r, "response.output_item.added");
    json_put_u64(&w, "output_index", i);
    api_response_put_item(&w, "item", r, i, true);
    end_event(&w);
    if (api_response_item(r, i)->kind == RESPONSE_CALL)
        return;
    begin_item_event(&w, r, "response.content_part.added", i);
    api_response_put_part(&w, "part", r, i, true);
    end_event(&w);
}

void api_response_tell_delta(ApiResponse *r, const char *text, size_t size, size_t n,
                             Buffer *events) {
    static const char *const types[] = {
        [RESPONSE_REASONING] = "response.reasoning_text.delta",
        [RESPONSE_MESSAGE] = "response.output_text.delta",
        [RESPONSE_CALL] = "response.function_call_arguments.delta",
    };
    size_t i = api_response_n_items(r) - 1;
    const ResponseItem *item = api_response_item(r, i);
    JsonWriter w = JSON_WRITER(events);

    begin_item_event(&w, r, types[item->kind], i);
    json_put_string(&w, "delta", text, size);
    if (item->kind == RESPONSE_MESSAGE)
        api_response_put_logprobs(&w, r, item->first_logprob + item->n_logprobs - n, n);
    end_event(&w);
}

static void tell_text_done(JsonWriter *w, ApiResponse *r, size_t i) {
    const ResponseItem *item = api_response_item(r, i);
    bool is_message = item->kind == RESPONSE_MESSAGE;

    begin_item_event(w, r,
                     is_message ? "response.output_text.done" : "response.reasoning_text.done", i);
    json_put_string(w, "text", buffer_text(&r->text) + item->at, item->size);
    if (is_message)
        api_response_put_logprobs(w, r, item->first_logprob, item->n_logprobs);
    end_event(w);
    begin_item_event(w, r, "response.content_part.done", i);
    api_response_put_part(w, "part", r, i, false);
    end_event(w);
}

static void tell_call_done(JsonWriter *w, ApiResponse *r, size_t i) {
    const ResponseItem *item = api_response_item(r, i);
    const char *name = buffer_text(&r->text) + item->at;

    begin_item_event(w, r, "response.function_call_arguments.done", i);
    json_put_string(w, "arguments", name + item->name_size, item->size);
    end_event(w);
}

void api_response_tell_end(ApiResponse *r, size_t i, Buffer *events) {
    JsonWriter w = JSON_WRITER(events);

    if (api_response_item(r, i)->kind == RESPONSE_CALL)
        tell_call_done(&w, r, i);
    else
        tell_text_done(&w, r, i);
    begin_event(&w, r, "response.output_item.done");
    json_put_u64(&w, "output_index", i);
    api_response_put_item(&w, "item", r, i, false);
    end_event(&w);
}

/* Sends events that were appended behind the first `n_before`; without memory for them the call
 * fails, and they were none. */
static int send_events(ApiResponse *r, uint64_t n_before, const Buffer *events) {
    if (buffer_failed(events)) {
        r->n_events = n_before;
        api_call_fail_memory(&r->call);
        return -ENOMEM;
    }
    if (events->size)
        api_call_send(&r->call, events);
    return 0;
}

void api_response_stream_event(ApiChoice *choice, const EngineEvent *event) {
    CLEANUP(buffer_deinit) Buffer events = { .account = choice->call->job.account };
    ApiResponse *r = api_response_of(choice->call);
    uint64_t n_before = r->n_events;
    bool failed;

    if (!n_before)
        begin_stream(r, &events);
    failed = api_response_take(choice, event, &events);
    if (!send_events(r, n_before, &events) && failed)
        api_call_fail_memory(choice->call);
}

/* Then the response has failed, with what there is of it. */
static void tell_error(ApiResponse *r, Buffer *events) {
    const ApiError *error = &r->call.job.error;
    JsonWriter w = JSON_WRITER(events);

    begin_event(&w, r, "error");
    json_put_text(&w, "code", error->code);
    json_put_text(&w, "message", error->why.text);
    json_put_text(&w, "param", *error->param ? error->param : NULL);
    end_event(&w);
    tell_response(r, "response.failed", RESPONSE_FAILED, events);
}

static int send_end(ApiResponse *r) {
    CLEANUP(buffer_deinit) Buffer events = { .account = r->call.job.account };
    bool is_cut = r->call.choices[0].finish == FINISH_LENGTH;
    uint64_t n_before = r->n_events;

    tell_response(r, is_cut ? "response.incomplete" : "response.completed",
                  is_cut ? RESPONSE_INCOMPLETE : RESPONSE_COMPLETED, &events);
    return send_events(r, n_before, &events);
}

/* Errors are told whatever the account has left: it may be closed. */
void api_response_end_stream(ApiCall *call) {
    CLEANUP(buffer_deinit) Buffer events = BUFFER_NULL;
    ApiResponse *r = api_response_of(call);

    if (!call->job.error.status && !send_end(r))
        return;
    tell_error(r, &events);
    api_call_send(call, &events);
}
