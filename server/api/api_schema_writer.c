/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a body may have is told to the letter: null is taken for every parameter that need not be
 * given, and for names that nobody knows. Parameters that are not supported are not told of.
 */
#include "server/api/api_schema_writer.h"

#include "server/api/api_param_table.h"

#include <string.h>

/* schemas of files and rows */

static void put_type(JsonWriter *w, const char *type, bool or_null) {
    if (!or_null) {
        json_put_text(w, "type", type);
        return;
    }
    json_begin_array(w, "type");
    json_put_text(w, NULL, type);
    json_put_text(w, NULL, "null");
    json_end_array(w);
}

/* What members that have no name here may be. */
static void put_rule_for_unknown(ApiSchemaWriter *writer) {
    JsonWriter *w = &writer->json;

    if (writer->limits->unknown_taken) {
        json_put_bool(w, "additionalProperties", true);
        return;
    }
    json_begin_object(w, "additionalProperties");
    json_put_text(w, "type", "null");
    json_end_object(w);
}

static void put_schema(ApiSchemaWriter *writer, const json_t *schema);

void api_schema_put_member(ApiSchemaWriter *writer, const json_t *key, const json_t *value) {
    JsonWriter *w = &writer->json;

    if (json_is_string(value) && json_string_is(key, "maxItems")) {
        json_put_u64(w, "maxItems", api_limit_named(writer->limits, json_string_value(value)));
    } else if (json_is_string(value) && json_string_is(key, "additionalProperties")) {
        put_rule_for_unknown(writer);
    } else {
        json_put_key(w, json_string_value(key), json_string_length(key));
        put_schema(writer, value);
    }
}

/* A schema with the names of options in it replaced by what they say. */
static void put_schema(ApiSchemaWriter *writer, const json_t *schema) {
    JsonWriter *w = &writer->json;
    const json_t *key, *value;
    size_t i;

    if (json_is_object(schema)) {
        json_begin_object(w, NULL);
        json_object_foreach(schema, key, value)
            api_schema_put_member(writer, key, value);
        json_end_object(w);
    } else if (json_is_array(schema)) {
        json_begin_array(w, NULL);
        json_array_foreach(schema, i, value)
            put_schema(writer, value);
        json_end_array(w);
    } else {
        json_put_value(w, NULL, schema);
    }
}

/* parameters */

static void put_whole(ApiSchemaWriter *writer, const ApiParam *param) {
    JsonWriter *w = &writer->json;
    double max = param->max_named ? api_limit_named(writer->limits, param->max_named) : param->max;

    json_put_i64(w, "minimum", (int64_t)param->min);
    json_put_i64(w, "maximum", (int64_t)max);
}

static void put_model_name(ApiSchemaWriter *writer, bool or_null) {
    JsonWriter *w = &writer->json;

    json_begin_array(w, "enum");
    json_put_text(w, NULL, writer->model);
    if (or_null)
        json_put_null(w, NULL);
    json_end_array(w);
}

static void put_names(JsonWriter *w, const ApiParam *param, bool or_null) {
    json_begin_array(w, "enum");
    json_put_text(w, NULL, "auto");
    json_put_text(w, NULL, "none");
    for (size_t i = 0; param->name_at(i); i++)
        json_put_text(w, NULL, param->name_at(i));
    if (or_null)
        json_put_null(w, NULL);
    json_end_array(w);
}

/* The schema that follows from a row's type. */
static void put_typed(ApiSchemaWriter *writer, const ApiParam *param, bool or_null) {
    JsonWriter *w = &writer->json;

    switch (param->type) {
    case PARAM_BOOL:
    case PARAM_FLAG:
        put_type(w, "boolean", or_null);
        break;
    case PARAM_U32:
    case PARAM_INT:
    case PARAM_I64:
        put_type(w, "integer", or_null);
        put_whole(writer, param);
        break;
    case PARAM_FLOAT:
        put_type(w, "number", or_null);
        json_put_double(w, "minimum", param->min);
        json_put_double(w, "maximum", param->max);
        break;
    case PARAM_MODEL:
        put_model_name(writer, or_null);
        break;
    case PARAM_WORD:
        put_type(w, "string", or_null);
        json_put_u64(w, "minLength", (uint64_t)param->min);
        json_put_text(w, "pattern", "^[^\\u0000]*$");
        break;
    case PARAM_TEXT:
    case PARAM_STRING:
        put_type(w, "string", or_null);
        break;
    case PARAM_NAME:
        put_names(w, param, or_null);
        break;
    case PARAM_ARRAY:
        put_type(w, "array", or_null);
        break;
    case PARAM_OBJECTS:
        put_type(w, "array", or_null);
        json_begin_object(w, "items");
        json_put_text(w, "type", "object");
        json_end_object(w);
        break;
    case PARAM_OBJECT:
        put_type(w, "object", or_null);
        break;
    case PARAM_ANY:
    case PARAM_CUSTOM:
    case PARAM_FIXED:
        break;
    }
}

/* The schema that a row states. */
static void put_stated(ApiSchemaWriter *writer, const ApiParam *param, bool or_null) {
    CLEANUP(json_unref) json_t *schema = NULL;
    JsonWriter *w = &writer->json;
    const json_t *key, *value;

    if (json_parse(&schema, param->schema, strlen(param->schema), 0, NULL))
        w->out->failed = true;
    if (!or_null) {
        json_object_foreach(schema, key, value)
            api_schema_put_member(writer, key, value);
        return;
    }
    json_begin_array(w, "anyOf");
    put_schema(writer, schema);
    json_begin_object(w, NULL);
    json_put_text(w, "type", "null");
    json_end_object(w);
    json_end_array(w);
}

static void put_param(ApiSchemaWriter *writer, const ApiParam *param, unsigned endpoint) {
    bool or_null = !(param->required_by & endpoint);
    JsonWriter *w = &writer->json;

    json_begin_object(w, param->name);
    if (param->schema)
        put_stated(writer, param, or_null);
    else
        put_typed(writer, param, or_null);
    json_put_text(w, "description", param->help);
    json_put_text(w, "x-defined-by", param->by);
    json_end_object(w);
}

/* That a parameter is there, and not null. */
static void put_given(JsonWriter *w, const char *name) {
    json_begin_object(w, NULL);
    json_begin_array(w, "required");
    json_put_text(w, NULL, name);
    json_end_array(w);
    json_begin_object(w, "properties");
    json_begin_object(w, name);
    json_begin_object(w, "not");
    json_put_text(w, "type", "null");
    json_end_object(w);
    json_end_object(w);
    json_end_object(w);
    json_end_object(w);
}

static void put_alternative(JsonWriter *w, const ApiParam *param) {
    json_begin_array(w, "oneOf");
    put_given(w, param->name);
    put_given(w, param->or_else);
    json_end_array(w);
}

void api_schema_put_body(ApiSchemaWriter *writer, unsigned endpoint) {
    JsonWriter *w = &writer->json;
    size_t n;
    const ApiParam *table = api_param_table(&n);

    json_begin_object(w, "schema");
    json_put_text(w, "type", "object");
    json_begin_object(w, "properties");
    for (size_t i = 0; i < n; i++)
        if ((table[i].endpoints & endpoint) && table[i].type != PARAM_FIXED)
            put_param(writer, &table[i], endpoint);
    json_end_object(w);
    json_begin_array(w, "required");
    for (size_t i = 0; i < n; i++)
        if (table[i].required_by & endpoint)
            json_put_text(w, NULL, table[i].name);
    json_end_array(w);
    for (size_t i = 0; i < n; i++)
        if ((table[i].endpoints & endpoint) && table[i].or_else)
            put_alternative(w, &table[i]);
    put_rule_for_unknown(writer);
    json_end_object(w);
}

void api_schema_put_model(ApiSchemaWriter *writer) {
    json_begin_object(&writer->json, "schema");
    put_model_name(writer, false);
    json_end_object(&writer->json);
}
