/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Log probabilities in the two shapes OpenAI has for them. A token whose bytes are not UTF-8 by
 * themselves is written "bytes:\xe2\x80", as OpenAI's completions do.
 */

#include "server/api/api_call.h"

/* Runs of tokens, in order: of the prompt (echo), then of the answer. */
typedef struct LogprobRun {
    const TokenLogprob *items; /* [n] */
    size_t n;
    bool is_prompt;
} LogprobRun;

/* {"text_offset", "token_logprobs", "tokens", "top_logprobs"} under `key`. Offsets count characters
 * of the choice's text and go on from call to call. */
void api_put_completion_logprobs(JsonWriter *writer, const char *key, ApiChoice *choice,
                                 const LogprobRun *runs, size_t n_runs);
/* [{"token", "logprob", "bytes", "top_logprobs"}, ...]. */
void api_put_token_logprobs(JsonWriter *writer, const char *key, const ApiChoice *choice,
                            const TokenLogprob *logprobs, size_t n);
/* {"content": the same, "refusal": null}. */
void api_put_chat_logprobs(JsonWriter *writer, const char *key, const ApiChoice *choice,
                           const TokenLogprob *logprobs, size_t n);
