/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One API request with a body, from arrival to answer. The body is parsed, checked and prepared on
 * libuv's pool, since that can take long; then the loop answers, or gives the job to the engine.
 *
 * What a job makes is charged to the account of its request. The account is closed as soon as
 * nobody waits for the job any more (the client is gone, the deadline has passed, the server goes
 * down): work that has not begun is dropped, work on the pool stops at its next look at the
 * account, work in the engine is cancelled. The job ends, and with it the charge, when the last of
 * them has let go.
 *
 * A kind of job embeds ApiJob first and fills in its three steps.
 */

#include "server/api/api.h"
#include "server/api/api_prompt.h"
#include "server/api/work_queue.h"

typedef struct ApiJob ApiJob;

typedef struct ApiJobKind {
    unsigned endpoint; /* API_X */
    size_t size;       /* of the struct that embeds ApiJob */
    /* How errors look; NULL: as OpenAI has them. */
    ApiErrorPutFn put_error;
    /* On the pool, between reading the parameters and checking them: see ApiParamsContext. */
    ApiParamsTranslateFn translate;
    /* Says what is wrong with the translated body in words about the one that came; NULL: they are
     * the same. */
    void (*name_places)(const ApiParams *params, ApiError *error);
    /* On the pool: may use the job's own fields and what is constant in `api`. 0, or negative with
     * job->error filled; -ENOMEM also where the account refuses, -ECANCELED where it is closed. */
    int (*prepare)(ApiJob *job);
    /* On the loop, prepared, the client still there: answers and calls api_job_finish, now or
     * later. */
    void (*run)(ApiJob *job);
    /* On the loop, if nobody waits any more while the job runs: stop soon; api_job_finish is still
     * to be called. NULL where `run` answers at once. */
    void (*cancel)(ApiJob *job);
    /* What the kind's own fields hold. */
    void (*deinit)(ApiJob *job);
} ApiJobKind;

struct ApiJob {
    List link; /* in api->jobs */
    const ApiJobKind *kind;
    Api *api;               /* borrowed */
    HttpExchange *exchange; /* NULL: the client is gone, or answered */
    Account *account;       /* owned reference: the request's */
    uint64_t client;        /* who asks, for turns between clients */
    WorkItem work;
    bool running;         /* `run` was called */
    uint64_t arrival_ns;  /* CLOCK_MONOTONIC */
    uint64_t deadline_ms; /* loop time; 0: none */
    ApiPromptContext context;
    Buffer body;
    json_t *root;     /* owned; NULL once prepared */
    ApiParams params; /* borrows from `root` until then */
    ApiPrompts prompts;
    ApiError error;
};

/* Takes the exchange's body and starts a job of this kind, or answers that it cannot. */
void api_job_start(Api *api, HttpExchange *exchange, const ApiJobKind *kind);
/* Answers with an error, in the kind's form; the exchange is gone afterwards. */
void api_job_reply_error(ApiJob *job, const ApiError *error);
/* Frees the job; it must have answered, or the client be gone. */
void api_job_finish(ApiJob *job);
/* Ends a job that still works, for this reason; it may be freed before this returns. */
void api_job_stop(ApiJob *job, unsigned status, const char *code, const char *message);
