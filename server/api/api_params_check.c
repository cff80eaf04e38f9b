/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_params_check.h"

#include "server/api/api_tools.h"

#include <errno.h>
#include <string.h>

#define TEMPERATURE_MIN 1e-5f /* below, drawing is the same as taking the best (vLLM's epsilon) */

ApiParams api_params_defaults(const GenerationDefaults *d) {
    ApiParams p = { .n = 1,
                    .max_tokens = -1,
                    .max_completion_tokens = -1,
                    .sample = SAMPLE_PARAMS_GREEDY,
                    .parallel_tool_calls = true,
                    .separate_reasoning = true,
                    .include_reasoning = true,
                    .skip_special_tokens = true,
                    .add_special_tokens = -1,
                    .n_logprobs = -1,
                    .n_top_logprobs = -1,
                    .add_generation_prompt = -1 };

    p.sample.temperature = d->has_temperature ? d->temperature : 1;
    if (d->has_top_p)
        p.sample.top_p = d->top_p;
    if (d->has_top_k)
        p.sample.top_k = d->top_k;
    if (d->has_min_p)
        p.sample.min_p = d->min_p;
    if (d->has_repetition_penalty)
        p.sample.repetition_penalty = d->repetition_penalty;
    return p;
}

static int check_lengths(ApiParams *p, ApiError *error) {
    const char *name = "max_tokens";

    if (p->max_completion_tokens >= 0) {
        name = "max_completion_tokens";
        p->max_tokens = p->max_completion_tokens;
    }
    if (p->max_tokens == 0 && !p->echo)
        return api_refuse(error, name, "`%s` must be at least 1; 0 is for `echo` alone.", name);
    if (p->max_tokens >= 0 && p->min_tokens > p->max_tokens)
        return api_refuse(error, "min_tokens", "`min_tokens` is %u, more than `%s`.", p->min_tokens,
                          name);
    return 0;
}

static int check_best_of(ApiParams *p, ApiError *error) {
    if (!p->best_of)
        p->best_of = p->n;
    if (p->best_of < p->n)
        return api_refuse(error, "best_of", "`best_of` is %u, less than `n`, which is %u.",
                          p->best_of, p->n);
    if (p->best_of > p->n && p->stream)
        return api_refuse(error, "best_of",
                          "`best_of` above `n` cannot be streamed: which sequences are best is "
                          "known when all have ended.");
    return 0;
}

static int check_logprobs(ApiParams *p, unsigned endpoint, ApiError *error) {
    if (endpoint != API_CHAT)
        return 0;
    if (p->n_top_logprobs > 0 && !p->wants_logprobs)
        return api_refuse(error, "top_logprobs", "`top_logprobs` needs `logprobs` to be true.");
    if (p->wants_logprobs)
        p->n_logprobs = p->n_top_logprobs > 0 ? p->n_top_logprobs : 0;
    return 0;
}

int api_params_check(ApiParams *p, const ApiParamsContext *context, ApiError *error) {
    if (p->stream_options && !p->stream)
        return api_refuse(error, "stream_options", "`stream_options` needs `stream` to be true.");
    if (p->continue_final_message && p->add_generation_prompt > 0)
        return api_refuse(error, "continue_final_message",
                          "`continue_final_message` and `add_generation_prompt` cannot both be "
                          "true.");
    /* The smallest set whose probabilities reach nothing is the best token. */
    if (p->sample.temperature < TEMPERATURE_MIN || p->sample.top_p == 0)
        p->sample.temperature = 0;
    if (check_lengths(p, error) || check_best_of(p, error) ||
        check_logprobs(p, context->endpoint, error))
        return -EINVAL;
    /* What is no chat calls nothing. */
    return api_tools_check(p, context->has_grammar || !(context->endpoint & API_CHATS), error);
}
