/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /v1/chat/completions.
 */
#include "server/api/api_call.h"
#include "server/api/api_logprobs.h"
#include "server/api/api_tools.h"

#include <errno.h>

/* How the answer is to be read; the prompt may have begun its reasoning. */
static void note_prompt(ApiCall *call) {
    const Buffer *prompt = &call->job.prompts.items[0].text;
    bool continues = call->job.params.continue_final_message;

    if (call->forms.reasoning)
        call->forms.reasoning_begun = (continues ? reasoning_is_open : reasoning_is_begun)(
            call->forms.reasoning, buffer_text(prompt), prompt->size);
}

static int prepare(ApiJob *job) {
    ApiCall *call = container_of(job, ApiCall, job);
    const ApiModel *model = &job->api->model;
    int r = api_tools_choose_forms(&call->forms, &model->forms, model->grammars != NULL,
                                   &job->params, &job->error);

    if (!r)
        r = api_prompts_of_chat(&job->prompts, &job->params, &job->context, &job->error);
    if (r)
        return r;
    note_prompt(call);
    return api_call_prepare(call);
}

/* A model that calls has not ended its turn, whatever it stopped at. */
static const char *finish_text(const ApiChoice *choice) {
    return choice->finish == FINISH_STOP && choice->output.parser.n_calls
               ? "tool_calls"
               : api_finish_text(choice->finish);
}

/* What the parser gives out, on its way into the answer. */
typedef struct Piece {
    ApiChoice *choice;
    const EngineEvent *event;
    bool logprobs_told;
} Piece;

/* Whether the answer is to have it; ends the choice behind its only call. */
static bool is_wanted(const Piece *piece, const OutputEvent *event) {
    const ApiParams *params = &piece->choice->call->job.params;
    bool is_first = event->kind <= OUTPUT_REASONING || !event->call;

    if (piece->choice->is_enough || (event->kind == OUTPUT_REASONING && !params->include_reasoning))
        return false;
    if (!params->parallel_tool_calls && event->kind == OUTPUT_CALL_END)
        api_choice_end(piece->choice);
    return is_first || params->parallel_tool_calls;
}

static int read_text(Piece *piece, OutputSink sink) {
    const EngineEvent *event = piece->event;
    ApiChoice *choice = piece->choice;

    if (choice->is_enough)
        return 0;
    return api_output_push(&choice->output, &event->text, event->n_tokens,
                           event->finish != FINISH_NONE, sink, piece);
}

/* whole answers */

static int keep_piece(void *userdata, const OutputEvent *event) {
    Piece *piece = userdata;
    ApiChoice *choice = piece->choice;

    if (!is_wanted(piece, event))
        return 0;
    if (event->kind != OUTPUT_CONTENT)
        return api_output_keep(&choice->output, event);
    buffer_append(&choice->text, event->text, event->size);
    return buffer_failed(&choice->text) ? -ENOMEM : 0;
}

static int keep_text(ApiChoice *choice, const EngineEvent *event) {
    return read_text(&(Piece){ .choice = choice, .event = event }, keep_piece);
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
    api_put_stop_reason(w, choice);
}

/* streams */

static void begin_delta(ApiCall *call, JsonWriter *w, const ApiChoice *choice) {
    api_call_begin_chunk(call, w);
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
    api_call_send_chunk(choice, &w, 0);
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

/* The first chunk of an event has the logprobs of its tokens, whatever became of their text. */
static int send_piece(void *userdata, const OutputEvent *event) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);
    Piece *piece = userdata;
    ApiChoice *choice = piece->choice;

    if (!is_wanted(piece, event) || event->kind == OUTPUT_CALL_END)
        return 0;
    begin_delta(choice->call, &w, choice);
    put_piece(&w, &choice->output, event);
    json_end_object(&w);
    if (piece->event->logprobs && !piece->logprobs_told)
        api_put_chat_logprobs(&w, "logprobs", choice, piece->event->logprobs,
                              piece->event->n_tokens);
    else
        json_put_null(&w, "logprobs");
    piece->logprobs_told = true;
    json_put_null(&w, "finish_reason");
    api_call_send_chunk(choice, &w, choice->n_output);
    return 0;
}

static void send_finish(ApiChoice *choice) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);

    begin_delta(choice->call, &w, choice);
    json_end_object(&w);
    json_put_null(&w, "logprobs");
    json_put_text(&w, "finish_reason", finish_text(choice));
    api_put_stop_reason(&w, choice);
    api_call_send_chunk(choice, &w, choice->n_output);
}

static void stream_event(ApiChoice *choice, const EngineEvent *event) {
    Piece piece = { .choice = choice, .event = event };

    if (!choice->begun)
        send_role(choice);
    choice->begun = true;
    if (read_text(&piece, send_piece)) {
        api_call_fail_memory(choice->call);
        return;
    }
    if (event->logprobs && !piece.logprobs_told)
        send_piece(&piece, &(OutputEvent){ .kind = OUTPUT_CONTENT });
    if (event->finish != FINISH_NONE)
        send_finish(choice);
}

const ApiCallKind api_chat = {
    .job = { .endpoint = API_CHAT,
             .size = sizeof(ApiCall),
             .prepare = prepare,
             .run = api_call_run,
             .cancel = api_call_cancel,
             .deinit = api_call_deinit },
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .put_choice = put_choice,
    .stream_event = stream_event,
    .keep_text = keep_text,
};
