/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What /metrics shows, in Prometheus' text format. Names and buckets that vLLM has are vLLM's, so
 * that routers and dashboards made for it work: gauges of the queue and the cache, token counters,
 * latency histograms. What only this server has begins with kvasir_.
 */

#include "grammar/grammar.h"
#include "server/engine/engine.h"
#include "server/http/http_server.h"
#include "util/account.h"
#include "util/buffer.h"

#define HISTOGRAM_BOUNDS_MAX 32
#define METRICS_LIMITS_MAX 16

typedef struct Histogram {
    const double *bounds; /* [n_bounds], rising; static */
    uint32_t n_bounds;
    uint64_t counts[HISTOGRAM_BOUNDS_MAX + 1]; /* of each bucket alone; the last: above all */
    double sum;
} Histogram;

typedef struct Metrics {
    /* Of each token. */
    Histogram first_token_s, next_token_s;
    /* Of each sequence that came to its end by itself. */
    Histogram request_s, queue_s, prefill_s, decode_s, inference_s, mean_token_s;
    Histogram prompt_tokens, computed_tokens, generation_tokens, max_tokens;
    /* Of each prompt all of whose sequences did. */
    Histogram n_choices, longest_generation_tokens;
    uint64_t finished[FINISH_ERROR + 1]; /* sequences, by FinishReason */
    struct {
        const char *limit_name; /* static */
        uint64_t n_requests;
    } refused[METRICS_LIMITS_MAX]; /* [n_limits] */
    uint32_t n_limits;
} Metrics;

void metrics_init(Metrics *metrics);
void histogram_observe(Histogram *histogram, double value);

/* A sequence that ended by stop or length. Times are CLOCK_MONOTONIC. */
typedef struct SequenceFigures {
    uint64_t arrival_ns, admitted_ns, end_ns;
    uint64_t first_token_ns; /* 0: it generated none */
    uint32_t n_prompt;
    uint32_t n_cached; /* of the prompt's tokens: computed by others before */
    uint32_t n_output, max_tokens;
} SequenceFigures;

void metrics_count_sequence(Metrics *metrics, const SequenceFigures *figures);
/* A prompt whose n choices have all ended so, the longest with n_output_max tokens. */
void metrics_count_prompt(Metrics *metrics, uint32_t n_choices, uint32_t n_output_max);
/* A request that a limit refused; `limit_name` is the option's name, a static text. There are at
 * most METRICS_LIMITS_MAX of them. */
void metrics_count_refusal(Metrics *metrics, const char *limit_name);

/* Where the rest comes from; all borrowed. */
typedef struct MetricsSources {
    const char *model_name;
    Engine *engine;         /* NULL while loading */
    const Profile *profile; /* that keys are rounded by; NULL: none */
    const KvPlan *plan;     /* of the engine's cache; NULL: not told */
    double expected_kld;    /* of that plan, nats a token */
    const HttpServer *http;
    GrammarEngine *grammars; /* NULL: none */
    Account *requests;       /* of the memory that requests take; NULL: not counted */
} MetricsSources;

void metrics_write(Buffer *out, const Metrics *metrics, const MetricsSources *sources);
