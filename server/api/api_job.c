/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_job.h"

#include "server/api/api_tools.h"
#include "util/clock.h"
#include "util/json.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* Up to here a body takes no longer to prepare than a small request may wait. */
#define SMALL_BODY_BYTES_MAX ((size_t)64 << 10)

/* on the pool */

static int parse_body(ApiJob *job) {
    Reason why;
    int r;

    r = json_parse_charged(&job->root, buffer_text(&job->body), job->body.size,
                           JSON_REJECT_DUPLICATES, job->account, &why);
    if (r == -ENOMEM || r == -ECANCELED) {
        api_fail_account(&job->error, job->account);
        return r;
    }
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

static int prepare(ApiJob *job) {
    ApiParamsContext context = { .endpoint = job->kind->endpoint,
                                 .limits = job->api->limits,
                                 .n_vocab = job->context.n_vocab,
                                 .defaults = checkpoint_generation(job->api->model.checkpoint),
                                 .has_grammar = job->api->model.grammars != NULL,
                                 .translate = job->kind->translate,
                                 .account = job->account };
    int r;

    r = parse_body(job);
    buffer_deinit(&job->body); /* the tree has copies of what it needs */
    if (!r)
        r = api_params_read(&job->params, job->root, &context, &job->error);
    if (!r)
        r = check_model(job);
    job->context.tells_tools = api_tools_are_told(&job->api->model.forms, &job->params);
    if (!r)
        r = job->kind->prepare(job);
    if (r == -EINVAL && job->kind->name_places)
        job->kind->name_places(&job->params, &job->error);
    return r;
}

static void on_work(WorkItem *item) {
    ApiJob *job = container_of(item, ApiJob, work);
    int r = prepare(job);

    assert(!r == !job->error.status);
    if (r == -ENOMEM || r == -ECANCELED)
        api_fail_account(&job->error, job->account);
    /* What is still needed of the tree has been copied. */
    api_params_let_go(&job->params);
    job->root = json_unref(job->root);
}

/* on the loop */

void api_job_reply_error(ApiJob *job, const ApiError *error) {
    api_reply_error_as(TAKE(job->exchange), error, job->kind->put_error);
}

static void end_without_run(ApiJob *job) {
    if (job->error.limit_name)
        metrics_count_refusal(&job->api->metrics, job->error.limit_name);
    if (job->exchange)
        api_job_reply_error(job, &job->error);
    api_job_finish(job);
}

static void on_worked(WorkItem *item) {
    ApiJob *job = container_of(item, ApiJob, work);

    if (!job->exchange || job->error.status) {
        end_without_run(job);
        return;
    }
    job->running = true;
    job->kind->run(job);
}

/* Nobody waits any more: `job` may be gone afterwards. */
static void abandon(ApiJob *job) {
    account_close(job->account);
    if (job->running && job->kind->cancel)
        job->kind->cancel(job);
    else if (work_queue_drop(&job->work))
        end_without_run(job);
}

static void on_gone(void *owner) {
    ApiJob *job = owner;

    job->exchange = NULL;
    abandon(job);
}

/* A job that is on the pool answers at once; what it makes there is for nobody. */
void api_job_stop(ApiJob *job, unsigned status, const char *code, const char *message) {
    ApiError error = API_ERROR_NULL;

    api_fail(&error, status, NULL, code, "%s", message);
    if (job->running) {
        if (!job->error.status)
            job->error = error;
    } else if (job->exchange) {
        api_job_reply_error(job, &error);
    }
    abandon(job);
}

/* Browsers send JSON of strangers without asking only under other types. */
static int check_type(const HttpRequest *request, ApiError *error) {
    if (!http_value_is(&request->content_type, "application/json"))
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
    job->account = account_ref(exchange->request->account);
    job->client = exchange->request->client_key;
    job->work = (WorkItem){ .client = job->client, .run = on_work, .done = on_worked };
    job->arrival_ns = clock_ns();
    if (api->limits.answer_timeout_ms)
        job->deadline_ms = uv_now(api->loop) + api->limits.answer_timeout_ms;
    job->context = (ApiPromptContext){
        .tokenizer = api->model.tokenizer,
        .chat_template = api->model.chat_template,
        .n_vocab = checkpoint_config(api->model.checkpoint)->n_vocab,
        .prompts_max = api->limits.prompts_max,
        .account = job->account,
        .ids_max = kind->endpoint & (API_COMPLETIONS | API_CHATS)
                       ? engine_max_sequence_tokens(api->model.engine)
                       : 0,
    };
    job->body = buffer_take(&exchange->request->body);
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
        api_reply_error_as(exchange, &error, kind->put_error);
        return;
    }
    api_watch_deadlines(api);
    work_queue_add(&api->work, &job->work, job->body.size > SMALL_BODY_BYTES_MAX);
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
    account_unref(job->account);
    free(job);
    if (list_is_empty(&api->jobs) && api->on_idle)
        api->on_idle(api->userdata);
}
