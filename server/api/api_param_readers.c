/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_param_readers.h"

#include "util/json.h"
#include "util/log.h"
#include "util/nearest.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define DESCRIPTION_BYTES_MAX 64
#define TOP_K_MAX UINT32_MAX

int api_param_wrong(const ApiReading *r, const char *name, const json_t *value,
                    const char *expected) {
    char found[DESCRIPTION_BYTES_MAX];

    return api_refuse(r->error, name, "`%s` must be %s; it is %s.", name, expected,
                      json_describe(value, found, sizeof(found)));
}

int api_param_unknown(const ApiReading *r, const char *path, const json_t *name, const char *near) {
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

/* sampling */

int api_read_top_k(const ApiReading *r, const char *name, const json_t *value) {
    int64_t k;

    if (!json_as_i64(value, -1, TOP_K_MAX, &k))
        return api_param_wrong(r, name, value, "a whole number from -1 (-1 and 0: all)");
    r->params->sample.top_k = k > 0 ? (uint32_t)k : 0;
    return 0;
}

int api_read_seed(const ApiReading *r, const char *name, const json_t *value) {
    int64_t seed;

    if (!json_as_i64(value, INT64_MIN, INT64_MAX, &seed))
        return api_param_wrong(r, name, value, "a whole number of 64 bits");
    r->params->sample.seed = (uint64_t)seed;
    r->params->has_seed = true;
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

int api_read_logit_bias(const ApiReading *r, const char *name, const json_t *value) {
    ApiParams *p = r->params;
    uint32_t n_vocab = r->context->n_vocab;
    char shown[DESCRIPTION_BYTES_MAX];
    const json_t *key, *bias;

    if (!json_is_object(value))
        return api_param_wrong(r, name, value, "an object of token ids and biases");
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
            return api_param_wrong(r, name, bias,
                                   "an object whose values are numbers from -100 to 100");
        to->bias = (float)number;
    }
    return 0;
}

/* where answers end */

static bool is_stop_string(const json_t *value) {
    return json_is_string(value) && json_string_length(value) &&
           strlen(json_string_value(value)) == json_string_length(value);
}

int api_read_stop(const ApiReading *r, const char *name, const json_t *value) {
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
        return api_param_wrong(r, name, value, expected);
    json_array_foreach(value, i, item)
        if (!is_stop_string(item))
            return api_param_wrong(r, name, item, expected);
    r->params->stops = value;
    return 0;
}

int api_read_stop_sequences(const ApiReading *r, const char *name, const json_t *value) {
    if (!json_is_array(value))
        return api_param_wrong(r, name, value, "an array of strings");
    return api_read_stop(r, name, value);
}

int api_read_stop_tokens(const ApiReading *r, const char *name, const json_t *value) {
    ApiParams *p = r->params;
    uint32_t max = r->context->limits.stops_max;
    size_t i, n = json_array_size(value);
    const json_t *item;

    if (!json_is_array(value))
        return api_param_wrong(r, name, value, "an array of token ids");
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
            return api_param_wrong(r, name, item, "token ids that the model has");
        p->stop_tokens[p->n_stop_tokens++] = (uint32_t)id;
    }
    return 0;
}

/* streams */

int api_read_stream_options(const ApiReading *r, const char *name, const json_t *value) {
    struct {
        const char *name;
        bool *to;
    } members[] = { { "include_usage", &r->params->include_usage },
                    { "continuous_usage_stats", &r->params->continuous_usage },
                    { "include_obfuscation", NULL } }; /* padding that hides lengths: a hint */
    const size_t n_members = sizeof(members) / sizeof(*members);
    const json_t *key, *member;

    if (!json_is_object(value))
        return api_param_wrong(r, name, value, "an object");
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
        if (i == n_members && api_param_unknown(r, path, key, nearest.name))
            return -EINVAL;
        if (i == n_members)
            continue;
        if (!json_is_boolean(member))
            return api_param_wrong(r, path, member, "true or false");
        if (members[i].to)
            *members[i].to = json_is_true(member);
    }
    return 0;
}

/* forms of the answer */

/* OpenRouter's: how much to think, and whether the answer is to show it. */
int api_read_reasoning(const ApiReading *r, const char *name, const json_t *value) {
    const json_t *key, *member;

    if (!json_is_object(value))
        return api_param_wrong(r, name, value, "an object");
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

int api_read_grammar(const ApiReading *r, const char *name, const json_t *value) {
    return api_grammar_read(&r->params->grammar, name, value, r->error);
}
