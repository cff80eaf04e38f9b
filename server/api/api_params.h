/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The parameters of a request, from its JSON body, by one table of rows: name, endpoints, type,
 * bounds, where it goes. What the table does not have, or has as not supported, is a 400 that names
 * it, and the name that was perhaps meant; null always means "not given", also under names that
 * nobody knows.
 */

#include "backend/sample.h"
#include "model/checkpoint.h"
#include "server/api/api_error.h"
#include "server/api/api_grammar.h"
#include "server/engine/stop_matcher.h"
#include "util/json_tree.h"

#include <stdbool.h>
#include <stdint.h>

/* One bit an endpoint. */
enum {
    API_COMPLETIONS = 1u << 0,
    API_CHAT = 1u << 1,
    API_TOKENIZE = 1u << 2,
    API_DETOKENIZE = 1u << 3,
    API_RESPONSES = 1u << 4,    /* OpenAI's responses */
    API_MESSAGES = 1u << 5,     /* Anthropic's messages */
    API_COUNT_TOKENS = 1u << 6, /* and the tokens of them */

    API_CHATS = API_CHAT | API_RESPONSES | API_MESSAGES, /* an assistant's turn is the answer */
};

typedef struct ApiParams ApiParams;
/* Says what the body of another API says as a chat would: sets `messages`, `tools` and what else a
 * chat has, in a tree of its own (`translated`), charged to `account`. 0, or -EINVAL, -ENOMEM,
 * -ECANCELED with `error` filled. */
typedef int (*ApiParamsTranslateFn)(ApiParams *params, Account *account, ApiError *error);

typedef struct ApiLimits {
    uint32_t choices_max; /* of n, and of best_of */
    uint32_t prompts_max;
    uint32_t stops_max;         /* stop strings, and stop tokens */
    uint64_t answer_timeout_ms; /* from a request's arrival to the end of its answer; 0: any */
    bool unknown_taken;         /* parameters that nobody knows: a warning in the log, not a 400 */
} ApiLimits;

/* What parameters are checked against. */
typedef struct ApiParamsContext {
    unsigned endpoint;
    ApiLimits limits;
    uint32_t n_vocab;
    const GenerationDefaults *defaults; /* borrowed; the model's sampling values */
    bool has_grammar;                   /* the model can be held to a form of its answer */
    ApiParamsTranslateFn translate;     /* NULL: the body is as it is */
    Account *account;                   /* borrowed; of `translate` */
} ApiParamsContext;

/* JSON values and texts are borrowed from the body. */
struct ApiParams {
    const char *model;      /* NULL: not given */
    const char *cache_salt; /* likewise */
    const json_t *prompt, *messages, *tools, *documents, *template_kwargs, *tokens;
    const json_t *tool_choice, *reasoning_effort;    /* the latter a string */
    const char *tool_call_parser, *reasoning_parser; /* names that are known; NULL: not given */
    bool parallel_tool_calls, separate_reasoning, include_reasoning;
    ApiGrammar grammar;

    uint32_t n;
    uint32_t best_of;   /* sequences to make for each prompt; the n best are the answer */
    int64_t max_tokens; /* -1: not given */
    int64_t max_completion_tokens;
    uint32_t min_tokens;
    SampleParams sample; /* its logit_bias points at `logit_bias` */
    bool has_seed;
    LogitBias *logit_bias; /* owned */
    const json_t *stops;   /* an array of strings, checked, or a string, or NULL */
    uint32_t *stop_tokens; /* [n_stop_tokens], owned */
    uint32_t n_stop_tokens;
    bool ignore_eos, skip_special_tokens, include_stop_text;
    int add_special_tokens; /* -1: not given */

    int n_logprobs;      /* -1: none; else how many alternatives */
    bool wants_logprobs; /* chat's switch for them */
    int n_top_logprobs;  /* chat's number; -1: not given */
    bool echo, stream, include_usage;
    bool continuous_usage; /* in every chunk; only with include_usage, as vLLM has it */
    const json_t *stream_options;
    int add_generation_prompt; /* -1: not given */
    bool continue_final_message;
    bool return_token_strs;

    /* Of Anthropic's messages, as they came; NULL: not given. */
    const json_t *system, *thinking, *output_config;
    /* Of OpenAI's responses, as they came; NULL: not given. */
    const json_t *input, *instructions, *text, *reasoning, *include, *metadata;

    json_t *translated; /* owned; other fields borrow from it as from the body */
};

#define API_PARAMS_NULL \
    { .model = NULL }

/* `body` must outlive the parameters; it has no key twice (JSON_REJECT_DUPLICATES). 0, -EINVAL or
 * -ENOMEM with `error` filled. */
int api_params_read(ApiParams *params, const json_t *body, const ApiParamsContext *context,
                    ApiError *error);
/* Forgets what is borrowed from the body, which may then go. */
void api_params_let_go(ApiParams *params);
void api_params_deinit(ApiParams *params);
CLEANUP_DEINIT_DEFINE(ApiParams, api_params_deinit);

/* The stop strings, ready to be looked for: `stops` (STOP_SET_NULL before) is the caller's. 0,
 * -ENOMEM or account_charge's error. */
int api_params_stops(const ApiParams *params, Account *account, StopSet *stops);
