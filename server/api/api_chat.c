/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /v1/chat/completions.
 */
#include "server/api/api_call.h"
#include "server/api/api_logprobs.h"

static int prepare(ApiJob *job) {
    int r = api_prompts_of_chat(&job->prompts, &job->params, &job->context, &job->error);

    return r ? r : api_call_prepare(container_of(job, ApiCall, job));
}

static void put_choice(JsonWriter *w, ApiChoice *choice) {
    size_t n_logprobs;
    const TokenLogprob *logprobs = api_choice_logprobs(choice, &n_logprobs);

    json_put_u64(w, "index", choice->index);
    json_begin_object(w, "message");
    json_put_text(w, "role", "assistant");
    json_put_string(w, "content", buffer_text(&choice->text), choice->text.size);
    json_put_null(w, "refusal");
    json_end_object(w);
    if (choice->call->job.params.n_logprobs >= 0)
        api_put_chat_logprobs(w, "logprobs", choice, logprobs, n_logprobs);
    else
        json_put_null(w, "logprobs");
    json_put_text(w, "finish_reason", api_finish_text(choice->finish));
    api_put_stop_reason(w, choice);
}

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

static void send_content(ApiChoice *choice, const EngineEvent *event) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);

    begin_delta(choice->call, &w, choice);
    json_put_string(&w, "content", buffer_text(&event->text), event->text.size);
    json_end_object(&w);
    if (event->logprobs)
        api_put_chat_logprobs(&w, "logprobs", choice, event->logprobs, event->n_tokens);
    else
        json_put_null(&w, "logprobs");
    json_put_null(&w, "finish_reason");
    api_call_send_chunk(choice, &w, choice->n_output);
}

static void send_finish(ApiChoice *choice) {
    CLEANUP(buffer_deinit) Buffer data = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&data);

    begin_delta(choice->call, &w, choice);
    json_end_object(&w);
    json_put_null(&w, "logprobs");
    json_put_text(&w, "finish_reason", api_finish_text(choice->finish));
    api_put_stop_reason(&w, choice);
    api_call_send_chunk(choice, &w, choice->n_output);
}

static void stream_event(ApiChoice *choice, const EngineEvent *event) {
    if (!choice->begun)
        send_role(choice);
    choice->begun = true;
    if (event->text.size || event->logprobs)
        send_content(choice, event);
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
};
