/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_tokenize.h"

#include "server/api/api_messages.h"
#include "server/api/api_messages_input.h"
#include "util/json_writer.h"
#include "util/utf8.h"

#include <errno.h>

#define ITEMS_PER_POLL 4096

typedef struct TokenizeJob {
    ApiJob job; /* first */
    Buffer answer;
} TokenizeJob;

static TokenizeJob *tokenize_of(ApiJob *job) {
    return container_of(job, TokenizeJob, job);
}

static void run(ApiJob *job) {
    api_reply_json(TAKE(job->exchange), 200, &tokenize_of(job)->answer);
    api_job_finish(job);
}

static void deinit(ApiJob *job) {
    buffer_deinit(&tokenize_of(job)->answer);
}

/* tokenize */

static int find_prompt(ApiJob *job, ApiPrompts *prompts) {
    const ApiParams *params = &job->params;

    if (params->messages && params->prompt)
        return api_refuse(&job->error, "prompt", "`prompt` and `messages` exclude each other.");
    if (params->messages)
        return api_prompts_of_chat(prompts, params, &job->context, &job->error);
    if (!json_is_string(params->prompt))
        return api_refuse(&job->error, "prompt",
                          "`prompt` (a string) or `messages` must be given.");
    return 0;
}

/* A text that has no tokens is nothing wrong here. */
static int encode(ApiJob *job, TokenIds *ids) {
    const json_t *prompt = job->params.prompt;
    EncodeOptions options = api_encode_options(&job->context, job->params.add_special_tokens != 0);
    int r;

    options.ids_max = 0; /* counting is what it is for */
    r = tokenizer_encode(job->context.tokenizer, json_string_value(prompt),
                         json_string_length(prompt), &options, ids);

    return r ? api_refuse_text(&job->error, "prompt", &job->context, r) : 0;
}

/* Whether anybody waits for an answer of which `n` items are written; asked now and then. */
static bool is_wanted(const ApiJob *job, size_t n) {
    return n % ITEMS_PER_POLL || !account_is_closed(job->context.account);
}

static void put_strings(JsonWriter *w, const ApiJob *job, const TokenIds *ids) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    json_begin_array(w, "token_strs");
    for (size_t i = 0; i < ids->n && is_wanted(job, i); i++) {
        buffer_clear(&text);
        tokenizer_decode(job->context.tokenizer, &ids->ids[i], 1, false, &text);
        json_put_string(w, NULL, buffer_text(&text), text.size);
    }
    json_end_array(w);
}

static void put_ids(JsonWriter *w, const ApiJob *job, const TokenIds *ids) {
    json_begin_object(w, NULL);
    json_put_u64(w, "count", ids->n);
    json_put_u64(w, "max_model_len", engine_max_model_len(job->api->model.engine));
    json_begin_array(w, "tokens");
    for (size_t i = 0; i < ids->n && is_wanted(job, i); i++)
        json_put_u64(w, NULL, ids->ids[i]);
    json_end_array(w);
    if (job->params.return_token_strs)
        put_strings(w, job, ids);
    else
        json_put_null(w, "token_strs");
    json_end_object(w);
}

static int prepare_tokenize(ApiJob *job) {
    CLEANUP(token_ids_deinit) TokenIds ids = { .account = job->context.account };
    Buffer *answer = &tokenize_of(job)->answer;
    JsonWriter w = JSON_WRITER(answer);
    int r = find_prompt(job, &job->prompts);

    if (!r && !job->prompts.n)
        r = encode(job, &ids);
    if (r)
        return r;
    answer->account = job->context.account;
    put_ids(&w, job, job->prompts.n ? &job->prompts.items[0].ids : &ids);
    return buffer_failed(answer) ? api_fail_memory(&job->error) : 0;
}

const ApiJobKind api_tokenize = {
    .endpoint = API_TOKENIZE,
    .size = sizeof(TokenizeJob),
    .prepare = prepare_tokenize,
    .run = run,
    .deinit = deinit,
};

/* detokenize */

static int prepare_detokenize(ApiJob *job) {
    CLEANUP(token_ids_deinit) TokenIds ids = { .account = job->context.account };
    CLEANUP(buffer_deinit) Buffer text = { .account = job->context.account };
    Buffer *answer = &tokenize_of(job)->answer;
    JsonWriter w = JSON_WRITER(answer);
    int r;

    if (!job->params.tokens)
        return api_refuse(&job->error, "tokens", "`tokens` is missing.");
    r = api_read_ids(&ids, "tokens", job->params.tokens, job->context.n_vocab, &job->error);
    if (r)
        return r;
    r = tokenizer_decode(job->context.tokenizer, ids.ids, ids.n, false, &text);
    if (r == -ERANGE)
        return api_refuse(&job->error, "tokens",
                          "`tokens` holds an id that the tokenizer does not have.");
    answer->account = job->context.account;
    json_begin_object(&w, NULL);
    json_put_string(&w, "prompt", buffer_text(&text), text.size);
    json_end_object(&w);
    return r || buffer_failed(&text) || buffer_failed(answer) ? api_fail_memory(&job->error) : 0;
}

const ApiJobKind api_detokenize = {
    .endpoint = API_DETOKENIZE,
    .size = sizeof(TokenizeJob),
    .prepare = prepare_detokenize,
    .run = run,
    .deinit = deinit,
};

/* the tokens of messages */

static int prepare_count(ApiJob *job) {
    Buffer *answer = &tokenize_of(job)->answer;
    JsonWriter w = JSON_WRITER(answer);
    int r = api_prompts_of_chat(&job->prompts, &job->params, &job->context, &job->error);

    if (r)
        return r;
    answer->account = job->context.account;
    json_begin_object(&w, NULL);
    json_put_u64(&w, "input_tokens", job->prompts.items[0].ids.n);
    json_end_object(&w);
    return buffer_failed(answer) ? api_fail_memory(&job->error) : 0;
}

const ApiJobKind api_count_tokens = {
    .endpoint = API_COUNT_TOKENS,
    .size = sizeof(TokenizeJob),
    .put_error = api_messages_put_error,
    .translate = api_messages_translate_counted,
    .name_places = api_messages_name_places,
    .prepare = prepare_count,
    .run = run,
    .deinit = deinit,
};
