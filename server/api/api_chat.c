/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /v1/chat/completions.
 */
#include "server/api/api_choices.h"
#include "server/api/api_logprobs.h"
#include "server/api/api_turn.h"

/* A model that calls has not ended its turn, whatever it stopped at. */
static const char *finish_text(const ApiChoice *choice) {
    return choice->finish == FINISH_STOP && choice->output.parser.n_calls
               ? "tool_calls"
               : api_choices_finish_text(choice->finish);
}

static void put_choice(JsonWriter *w, ApiChoice *choice) {
    size_t n_logprobs;
    const TokenLogprob *logprobs = api_choice_logprobs(choice, &n_logprobs);

    json_put_u64(w, "index", choice->index);
    json_begin_object(w, "message");
    json_put_text(w, "role", "assistant");
    if (choice->text.size || !choice->output.parser.n_calls)
        json_put_string(w, "content", buffer_text(&choice->text), choice->text.size);
    else
        json_put_null(w, "content");
    api_output_put(w, &choice->output);
    json_put_null(w, "refusal");
    json_end_object(w);
    if (choice->call->job.params.n_logprobs >= 0)
        api_put_chat_logprobs(w, "logprobs", choice, logprobs, n_logprobs);
    else
        json_put_null(w, "logprobs");
    json_put_text(w, "finish_reason", finish_text(choice));
    api_choices_put_stop_reason(w, choice);
}

/* streams */

static void begin_delta(ApiCall *call, JsonWriter *w, const ApiChoice *choice) {
    api_choices_begin_chunk(call, w);
    json_put_u64(w, "index", choice->index);
    json_begin_object(w, "delta");
}

static void send_role(ApiChoice *choice) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);

    begin_delta(choice->call, &w, choice);
    json_put_text(&w, "role", "assistant");
    json_put_text(&w, "content", "");
    json_put_null(&w, "refusal");
    json_end_object(&w);
    json_put_null(&w, "logprobs");
    json_put_null(&w, "finish_reason");
    api_choices_send_chunk(choice, &w, 0);
}

/* `tool_calls` of a delta: of one call its name, or a piece of its arguments. */
static void put_call(JsonWriter *w, const ApiOutput *output, const OutputEvent *event) {
    char id[API_CALL_ID_BYTES];

    json_begin_array(w, "tool_calls");
    json_begin_object(w, NULL);
    json_put_u64(w, "index", event->call);
    if (event->kind == OUTPUT_CALL) {
        api_output_make_id(output, id);
        json_put_text(w, "id", id);
        json_put_text(w, "type", "function");
    }
    json_begin_object(w, "function");
    if (event->kind == OUTPUT_CALL) {
        json_put_string(w, "name", event->text, event->size);
        json_put_text(w, "arguments", "");
    } else {
        json_put_string(w, "arguments", event->text, event->size);
    }
    json_end_object(w);
    json_end_object(w);
    json_end_array(w);
}

static void put_piece(JsonWriter *w, const ApiOutput *output, const OutputEvent *event) {
    switch (event->kind) {
    case OUTPUT_CONTENT:
        json_put_string(w, "content", event->text ? event->text : "", event->size);
        break;
    case OUTPUT_REASONING:
        json_put_string(w, "reasoning_content", event->text, event->size);
        json_put_string(w, "reasoning", event->text, event->size);
        break;
    default:
        put_call(w, output, event);
    }
}

/* What of an event of the engine the client has. */
typedef struct Told {
    const EngineEvent *event;
    bool has_logprobs;
} Told;

/* The first chunk of an event has the logprobs of its tokens, whatever became of their text. */
static int send_piece(ApiChoice *choice, const OutputEvent *event, void *userdata) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);
    Told *told = userdata;

    if (event->kind == OUTPUT_CALL_END)
        return 0;
    begin_delta(choice->call, &w, choice);
    put_piece(&w, &choice->output, event);
    json_end_object(&w);
    if (told->event->logprobs && !told->has_logprobs)
        api_put_chat_logprobs(&w, "logprobs", choice, told->event->logprobs, told->event->n_tokens);
    else
        json_put_null(&w, "logprobs");
    told->has_logprobs = true;
    json_put_null(&w, "finish_reason");
    api_choices_send_chunk(choice, &w, choice->n_output);
    return 0;
}

static void send_finish(ApiChoice *choice) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);

    begin_delta(choice->call, &w, choice);
    json_end_object(&w);
    json_put_null(&w, "logprobs");
    json_put_text(&w, "finish_reason", finish_text(choice));
    api_choices_put_stop_reason(&w, choice);
    api_choices_send_chunk(choice, &w, choice->n_output);
}

static void stream_event(ApiChoice *choice, const EngineEvent *event) {
    Told told = { .event = event };

    if (!choice->begun)
        send_role(choice);
    choice->begun = true;
    if (api_turn_read(choice, event, send_piece, &told)) {
        api_call_fail_memory(choice->call);
        return;
    }
    if (event->logprobs && !told.has_logprobs)
        send_piece(choice, &(OutputEvent){ .kind = OUTPUT_CONTENT }, &told);
    if (event->finish != FINISH_NONE)
        send_finish(choice);
}

const ApiChoicesKind api_chat = {
    .call = { .job = { .endpoint = API_CHAT,
                       .size = sizeof(ApiCall),
                       .prepare = api_turn_prepare,
                       .run = api_call_run,
                       .cancel = api_call_cancel,
                       .deinit = api_call_deinit },
              .id_prefix = "chatcmpl-",
              .prompt_param = "messages",
              .put_answer = api_choices_put_answer,
              .keep_text = api_turn_keep,
              .stream_event = stream_event,
              .end_stream = api_choices_end_stream },
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .put_choice = put_choice,
};
