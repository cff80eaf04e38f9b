/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call ends when its last sequence has ended, whoever asked for that: the model, the client who
 * left, the server that goes down. Until then its memory stays. The first thing that goes wrong
 * cancels the rest and becomes the answer: an error object, or an error event in a stream.
 */
#include "server/api/api_call.h"

#include "server/api/api_stops.h"
#include "server/api/api_tool_grammar.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define RETRY_AFTER_S_MAX 120

static void end_call(ApiCall *call);

static ApiCall *call_of(ApiJob *job) {
    return container_of(job, ApiCall, job);
}

static const ApiCallKind *kind_of(const ApiCall *call) {
    return container_of(call->job.kind, const ApiCallKind, job);
}

/* preparing, on the pool */

/* How many tokens the answer to this prompt may have. */
static int settle_max_tokens(ApiCall *call, const ApiPrompt *prompt, uint32_t *max_tokens) {
    const ApiParams *params = &call->job.params;
    const Engine *engine = call->job.api->model.engine;
    uint32_t n_max = engine_max_sequence_tokens(engine);
    bool is_cache = n_max < engine_max_model_len(engine);
    const char *name = kind_of(call)->prompt_param;
    uint64_t n_asked = params->max_tokens < 0 ? 1 : (uint64_t)params->max_tokens;

    if (prompt->ids.n + n_asked > n_max)
        return api_fail(&call->job.error, 400, name, "context_length_exceeded",
                        "%s at most %" PRIu32 " tokens of one request; this one has %zu in `%s` "
                        "and asks for %" PRIu64 " more.",
                        is_cache ? "The KV cache holds (option kv_memory)" : "The model reads",
                        n_max, prompt->ids.n, name, n_asked);
    *max_tokens = n_max - (uint32_t)prompt->ids.n;
    if (params->max_tokens >= 0)
        *max_tokens = (uint32_t)params->max_tokens;
    else if (kind_of(call)->default_max_tokens && *max_tokens > kind_of(call)->default_max_tokens)
        *max_tokens = kind_of(call)->default_max_tokens;
    return 0;
}

/* Those that were given, and those that stop strings are. */
static int make_stop_tokens(ApiCall *call) {
    const ApiParams *params = &call->job.params;
    TokenIds *tokens = &call->stop_tokens;
    int r;

    tokens->account = call->job.account;
    r = token_ids_append(tokens, params->stop_tokens, params->n_stop_tokens);
    if (!r)
        r = token_ids_reserve(tokens, call->stops.n_stops);
    if (!r && call->stops.n_stops)
        tokens->n += api_stops_find_tokens(call->job.context.tokenizer, &call->stops,
                                           tokens->ids + tokens->n);
    return r;
}

static int make_grammar(ApiCall *call) {
    ApiJob *job = &call->job;
    GrammarEngine *grammars = job->api->model.grammars;

    if (api_tool_grammar_is_wanted(&call->forms))
        return api_tool_grammar_compile(&job->params, &call->forms, job->context.tokenizer,
                                        grammars, job->account, &call->grammar, &job->error);
    return api_grammar_compile(&job->params.grammar, grammars, job->account, &call->grammar,
                               &job->error);
}

/* What all requests of the call borrow, besides the prompts and what `params` owns. */
static int make_shared(ApiCall *call) {
    const char *salt = call->job.params.cache_salt;

    if (salt)
        call->cache_salt = engine_salt(call->job.api->model.engine, salt, strlen(salt));
    if (api_params_stops(&call->job.params, call->job.account, &call->stops) ||
        make_stop_tokens(call))
        return -ENOMEM;
    if (api_output_kept_tokens(&call->forms, call->job.context.tokenizer, call->job.account,
                               &call->kept_tokens))
        return -ENOMEM;
    return make_grammar(call);
}

/* Charges everything that exists once for each choice whatever comes of it. */
static int make_choices(ApiCall *call) {
    size_t n = (size_t)call->job.prompts.n * call->job.params.best_of;
    uint64_t n_bytes = n * (sizeof(*call->choices) + ENGINE_REQUEST_BYTES);

    if (account_charge(call->job.account, n_bytes))
        return -ENOMEM;
    call->n_bytes = n_bytes;
    call->choices = calloc(n, sizeof(*call->choices));
    return call->choices ? 0 : -ENOMEM;
}

/* Whether more sequences are made than the answer has. */
static bool is_ranked(const ApiParams *params) {
    return params->best_of > params->n;
}

/* Where the answer begins in its grammar. */
static int make_mask(ApiCall *call, EngineRequest *request) {
    const ApiModel *model = &call->job.api->model;
    const EndOfTurn *ends = engine_ends(model->engine);
    ReasoningForm reasoning = { .family = call->forms.reasoning,
                                .begun = call->forms.reasoning_begun,
                                .tokenizer = model->tokenizer,
                                .ends = ends->ids,
                                .n_ends = ends->n_ids };
    const char *param = call->job.params.grammar.param ? call->job.params.grammar.param : "tools";
    uint32_t n_barred = request->ignore_eos ? ends->n_ids : 0;
    int r;

    if (!call->grammar)
        return 0;
    r = mask_work_new(&request->mask, model->grammars, call->grammar, request->account, &reasoning,
                      ends->ids, n_barred);
    if (r != GRAMMAR_E_REJECTED)
        return r;
    return api_refuse(&call->job.error, param, "Nothing that this model can write fits `%s`.",
                      param);
}

static int make_request(ApiCall *call, ApiChoice *choice, uint64_t seed, uint32_t max_tokens) {
    const ApiParams *params = &call->job.params;
    EngineRequest *request = choice->request = engine_request_new();

    if (!request)
        return -ENOMEM;
    request->owner = choice;
    request->client = call->job.client;
    request->reserved = true; /* by the time it is submitted */
    request->account = call->job.account;
    request->prompt = choice->prompt->ids.ids;
    request->n_prompt = (uint32_t)choice->prompt->ids.n;
    request->params = params->sample;
    request->params.seed = seed;
    request->max_tokens = max_tokens;
    request->min_tokens = params->min_tokens < max_tokens ? params->min_tokens : max_tokens;
    request->ignore_eos = params->ignore_eos;
    request->skip_special_tokens = params->skip_special_tokens;
    request->kept_tokens = call->kept_tokens.ids;
    request->n_kept_tokens = (uint32_t)call->kept_tokens.n;
    request->include_stop_text = params->include_stop_text;
    request->stops = &call->stops;
    request->stop_tokens = call->stop_tokens.ids;
    request->n_stop_tokens = (uint32_t)call->stop_tokens.n;
    request->n_top_logprobs = params->n_logprobs;
    if (is_ranked(params) && request->n_top_logprobs < 0)
        request->n_top_logprobs = 0; /* for the ranking, not for the answer */
    request->n_prompt_logprobs = params->echo ? params->n_logprobs : -1;
    if (!max_tokens && request->n_prompt_logprobs < 0)
        request->n_prompt_logprobs = 0; /* the engine has nothing else to do for it */
    request->cache_salt = call->cache_salt;
    request->arrival_ns = call->job.arrival_ns;
    return make_mask(call, request);
}

static uint64_t draw_seed(void) {
    uint64_t seed;

    while (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        ;
    return seed;
}

static int make_requests(ApiCall *call, const ApiPrompt *prompt, uint64_t seed) {
    uint32_t max_tokens = 0;
    int r = settle_max_tokens(call, prompt, &max_tokens);

    for (uint32_t j = 0; !r && j < call->job.params.best_of; j++) {
        ApiChoice *choice = &call->choices[call->n_choices];

        *choice = (ApiChoice){ .call = call, .prompt = prompt, .index = call->n_choices++ };
        choice->text.account = choice->logprobs.account = call->job.account;
        api_output_init(&choice->output, &call->forms, call->job.account);
        r = make_request(call, choice, seed + j, max_tokens);
    }
    return r;
}

int api_call_prepare(ApiCall *call) {
    ApiJob *job = &call->job;
    uint64_t seed = job->params.has_seed ? job->params.sample.seed : draw_seed();
    int r;

    snprintf(call->id, sizeof(call->id), "%s%016" PRIx64 "%016" PRIx64, kind_of(call)->id_prefix,
             draw_seed(), draw_seed());
    call->created_s = time(NULL);
    r = make_shared(call);
    if (!r)
        r = make_choices(call);
    for (uint32_t i = 0; !r && i < job->prompts.n; i++)
        r = make_requests(call, &job->prompts.items[i], seed);
    return r == -ENOMEM ? api_fail_memory(&job->error) : r;
}

void api_call_deinit(ApiJob *job) {
    ApiCall *call = call_of(job);

    for (uint32_t i = 0; i < call->n_choices; i++) {
        ApiChoice *choice = &call->choices[i];

        assert(!choice->in_engine);
        engine_request_free(choice->request);
        buffer_deinit(&choice->text);
        buffer_deinit(&choice->logprobs);
        api_output_deinit(&choice->output);
        free(choice->prompt_logprobs);
    }
    free(call->choices);
    account_release(job->account, call->n_bytes);
    token_ids_deinit(&call->stop_tokens);
    token_ids_deinit(&call->kept_tokens);
    stop_set_deinit(&call->stops);
    grammar_unref(call->grammar);
}

/* running */

static const char *wait_unit(const EngineWait *wait) {
    return strstr(wait->limit_name, "tokens") ? "prompt tokens" : "sequences";
}

/* Whole seconds, at least one; nobody is sent away for longer than RETRY_AFTER_S_MAX. */
static uint32_t retry_after(double wait_s) {
    return wait_s >= RETRY_AFTER_S_MAX ? RETRY_AFTER_S_MAX : (uint32_t)wait_s + 1;
}

/* A place in the engine's queue for every sequence of the call, or the words why there is none. */
static int reserve(ApiCall *call) {
    ApiError *error = &call->job.error;
    uint64_t n_tokens = 0;
    EngineWait wait;
    int r;

    for (uint32_t i = 0; i < call->n_choices; i++)
        n_tokens += call->choices[i].prompt->ids.n;
    r = engine_reserve(call->job.api->model.engine, call->n_choices, n_tokens, &wait);
    if (!r)
        return 0;
    if (r == ENGINE_E_NEVER)
        api_fail(error, 413, NULL, "request_too_large",
                 "The request asks for %" PRIu64 " %s at once; at most %" PRIu64
                 " may wait (option %s): send several smaller ones.",
                 wait.asked, wait_unit(&wait), wait.limit, wait.limit_name);
    else
        api_fail(error, 429, NULL, "queue_full",
                 "The queue is full: %" PRIu64 " %s wait, and %" PRIu64
                 " more would pass the %" PRIu64 " that may (option %s); try again later.",
                 wait.used, wait_unit(&wait), wait.asked, wait.limit, wait.limit_name);
    if (r != ENGINE_E_NEVER)
        error->retry_after_s = retry_after(wait.wait_s);
    error->limit_name = wait.limit_name;
    return -EAGAIN;
}

void api_call_run(ApiJob *job) {
    ApiCall *call = call_of(job);

    if (reserve(call)) {
        end_call(call);
        return;
    }
    call->n_in_engine = call->n_choices;
    for (uint32_t i = 0; i < call->n_choices; i++) {
        call->choices[i].in_engine = true;
        engine_submit(job->api->model.engine, call->choices[i].request);
    }
}

void api_call_cancel(ApiJob *job) {
    ApiCall *call = call_of(job);

    for (uint32_t i = 0; i < call->n_choices; i++)
        if (call->choices[i].in_engine)
            engine_cancel(job->api->model.engine, call->choices[i].request);
}

static void fail(ApiCall *call, unsigned status, const char *message) {
    if (!call->job.error.status)
        api_fail(&call->job.error, status, NULL, NULL, "%s", message);
    api_call_cancel(&call->job);
}

void api_choice_end(ApiChoice *choice) {
    if (choice->in_engine)
        engine_cancel(choice->call->job.api->model.engine, choice->request);
    choice->is_enough = true;
}

void api_call_fail_memory(ApiCall *call) {
    if (!call->job.error.status)
        api_fail_account(&call->job.error, call->job.account);
    api_call_cancel(&call->job);
}

/* answers */

ApiUsage api_call_usage(const ApiCall *call) {
    uint32_t n = call->job.params.best_of;
    ApiUsage usage = { .n_prompt = 0 };

    for (uint32_t i = 0; i < call->n_choices; i++) {
        usage.n_output += call->choices[i].n_output;
        usage.n_reasoning += call->choices[i].output.n_reasoning_tokens;
        if (i % n) /* choices of one prompt share it */
            continue;
        usage.n_prompt += call->choices[i].prompt->ids.n;
        usage.n_cached += call->choices[i].n_cached;
    }
    return usage;
}

static double mean_logprob(const ApiChoice *choice) {
    return choice->n_output ? choice->logprob_sum / choice->n_output : 0;
}

/* The higher log probability per token first, as OpenAI has it; of equals the earlier one. */
static int compare_choices(const void *a, const void *b) {
    const ApiChoice *x = a, *y = b;
    double x_mean = mean_logprob(x), y_mean = mean_logprob(y);

    if (x_mean != y_mean)
        return x_mean > y_mean ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* best_of: puts the n best of each prompt first, and numbers them anew. All must have ended. */
static void rank_choices(ApiCall *call) {
    uint32_t n = call->job.params.n, n_made = call->job.params.best_of;

    for (uint32_t i = 0; i < call->n_choices; i += n_made) {
        qsort(call->choices + i, n_made, sizeof(*call->choices), compare_choices);
        for (uint32_t j = 0; j < n; j++)
            call->choices[i + j].index = i / n_made * n + j;
    }
}

static void answer_whole(ApiCall *call) {
    CLEANUP(buffer_deinit) Buffer body = { .account = call->job.account };
    const ApiParams *params = &call->job.params;
    JsonWriter w = JSON_WRITER(&body);

    if (is_ranked(params))
        rank_choices(call);
    kind_of(call)->put_answer(&w, call);
    if (buffer_failed(&body)) {
        api_call_fail_memory(call);
        api_job_reply_error(&call->job, &call->job.error);
    } else {
        api_reply_json(TAKE(call->job.exchange), 200, &body);
    }
}

/* streams */

void api_call_send(ApiCall *call, const Buffer *events) {
    HttpExchange *exchange = call->job.exchange;

    if (buffer_failed(events)) {
        fail(call, 503, "The server ran out of memory.");
        return;
    }
    if (!exchange || call->cut)
        return;
    if (!exchange->streaming)
        http_exchange_begin(exchange, "text/event-stream; charset=utf-8");
    if (!http_exchange_write(exchange, events->data, events->size))
        return;
    call->cut = true;
    api_call_cancel(&call->job);
}

static void end_stream(ApiCall *call) {
    kind_of(call)->end_stream(call);
    http_exchange_end(TAKE(call->job.exchange));
}

static void end_call(ApiCall *call) {
    ApiJob *job = &call->job;

    if (job->error.limit_name)
        metrics_count_refusal(&job->api->metrics, job->error.limit_name);
    if (job->exchange && job->exchange->streaming)
        end_stream(call);
    else if (job->exchange && job->error.status)
        api_job_reply_error(job, &job->error);
    else if (job->exchange)
        answer_whole(call);
    api_job_finish(job);
}

/* events */

static bool ended_by_itself(FinishReason finish) {
    return finish == FINISH_STOP || finish == FINISH_LENGTH;
}

static void observe(ApiChoice *choice, const EngineEvent *event) {
    Metrics *m = &choice->call->job.api->metrics;
    uint64_t arrival_ns = choice->call->job.arrival_ns;

    if (event->n_tokens && !choice->last_token_ns)
        histogram_observe(&m->first_token_s, (double)(event->first_token_ns - arrival_ns) / 1e9);
    else if (event->n_tokens)
        histogram_observe(&m->next_token_s,
                          (double)(event->event_ns - choice->last_token_ns) / 1e9);
    if (event->n_tokens)
        choice->last_token_ns = event->event_ns;
    if (event->finish == FINISH_NONE)
        return;
    m->finished[event->finish]++;
    if (ended_by_itself(event->finish))
        metrics_count_sequence(m, &(SequenceFigures){ .arrival_ns = arrival_ns,
                                                      .admitted_ns = event->admitted_ns,
                                                      .first_token_ns = event->first_token_ns,
                                                      .end_ns = event->event_ns,
                                                      .n_prompt = choice->request->n_prompt,
                                                      .n_cached = event->n_cached,
                                                      .n_output = event->n_output,
                                                      .max_tokens = choice->request->max_tokens });
}

/* What vLLM counts as one request: a prompt with all its sequences. */
static void observe_prompts(const ApiCall *call) {
    const ApiParams *params = &call->job.params;

    for (uint32_t i = 0; i < call->n_choices; i += params->best_of) {
        uint32_t n_output_max = 0, n_ended = 0;

        for (uint32_t j = i; j < i + params->best_of; j++) {
            const ApiChoice *choice = &call->choices[j];

            n_ended += ended_by_itself(choice->finish);
            n_output_max = choice->n_output > n_output_max ? choice->n_output : n_output_max;
        }
        if (n_ended == params->best_of)
            metrics_count_prompt(&call->job.api->metrics, params->n, n_output_max);
    }
}

static void keep_logprobs(ApiChoice *choice, EngineEvent *event) {
    if (event->prompt_logprobs) {
        choice->prompt_logprobs = TAKE(event->prompt_logprobs);
        choice->n_prompt_logprobs = event->n_prompt_logprobs;
    }
    if (!event->logprobs)
        return;
    for (uint32_t i = 0; i < event->n_tokens; i++)
        choice->logprob_sum += (double)event->logprobs[i].logprob;
    if (choice->call->job.params.n_logprobs >= 0)
        buffer_append(&choice->logprobs, event->logprobs,
                      event->n_tokens * sizeof(*event->logprobs));
}

const TokenLogprob *api_choice_logprobs(const ApiChoice *choice, size_t *np) {
    *np = choice->logprobs.size / sizeof(TokenLogprob);
    return (const TokenLogprob *)(const void *)choice->logprobs.data;
}

static void take_content(ApiChoice *choice, EngineEvent *event) {
    ApiCall *call = choice->call;

    if (!call->job.exchange || call->job.error.status || call->cut)
        return;
    if (call->job.params.stream) {
        kind_of(call)->stream_event(choice, event);
        return;
    }
    keep_logprobs(choice, event);
    if (kind_of(call)->keep_text(choice, event) || buffer_failed(&choice->logprobs))
        api_call_fail_memory(call);
}

static void take_end(ApiChoice *choice, const EngineEvent *event) {
    choice->in_engine = false;
    choice->call->n_in_engine--;
    if (event->finish == FINISH_NO_MEMORY)
        api_call_fail_memory(choice->call);
    else if (event->finish == FINISH_ERROR)
        fail(choice->call, 500, event->error);
    else if (event->finish == FINISH_CANCELLED && choice->call->job.exchange && !choice->call->cut)
        fail(choice->call, 503, "The server is going down and ended this request.");
}

/* A stop string that is a special token stops by that token, which may end the answer anyway. */
static void name_stop(ApiChoice *choice, const EngineEvent *event) {
    const char *stop;

    if (event->finish != FINISH_STOP || !event->n_tokens)
        return;
    stop = api_stops_find_text(choice->call->job.context.tokenizer, event->request->stops,
                               event->tokens[event->n_tokens - 1]);
    if (!stop)
        return;
    choice->stop_text = stop;
    choice->stop_token = TOKEN_NONE;
}

void api_call_take_event(EngineEvent *event) {
    ApiChoice *choice = event->request->owner;
    ApiCall *call = choice->call;

    choice->n_output = event->n_output;
    choice->n_cached = event->n_cached;
    if (event->finish == FINISH_CANCELLED && choice->is_enough)
        event->finish = FINISH_STOP;
    choice->finish = event->finish;
    choice->stop_text = event->stop_text;
    choice->stop_token = event->stop_token;
    if (event->finish == FINISH_STOP)
        name_stop(choice, event);
    observe(choice, event);
    if (event->finish != FINISH_NONE)
        take_end(choice, event);
    take_content(choice, event);
    if (event->finish != FINISH_NONE) /* with it goes what its sequence was charged with */
        choice->request = engine_request_free(choice->request);
    engine_event_free(event);
    if (call->n_in_engine)
        return;
    observe_prompts(call);
    end_call(call);
}
