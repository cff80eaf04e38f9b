/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The OpenAI API on top of HTTP, and Anthropic's messages: which paths there are, and what all of
 * them share. Event loop's thread, but for what api_job.h moves off it.
 */

#include "grammar/grammar.h"
#include "model/checkpoint.h"
#include "server/api/api_error.h"
#include "server/api/api_params.h"
#include "server/api/metrics.h"
#include "server/api/work_queue.h"
#include "server/engine/engine.h"
#include "server/http/http_server.h"
#include "server/http/route.h"
#include "text/chat_template.h"
#include "text/output_parser.h"
#include "text/tokenizer.h"

#include <uv.h>

typedef enum ApiState {
    API_LOADING,
    API_READY,
    API_DRAINING,
    API_LOST, /* the engine's backend is gone: the process is about to end */
} ApiState;

/* What is being served; all borrowed, all there once the state is API_READY. */
typedef struct ApiModel {
    const Checkpoint *checkpoint;
    const Tokenizer *tokenizer;
    ChatTemplate *chat_template; /* NULL: it has none */
    OutputForms forms;           /* what calls and reasoning of the model look like */
    Engine *engine;
    GrammarEngine *grammars;      /* NULL: the program was built without */
    const Profile *profile;       /* NULL: nothing is quantized */
    const KvPlan *plan;           /* NULL: not told */
    double expected_kld;          /* of the plan, nats a token */
    const Buffer *tokenizer_info; /* what GET /tokenizer_info answers */
    const Buffer *plan_json;      /* what GET /v1/kv answers */
    int64_t created_s;            /* Unix time of the start */
} ApiModel;

typedef struct Api {
    uv_loop_t *loop; /* borrowed */
    ApiLimits limits;
    const char *name; /* of the model; borrowed */
    ApiState state;
    bool cancelling;             /* draining, and no job may take longer */
    _Atomic(const char *) phase; /* of loading, for people; static; any thread sets it */
    ApiModel model;
    Buffer openapi, docs; /* what GET /openapi.json and GET /docs answer; written at the start */
    HttpServer *http;     /* borrowed */
    Metrics metrics;
    List jobs;           /* ApiJob.link: from its arrival to its end, by arrival */
    WorkQueue work;      /* of the jobs */
    uv_timer_t deadline; /* of the first job that has one */
    Mailbox events;      /* the engine's */
    uv_async_t events_came;
    void (*on_idle)(void *userdata); /* the last job has ended; may be NULL */
    void (*on_lost)(void *userdata); /* once, when the state becomes API_LOST; may be NULL */
    void *userdata;                  /* of both */
} Api;

int api_init(Api *api, uv_loop_t *loop, const ApiLimits *limits, const char *name);
/* Lets the loop end: no events are taken by themselves any more. */
void api_close(Api *api);
void api_deinit(Api *api); /* no jobs left, the loop has ended */

/* The HTTP server's handler; `userdata` is the Api. */
void api_handle(HttpExchange *exchange, void *userdata);
/* Delivers what is in `events`. */
void api_take_events(Api *api);
/* Stops every job; they answer that the server goes down. */
void api_cancel_all(Api *api);
/* Sees to it that jobs end at their deadlines. */
void api_watch_deadlines(Api *api);

/* The table of paths, [*np]. */
const Route *api_routes(size_t *np);

/* Answers with a body that the writer composed and that is taken over, or with an error. */
void api_reply_json(HttpExchange *exchange, unsigned status, Buffer *body);
void api_reply_error(HttpExchange *exchange, const ApiError *error);
/* The same in a form of one's own; `put` NULL: OpenAI's. */
void api_reply_error_as(HttpExchange *exchange, const ApiError *error, ApiErrorPutFn put);
