/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything is composed when asked for: counters live where they are counted, in the engine, the
 * HTTP server and, for what is seen at a request's end, here. Event loop's thread.
 */
#include "server/api/metrics.h"

#include "kvcache/kv_format.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* vLLM's buckets, seconds. */
static const double first_token_bounds[] = { 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                             0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                             20,    40,    80,   160,  640,  2560 };
static const double output_token_bounds[] = { 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                              0.3,  0.4,   0.5,  0.75,  1,   2.5,  5,
                                              7.5,  10,    20,   40,    80 };
static const double request_bounds[] = { 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                         30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680 };

/* Its buckets of tokens go on like this up to the model's length, where they are cut when written;
 * options allow 2^30. */
static const double token_bounds[] = { 1,   2,   5,   1e1, 2e1, 5e1, 1e2, 2e2, 5e2, 1e3,
                                       2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6,
                                       5e6, 1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9 };
static const double choice_bounds[] = { 1, 2, 5, 10, 20 };

/* Shown from the start, as 0: a rate over a counter that appears with its first count misses it. */
static const char *const known_limits[] = { "max_request_memory", "max_requests_memory",
                                            "max_waiting_requests", "max_waiting_tokens" };

#define HISTOGRAM(_bounds) \
    { .bounds = (_bounds), .n_bounds = sizeof(_bounds) / sizeof(*(_bounds)) }

void metrics_init(Metrics *m) {
    *m = (Metrics){
        .first_token_s = HISTOGRAM(first_token_bounds),
        .next_token_s = HISTOGRAM(output_token_bounds),
        .request_s = HISTOGRAM(request_bounds),
        .queue_s = HISTOGRAM(request_bounds),
        .prefill_s = HISTOGRAM(request_bounds),
        .decode_s = HISTOGRAM(request_bounds),
        .inference_s = HISTOGRAM(request_bounds),
        .mean_token_s = HISTOGRAM(output_token_bounds),
        .prompt_tokens = HISTOGRAM(token_bounds),
        .computed_tokens = HISTOGRAM(token_bounds),
        .generation_tokens = HISTOGRAM(token_bounds),
        .max_tokens = HISTOGRAM(token_bounds),
        .n_choices = HISTOGRAM(choice_bounds),
        .longest_generation_tokens = HISTOGRAM(token_bounds),
        .n_limits = sizeof(known_limits) / sizeof(*known_limits),
    };
    for (uint32_t i = 0; i < m->n_limits; i++)
        m->refused[i].limit_name = known_limits[i];
}

void histogram_observe(Histogram *h, double value) {
    uint32_t i = 0;

    while (i < h->n_bounds && value > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += value;
}

static double seconds(uint64_t from_ns, uint64_t to_ns) {
    return (double)(int64_t)(to_ns - from_ns) / 1e9;
}

void metrics_count_sequence(Metrics *m, const SequenceFigures *f) {
    uint64_t first_ns = f->first_token_ns ? f->first_token_ns : f->end_ns;
    double decode_s = seconds(first_ns, f->end_ns);

    histogram_observe(&m->request_s, seconds(f->arrival_ns, f->end_ns));
    histogram_observe(&m->queue_s, seconds(f->arrival_ns, f->admitted_ns));
    histogram_observe(&m->prefill_s, seconds(f->admitted_ns, first_ns));
    histogram_observe(&m->decode_s, decode_s);
    histogram_observe(&m->inference_s, seconds(f->admitted_ns, f->end_ns));
    histogram_observe(&m->mean_token_s, f->n_output > 1 ? decode_s / (f->n_output - 1) : 0);
    histogram_observe(&m->prompt_tokens, f->n_prompt);
    histogram_observe(&m->computed_tokens, f->n_prompt - f->n_cached);
    histogram_observe(&m->generation_tokens, f->n_output);
    histogram_observe(&m->max_tokens, f->max_tokens);
}

void metrics_count_prompt(Metrics *m, uint32_t n_choices, uint32_t n_output_max) {
    histogram_observe(&m->n_choices, n_choices);
    histogram_observe(&m->longest_generation_tokens, n_output_max);
}

void metrics_count_refusal(Metrics *m, const char *limit_name) {
    uint32_t i = 0;

    while (i < m->n_limits && strcmp(m->refused[i].limit_name, limit_name) != 0)
        i++;
    assert(i < METRICS_LIMITS_MAX);
    if (i == m->n_limits)
        m->refused[m->n_limits++].limit_name = limit_name;
    m->refused[i].n_requests++;
}

/* the format */

typedef struct Writer {
    Buffer *out;
    const char *model; /* escaped */
} Writer;

static void put_family(const Writer *w, const char *name, const char *type, const char *help) {
    buffer_printf(w->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* `labels` come after model_name: ",purpose=\"pages\"", or "". */
static void put_sample(const Writer *w, const char *name, const char *labels, double value) {
    /* vLLM numbers its engines; its dashboards filter by that. */
    const char *engine = strncmp(name, "vllm:", 5) == 0 ? ",engine=\"0\"" : "";

    buffer_printf(w->out, "%s{model_name=\"%s\"%s%s} %.17g\n", name, w->model, engine, labels,
                  value);
}

static void put_gauge(const Writer *w, const char *name, const char *help, double value) {
    put_family(w, name, "gauge", help);
    put_sample(w, name, "", value);
}

static void put_counter(const Writer *w, const char *name, const char *help, uint64_t value) {
    put_family(w, name, "counter", help);
    put_sample(w, name, "", (double)value);
}

static void put_labelled(const Writer *w, const char *name, const char *label, const char *of,
                         double value) {
    char labels[64];

    snprintf(labels, sizeof(labels), ",%s=\"%s\"", label, of);
    put_sample(w, name, labels, value);
}

/* A bound as Prometheus' own clients write it, which dashboards compare as text: "1.0", "0.25",
 * "1e+06". */
static void format_bound(char *labels, size_t size, double bound) {
    char number[32];

    snprintf(number, sizeof(number), "%g", bound);
    snprintf(labels, size, ",le=\"%s%s\"", number, strpbrk(number, ".e") ? "" : ".0");
}

/* Without the buckets above `bound_max`; what they counted is in the last one. */
static void put_buckets(const Writer *w, const char *name, const char *help, const Histogram *h,
                        double bound_max) {
    char part[96], labels[64];
    uint64_t n = 0;

    put_family(w, name, "histogram", help);
    snprintf(part, sizeof(part), "%s_bucket", name);
    for (uint32_t i = 0; i <= h->n_bounds; i++) {
        n += h->counts[i];
        if (i < h->n_bounds && h->bounds[i] > bound_max)
            continue;
        if (i < h->n_bounds)
            format_bound(labels, sizeof(labels), h->bounds[i]);
        else
            snprintf(labels, sizeof(labels), ",le=\"+Inf\"");
        put_sample(w, part, labels, (double)n);
    }
    snprintf(part, sizeof(part), "%s_sum", name);
    put_sample(w, part, "", h->sum);
    snprintf(part, sizeof(part), "%s_count", name);
    put_sample(w, part, "", (double)n);
}

static void put_histogram(const Writer *w, const char *name, const char *help, const Histogram *h) {
    put_buckets(w, name, help, h, INFINITY);
}

/* the families */

static void put_engine(const Writer *w, Engine *engine) {
    static const char by_reason[] = "vllm:num_requests_waiting_by_reason";
    const Ledger *ledger = engine_ledger(engine);
    EngineStats *stats = engine_stats(engine);
    char labels[96];

    put_gauge(w, "vllm:num_requests_running", "Sequences that are being computed.",
              atomic_load(&stats->n_running));
    put_gauge(w, "vllm:num_requests_waiting", "Sequences that wait for a place.",
              atomic_load(&stats->n_waiting));
    /* None is held back for another reason. */
    put_family(w, by_reason, "gauge", "Sequences that wait for a place, by why.");
    put_labelled(w, by_reason, "reason", "capacity", atomic_load(&stats->n_waiting));
    put_labelled(w, by_reason, "reason", "deferred", 0);
    put_gauge(w, "vllm:kv_cache_usage_perc", "Part of the KV pages in use; 1 is all.",
              (double)atomic_load(&stats->pages_used) / ledger->n_pages);
    put_counter(w, "vllm:prompt_tokens_total", "Prompt tokens processed.",
                atomic_load(&stats->prompt_tokens));
    put_counter(w, "vllm:generation_tokens_total", "Tokens generated.",
                atomic_load(&stats->generation_tokens));
    put_counter(w, "vllm:prefix_cache_queries_total", "Tokens looked for in the prefix cache.",
                atomic_load(&stats->prefix_query_tokens));
    put_counter(w, "vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.",
                atomic_load(&stats->prefix_hit_tokens));
    put_counter(w, "vllm:prompt_tokens_cached_total", "Prompt tokens that were not computed anew.",
                atomic_load(&stats->prefix_hit_tokens));
    put_counter(w, "vllm:num_preemptions_total", "Sequences put back for want of pages.",
                atomic_load(&stats->preemptions));
    put_counter(w, "kvasir_steps_total", "Steps of the model.", atomic_load(&stats->steps));

    put_family(w, "vllm:cache_config_info", "gauge", "The KV cache: tokens a page, pages.");
    snprintf(labels, sizeof(labels), ",block_size=\"%d\",num_gpu_blocks=\"%" PRIu32 "\"",
             KV_PAGE_TOKENS, ledger->n_pages);
    put_sample(w, "vllm:cache_config_info", labels, 1);
}

/* Status boards made for vLLM ask whether an engine sleeps; this one never does. */
static void put_sleep(const Writer *w) {
    static const char name[] = "vllm:engine_sleep_state";

    put_family(w, name, "gauge", "Whether the model is there to answer: awake is 1.");
    put_labelled(w, name, "sleep_state", "awake", 1);
    put_labelled(w, name, "sleep_state", "weights_offloaded", 0);
    put_labelled(w, name, "sleep_state", "discard_all", 0);
}

static void put_steps(const Writer *w, EngineStats *stats) {
    double bounds[ENGINE_STEP_BOUNDS];
    Histogram h = { .bounds = bounds,
                    .n_bounds = ENGINE_STEP_BOUNDS,
                    .sum = (double)atomic_load(&stats->step_tokens) };

    for (uint32_t i = 0; i < ENGINE_STEP_BOUNDS; i++)
        bounds[i] = engine_step_bounds[i];
    for (uint32_t i = 0; i <= ENGINE_STEP_BOUNDS; i++)
        h.counts[i] = atomic_load(&stats->steps_by_tokens[i]);
    put_histogram(w, "vllm:iteration_tokens_total", "Tokens that one step computed.", &h);
}

static void put_ledger(const Writer *w, const Ledger *ledger) {
    static const char name[] = "kvasir_memory_bytes";

    put_family(w, name, "gauge", "Memory of the model's device, by purpose.");
    put_labelled(w, name, "purpose", "weights", (double)ledger->weights_bytes);
    put_labelled(w, name, "purpose", "workspace", (double)ledger->workspace_bytes);
    put_labelled(w, name, "purpose", "kv_pages", (double)ledger->pages_bytes);
    put_labelled(w, name, "purpose", "kv_tails", (double)ledger->tails_bytes);
    put_labelled(w, name, "purpose", "kv_sinks", (double)ledger->sinks_bytes);
    put_labelled(w, name, "purpose", "kv_roundings", (double)ledger->roundings_bytes);
    put_labelled(w, name, "purpose", "kv_transforms", (double)ledger->transforms_bytes);
    put_labelled(w, name, "purpose", "kv_padding", (double)ledger->padding_bytes);
    put_labelled(w, name, "purpose", "prefix_index", (double)ledger->index_bytes);
    put_gauge(w, "kvasir_kv_bits_per_element", "Bits of a sealed element, with its metadata.",
              ledger->bits);
}

static void put_plan(const Writer *w, const KvPlan *plan, uint32_t n_layers, double expected_kld) {
    static const char name[] = "kvasir_kv_bits";
    char labels[64];

    put_family(w, name, "gauge", "Bits of a code of sealed keys or values; 16: they are floats.");
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++) {
            snprintf(labels, sizeof(labels), ",layer=\"%" PRIu32 "\",side=\"%c\"", layer,
                     side == KV_SIDE_K ? 'k' : 'v');
            put_sample(w, name, labels, kv_formats[plan->formats[layer][side]].bits);
        }
    put_gauge(
        w, "kvasir_kv_expected_kld",
        "Expected KL divergence from an f16 cache, nats a token, by what is known of the model.",
        expected_kld);
}

static void put_profile(const Writer *w, const Profile *profile) {
    put_gauge(w, "kvasir_profile_tokens", "Tokens that the profile keys are rounded by rests on.",
              (double)profile->n_tokens);
    put_gauge(w, "kvasir_profile_tokens_wanted",
              "Tokens that it was to rest on; more: the next start goes on with it.",
              (double)profile->n_tokens_wanted);
}

static void put_times(const Writer *w, const Metrics *m) {
    put_histogram(w, "vllm:time_to_first_token_seconds", "From arrival to the first token.",
                  &m->first_token_s);
    /* vLLM's newer name, and the one it had before. */
    put_histogram(w, "vllm:inter_token_latency_seconds",
                  "Between one token of a sequence and the next.", &m->next_token_s);
    put_histogram(w, "vllm:time_per_output_token_seconds",
                  "Between one token of a sequence and the next.", &m->next_token_s);
    put_histogram(w, "vllm:e2e_request_latency_seconds", "From arrival to the last token.",
                  &m->request_s);
    put_histogram(w, "vllm:request_queue_time_seconds",
                  "From arrival to when a sequence first ran.", &m->queue_s);
    put_histogram(w, "vllm:request_prefill_time_seconds",
                  "From when a sequence first ran to its first token.", &m->prefill_s);
    put_histogram(w, "vllm:request_decode_time_seconds",
                  "From a sequence's first token to its last.", &m->decode_s);
    put_histogram(w, "vllm:request_inference_time_seconds",
                  "From when a sequence first ran to its last token.", &m->inference_s);
    put_histogram(w, "vllm:request_time_per_output_token_seconds",
                  "A sequence's mean time between two tokens; 0 where it has only one.",
                  &m->mean_token_s);
}

static void put_sizes(const Writer *w, const Metrics *m, uint32_t max_model_len) {
    put_buckets(w, "vllm:request_prompt_tokens", "Tokens of a sequence's prompt.",
                &m->prompt_tokens, max_model_len);
    put_buckets(w, "vllm:request_prefill_kv_computed_tokens",
                "Tokens of a sequence's prompt that were not in the prefix cache.",
                &m->computed_tokens, max_model_len);
    put_buckets(w, "vllm:request_generation_tokens", "Tokens that a sequence generated.",
                &m->generation_tokens, max_model_len);
    put_buckets(w, "vllm:request_max_num_generation_tokens",
                "Tokens of the longest of a prompt's sequences.", &m->longest_generation_tokens,
                max_model_len);
    put_buckets(w, "vllm:request_params_max_tokens", "Tokens that a sequence could generate.",
                &m->max_tokens, max_model_len);
    put_histogram(w, "vllm:request_params_n", "Choices that a prompt was to have.", &m->n_choices);
}

static void put_refused(const Writer *w, const Metrics *m) {
    static const char name[] = "kvasir_requests_refused_total";

    put_family(w, name, "counter", "Requests that a limit refused, by the option that sets it.");
    for (uint32_t i = 0; i < m->n_limits; i++)
        put_labelled(w, name, "limit", m->refused[i].limit_name, (double)m->refused[i].n_requests);
}

static void put_finished(const Writer *w, const Metrics *m) {
    static const char name[] = "vllm:request_success_total";

    put_family(w, name, "counter", "Sequences that ended, by how.");
    put_labelled(w, name, "finished_reason", "stop", (double)m->finished[FINISH_STOP]);
    put_labelled(w, name, "finished_reason", "length", (double)m->finished[FINISH_LENGTH]);
    put_labelled(w, name, "finished_reason", "abort", (double)m->finished[FINISH_CANCELLED]);
    put_labelled(w, name, "finished_reason", "error",
                 (double)(m->finished[FINISH_ERROR] + m->finished[FINISH_NO_MEMORY]));
}

static void put_http(const Writer *w, const HttpServer *http) {
    const HttpStats *s = &http->stats;
    static const char ended[] = "kvasir_http_connections_ended_total";
    static const char responses[] = "kvasir_http_responses_total";

    put_gauge(w, "kvasir_http_open_connections", "Open connections.", http->n_connections);
    put_counter(w, "kvasir_http_connections_accepted_total", "Connections accepted.",
                s->n_accepted);
    put_family(w, ended, "counter", "Connections that a limit or the client ended early, by why.");
    put_labelled(w, ended, "reason", "max_connections", (double)s->n_refused);
    put_labelled(w, ended, "reason", "displaced", (double)s->n_displaced);
    put_labelled(w, ended, "reason", "idle_timeout", (double)s->n_idle_timeouts);
    put_labelled(w, ended, "reason", "read_timeout", (double)s->n_read_timeouts);
    put_labelled(w, ended, "reason", "write_timeout", (double)s->n_write_timeouts);
    put_labelled(w, ended, "reason", "stream_buffer", (double)s->n_overflows);
    put_labelled(w, ended, "reason", "client_gone", (double)s->n_gone);
    put_family(w, responses, "counter", "Answers, by status.");
    for (unsigned status = 0; status < HTTP_STATUS_END; status++) {
        char code[8];

        if (!s->responses[status])
            continue;
        snprintf(code, sizeof(code), "%u", status);
        put_labelled(w, responses, "code", code, (double)s->responses[status]);
    }
}

/* A label's value: backslash, quote and line end are escaped. */
static void escape_label(Buffer *out, const char *text) {
    for (; *text; text++) {
        if (*text == '\n')
            buffer_append_text(out, "\\n");
        else if (*text == '"' || *text == '\\')
            buffer_printf(out, "\\%c", *text);
        else
            buffer_append_char(out, *text);
    }
}

static void put_grammars(const Writer *w, GrammarEngine *grammars) {
    GrammarStats stats;

    grammar_engine_stats(grammars, &stats);
    put_counter(w, "kvasir_grammars_compiled_total", "Grammars compiled for structured output.",
                stats.n_compiled);
    put_counter(w, "kvasir_grammars_refused_total", "Grammars that could not be compiled.",
                stats.n_failed);
    put_counter(w, "kvasir_grammar_cache_hits_total", "Grammars that were found compiled.",
                stats.n_cache_hits);
    put_family(w, "kvasir_grammar_compile_seconds_total", "counter",
               "Time that compiling grammars took.");
    put_sample(w, "kvasir_grammar_compile_seconds_total", "", stats.compile_s);
    put_gauge(w, "kvasir_grammar_cache_bytes", "Memory of compiled grammars, used or kept.",
              (double)stats.cache_bytes);
    put_gauge(w, "kvasir_grammar_vocabulary_bytes", "Memory of the vocabulary for grammars.",
              (double)stats.vocab_bytes);
}

void metrics_write(Buffer *out, const Metrics *m, const MetricsSources *sources) {
    CLEANUP(buffer_deinit) Buffer model = BUFFER_NULL;
    Writer w = { .out = out };

    escape_label(&model, sources->model_name);
    w.model = buffer_text(&model);
    if (sources->engine) {
        put_engine(&w, sources->engine);
        put_sleep(&w);
        put_steps(&w, engine_stats(sources->engine));
        put_ledger(&w, engine_ledger(sources->engine));
        put_sizes(&w, m, engine_max_model_len(sources->engine));
    }
    if (sources->engine && sources->plan)
        put_plan(&w, sources->plan, engine_n_layers(sources->engine), sources->expected_kld);
    if (sources->profile)
        put_profile(&w, sources->profile);
    if (sources->requests)
        put_gauge(&w, "kvasir_requests_memory_bytes", "Memory that requests take.",
                  (double)atomic_load(&sources->requests->used));
    if (sources->grammars)
        put_grammars(&w, sources->grammars);
    put_times(&w, m);
    put_finished(&w, m);
    put_refused(&w, m);
    put_http(&w, sources->http);
}
