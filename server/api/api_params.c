/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over the members of the body, each looked up in the table (api_param_table.c); then the
 * checks that concern several parameters at once (api_params_check.c). Pure: no server state.
 */
#include "server/api/api_params.h"

#include "server/api/api_param_readers.h"
#include "server/api/api_params_check.h"
#include "server/api/api_tools.h"
#include "util/json.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* one member */

static int read_whole(const ApiReading *r, const ApiParam *param, const json_t *value,
                      int64_t *out) {
    bool is_option = param->max_named != NULL;
    int64_t max =
        is_option ? api_limit_named(&r->context->limits, param->max_named) : (int64_t)param->max;
    char expected[96];

    if (json_as_i64(value, (int64_t)param->min, max, out))
        return 0;
    snprintf(expected, sizeof(expected), "a whole number from %.0f to %" PRIi64 "%s%s%s",
             param->min, max, is_option ? " (option " : "", is_option ? param->max_named : "",
             is_option ? ")" : "");
    return api_param_wrong(r, param->name, value, expected);
}

static int read_float(const ApiReading *r, const ApiParam *param, const json_t *value, float *out) {
    double number = json_number_value(value);
    char expected[96];

    if (json_is_number(value) && number >= param->min && number <= param->max) {
        *out = (float)number;
        return 0;
    }
    snprintf(expected, sizeof(expected), "a number of at least %g, at most %g", param->min,
             param->max);
    return api_param_wrong(r, param->name, value, expected);
}

static int read_word(const ApiReading *r, const ApiParam *param, const json_t *value,
                     const char **out) {
    if (!json_is_string(value) || json_string_has_nul(value) ||
        json_string_length(value) < param->min)
        return api_param_wrong(r, param->name, value,
                               param->min > 0 ? "a string, not empty and without NUL"
                                              : "a string without NUL");
    *out = json_string_value(value);
    return 0;
}

static int read_name(const ApiReading *r, const ApiParam *param, const json_t *value,
                     const char **out) {
    char names[128], expected[160];

    if (json_string_is(value, "auto") || json_string_is(value, "none"))
        *out = json_string_value(value);
    for (size_t i = 0; param->name_at(i) && !*out; i++)
        if (json_string_is(value, param->name_at(i)))
            *out = param->name_at(i);
    if (*out)
        return 0;
    api_tools_list_parsers(names, sizeof(names), param->name_at);
    snprintf(expected, sizeof(expected), "one of: %s", names);
    return api_param_wrong(r, param->name, value, expected);
}

static bool are_objects(const json_t *array) {
    const json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
        if (!json_is_object(item))
            return false;
    return json_is_array(array);
}

static int read_json(const ApiReading *r, const ApiParam *param, const json_t *value,
                     const json_t **out) {
    if (param->type == PARAM_STRING && !json_is_string(value))
        return api_param_wrong(r, param->name, value, "a string");
    if (param->type == PARAM_ARRAY && !json_is_array(value))
        return api_param_wrong(r, param->name, value, "an array");
    if (param->type == PARAM_OBJECTS && !are_objects(value))
        return api_param_wrong(r, param->name, value, "an array of objects");
    if (param->type == PARAM_OBJECT && !json_is_object(value))
        return api_param_wrong(r, param->name, value, "an object");
    *out = value;
    return 0;
}

static int read_fixed(const ApiReading *r, const ApiParam *param, const json_t *value) {
    CLEANUP(json_unref) json_t *allowed = NULL;
    const json_t *item;
    size_t i;

    if (json_parse(&allowed, param->allowed, strlen(param->allowed), 0, NULL))
        return api_fail_memory(r->error);
    json_array_foreach(allowed, i, item)
        if (json_equal(value, item))
            return 0;
    return api_refuse(r->error, param->name, "`%s` is not supported by this server%s%s%s.",
                      param->name, strcmp(param->allowed, "[]") != 0 ? " with this value" : "",
                      param->why ? ": " : "", param->why ? param->why : "");
}

static int read_param(const ApiReading *r, const ApiParam *param, const json_t *value) {
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
            return api_param_wrong(r, param->name, value, "true or false");
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
            return api_param_wrong(r, param->name, value, "a string");
        *(const char **)field = json_string_value(value);
        return 0;
    case PARAM_MODEL:
    case PARAM_WORD:
        return read_word(r, param, value, field);
    case PARAM_NAME:
        return read_name(r, param, value, field);
    case PARAM_STRING:
    case PARAM_ARRAY:
    case PARAM_OBJECTS:
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

int api_params_read(ApiParams *p, const json_t *body, const ApiParamsContext *context,
                    ApiError *error) {
    ApiReading r = { .params = p, .context = context, .error = error };
    const json_t *name, *value;

    *p = api_params_defaults(context->defaults);
    if (!json_is_object(body))
        return api_refuse(error, NULL, "The body must be a JSON object.");
    json_object_foreach(body, name, value) {
        const ApiParam *param = api_param_find(name, context->endpoint);
        int result;

        if (json_is_null(value))
            continue;
        result = param ? read_param(&r, param, value)
                       : api_param_unknown(&r, json_string_value(name), name,
                                           api_param_nearest(name, context->endpoint));
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
    p->system = p->thinking = p->output_config = NULL;
    p->input = p->instructions = p->text = p->reasoning = p->include = p->metadata = NULL;
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
