/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_messages.h"

#include "server/api/api_messages_input.h"
#include "server/api/api_turn.h"

#include <errno.h>
#include <string.h>

/* A run of what the model wrote. Calls are blocks of their own. */
typedef struct Block {
    OutputKind kind; /* OUTPUT_CONTENT, OUTPUT_REASONING or OUTPUT_CALL */
    size_t size;     /* bytes of text that were kept; of calls 0 */
} Block;

typedef struct MessageCall {
    ApiCall call;  /* first */
    Buffer blocks; /* Block after Block, of whole answers */
    size_t n_blocks;
    OutputKind last; /* of the last block, if n_blocks */
    bool is_open;    /* streams: it was not stopped yet */
} MessageCall;

static MessageCall *message_of(const ApiChoice *choice) {
    return container_of(choice->call, MessageCall, call);
}

/* Whether this goes on with the last block; else it begins one. */
static bool goes_on(const MessageCall *m, const OutputEvent *event) {
    OutputKind last = event->kind == OUTPUT_ARGUMENTS ? OUTPUT_CALL : event->kind;

    return m->n_blocks && event->kind != OUTPUT_CALL && m->last == last;
}

/* errors */

static const char *error_type(const ApiError *error) {
    if (error->code && !strcmp(error->code, "timeout"))
        return "timeout_error";
    switch (error->status) {
    case 404:
        return "not_found_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return error->status < 500 ? "invalid_request_error" : "api_error";
    }
}

void api_messages_put_error(Buffer *out, const ApiError *error) {
    JsonWriter w = JSON_WRITER(out);

    json_begin_object(&w, NULL);
    json_put_text(&w, "type", "error");
    json_begin_object(&w, "error");
    json_put_text(&w, "type", error_type(error));
    json_put_text(&w, "message", error->why.text);
    json_end_object(&w);
    json_end_object(&w);
}

/* what whole answers and streams have */

static const char *stop_reason(const ApiChoice *choice) {
    if (choice->finish == FINISH_LENGTH)
        return "max_tokens";
    if (choice->output.parser.n_calls)
        return "tool_use";
    return choice->stop_text ? "stop_sequence" : "end_turn";
}

/* Both are null while the answer is being made. */
static void put_stop(JsonWriter *w, const ApiChoice *choice, bool has_ended) {
    const char *reason = has_ended ? stop_reason(choice) : NULL;
    bool is_sequence = reason && !strcmp(reason, "stop_sequence");

    json_put_text(w, "stop_reason", reason);
    json_put_text(w, "stop_sequence", is_sequence ? choice->stop_text : NULL);
}

/* Anthropic counts tokens that came from the cache apart from the others. */
static void put_usage(JsonWriter *w, const ApiCall *call) {
    ApiUsage usage = api_call_usage(call);

    json_begin_object(w, "usage");
    json_put_u64(w, "input_tokens", usage.n_prompt - usage.n_cached);
    json_put_u64(w, "cache_read_input_tokens", usage.n_cached);
    json_put_null(w, "cache_creation_input_tokens");
    json_put_u64(w, "output_tokens", usage.n_output);
    if (call->forms.reasoning) {
        json_begin_object(w, "output_tokens_details");
        json_put_u64(w, "thinking_tokens", usage.n_reasoning);
        json_end_object(w);
    }
    json_end_object(w);
}

static void begin_message(JsonWriter *w, const char *key, const ApiCall *call) {
    json_begin_object(w, key);
    json_put_text(w, "id", call->id);
    json_put_text(w, "type", "message");
    json_put_text(w, "role", "assistant");
    json_put_text(w, "model", call->job.api->name);
    json_begin_array(w, "content");
}

static void end_message(JsonWriter *w, const ApiChoice *choice, bool has_ended) {
    json_end_array(w);
    put_stop(w, choice, has_ended);
    put_usage(w, choice->call);
    json_end_object(w);
}

static void begin_text_block(JsonWriter *w, const char *key, OutputKind kind, const char *text,
                             size_t size) {
    json_begin_object(w, key);
    json_put_text(w, "type", kind == OUTPUT_CONTENT ? "text" : "thinking");
    json_put_string(w, kind == OUTPUT_CONTENT ? "text" : "thinking", text, size);
    if (kind == OUTPUT_REASONING)
        json_put_text(w, "signature", ""); /* there must be one; nobody has to prove anything */
    json_end_object(w);
}

static void begin_call_block(JsonWriter *w, const char *key, const char *id, const char *name,
                             size_t name_size) {
    json_begin_object(w, key);
    json_put_text(w, "type", "tool_use");
    json_put_text(w, "id", id);
    json_put_string(w, "name", name, name_size);
}

/* whole answers */

static int keep_piece(ApiChoice *choice, const OutputEvent *event, void *userdata) {
    MessageCall *m = message_of(choice);
    Block begun = { .kind = event->kind }, *last;

    if (event->kind == OUTPUT_CALL_END)
        return 0;
    if (!goes_on(m, event)) {
        buffer_append(&m->blocks, &begun, sizeof(begun));
        m->last = event->kind;
        m->n_blocks++;
    }
    if (buffer_failed(&m->blocks))
        return -ENOMEM;
    last = (Block *)(void *)m->blocks.data + m->n_blocks - 1;
    if (event->kind == OUTPUT_CONTENT || event->kind == OUTPUT_REASONING)
        last->size += event->size;
    return api_turn_keep_piece(choice, event, userdata);
}

static int keep_text(ApiChoice *choice, const EngineEvent *event) {
    message_of(choice)->blocks.account = choice->call->job.account;
    return api_turn_read(choice, event, keep_piece, NULL);
}

/* A call that was cut off has arguments that are no JSON: its input is empty, and the answer's end
 * says why. */
static void put_call(JsonWriter *w, const ApiOutputCall *call, Account *account) {
    CLEANUP(json_unref) json_t *input = NULL;
    int r = json_parse_charged(&input, call->arguments, call->arguments_size, 0, account, NULL);

    if (r && r != -EINVAL)
        w->out->failed = true;
    begin_call_block(w, NULL, call->id, call->name, call->name_size);
    if (input) {
        json_put_value(w, "input", input);
    } else {
        json_begin_object(w, "input");
        json_end_object(w);
    }
    json_end_object(w);
}

static void put_answer(JsonWriter *w, ApiCall *call) {
    ApiChoice *choice = &call->choices[0];
    const MessageCall *m = message_of(choice);
    const Block *blocks = (const Block *)(const void *)m->blocks.data;
    const char *text = buffer_text(&choice->text);
    const char *reasoning = buffer_text(&choice->output.reasoning);
    size_t n_calls = 0;

    begin_message(w, NULL, call);
    for (size_t i = 0; i < m->n_blocks; i++) {
        const char **from = blocks[i].kind == OUTPUT_CONTENT ? &text : &reasoning;

        if (blocks[i].kind == OUTPUT_CALL) {
            ApiOutputCall made = api_output_call(&choice->output, n_calls++);

            put_call(w, &made, call->job.account);
            continue;
        }
        begin_text_block(w, NULL, blocks[i].kind, *from, blocks[i].size);
        *from += blocks[i].size;
    }
    end_message(w, choice, true);
}

/* streams */

/* An event's data is an object whose `type` is the event's name. */
static JsonWriter begin_event(Buffer *out, const char *type) {
    JsonWriter w = JSON_WRITER(out);

    buffer_printf(out, "event: %s\ndata: ", type);
    json_begin_object(&w, NULL);
    json_put_text(&w, "type", type);
    return w;
}

static void end_event(JsonWriter *w) {
    json_end_object(w);
    buffer_append_text(w->out, "\n\n");
}

static void put_start(Buffer *out, const ApiChoice *choice) {
    JsonWriter w = begin_event(out, "message_start");

    begin_message(&w, "message", choice->call);
    end_message(&w, choice, false);
    end_event(&w);
    w = begin_event(out, "ping");
    end_event(&w);
}

static void put_block_stop(Buffer *out, MessageCall *m) {
    JsonWriter w = begin_event(out, "content_block_stop");

    json_put_u64(&w, "index", m->n_blocks - 1);
    end_event(&w);
    m->is_open = false;
}

static void put_block_start(Buffer *out, const ApiChoice *choice, const OutputEvent *event) {
    JsonWriter w = begin_event(out, "content_block_start");
    MessageCall *m = message_of(choice);
    char id[API_CALL_ID_BYTES];

    json_put_u64(&w, "index", m->n_blocks++);
    if (event->kind == OUTPUT_CALL) {
        api_output_make_id(&choice->output, id);
        begin_call_block(&w, "content_block", id, event->text, event->size);
        json_begin_object(&w, "input");
        json_end_object(&w);
        json_end_object(&w);
    } else {
        begin_text_block(&w, "content_block", event->kind, "", 0);
    }
    end_event(&w);
    m->last = event->kind;
    m->is_open = true;
}

static void put_delta(Buffer *out, const MessageCall *m, const OutputEvent *event) {
    static const char *const types[][2] = {
        [OUTPUT_CONTENT] = { "text_delta", "text" },
        [OUTPUT_REASONING] = { "thinking_delta", "thinking" },
        [OUTPUT_ARGUMENTS] = { "input_json_delta", "partial_json" },
    };
    JsonWriter w = begin_event(out, "content_block_delta");

    json_put_u64(&w, "index", m->n_blocks - 1);
    json_begin_object(&w, "delta");
    json_put_text(&w, "type", types[event->kind][0]);
    json_put_string(&w, types[event->kind][1], event->text, event->size);
    json_end_object(&w);
    end_event(&w);
}

static int send_piece(ApiChoice *choice, const OutputEvent *event, void *userdata) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    MessageCall *m = message_of(choice);

    (void)userdata;
    if (event->kind == OUTPUT_CALL_END) {
        put_block_stop(&out, m);
    } else {
        bool begins = !goes_on(m, event);

        if (begins && m->is_open)
            put_block_stop(&out, m);
        if (begins)
            put_block_start(&out, choice, event);
        if (event->kind != OUTPUT_CALL)
            put_delta(&out, m, event);
    }
    api_call_send(choice->call, &out);
    return 0;
}

static void stream_event(ApiChoice *choice, const EngineEvent *event) {
    CLEANUP(buffer_deinit) Buffer start = BUFFER_NULL;

    if (!choice->begun) {
        put_start(&start, choice);
        api_call_send(choice->call, &start);
    }
    choice->begun = true;
    if (api_turn_read(choice, event, send_piece, NULL))
        api_call_fail_memory(choice->call);
}

static void put_end(Buffer *out, ApiCall *call) {
    ApiChoice *choice = &call->choices[0];
    JsonWriter w;

    if (message_of(choice)->is_open)
        put_block_stop(out, message_of(choice));
    w = begin_event(out, "message_delta");
    json_begin_object(&w, "delta");
    put_stop(&w, choice, true);
    json_end_object(&w);
    put_usage(&w, call);
    end_event(&w);
    w = begin_event(out, "message_stop");
    end_event(&w);
}

static void end_stream(ApiCall *call) {
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;

    if (call->job.error.status) {
        buffer_append_text(&out, "event: error\ndata: ");
        api_messages_put_error(&out, &call->job.error);
        buffer_append_text(&out, "\n\n");
    } else {
        put_end(&out, call);
    }
    api_call_send(call, &out);
}

static void deinit(ApiJob *job) {
    buffer_deinit(&container_of(job, MessageCall, call.job)->blocks);
    api_call_deinit(job);
}

const ApiCallKind api_messages = {
    .job = { .endpoint = API_MESSAGES,
             .size = sizeof(MessageCall),
             .put_error = api_messages_put_error,
             .translate = api_messages_translate,
             .name_places = api_messages_name_places,
             .prepare = api_turn_prepare,
             .run = api_call_run,
             .cancel = api_call_cancel,
             .deinit = deinit },
    .id_prefix = "msg_",
    .prompt_param = "messages",
    .put_answer = put_answer,
    .keep_text = keep_text,
    .stream_event = stream_event,
    .end_stream = end_stream,
};
