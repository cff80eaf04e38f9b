/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/bench_grammar.h"

#include "backend/uniform_draw.h"
#include "text/tool_tags.h"
#include "util/clock.h"
#include "util/json_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PARTS 24 /* of 8 lines each */
#define SAMPLES 4000
#define SEED 1

static const char tools_text[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"look_up\", \"parameters\": "
    "{\"type\": \"object\", \"properties\": {\"key\": {\"type\": \"string\"}}}}}]";

/* As a program would write it, a member a line. */
static uint32_t write_schema(Buffer *out) {
    uint32_t n_lines = 0;

    buffer_append_text(out, "{\n\"type\": \"object\",\n\"properties\": {\n");
    for (uint32_t i = 0; i < PARTS; i++)
        buffer_printf(out,
                      "\"part_%u\": {\n\"type\": \"object\",\n\"properties\": {\n"
                      "\"name\": {\"type\": \"string\", \"maxLength\": 40},\n"
                      "\"count\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": %u},\n"
                      "\"kind\": {\"enum\": [\"new\", \"used\", \"kind %u\"]},\n"
                      "\"tags\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}}},\n"
                      "\"required\": [\"name\", \"count\", \"kind\"]}%s\n",
                      i, 100 * (i + 1), i, i + 1 < PARTS ? "," : "");
    buffer_append_text(out, "},\n\"required\": [\"part_0\", \"part_1\", \"part_2\"],\n"
                            "\"additionalProperties\": false\n}\n");
    for (size_t i = 0; i < out->size; i++)
        n_lines += out->data[i] == '\n';
    return n_lines;
}

/* One of the tokens in the mask, at random; TOKEN_NONE: there is none. */
static uint32_t choose(const uint32_t *mask, uint32_t n_vocab, uint32_t i_draw) {
    uint32_t start = (uint32_t)(uniform_draw(SEED, i_draw) * n_vocab);

    for (uint32_t i = 0; i < n_vocab; i++) {
        uint32_t id = (start + i) % n_vocab;

        if (mask[id / 32] >> id % 32 & 1)
            return id;
    }
    return TOKEN_NONE;
}

/* Begins a text anew where one has ended. */
static int follow_texts(Grammar *grammar, uint32_t n_vocab, uint32_t *mask, double *seconds) {
    CLEANUP(grammar_matcher_free) GrammarMatcher *matcher = NULL;
    int r = grammar_matcher_new(&matcher, grammar, NULL);

    if (!r)
        r = grammar_matcher_fill(matcher, mask);
    for (uint32_t i = 0; !r && i < SAMPLES; i++) {
        uint32_t token = choose(mask, n_vocab, i);
        double begin_s = clock_s();

        r = grammar_matcher_accept(matcher, token);
        if (!r && grammar_matcher_is_terminated(matcher)) {
            matcher = grammar_matcher_free(matcher);
            r = grammar_matcher_new(&matcher, grammar, NULL);
        }
        if (!r)
            r = grammar_matcher_fill(matcher, mask);
        seconds[i] = clock_s() - begin_s;
    }
    return r;
}

static int compare(const void *a, const void *b) {
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Times of one grammar's masks, in seconds. */
typedef struct MaskTimes {
    double compile, mean, p50, p99;
} MaskTimes;

static int measure(GrammarEngine *engine, GrammarKind kind, const Buffer *text, MaskTimes *out,
                   Reason *why) {
    CLEANUP(free)
    uint32_t *mask = calloc(grammar_mask_words(grammar_engine_n_vocab(engine)), sizeof(*mask));
    CLEANUP(free) double *seconds = calloc(SAMPLES, sizeof(*seconds));
    CLEANUP(grammar_unref) Grammar *grammar = NULL;
    double begin_s = clock_s();
    int r;

    if (buffer_failed(text) || !mask || !seconds)
        return reason_set(why, -ENOMEM, "out of memory");
    r = grammar_compile(engine, kind, buffer_text(text), text->size, NULL, &grammar, why);
    out->compile = clock_s() - begin_s;
    if (!r)
        r = follow_texts(grammar, grammar_engine_n_vocab(engine), mask, seconds);
    if (r)
        return reason_prefix(why, r < 0 ? r : -EINVAL, "the grammar that is measured: ");
    for (uint32_t i = 0; i < SAMPLES; i++)
        out->mean += seconds[i] / SAMPLES;
    qsort(seconds, SAMPLES, sizeof(*seconds), compare);
    out->p50 = seconds[SAMPLES / 2];
    out->p99 = seconds[SAMPLES * 99 / 100];
    return 0;
}

static int measure_schema(GrammarEngine *engine, BenchGrammar *out, Reason *why) {
    CLEANUP(buffer_deinit) Buffer schema = BUFFER_NULL;
    MaskTimes times = { .mean = 0 };
    GrammarStats stats;
    int r;

    out->n_lines = write_schema(&schema);
    r = measure(engine, GRAMMAR_JSON_SCHEMA, &schema, &times, why);
    if (r)
        return r;
    grammar_engine_stats(engine, &stats);
    out->compiled_bytes = (double)stats.cache_bytes;
    out->compile_s = times.compile;
    out->mask_mean_s = times.mean;
    out->mask_p50_s = times.p50;
    out->mask_p99_s = times.p99;
    return 0;
}

static int measure_free_text(GrammarEngine *engine, BenchGrammar *out, Reason *why) {
    CLEANUP(json_unref) json_t *tools = NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    ToolDemand demand = { .family = tool_family_find("hermes"), .parallel = true };
    MaskTimes times = { .mean = 0 };
    int r = json_parse(&tools, tools_text, strlen(tools_text), 0, why);

    if (r)
        return r;
    demand.tools = tools;
    (void)tool_tags_write(&demand, &text); /* `text` has failed then */
    r = measure(engine, GRAMMAR_TAGS, &text, &times, why);
    out->free_p50_s = times.p50;
    out->free_p99_s = times.p99;
    return r;
}

int bench_grammar(const Session *session, const Config *config, BenchGrammar *out, Reason *why) {
    const GrammarLimits limits = { .text_bytes = 1 << 20,
                                   .compile_ms = 600000,
                                   .compile_bytes = UINT64_C(8) << 30,
                                   .compiled_bytes = UINT64_C(1) << 30,
                                   .cache_bytes = UINT64_C(1) << 30 };
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    GrammarEngine *engine = NULL;
    EndOfTurn ends = { .n_ids = 0 };
    Reason doubt = REASON_NULL;
    int r;

    *out = (BenchGrammar){ .n_vocab = session->config->n_vocab };
    r = tokenizer_open(&tokenizer, config->model, why);
    if (r == -ENOENT) /* token ids alone can be measured */
        return 0;
    if (r)
        return r;
    end_of_turn_find(&ends, tokenizer, checkpoint_generation(session->checkpoint), &doubt);
    r = grammars_open(&engine, tokenizer, session->checkpoint, &ends, &limits, NULL, why);
    out->is_built = engine;
    if (!r && engine)
        r = measure_schema(engine, out, why);
    if (!r && engine)
        r = measure_free_text(engine, out, why);
    grammar_engine_free(engine);
    return r;
}
