/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api_job.h"

#include "util/json.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* on the pool */

static int parse_body(ApiJob *job) {
    Reason why;
    int r;

    r = json_parse(&job->root, buffer_text(&job->body), job->body.size, JSON_REJECT_DUPLICATES,
                   &why);
    if (r == -ENOMEM)
        return api_fail_memory(&job->error);
    if (r)
        return api_refuse(&job->error, NULL, "The body is %s.", why.text);
    return 0;
}

static int check_model(ApiJob *job) {
    const char *model = job->params.model;
    char asked[64];

    if (!model || !strcmp(model, job->api->name))
        return 0;
    json_describe(json_object_get(job->root, "model"), asked, sizeof(asked));
    return api_fail(&job->error, 404, "model", "model_not_found",
                    "There is no model %s here; this server has \"%s\".", asked, job->api->name);
}

static void on_work(uv_work_t *work) {
    ApiJob *job = container_of(work, ApiJob, work);
    ApiParamsContext context = { .endpoint = job->kind->endpoint,
                                 .limits = job->api->limits,
                                 .n_vocab = job->context.n_vocab,
                                 .defaults = checkpoint_generation(job->api->model.checkpoint) };
    int r;

    r = parse_body(job);
    buffer_deinit(&job->body);
    if (!r)
        r = api_params_read(&job->params, job->root, &context, &job->error);
    if (!r)
        r = check_model(job);
    if (!r)
        r = job->kind->prepare(job);
    assert(!r == !job->error.status);
    /* A body as a tree takes many times its bytes; what is still needed has been copied. */
    api_params_let_go(&job->params);
    job->root = json_unref(job->root);
}

/* on the loop */

static void on_gone(void *owner) {
    ApiJob *job = owner;

    job->exchange = NULL;
    if (job->running)
        job->kind->cancel(job);
}

static void on_worked(uv_work_t *work, int status) {
    ApiJob *job = container_of(work, ApiJob, work);

    if ((status || job->api->cancelling) && !job->error.status)
        api_fail(&job->error, 503, NULL, NULL, "The server is going down.");
    if (job->exchange && !job->error.status) {
        job->running = true;
        job->kind->run(job);
        return;
    }
    if (job->exchange)
        api_reply_error(TAKE(job->exchange), &job->error);
    api_job_finish(job);
}

/* Browsers send JSON of strangers without asking only under other types. */
static int check_type(const HttpRequest *request, ApiError *error) {
    if (request->content_type.size && !http_value_is(&request->content_type, "application/json"))
        return api_fail(error, 415, NULL, NULL,
                        "The body must be JSON: send Content-Type: application/json.");
    if (request->content_encoding.size && !http_value_is(&request->content_encoding, "identity"))
        return api_fail(error, 415, NULL, NULL, "Compressed bodies are not supported.");
    return 0;
}

static ApiJob *job_new(Api *api, HttpExchange *exchange, const ApiJobKind *kind) {
    ApiJob *job = calloc(1, kind->size);

    if (!job)
        return NULL;
    job->kind = kind;
    job->api = api;
    job->exchange = exchange;
    job->arrival_ns = now_ns();
    job->context = (ApiPromptContext){
        .tokenizer = api->model.tokenizer,
        .chat_template = api->model.chat_template,
        .n_vocab = checkpoint_config(api->model.checkpoint)->n_vocab,
        .prompts_max = api->limits.prompts_max,
    };
    job->body = exchange->request->body;
    exchange->request->body = (Buffer)BUFFER_NULL;
    exchange->on_gone = on_gone;
    exchange->owner = job;
    list_push_back(&api->jobs, &job->link);
    return job;
}

void api_job_start(Api *api, HttpExchange *exchange, const ApiJobKind *kind) {
    ApiError error = API_ERROR_NULL;
    ApiJob *job = NULL;

    if (!check_type(exchange->request, &error)) {
        job = job_new(api, exchange, kind);
        if (!job)
            api_fail_memory(&error);
    }
    if (!job) {
        api_reply_error(exchange, &error);
        return;
    }
    uv_queue_work(api->loop, &job->work, on_work, on_worked);
}

void api_job_finish(ApiJob *job) {
    Api *api = job->api;

    assert(!job->exchange);
    if (job->kind->deinit)
        job->kind->deinit(job);
    list_remove(&job->link);
    api_params_deinit(&job->params);
    api_prompts_deinit(&job->prompts);
    buffer_deinit(&job->body);
    free(job);
    if (list_is_empty(&api->jobs) && api->on_idle)
        api->on_idle(api->userdata);
}
