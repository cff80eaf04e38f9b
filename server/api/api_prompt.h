/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From what a request says to the token ids the model reads: texts are tokenized, chats are
 * rendered by the model's template first. May take long; runs off the event loop.
 */

#include "server/api/api_error.h"
#include "server/api/api_params.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

typedef struct ApiPrompt {
    TokenIds ids;
    Buffer text; /* what a completion's `echo` shows */
} ApiPrompt;

typedef struct ApiPrompts {
    ApiPrompt *items; /* [n], owned */
    uint32_t n;
    Account *account; /* charged with `items`; borrowed */
} ApiPrompts;

#define API_PROMPTS_NULL \
    { .items = NULL }

void api_prompts_deinit(ApiPrompts *prompts);
CLEANUP_DEINIT_DEFINE(ApiPrompts, api_prompts_deinit);

/* What prompts are made with; all borrowed. */
typedef struct ApiPromptContext {
    const Tokenizer *tokenizer;
    ChatTemplate *chat_template; /* NULL: the model has none */
    uint32_t n_vocab;
    uint32_t prompts_max;
    bool tells_tools; /* to templates that know of none: answers are read accordingly */
    size_t ids_max;   /* of one prompt that is tokenized; 0: any number */
    Account *account; /* whose time and memory it costs; NULL: nobody's */
} ApiPromptContext;

/* How a request's texts are tokenized, and what to say of `name` where that failed with `r`;
 * returns it. */
EncodeOptions api_encode_options(const ApiPromptContext *context, bool add_special);
int api_refuse_text(ApiError *error, const char *name, const ApiPromptContext *context, int r);

/* All append to `prompts` (empty before). 0, or -EINVAL, -ENOMEM (also where the account refuses),
 * -ECANCELED (it is closed), with `error` filled. */

/* `prompt`: a text, several, token ids, or several lists of them. */
int api_prompts_of_completion(ApiPrompts *prompts, const ApiParams *params,
                              const ApiPromptContext *context, ApiError *error);
/* `messages`: one prompt. */
int api_prompts_of_chat(ApiPrompts *prompts, const ApiParams *params,
                        const ApiPromptContext *context, ApiError *error);
/* An array of token ids, checked; charged to the account of `ids`. */
int api_read_ids(TokenIds *ids, const char *name, const json_t *array, uint32_t n_vocab,
                 ApiError *error);
