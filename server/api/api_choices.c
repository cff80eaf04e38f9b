/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_choices.h"

static const ApiChoicesKind *kind_of(const ApiCall *call) {
    return container_of(call->job.kind, const ApiChoicesKind, call.job);
}

const char *api_choices_finish_text(FinishReason finish) {
    switch (finish) {
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    default:
        return NULL;
    }
}

void api_choices_put_stop_reason(JsonWriter *w, const ApiChoice *choice) {
    if (choice->finish == FINISH_STOP && choice->stop_token != TOKEN_NONE)
        json_put_u64(w, "stop_reason", choice->stop_token);
    else
        json_put_text(w, "stop_reason", choice->finish == FINISH_STOP ? choice->stop_text : NULL);
}

/* what both have */

static void put_counts(JsonWriter *w, uint64_t n_prompt, uint64_t n_output) {
    json_put_u64(w, "prompt_tokens", n_prompt);
    json_put_u64(w, "completion_tokens", n_output);
    json_put_u64(w, "total_tokens", n_prompt + n_output);
}

static void put_usage(JsonWriter *w, const ApiCall *call) {
    ApiUsage usage = api_call_usage(call);

    json_begin_object(w, "usage");
    put_counts(w, usage.n_prompt, usage.n_output);
    json_begin_object(w, "prompt_tokens_details");
    json_put_u64(w, "cached_tokens", usage.n_cached);
    json_end_object(w);
    if (call->forms.reasoning) {
        json_begin_object(w, "completion_tokens_details");
        json_put_u64(w, "reasoning_tokens", usage.n_reasoning);
        json_end_object(w);
    }
    json_end_object(w);
}

static void put_head(JsonWriter *w, const ApiCall *call, const char *object) {
    json_begin_object(w, NULL);
    json_put_text(w, "id", call->id);
    json_put_text(w, "object", object);
    json_put_u64(w, "created", (uint64_t)call->created_s);
    json_put_text(w, "model", call->job.api->name);
    json_begin_array(w, "choices");
}

/* whole answers */

void api_choices_put_answer(JsonWriter *w, ApiCall *call) {
    const ApiParams *params = &call->job.params;

    put_head(w, call, kind_of(call)->object);
    for (uint32_t i = 0; i < call->n_choices; i++) {
        if (i % params->best_of >= params->n)
            continue;
        json_begin_object(w, NULL);
        kind_of(call)->put_choice(w, &call->choices[i]);
        json_end_object(w);
    }
    json_end_array(w);
    put_usage(w, call);
    json_end_object(w);
}

/* streams */

static void send_event(ApiCall *call, Buffer *event) {
    buffer_append_text(event, "\n\n");
    api_call_send(call, event);
}

void api_choices_begin_chunk(ApiCall *call, JsonWriter *w) {
    buffer_append_text(w->out, "data: ");
    put_head(w, call, kind_of(call)->chunk_object);
    json_begin_object(w, NULL);
}

/* A chunk's `usage` is of its own choice, as vLLM has it; the last chunk's is of the call. */
void api_choices_send_chunk(ApiChoice *choice, JsonWriter *w, uint32_t n_output) {
    ApiCall *call = choice->call;

    json_end_object(w);
    json_end_array(w);
    if (call->job.params.include_usage && call->job.params.continuous_usage) {
        json_begin_object(w, "usage");
        put_counts(w, choice->prompt->ids.n, n_output);
        json_end_object(w);
    } else if (call->job.params.include_usage) {
        json_put_null(w, "usage");
    }
    json_end_object(w);
    send_event(call, w->out);
}

static void send_usage(ApiCall *call) {
    CLEANUP(buffer_deinit) Buffer event = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&event);

    buffer_append_text(&event, "data: ");
    put_head(&w, call, kind_of(call)->chunk_object);
    json_end_array(&w);
    put_usage(&w, call);
    json_end_object(&w);
    send_event(call, &event);
}

static void send_error(ApiCall *call) {
    CLEANUP(buffer_deinit) Buffer event = BUFFER_NULL;

    buffer_append_text(&event, "data: ");
    api_error_write(&event, &call->job.error);
    send_event(call, &event);
}

void api_choices_end_stream(ApiCall *call) {
    CLEANUP(buffer_deinit) Buffer done = BUFFER_NULL;

    if (call->job.error.status)
        send_error(call);
    else if (call->job.params.include_usage)
        send_usage(call);
    buffer_append_text(&done, "data: [DONE]");
    send_event(call, &done);
}
