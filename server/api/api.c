/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of paths, and the answers that need no model: health, version, metrics, models.
 */
#include "server/api/api.h"

#include "server/api/api_choices.h"
#include "server/api/api_docs.h"
#include "server/api/api_index.h"
#include "server/api/api_job.h"
#include "server/api/api_messages.h"
#include "server/api/api_openapi.h"
#include "server/api/api_responses.h"
#include "server/api/api_tokenize.h"
#include "server/http/route.h"
#include "util/text.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* answers */

void api_reply_error_as(HttpExchange *exchange, const ApiError *error, ApiErrorPutFn put) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    char retry_after[32] = "";

    (put ? put : api_error_write)(&body, error);
    if (error->retry_after_s)
        snprintf(retry_after, sizeof(retry_after), "Retry-After: %" PRIu32 "\r\n",
                 error->retry_after_s);
    http_exchange_log_refusal(exchange, error->status, error->why.text);
    http_exchange_reply(exchange, &(HttpReply){ .status = error->status,
                                                .content_type = "application/json",
                                                .headers = *retry_after ? retry_after : NULL,
                                                .body = buffer_text(&body),
                                                .size = body.size });
}

void api_reply_error(HttpExchange *exchange, const ApiError *error) {
    api_reply_error_as(exchange, error, NULL);
}

/* True if there was no memory for the body; then that is the answer. */
static bool refuse_without_memory(HttpExchange *exchange, const Buffer *body) {
    ApiError error = API_ERROR_NULL;

    if (!buffer_failed(body))
        return false;
    api_fail_account(&error, body->account);
    api_reply_error(exchange, &error);
    return true;
}

void api_reply_json(HttpExchange *exchange, unsigned status, Buffer *body) {
    if (!refuse_without_memory(exchange, body))
        http_exchange_reply(
            exchange,
            &(HttpReply){ .status = status, .content_type = "application/json", .moved = body });
}

/* True if the model can be used; else the answer is given, errors in the form of `put`. */
static bool is_ready(Api *api, HttpExchange *exchange, ApiErrorPutFn put) {
    ApiError error = API_ERROR_NULL;

    if (api->state == API_READY)
        return true;
    if (api->state == API_LOADING)
        api_fail(&error, 503, NULL, "model_loading", "The model is not ready yet: %s.",
                 atomic_load(&api->phase));
    else if (api->state == API_LOST)
        api_fail(&error, 503, NULL, "device_lost",
                 "The device that runs the model was lost; the server ends, to be started again.");
    else
        api_fail(&error, 503, NULL, "shutting_down",
                 "The server is going down: it finishes what it has and takes nothing new.");
    api_reply_error_as(exchange, &error, put);
    return false;
}

/* what needs no model */

static void handle_health(HttpExchange *exchange, void *userdata) {
    static const char *const states[] = { "loading", "ok", "draining", "lost" };
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&body);
    Api *api = userdata;

    json_begin_object(&w, NULL);
    json_put_text(&w, "status", states[api->state]);
    if (api->state == API_LOADING)
        json_put_text(&w, "phase", atomic_load(&api->phase));
    json_end_object(&w);
    api_reply_json(exchange, api->state == API_READY ? 200 : 503, &body);
}

static void handle_version(HttpExchange *exchange, void *userdata) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&body);

    (void)userdata;
    json_begin_object(&w, NULL);
    json_put_text(&w, "version", KVASIR_VERSION);
    json_end_object(&w);
    api_reply_json(exchange, 200, &body);
}

static void handle_metrics(HttpExchange *exchange, void *userdata) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    Api *api = userdata;

    metrics_write(&body, &api->metrics,
                  &(MetricsSources){ .model_name = api->name,
                                     .engine = api->model.engine,
                                     .profile = api->model.profile,
                                     .plan = api->model.plan,
                                     .expected_kld = api->model.expected_kld,
                                     .http = api->http,
                                     .grammars = api->model.grammars,
                                     .requests = api->http->options.account });
    if (!refuse_without_memory(exchange, &body))
        http_exchange_reply(
            exchange, &(HttpReply){ .status = 200,
                                    .content_type = "text/plain; version=0.0.4; charset=utf-8",
                                    .moved = &body });
}

/* models */

static void put_model(JsonWriter *w, const Api *api) {
    json_begin_object(w, NULL);
    json_put_text(w, "id", api->name);
    json_put_text(w, "object", "model");
    json_put_u64(w, "created", (uint64_t)api->model.created_s);
    json_put_text(w, "owned_by", "kvasir");
    json_put_u64(w, "max_model_len", engine_max_model_len(api->model.engine));
    json_end_object(w);
}

static void handle_models(HttpExchange *exchange, void *userdata) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&body);
    Api *api = userdata;

    if (!is_ready(api, exchange, NULL))
        return;
    json_begin_object(&w, NULL);
    json_put_text(&w, "object", "list");
    json_begin_array(&w, "data");
    put_model(&w, api);
    json_end_array(&w);
    json_end_object(&w);
    api_reply_json(exchange, 200, &body);
}

static void handle_model(HttpExchange *exchange, void *userdata) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    JsonWriter w = JSON_WRITER(&body);
    ApiError error = API_ERROR_NULL;
    Api *api = userdata;

    if (!is_ready(api, exchange, NULL))
        return;
    if (strcmp(buffer_text(&exchange->request->path) + strlen("/v1/models/"), api->name) != 0) {
        api_fail(&error, 404, "model", "model_not_found",
                 "There is no such model here; this server has \"%s\".", api->name);
        api_reply_error(exchange, &error);
        return;
    }
    put_model(&w, api);
    api_reply_json(exchange, 200, &body);
}

/* what needs the model */

static void start(Api *api, HttpExchange *exchange, const ApiJobKind *kind) {
    if (is_ready(api, exchange, kind->put_error))
        api_job_start(api, exchange, kind);
}

static void handle_completions(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_completions.call.job);
}

static void handle_chat(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_chat.call.job);
}

static void handle_messages(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_messages.job);
}

static void handle_count_tokens(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_count_tokens);
}

static void handle_responses(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_responses.job);
}

static void handle_response(HttpExchange *exchange, void *userdata) {
    ApiError error = API_ERROR_NULL;

    (void)userdata;
    api_fail(&error, 404, NULL, NULL,
             "There is no such response here: this server stores none (each says `store` false). "
             "What is to be kept the client keeps, and sends as `input`.");
    api_reply_error(exchange, &error);
}

static void handle_tokenize(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_tokenize);
}

static void handle_detokenize(HttpExchange *exchange, void *userdata) {
    start(userdata, exchange, &api_detokenize);
}

/* What was written at the start, and does not change. */
static void reply_text(HttpExchange *exchange, const char *content_type, const Buffer *text) {
    http_exchange_reply(exchange, &(HttpReply){ .status = 200,
                                                .content_type = content_type,
                                                .body = buffer_text(text),
                                                .size = text->size });
}

static void reply_written(Api *api, HttpExchange *exchange, const Buffer *json) {
    if (is_ready(api, exchange, NULL))
        reply_text(exchange, "application/json", json);
}

static void handle_tokenizer_info(HttpExchange *exchange, void *userdata) {
    Api *api = userdata;

    reply_written(api, exchange, api->model.tokenizer_info);
}

static void handle_kv(HttpExchange *exchange, void *userdata) {
    Api *api = userdata;

    reply_written(api, exchange, api->model.plan_json);
}

/* the description of all this, which needs no model */

static void handle_openapi(HttpExchange *exchange, void *userdata) {
    Api *api = userdata;

    reply_text(exchange, "application/json", &api->openapi);
}

static void handle_docs(HttpExchange *exchange, void *userdata) {
    Api *api = userdata;

    reply_text(exchange, "text/html; charset=utf-8", &api->docs);
}

/* routes */

static const Route routes[] = {
    { HTTP_METHOD_POST, "/v1/completions", handle_completions, "Continues texts.",
      .body = API_COMPLETIONS, .answer = "Completion", .stream = "CompletionChunk" },
    { HTTP_METHOD_POST, "/v1/chat/completions", handle_chat, "Answers in a conversation.",
      .body = API_CHAT, .answer = "ChatCompletion", .stream = "ChatCompletionChunk" },
    { HTTP_METHOD_POST, "/v1/messages", handle_messages,
      "Answers in a conversation, in Anthropic's form.", .body = API_MESSAGES,
      .answer = "MessagesAnswer", .stream = "MessagesEvent", .names_events = true,
      .error = "MessagesErrors" },
    { HTTP_METHOD_POST, "/v1/messages/count_tokens", handle_count_tokens,
      "The number of tokens that the model would read.", .body = API_COUNT_TOKENS,
      .answer = "MessagesCount", .error = "MessagesErrors" },
    { HTTP_METHOD_POST, "/v1/responses", handle_responses,
      "Answers in a conversation, in OpenAI's later form.", .body = API_RESPONSES,
      .answer = "Response", .stream = "ResponseEvent", .names_events = true },
    { HTTP_METHOD_GET, "/v1/responses/", handle_response, .summary = NULL },
    { HTTP_METHOD_DELETE, "/v1/responses/", handle_response, .summary = NULL },
    { HTTP_METHOD_GET, "/v1/models", handle_models, "The model that is served, as a list.",
      .answer = "ModelList" },
    { HTTP_METHOD_GET, "/v1/models/", handle_model, "The model that is served, by its name.",
      .below = "model", .answer = "Model" },
    { HTTP_METHOD_GET, "/v1/kv", handle_kv,
      "The cache's plan: bits of each layer and side, bytes by purpose, expected damage.",
      .answer = "KvPlan" },
    { HTTP_METHOD_POST, "/tokenize", handle_tokenize, "The tokens of a text or a conversation.",
      .body = API_TOKENIZE, .answer = "Tokens" },
    { HTTP_METHOD_POST, "/detokenize", handle_detokenize, "The text of tokens.",
      .body = API_DETOKENIZE, .answer = "Text" },
    { HTTP_METHOD_GET, "/tokenizer_info", handle_tokenizer_info,
      "What programs need that use this server's tokenizer.", .answer = "TokenizerInfo" },
    { HTTP_METHOD_GET, "/health", handle_health, "Whether requests are taken; 503: not now.",
      .answer = "Health", .error = "HealthOrError" },
    { HTTP_METHOD_GET, "/ping", handle_health, "The same as /health.", .answer = "Health",
      .error = "HealthOrError" },
    { HTTP_METHOD_GET, "/metrics", handle_metrics, "Figures for Prometheus, in vLLM's names.",
      .media = "text/plain" },
    { HTTP_METHOD_GET, "/version", handle_version, "This server's version.", .answer = "Version" },
    { HTTP_METHOD_GET, "/openapi.json", handle_openapi, "This description of the API.",
      .answer = "Document" },
    { HTTP_METHOD_GET, "/docs", handle_docs, "The same as a page to read.", .media = "text/html" },
    { HTTP_METHOD_GET, "/", api_index, "What is served here: JSON, or a page for browsers.",
      .answer = "Index", .media = "text/html" },
};
#define N_ROUTES (sizeof(routes) / sizeof(*routes))

const Route *api_routes(size_t *np) {
    *np = N_ROUTES;
    return routes;
}

static void refuse_method(HttpExchange *exchange, const Buffer *allow) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer headers = BUFFER_NULL;
    char message[96];

    snprintf(message, sizeof(message), "This path takes %s.", buffer_text(allow));
    http_error_body(&body, 405, message, NULL, NULL);
    http_exchange_log_refusal(exchange, 405, message);
    buffer_printf(&headers, "Allow: %s\r\n", buffer_text(allow));
    http_exchange_reply(exchange, &(HttpReply){ .status = 405,
                                                .content_type = "application/json",
                                                .headers = buffer_text(&headers),
                                                .body = buffer_text(&body),
                                                .size = body.size });
}

/* What people mistyped, and what there is instead. */
static void refuse_path(HttpExchange *exchange) {
    CLEANUP(buffer_deinit) Buffer paths = BUFFER_NULL;
    const char *path = buffer_text(&exchange->request->path);
    const char *nearest = route_nearest(routes, N_ROUTES, path);
    ApiError error = API_ERROR_NULL;
    char shown[96];

    text_copy(shown, sizeof(shown), path);
    for (size_t i = 0; i < N_ROUTES; i++)
        if (routes[i].summary)
            buffer_printf(&paths, "%s%s %s", i ? ", " : "", http_method_name(routes[i].method),
                          routes[i].path);
    api_fail(&error, 404, NULL, NULL, "There is nothing at %s%s%s. This server has %s.", shown,
             nearest ? "; the nearest path is " : "", nearest ? nearest : "", buffer_text(&paths));
    api_reply_error(exchange, &error);
}

void api_handle(HttpExchange *exchange, void *userdata) {
    CLEANUP(buffer_deinit) Buffer allow = BUFFER_NULL;
    const Route *route;

    switch (route_find(routes, N_ROUTES, exchange->request, &route, &allow)) {
    case 0:
        route->handler(exchange, userdata);
        break;
    case ROUTE_E_NO_METHOD:
        refuse_method(exchange, &allow);
        break;
    default:
        refuse_path(exchange);
    }
}

/* life */

static void wake(void *userdata) {
    Api *api = userdata;

    uv_async_send(&api->events_came);
}

static void on_events_came(uv_async_t *async) {
    Api *api = async->data;

    api_take_events(api);
}

/* Once, since nothing of it changes: it needs no model. */
static int describe(Api *api) {
    api_openapi_write(&api->openapi, &api->limits, api->name);
    api_docs_write(&api->docs, &api->openapi);
    buffer_fit(&api->openapi);
    buffer_fit(&api->docs);
    return buffer_failed(&api->openapi) || buffer_failed(&api->docs) ? -ENOMEM : 0;
}

int api_init(Api *api, uv_loop_t *loop, const ApiLimits *limits, const char *name) {
    int r;

    *api = (Api){ .loop = loop, .limits = *limits, .name = name, .phase = "starting" };
    list_init(&api->jobs);
    metrics_init(&api->metrics);
    work_queue_init(&api->work, loop);
    r = uv_timer_init(loop, &api->deadline);
    if (r)
        return r;
    api->deadline.data = api;
    r = uv_async_init(loop, &api->events_came, on_events_came);
    if (r) {
        uv_close((uv_handle_t *)&api->deadline, NULL);
        return r;
    }
    api->events_came.data = api;
    r = mailbox_init(&api->events, wake, api);
    if (!r) {
        r = describe(api);
        if (r)
            api_deinit(api);
    }
    if (r)
        api_close(api);
    return r;
}

void api_close(Api *api) {
    uv_close((uv_handle_t *)&api->deadline, NULL);
    uv_close((uv_handle_t *)&api->events_came, NULL);
}

void api_deinit(Api *api) {
    assert(list_is_empty(&api->jobs));
    mailbox_deinit(&api->events);
    buffer_deinit(&api->openapi);
    buffer_deinit(&api->docs);
}

/* Before anybody hears of it from an answer. */
static void watch_for_loss(Api *api) {
    if (api->state == API_LOST || !api->model.engine || !engine_is_lost(api->model.engine))
        return;
    api->state = API_LOST;
    if (api->on_lost)
        api->on_lost(api->userdata);
}

void api_take_events(Api *api) {
    List events = LIST_INIT(events), *link;

    mailbox_take(&api->events, &events);
    watch_for_loss(api);
    while ((link = list_pop_front(&events)))
        api_call_take_event(container_of(link, EngineEvent, link));
}

void api_cancel_all(Api *api) {
    api->cancelling = true;
    list_for_each_safe(link, &api->jobs)
        api_job_stop(container_of(link, ApiJob, link), 503, NULL,
                     "The server is going down and ended this request.");
}

/* Jobs stand in order of arrival, and all have the same time. */
static void stop_late_jobs(Api *api, uint64_t now_ms) {
    list_for_each_safe(link, &api->jobs) {
        ApiJob *job = container_of(link, ApiJob, link);

        if (job->deadline_ms > now_ms)
            return;
        if (!job->deadline_ms)
            continue;
        job->deadline_ms = 0;
        api_job_stop(job, 503, "timeout",
                     "The answer took longer than it may (option answer_timeout).");
    }
}

static void on_deadline(uv_timer_t *timer) {
    Api *api = timer->data;

    stop_late_jobs(api, uv_now(api->loop));
    api_watch_deadlines(api);
}

void api_watch_deadlines(Api *api) {
    if (uv_is_active((uv_handle_t *)&api->deadline))
        return;
    list_for_each(link, &api->jobs) {
        uint64_t deadline_ms = container_of(link, ApiJob, link)->deadline_ms;

        uint64_t now_ms = uv_now(api->loop);

        if (!deadline_ms)
            continue;
        uv_timer_start(&api->deadline, on_deadline, deadline_ms > now_ms ? deadline_ms - now_ms : 0,
                       0);
        return;
    }
}
