/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over the members of the body, each looked up in the table; then the checks that concern
 * several parameters at once (api_params_check.c). Pure: no server state.
 *
 * Names and bounds are OpenAI's, and vLLM's for what OpenAI does not have. Hints are about who asks
 * and how to serve, and change no answer's meaning: their type is checked and their value dropped.
 * Rows of PARAM_FIXED are known but not supported: they may be sent with the values that change
 * nothing, as clients do.
 */
#include "server/api/api_params_check.h"

#include "server/api/api_tools.h"
#include "util/json.h"
#include "util/log.h"
#include "util/nearest.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define DESCRIPTION_BYTES_MAX 64
#define TOP_K_MAX UINT32_MAX

#define GENERATES (API_COMPLETIONS | API_CHAT)
#define RENDERS (API_CHAT | API_TOKENIZE)

typedef enum ParamType {
    PARAM_BOOL,   /* bool */
    PARAM_FLAG,   /* int: 0 or 1, -1 where not given */
    PARAM_U32,    /* uint32_t */
    PARAM_INT,    /* int */
    PARAM_I64,    /* int64_t */
    PARAM_FLOAT,  /* float */
    PARAM_TEXT,   /* const char * */
    PARAM_ARRAY,  /* const json_t * */
    PARAM_OBJECT, /* const json_t * */
    PARAM_ANY,    /* const json_t *: looked at later */
    PARAM_CUSTOM, /* `read` does it */
    PARAM_FIXED,  /* one of `allowed` only, which changes nothing */
} ParamType;

typedef struct Reading {
    ApiParams *params;
    const ApiParamsContext *context;
    ApiError *error;
} Reading;

typedef struct Param {
    const char *name;
    unsigned endpoints;
    ParamType type;
    size_t offset; /* in ApiParams */
    double min, max;
    bool above_min; /* min itself is out of bounds */
    bool is_hint;   /* goes nowhere */
    int (*read)(const Reading *reading, const char *name, const json_t *value);
    const char *allowed; /* a JSON array */
} Param;

static int wrong(const Reading *r, const char *name, const json_t *value, const char *expected) {
    char found[DESCRIPTION_BYTES_MAX];

    return api_refuse(r->error, name, "`%s` must be %s; it is %s.", name, expected,
                      json_describe(value, found, sizeof(found)));
}

/* custom readers */

static int read_model(const Reading *r, const char *name, const json_t *value) {
    if (!json_is_string(value))
        return wrong(r, name, value, "a string");
    r->params->model = json_string_value(value);
    return strlen(r->params->model) == json_string_length(value)
               ? 0
               : wrong(r, name, value, "a string without NUL");
}

static int read_cache_salt(const Reading *r, const char *name, const json_t *value) {
    r->params->cache_salt = json_string_value(value);
    return json_string_length(value) && strlen(r->params->cache_salt) == json_string_length(value)
               ? 0
               : wrong(r, name, value, "a string, not empty and without NUL");
}

static int read_choices(const Reading *r, const char *name, const json_t *value, uint32_t *out) {
    uint32_t max = r->context->limits.choices_max;
    int64_t n;

    if (!json_as_i64(value, 1, max, &n)) {
        char expected[96];

        snprintf(expected, sizeof(expected), "a whole number from 1 to %u (option max_choices)",
                 max);
        return wrong(r, name, value, expected);
    }
    *out = (uint32_t)n;
    return 0;
}

static int read_n(const Reading *r, const char *name, const json_t *value) {
    return read_choices(r, name, value, &r->params->n);
}

static int read_best_of(const Reading *r, const char *name, const json_t *value) {
    return read_choices(r, name, value, &r->params->best_of);
}

static int read_top_k(const Reading *r, const char *name, const json_t *value) {
    int64_t k;

    if (!json_as_i64(value, -1, TOP_K_MAX, &k))
        return wrong(r, name, value, "a whole number from -1 (-1 and 0: all)");
    r->params->sample.top_k = k > 0 ? (uint32_t)k : 0;
    return 0;
}

static int read_seed(const Reading *r, const char *name, const json_t *value) {
    int64_t seed;

    if (!json_as_i64(value, INT64_MIN, INT64_MAX, &seed))
        return wrong(r, name, value, "a whole number of 64 bits");
    r->params->sample.seed = (uint64_t)seed;
    r->params->has_seed = true;
    return 0;
}

static bool is_stop_string(const json_t *value) {
    return json_is_string(value) && json_string_length(value) &&
           strlen(json_string_value(value)) == json_string_length(value);
}

static int read_stop(const Reading *r, const char *name, const json_t *value) {
    static const char expected[] = "a string or an array of strings, none empty or with NUL in it";
    uint32_t max = r->context->limits.stops_max;
    size_t i;
    const json_t *item;

    if (json_is_array(value) && json_array_size(value) > max)
        return api_refuse(r->error, name,
                          "`%s` has %zu strings; at most %u are allowed (option "
                          "max_stops).",
                          name, json_array_size(value), max);
    if (json_is_string(value) ? !is_stop_string(value) : !json_is_array(value))
        return wrong(r, name, value, expected);
    json_array_foreach(value, i, item)
        if (!is_stop_string(item))
            return wrong(r, name, item, expected);
    r->params->stops = value;
    return 0;
}

static int read_stop_tokens(const Reading *r, const char *name, const json_t *value) {
    ApiParams *p = r->params;
    uint32_t max = r->context->limits.stops_max;
    size_t i, n = json_array_size(value);
    const json_t *item;

    if (!json_is_array(value))
        return wrong(r, name, value, "an array of token ids");
    if (n > max)
        return api_refuse(r->error, name,
                          "`%s` has %zu ids; at most %u are allowed (option "
                          "max_stops).",
                          name, n, max);
    assert(!p->stop_tokens);
    p->stop_tokens = calloc(n + 1, sizeof(*p->stop_tokens));
    if (!p->stop_tokens)
        return api_fail_memory(r->error);
    json_array_foreach(value, i, item) {
        int64_t id;

        if (!json_as_i64(item, 0, (int64_t)r->context->n_vocab - 1, &id))
            return wrong(r, name, item, "token ids that the model has");
        p->stop_tokens[p->n_stop_tokens++] = (uint32_t)id;
    }
    return 0;
}

/* Whether the key is a number below `n_vocab` as a program would write it: with no zero, sign or
 * space in front. Each token then has one key. */
static bool token_of_key(const json_t *key, uint32_t n_vocab, uint32_t *token) {
    const char *digits = json_string_value(key);
    size_t n = json_string_length(key), i;
    uint64_t id = 0;

    for (i = 0; i < n && digits[i] >= '0' && digits[i] <= '9' && id < n_vocab; i++)
        id = id * 10 + (uint64_t)(digits[i] - '0');
    *token = (uint32_t)id;
    return n && i == n && id < n_vocab && (*digits != '0' || n == 1);
}

static int read_logit_bias(const Reading *r, const char *name, const json_t *value) {
    ApiParams *p = r->params;
    uint32_t n_vocab = r->context->n_vocab;
    char shown[DESCRIPTION_BYTES_MAX];
    const json_t *key, *bias;

    if (!json_is_object(value))
        return wrong(r, name, value, "an object of token ids and biases");
    if (json_object_size(value) > n_vocab)
        return api_refuse(r->error, name, "`%s` has %zu entries; the model has %u tokens.", name,
                          json_object_size(value), n_vocab);
    assert(!p->logit_bias);
    p->logit_bias = calloc(json_object_size(value) + 1, sizeof(*p->logit_bias));
    if (!p->logit_bias)
        return api_fail_memory(r->error);
    p->sample.logit_bias = p->logit_bias;
    json_object_foreach(value, key, bias) {
        LogitBias *to = &p->logit_bias[p->sample.n_logit_bias++];
        double number = json_number_value(bias);

        if (!token_of_key(key, n_vocab, &to->token))
            return api_refuse(r->error, name,
                              "A key of `%s` is %s; keys must be ids of the model's tokens, 0 "
                              "to %u, written without signs, spaces or leading zeros.",
                              name, json_describe(key, shown, sizeof(shown)), n_vocab - 1);
        if (!json_is_number(bias) || !(number >= -100 && number <= 100))
            return wrong(r, name, bias, "an object whose values are numbers from -100 to 100");
        to->bias = (float)number;
    }
    return 0;
}

/* The name of a parser, "auto" or "none". */
static int read_parser(const Reading *r, const char *name, const json_t *value,
                       const char *(*name_at)(size_t i), const char **out) {
    char names[128], expected[160];

    if (json_string_is(value, "auto") || json_string_is(value, "none"))
        *out = json_string_value(value);
    for (size_t i = 0; name_at(i) && !*out; i++)
        if (json_string_is(value, name_at(i)))
            *out = name_at(i);
    if (*out)
        return 0;
    api_tools_list_parsers(names, sizeof(names), name_at);
    snprintf(expected, sizeof(expected), "one of: %s", names);
    return wrong(r, name, value, expected);
}

static int read_reasoning_effort(const Reading *r, const char *name, const json_t *value) {
    r->params->reasoning_effort = value;
    return json_is_string(value) ? 0 : wrong(r, name, value, "a string");
}

/* OpenRouter's: how much to think, and whether the answer is to show it. */
static int read_reasoning(const Reading *r, const char *name, const json_t *value) {
    const json_t *key, *member;

    if (!json_is_object(value))
        return wrong(r, name, value, "an object");
    json_object_foreach(value, key, member) {
        if (json_is_null(member))
            continue;
        if (json_string_is(key, "effort") && json_is_string(member))
            r->params->reasoning_effort = member;
        else if (json_string_is(key, "exclude") && json_is_boolean(member))
            r->params->include_reasoning = !json_is_true(member);
        else
            return api_refuse(r->error, name,
                              "`%s` may have `effort`, a string, and `exclude`, true or false.",
                              name);
    }
    return 0;
}

static int read_tool_call_parser(const Reading *r, const char *name, const json_t *value) {
    return read_parser(r, name, value, api_tools_parser_at, &r->params->tool_call_parser);
}

static int read_reasoning_parser(const Reading *r, const char *name, const json_t *value) {
    return read_parser(r, name, value, api_reasoning_parser_at, &r->params->reasoning_parser);
}

static int read_grammar(const Reading *r, const char *name, const json_t *value) {
    return api_grammar_read(&r->params->grammar, name, value, r->error);
}

/* A name that this endpoint does not have, with a value; at `path` in the body. `near`: what the
 * client may have meant, or NULL. */
static int meet_unknown(const Reading *r, const char *path, const json_t *name, const char *near) {
    char shown[DESCRIPTION_BYTES_MAX];

    json_describe(name, shown, sizeof(shown));
    if (r->context->limits.unknown_taken) {
        log_client_line(LOG_LEVEL_WARNING, "a request has a parameter that nobody knows",
                        "name=%s nearest=%s", shown, near ? near : "none");
        return 0;
    }
    if (near)
        return api_refuse(r->error, path, "There is no parameter %s here; did you mean `%s`?",
                          shown, near);
    return api_refuse(r->error, path,
                      "There is no parameter %s here. Leave it out, or let the server take such "
                      "names with a warning (option unknown_parameters).",
                      shown);
}

static int read_stream_options(const Reading *r, const char *name, const json_t *value) {
    struct {
        const char *name;
        bool *to;
    } members[] = { { "include_usage", &r->params->include_usage },
                    { "continuous_usage_stats", &r->params->continuous_usage },
                    { "include_obfuscation", NULL } }; /* padding that hides lengths: a hint */
    const size_t n_members = sizeof(members) / sizeof(*members);
    const json_t *key, *member;

    if (!json_is_object(value))
        return wrong(r, name, value, "an object");
    r->params->stream_options = value;
    json_object_foreach(value, key, member) {
        Nearest nearest = nearest_begin(json_string_value(key), json_string_length(key));
        char path[2 * sizeof(r->error->param)]; /* which is cut between characters */
        size_t i = 0;

        if (json_is_null(member))
            continue;
        snprintf(path, sizeof(path), "%s.%s", name, json_string_value(key));
        for (; i < n_members && !json_string_is(key, members[i].name); i++)
            nearest_offer(&nearest, members[i].name);
        if (i == n_members && meet_unknown(r, path, key, nearest.name))
            return -EINVAL;
        if (i == n_members)
            continue;
        if (!json_is_boolean(member))
            return wrong(r, path, member, "true or false");
        if (members[i].to)
            *members[i].to = json_is_true(member);
    }
    return 0;
}

/* the table */

#define AT(_field) .offset = offsetof(ApiParams, _field)
#define HINT(_name, _type) \
    { .name = (_name), .endpoints = GENERATES, .type = (_type), .is_hint = true }
#define HINT_OF_COMPLETIONS(_name, _type) \
    { .name = (_name), .endpoints = API_COMPLETIONS, .type = (_type), .is_hint = true }
#define FIXED(_name, _endpoints, _allowed) \
    { .name = (_name), .endpoints = (_endpoints), .type = PARAM_FIXED, .allowed = (_allowed) }

static const Param table[] = {
    { "model", ~0u, PARAM_CUSTOM, .read = read_model },
    { "prompt", API_COMPLETIONS | API_TOKENIZE, PARAM_ANY, AT(prompt) },
    { "messages", RENDERS, PARAM_ARRAY, AT(messages) },
    { "tokens", API_DETOKENIZE, PARAM_ARRAY, AT(tokens) },

    { "max_tokens", GENERATES, PARAM_I64, AT(max_tokens), .min = 0, .max = UINT32_MAX },
    { "max_completion_tokens", GENERATES, PARAM_I64, AT(max_completion_tokens), .min = 1,
      .max = UINT32_MAX },
    { "min_tokens", GENERATES, PARAM_U32, AT(min_tokens), .min = 0, .max = UINT32_MAX },
    { "n", GENERATES, PARAM_CUSTOM, .read = read_n },
    { "best_of", GENERATES, PARAM_CUSTOM, .read = read_best_of },
    { "stop", GENERATES, PARAM_CUSTOM, .read = read_stop },
    { "stop_token_ids", GENERATES, PARAM_CUSTOM, .read = read_stop_tokens },
    { "cache_salt", GENERATES, PARAM_CUSTOM, .read = read_cache_salt },
    { "ignore_eos", GENERATES, PARAM_BOOL, AT(ignore_eos) },
    { "skip_special_tokens", GENERATES, PARAM_BOOL, AT(skip_special_tokens) },
    { "include_stop_str_in_output", GENERATES, PARAM_BOOL, AT(include_stop_text) },
    { "add_special_tokens", GENERATES | API_TOKENIZE, PARAM_FLAG, AT(add_special_tokens) },

    { "temperature", GENERATES, PARAM_FLOAT, AT(sample.temperature), .min = 0, .max = 100 },
    { "top_p", GENERATES, PARAM_FLOAT, AT(sample.top_p), .min = 0, .max = 1 },
    { "top_k", GENERATES, PARAM_CUSTOM, .read = read_top_k },
    { "min_p", GENERATES, PARAM_FLOAT, AT(sample.min_p), .min = 0, .max = 1 },
    { "seed", GENERATES, PARAM_CUSTOM, .read = read_seed },
    { "repetition_penalty", GENERATES, PARAM_FLOAT, AT(sample.repetition_penalty), .min = 0,
      .max = 100, .above_min = true },
    { "presence_penalty", GENERATES, PARAM_FLOAT, AT(sample.presence_penalty), .min = -2,
      .max = 2 },
    { "frequency_penalty", GENERATES, PARAM_FLOAT, AT(sample.frequency_penalty), .min = -2,
      .max = 2 },
    { "logit_bias", GENERATES, PARAM_CUSTOM, .read = read_logit_bias },

    { "logprobs", API_COMPLETIONS, PARAM_INT, AT(n_logprobs), .min = 0,
      .max = SAMPLE_TOP_LOGPROBS_MAX },
    { "logprobs", API_CHAT, PARAM_BOOL, AT(wants_logprobs) },
    { "top_logprobs", API_CHAT, PARAM_INT, AT(n_top_logprobs), .min = 0,
      .max = SAMPLE_TOP_LOGPROBS_MAX },
    { "echo", API_COMPLETIONS, PARAM_BOOL, AT(echo) },
    { "stream", GENERATES, PARAM_BOOL, AT(stream) },
    { "stream_options", GENERATES, PARAM_CUSTOM, .read = read_stream_options },

    { "tools", RENDERS, PARAM_ARRAY, AT(tools) },
    { "documents", RENDERS, PARAM_ARRAY, AT(documents) },
    { "tool_choice", API_CHAT, PARAM_ANY, AT(tool_choice) },
    { "parallel_tool_calls", API_CHAT, PARAM_BOOL, AT(parallel_tool_calls) },
    { "tool_call_parser", API_CHAT, PARAM_CUSTOM, .read = read_tool_call_parser },
    { "reasoning_parser", API_CHAT, PARAM_CUSTOM, .read = read_reasoning_parser },
    { "reasoning_effort", RENDERS, PARAM_CUSTOM, .read = read_reasoning_effort },
    { "reasoning", API_CHAT, PARAM_CUSTOM, .read = read_reasoning },
    { "include_reasoning", API_CHAT, PARAM_BOOL, AT(include_reasoning) },   /* vLLM's */
    { "separate_reasoning", API_CHAT, PARAM_BOOL, AT(separate_reasoning) }, /* SGLang's */
    { "add_generation_prompt", RENDERS, PARAM_FLAG, AT(add_generation_prompt) },
    { "continue_final_message", RENDERS, PARAM_BOOL, AT(continue_final_message) },
    { "chat_template_kwargs", RENDERS, PARAM_OBJECT, AT(template_kwargs) },
    { "return_token_strs", API_TOKENIZE, PARAM_BOOL, AT(return_token_strs) },

    { "response_format", GENERATES, PARAM_CUSTOM, .read = read_grammar },
    { "structured_outputs", GENERATES, PARAM_CUSTOM, .read = read_grammar },
    { "guided_choice", GENERATES, PARAM_CUSTOM, .read = read_grammar },
    { "guided_grammar", GENERATES, PARAM_CUSTOM, .read = read_grammar },
    { "guided_json", GENERATES, PARAM_CUSTOM, .read = read_grammar },
    { "guided_regex", GENERATES, PARAM_CUSTOM, .read = read_grammar },

    /* who asks, and how the answer is filed */
    HINT("user", PARAM_TEXT),
    HINT("safety_identifier", PARAM_TEXT),
    HINT("request_id", PARAM_TEXT),
    HINT("metadata", PARAM_OBJECT),
    HINT("store", PARAM_BOOL),
    /* how to serve */
    HINT("service_tier", PARAM_TEXT),
    HINT("prompt_cache_key", PARAM_TEXT),
    HINT("prompt_cache_retention", PARAM_TEXT),
    HINT("cache_prompt", PARAM_BOOL), /* llama.cpp's */
    HINT("prediction", PARAM_OBJECT),
    /* how much to think and say, for models that were taught to listen, and where to put it */
    HINT("verbosity", PARAM_TEXT),
    HINT("stream_reasoning", PARAM_BOOL), /* SGLang's */
    /* of chats; plain completions have neither tools nor a template */
    HINT_OF_COMPLETIONS("reasoning", PARAM_OBJECT),
    HINT_OF_COMPLETIONS("reasoning_effort", PARAM_TEXT),
    HINT_OF_COMPLETIONS("include_reasoning", PARAM_BOOL),
    HINT_OF_COMPLETIONS("separate_reasoning", PARAM_BOOL),
    HINT_OF_COMPLETIONS("parallel_tool_calls", PARAM_BOOL),

    /* OpenAI's, not supported */
    FIXED("suffix", API_COMPLETIONS, "[\"\"]"),
    FIXED("audio", API_CHAT, "[]"),
    FIXED("function_call", API_CHAT, "[\"none\", \"auto\"]"),
    FIXED("functions", API_CHAT, "[[]]"),
    FIXED("modalities", API_CHAT, "[[\"text\"]]"),
    FIXED("web_search_options", API_CHAT, "[]"),

    /* vLLM's, not supported */
    FIXED("allowed_token_ids", GENERATES, "[]"),
    FIXED("bad_words", GENERATES, "[[]]"),
    FIXED("chat_template", RENDERS, "[]"),
    FIXED("echo", API_CHAT, "[false]"),
    FIXED("early_stopping", GENERATES, "[false]"),
    FIXED("length_penalty", GENERATES, "[1.0, 1]"),
    FIXED("priority", GENERATES, "[0]"),
    FIXED("prompt_logprobs", GENERATES, "[]"),
    FIXED("return_token_ids", GENERATES, "[false]"),
    FIXED("return_tokens_as_token_ids", GENERATES, "[false]"),
    FIXED("spaces_between_special_tokens", GENERATES, "[true]"),
    FIXED("truncate_prompt_tokens", GENERATES, "[]"),
    FIXED("use_beam_search", GENERATES, "[false]"),
};

/* one member */

static int read_whole(const Reading *r, const Param *param, const json_t *value, int64_t *out) {
    char expected[96];

    if (json_as_i64(value, (int64_t)param->min, (int64_t)param->max, out))
        return 0;
    snprintf(expected, sizeof(expected), "a whole number from %.0f to %.0f", param->min,
             param->max);
    return wrong(r, param->name, value, expected);
}

static int read_float(const Reading *r, const Param *param, const json_t *value, float *out) {
    double number = json_number_value(value);
    char expected[96];

    if (json_is_number(value) && number <= param->max &&
        (param->above_min ? (float)number > (float)param->min : number >= param->min)) {
        *out = (float)number;
        return 0;
    }
    snprintf(expected, sizeof(expected), "a number %s %g, at most %g",
             param->above_min ? "above" : "of at least", param->min, param->max);
    return wrong(r, param->name, value, expected);
}

static int read_json(const Reading *r, const Param *param, const json_t *value,
                     const json_t **out) {
    if (param->type == PARAM_ARRAY && !json_is_array(value))
        return wrong(r, param->name, value, "an array");
    if (param->type == PARAM_OBJECT && !json_is_object(value))
        return wrong(r, param->name, value, "an object");
    *out = value;
    return 0;
}

static int read_fixed(const Reading *r, const Param *param, const json_t *value) {
    CLEANUP(json_unref) json_t *allowed = NULL;
    const json_t *item;
    size_t i;

    if (json_parse(&allowed, param->allowed, strlen(param->allowed), 0, NULL))
        return api_fail_memory(r->error);
    json_array_foreach(allowed, i, item)
        if (json_equal(value, item))
            return 0;
    return api_refuse(r->error, param->name, "`%s` is not supported by this server%s.", param->name,
                      strcmp(param->allowed, "[]") != 0 ? " with this value" : "");
}

static int read_param(const Reading *r, const Param *param, const json_t *value) {
    union {
        bool flag;
        const char *text;
        const json_t *json;
    } dropped;
    void *field = param->is_hint ? (void *)&dropped : (char *)r->params + param->offset;
    int64_t whole = 0;
    int result;

    switch (param->type) {
    case PARAM_BOOL:
    case PARAM_FLAG:
        if (!json_is_boolean(value))
            return wrong(r, param->name, value, "true or false");
        if (param->type == PARAM_BOOL)
            *(bool *)field = json_is_true(value);
        else
            *(int *)field = json_is_true(value);
        return 0;
    case PARAM_U32:
    case PARAM_INT:
    case PARAM_I64:
        result = read_whole(r, param, value, &whole);
        if (!result && param->type == PARAM_U32)
            *(uint32_t *)field = (uint32_t)whole;
        else if (!result && param->type == PARAM_INT)
            *(int *)field = (int)whole;
        else if (!result)
            *(int64_t *)field = whole;
        return result;
    case PARAM_FLOAT:
        return read_float(r, param, value, field);
    case PARAM_TEXT:
        if (!json_is_string(value))
            return wrong(r, param->name, value, "a string");
        *(const char **)field = json_string_value(value);
        return 0;
    case PARAM_ARRAY:
    case PARAM_OBJECT:
    case PARAM_ANY:
        return read_json(r, param, value, field);
    case PARAM_CUSTOM:
        return param->read(r, param->name, value);
    case PARAM_FIXED:
        return read_fixed(r, param, value);
    }
    return 0;
}

static const Param *find_param(const json_t *name, unsigned endpoint) {
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if ((table[i].endpoints & endpoint) && json_string_is(name, table[i].name))
            return &table[i];
    return NULL;
}

/* A name of the table that a client may have meant; what is not supported was not meant. */
static const char *find_nearest(const json_t *name, unsigned endpoint) {
    Nearest nearest = nearest_begin(json_string_value(name), json_string_length(name));

    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if ((table[i].endpoints & endpoint) && table[i].type != PARAM_FIXED)
            nearest_offer(&nearest, table[i].name);
    return nearest.name;
}

int api_params_read(ApiParams *p, const json_t *body, const ApiParamsContext *context,
                    ApiError *error) {
    Reading r = { .params = p, .context = context, .error = error };
    const json_t *name, *value;

    *p = api_params_defaults(context->defaults);
    if (!json_is_object(body))
        return api_refuse(error, NULL, "The body must be a JSON object.");
    json_object_foreach(body, name, value) {
        const Param *param = find_param(name, context->endpoint);
        int result;

        if (json_is_null(value))
            continue;
        result = param ? read_param(&r, param, value)
                       : meet_unknown(&r, json_string_value(name), name,
                                      find_nearest(name, context->endpoint));
        if (result)
            return result;
    }
    if (context->translate) {
        int result = context->translate(p, context->account, error);

        if (result)
            return result;
    }
    return api_params_check(p, context, error);
}

void api_params_let_go(ApiParams *p) {
    p->model = p->cache_salt = NULL;
    p->tool_call_parser = p->reasoning_parser = NULL;
    p->prompt = p->messages = p->tools = p->documents = p->template_kwargs = p->tokens = NULL;
    p->tool_choice = p->reasoning_effort = p->stops = p->stream_options = NULL;
    p->grammar = (ApiGrammar){ .param = NULL };
    p->translated = json_unref(p->translated);
}

void api_params_deinit(ApiParams *p) {
    free(p->logit_bias);
    free(p->stop_tokens);
    json_unref(p->translated);
    *p = (ApiParams)API_PARAMS_NULL;
}

static const json_t *stop_at(const json_t *stops, size_t i) {
    return json_is_array(stops) ? json_array_get(stops, i) : stops;
}

int api_params_stops(const ApiParams *p, Account *account, StopSet *stops) {
    size_t n = json_is_array(p->stops) ? json_array_size(p->stops) : p->stops != NULL, n_bytes = 0;
    int r;

    for (size_t i = 0; i < n; i++)
        n_bytes += json_string_length(stop_at(p->stops, i));
    r = stop_set_init(stops, (uint32_t)n, n_bytes, account);
    for (size_t i = 0; !r && i < n; i++) {
        const json_t *stop = stop_at(p->stops, i);

        stop_set_add(stops, json_string_value(stop), json_string_length(stop));
    }
    return r;
}
