/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request that generates: its sequences in the engine, and its answer, whole or as a stream of
 * server-sent events. How answers look is in ApiCallKind; a kind that has to remember more than a
 * call does embeds ApiCall first.
 */

#include "server/api/api_job.h"
#include "server/api/api_output.h"
#include "server/engine/engine.h"

typedef struct ApiCall ApiCall;
typedef struct ApiChoice ApiChoice;

typedef struct ApiCallKind {
    ApiJobKind job;
    const char *id_prefix;
    const char *prompt_param;    /* the parameter that prompts come from, for words about them */
    uint32_t default_max_tokens; /* 0: as many as fit */
    /* A whole answer: one JSON object. All sequences have ended by themselves. */
    void (*put_answer)(JsonWriter *writer, ApiCall *call);
    /* What an engine's event adds to it. 0, or -ENOMEM. */
    int (*keep_text)(ApiChoice *choice, const EngineEvent *event);
    /* What an engine's event adds to a stream: zero or more calls of api_call_send. */
    void (*stream_event)(ApiChoice *choice, const EngineEvent *event);
    /* What stands behind the events of the last sequence; job.error says if something failed. */
    void (*end_stream)(ApiCall *call);
} ApiCallKind;

/* One sequence and what is known of it. */
struct ApiChoice {
    ApiCall *call;
    uint32_t index;
    const ApiPrompt *prompt;
    EngineRequest *request; /* owned, but by the engine while `in_engine`; NULL: it has ended */
    bool in_engine;
    Buffer text;                   /* of whole answers */
    ApiOutput output;              /* chats: what the text comes to, and `text` is its content */
    Buffer logprobs;               /* TokenLogprob after TokenLogprob, of whole answers */
    TokenLogprob *prompt_logprobs; /* [n_prompt_logprobs], owned */
    uint32_t n_prompt_logprobs;
    uint32_t n_output, n_cached;
    double logprob_sum; /* of the tokens of whole answers, where best_of ranks them */
    uint64_t last_token_ns;
    FinishReason finish;
    const char *stop_text; /* of `request` */
    uint32_t stop_token;
    bool begun;          /* its first chunk went out */
    bool is_enough;      /* api_choice_end was called */
    size_t n_text_bytes; /* of the prompt's text, passed by logprobs so far */
    size_t n_text_chars; /* of the choice's text, likewise */
};

struct ApiCall {
    ApiJob job; /* first */
    char id[48];
    int64_t created_s;
    StopSet stops; /* this and what follows it is what the requests of all choices borrow */
    TokenIds stop_tokens;
    TokenIds kept_tokens; /* special, with texts that are marks */
    OutputForms forms;    /* chats: of what the model writes */
    Hash128 cache_salt;
    Grammar *grammar;   /* held; NULL: none */
    ApiChoice *choices; /* [n_choices], owned */
    uint32_t n_choices;
    uint64_t n_bytes; /* charged for the choices and their requests */
    uint32_t n_in_engine;
    bool cut; /* the reader of the stream was too slow */
};

/* Steps of ApiJobKind. */
int api_call_prepare(ApiCall *call); /* the prompts are there: makes the engine's requests */
void api_call_run(ApiJob *job);
void api_call_cancel(ApiJob *job);
void api_call_deinit(ApiJob *job);

/* Takes an event of the engine; owned. */
void api_call_take_event(EngineEvent *event);

/* Sends one or more server-sent events, each with the empty line at its end, and begins the stream
 * if need be. What could not be written (buffer_failed) fails the call. */
void api_call_send(ApiCall *call, const Buffer *events);

typedef struct ApiUsage {
    uint64_t n_prompt, n_cached; /* tokens; a prompt counts once, however many choices it has */
    uint64_t n_output, n_reasoning;
} ApiUsage;

ApiUsage api_call_usage(const ApiCall *call);

/* What a whole answer kept of a choice's logprobs; borrowed. */
const TokenLogprob *api_choice_logprobs(const ApiChoice *choice, size_t *np);
/* The choice has all that was asked for: its sequence is to end, as if by itself. */
void api_choice_end(ApiChoice *choice);
/* The answer takes more memory than it may. */
void api_call_fail_memory(ApiCall *call);
