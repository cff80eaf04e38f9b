/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_responses.h"

#include "server/api/api_responses_items.h"
#include "server/api/api_responses_translate.h"
#include "server/api/api_turn.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* preparing, on the pool: what the answer repeats of the request, which goes then */

/* As it came; null where it did not. */
static void echo(JsonWriter *w, const json_t *body, const char *name) {
    const json_t *value = api_item_member(body, name);

    if (value)
        json_put_value(w, name, value);
    else
        json_put_null(w, name);
}

static void echo_text(JsonWriter *w, const json_t *body) {
    const json_t *text = api_item_member(body, "text");

    json_begin_object(w, "text");
    if (api_item_member(text, "format")) {
        echo(w, text, "format");
    } else {
        json_begin_object(w, "format");
        json_put_text(w, "type", "text");
        json_end_object(w);
    }
    echo(w, text, "verbosity");
    json_end_object(w);
}

static void echo_tools(JsonWriter *w, const ApiParams *params, const json_t *body) {
    if (api_item_member(body, "tools")) {
        echo(w, body, "tools");
    } else {
        json_begin_array(w, "tools");
        json_end_array(w);
    }
    if (api_item_member(body, "tool_choice"))
        echo(w, body, "tool_choice");
    else
        json_put_text(w, "tool_choice", "auto");
    json_put_bool(w, "parallel_tool_calls", params->parallel_tool_calls);
}

static void echo_reasoning(JsonWriter *w, const json_t *body) {
    const json_t *reasoning = api_item_member(body, "reasoning");

    json_begin_object(w, "reasoning");
    echo(w, reasoning, "effort");
    echo(w, reasoning, "summary");
    json_end_object(w);
}

static void echo_sampling(JsonWriter *w, const ApiParams *params) {
    if (params->max_tokens < 0)
        json_put_null(w, "max_output_tokens");
    else
        json_put_i64(w, "max_output_tokens", params->max_tokens);
    json_put_float(w, "temperature", params->sample.temperature);
    json_put_float(w, "top_p", params->sample.top_p);
    json_put_u64(w, "top_logprobs", params->n_logprobs > 0 ? (uint64_t)params->n_logprobs : 0);
}

static void echo_metadata(JsonWriter *w, const json_t *body) {
    if (api_item_member(body, "metadata")) {
        echo(w, body, "metadata");
        return;
    }
    json_begin_object(w, "metadata");
    json_end_object(w);
}

/* Also what is the same in all answers of a server that stores nothing. */
static int keep_echo(ApiResponse *r, const json_t *body) {
    const ApiParams *params = &r->call.job.params;
    JsonWriter w = JSON_WRITER(&r->echo);

    r->echo.account = r->call.job.account;
    echo(&w, body, "instructions");
    echo_text(&w, body);
    echo_tools(&w, params, body);
    echo_reasoning(&w, body);
    echo_sampling(&w, params);
    echo_metadata(&w, body);
    echo(&w, body, "user");
    echo(&w, body, "safety_identifier");
    echo(&w, body, "prompt_cache_key");
    json_put_text(&w, "service_tier", "default");
    json_put_text(&w, "truncation", "disabled");
    json_put_bool(&w, "background", false);
    json_put_bool(&w, "store", false);
    json_put_null(&w, "previous_response_id");
    return buffer_failed(&r->echo) ? -ENOMEM : 0;
}

static int prepare(ApiJob *job) {
    ApiResponse *r = api_response_of(container_of(job, ApiCall, job));

    r->items.account = r->text.account = job->account;
    r->logprobs.account = r->pending.account = job->account;
    return keep_echo(r, job->root) ? api_fail_memory(&job->error) : api_turn_prepare(job);
}

static void deinit(ApiJob *job) {
    ApiResponse *r = api_response_of(container_of(job, ApiCall, job));

    buffer_deinit(&r->echo);
    buffer_deinit(&r->items);
    buffer_deinit(&r->text);
    buffer_deinit(&r->logprobs);
    buffer_deinit(&r->pending);
    api_call_deinit(job);
}

/* the answer */

static void put_usage(JsonWriter *w, const ApiCall *call) {
    ApiUsage usage = api_call_usage(call);
    uint64_t n_prefix = engine_prefix_tokens(call->job.api->model.engine, usage.n_prompt);

    json_begin_object(w, "usage");
    json_put_u64(w, "input_tokens", usage.n_prompt);
    json_begin_object(w, "input_tokens_details");
    json_put_u64(w, "cached_tokens", usage.n_cached);
    json_put_u64(w, "cache_write_tokens",
                 n_prefix > usage.n_cached ? n_prefix - usage.n_cached : 0);
    json_end_object(w);
    json_put_u64(w, "output_tokens", usage.n_output);
    json_begin_object(w, "output_tokens_details");
    json_put_u64(w, "reasoning_tokens", usage.n_reasoning);
    json_end_object(w);
    json_put_u64(w, "total_tokens", usage.n_prompt + usage.n_output);
    json_end_object(w);
}

static void put_status(JsonWriter *w, const ApiResponse *r, ResponseStatus status) {
    static const char *const names[] = {
        [RESPONSE_IN_PROGRESS] = "in_progress",
        [RESPONSE_COMPLETED] = "completed",
        [RESPONSE_INCOMPLETE] = "incomplete",
        [RESPONSE_FAILED] = "failed",
    };

    json_put_text(w, "status", names[status]);
    if (status == RESPONSE_COMPLETED)
        json_put_u64(w, "completed_at", (uint64_t)time(NULL));
    if (status == RESPONSE_FAILED) {
        json_begin_object(w, "error");
        json_put_text(w, "code", "server_error");
        json_put_text(w, "message", r->call.job.error.why.text);
        json_end_object(w);
    } else {
        json_put_null(w, "error");
    }
    if (status == RESPONSE_INCOMPLETE) {
        json_begin_object(w, "incomplete_details");
        json_put_text(w, "reason", "max_output_tokens");
        json_end_object(w);
    } else {
        json_put_null(w, "incomplete_details");
    }
}

static void put_output(JsonWriter *w, const ApiResponse *r) {
    json_begin_array(w, "output");
    for (size_t i = 0; i < api_response_n_items(r); i++)
        api_response_put_item(w, NULL, r, i, false);
    json_end_array(w);
}

void api_response_put(JsonWriter *w, const char *key, const ApiResponse *r, ResponseStatus status) {
    const ApiCall *call = &r->call;

    json_begin_object(w, key);
    json_put_text(w, "id", call->id);
    json_put_text(w, "object", "response");
    json_put_u64(w, "created_at", (uint64_t)call->created_s);
    json_put_text(w, "model", call->job.api->name);
    put_status(w, r, status);
    put_output(w, r);
    if (status == RESPONSE_IN_PROGRESS)
        json_put_null(w, "usage");
    else
        put_usage(w, call);
    buffer_append_char(w->out, ',');
    buffer_append(w->out, r->echo.data, r->echo.size);
    json_end_object(w);
}

static void put_answer(JsonWriter *w, ApiCall *call) {
    api_response_put(w, NULL, api_response_of(call),
                     call->choices[0].finish == FINISH_LENGTH ? RESPONSE_INCOMPLETE
                                                              : RESPONSE_COMPLETED);
}

static int keep_text(ApiChoice *choice, const EngineEvent *event) {
    return api_response_take(choice, event, NULL);
}

const ApiCallKind api_responses = {
    .job = { .endpoint = API_RESPONSES,
             .size = sizeof(ApiResponse),
             .translate = api_responses_translate,
             .name_places = api_responses_name_places,
             .prepare = prepare,
             .run = api_call_run,
             .cancel = api_call_cancel,
             .deinit = deinit },
    .id_prefix = "resp_",
    .prompt_param = "input",
    .put_answer = put_answer,
    .keep_text = keep_text,
    .stream_event = api_response_stream_event,
    .end_stream = api_response_end_stream,
};
