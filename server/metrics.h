/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What /metrics shows, in Prometheus' text format. Names and buckets that vLLM has are vLLM's, so
 * that routers and dashboards made for it work: gauges of the queue and the cache, token counters,
 * latency histograms. What only this server has begins with kvasir_.
 */

#include "server/engine.h"
#include "server/http_server.h"
#include "util/buffer.h"

#define HISTOGRAM_BOUNDS_MAX 24

typedef struct Histogram {
    const double *bounds; /* [n_bounds], rising; static */
    uint32_t n_bounds;
    uint64_t counts[HISTOGRAM_BOUNDS_MAX + 1]; /* of each bucket alone; the last: above all */
    double sum;
} Histogram;

typedef struct Metrics {
    Histogram first_token_s, output_token_s, request_s;
    uint64_t finished[FINISH_ERROR + 1]; /* sequences, by FinishReason */
} Metrics;

void metrics_init(Metrics *metrics);
void histogram_observe(Histogram *histogram, double value);

/* Where the rest comes from; all borrowed. */
typedef struct MetricsSources {
    const char *model_name;
    Engine *engine; /* NULL while loading */
    const HttpServer *http;
} MetricsSources;

void metrics_write(Buffer *out, const Metrics *metrics, const MetricsSources *sources);
