/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a body may have is told to the letter: null is taken for every parameter that need not be
 * given, and for names that nobody knows. Parameters that are not supported are not told of.
 *
 * Each path's answers are those that it can give, HTTP's own among them: a client sees no status
 * that is not listed. The exception is 405, which answers methods that the document does not have.
 */
#include "server/api/api_openapi.h"

#include "server/api/api.h"
#include "server/api/api_param_table.h"
#include "server/api/api_schemas.h"
#include "util/json_writer.h"

#include <ctype.h>
#include <string.h>

typedef struct Writer {
    JsonWriter json;
    const ApiLimits *limits;
    const char *model;
} Writer;

/* schemas */

static void put_ref(JsonWriter *w, const char *key, const char *name) {
    char ref[128];

    snprintf(ref, sizeof(ref), "#/components/schemas/%s", name);
    json_begin_object(w, key);
    json_put_text(w, "$ref", ref);
    json_end_object(w);
}

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
static void put_rule_for_unknown(Writer *writer) {
    JsonWriter *w = &writer->json;

    if (writer->limits->unknown_taken) {
        json_put_bool(w, "additionalProperties", true);
        return;
    }
    json_begin_object(w, "additionalProperties");
    json_put_text(w, "type", "null");
    json_end_object(w);
}

static void put_schema(Writer *writer, const json_t *schema);

static void put_member(Writer *writer, const json_t *key, const json_t *value) {
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
static void put_schema(Writer *writer, const json_t *schema) {
    JsonWriter *w = &writer->json;
    const json_t *key, *value;
    size_t i;

    if (json_is_object(schema)) {
        json_begin_object(w, NULL);
        json_object_foreach(schema, key, value)
            put_member(writer, key, value);
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

static void put_whole(Writer *writer, const ApiParam *param) {
    JsonWriter *w = &writer->json;
    double max = param->max_named ? api_limit_named(writer->limits, param->max_named) : param->max;

    json_put_i64(w, "minimum", (int64_t)param->min);
    json_put_i64(w, "maximum", (int64_t)max);
}

static void put_model(Writer *writer, bool or_null) {
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
static void put_typed(Writer *writer, const ApiParam *param, bool or_null) {
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
        put_model(writer, or_null);
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
static void put_stated(Writer *writer, const ApiParam *param, bool or_null) {
    CLEANUP(json_unref) json_t *schema = NULL;
    JsonWriter *w = &writer->json;
    const json_t *key, *value;

    if (json_parse(&schema, param->schema, strlen(param->schema), 0, NULL))
        w->out->failed = true;
    if (!or_null) {
        json_object_foreach(schema, key, value)
            put_member(writer, key, value);
        return;
    }
    json_begin_array(w, "anyOf");
    put_schema(writer, schema);
    json_begin_object(w, NULL);
    json_put_text(w, "type", "null");
    json_end_object(w);
    json_end_array(w);
}

static void put_param(Writer *writer, const ApiParam *param, unsigned endpoint) {
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

static void put_body_schema(Writer *writer, unsigned endpoint) {
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

/* answers */

typedef enum Asker {
    ANYBODY,
    WITH_BODY,
    WITH_NAME, /* of a model, in a body or in the path */
} Asker;

static const struct {
    const char *status;
    Asker asker;
    bool has_retry_after; /* it may say when to try again */
    const char *text;
} refusals[] = {
    { "400", ANYBODY, false, "Something in the request is wrong; the message says what." },
    { "404", WITH_NAME, false, "There is no such model here." },
    { "408", ANYBODY, false, "The request took too long to come." },
    { "413", ANYBODY, false, "The request, or what it needs, is larger than it may be." },
    { "415", WITH_BODY, false, "The body is not application/json." },
    { "417", ANYBODY, false, "The request expects what is not known here." },
    { "429", ANYBODY, true, "The client, or all together, have asked for too much at once." },
    { "431", ANYBODY, false, "The headers are larger than they may be." },
    { "500", WITH_BODY, false, "The server could not do it." },
    { "501", ANYBODY, false, "The request is of a kind of HTTP that is not known here." },
    { "503", ANYBODY, true, "The model is not ready, memory is short, or the server goes down." },
    { "505", ANYBODY, false, "The request is of another version of HTTP." },
};

static bool can_ask(const Route *route, Asker asker) {
    return asker == ANYBODY || route->body || (asker == WITH_NAME && route->below);
}

static void begin_media(JsonWriter *w, const char *type) {
    json_begin_object(w, "content");
    json_begin_object(w, type);
}

static void end_media(JsonWriter *w) {
    json_end_object(w);
    json_end_object(w);
}

static void put_retry_after(JsonWriter *w) {
    json_begin_object(w, "headers");
    json_begin_object(w, "Retry-After");
    json_put_text(w, "description", "Seconds after which to try again.");
    json_begin_object(w, "schema");
    json_put_text(w, "type", "integer");
    json_end_object(w);
    json_end_object(w);
    json_end_object(w);
}

static void put_refusals(JsonWriter *w, const Route *route) {
    for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++) {
        if (!can_ask(route, refusals[i].asker))
            continue;
        json_begin_object(w, refusals[i].status);
        json_put_text(w, "description", refusals[i].text);
        if (refusals[i].has_retry_after)
            put_retry_after(w);
        begin_media(w, "application/json");
        put_ref(w, "schema", route->error ? route->error : "Error");
        end_media(w);
        json_end_object(w);
    }
}

static void begin_media_schema(JsonWriter *w, const char *type) {
    json_begin_object(w, type);
    json_begin_object(w, "schema");
}

static void end_media_schema(JsonWriter *w) {
    json_end_object(w);
    json_end_object(w);
}

static void put_text_media(JsonWriter *w, const char *type) {
    begin_media_schema(w, type);
    json_put_text(w, "type", "string");
    end_media_schema(w);
}

/* Of one event, as OpenAPI 3.2 has it; 3.1 does not say what the schema of a stream is of. */
static void put_stream(JsonWriter *w, const char *schema) {
    begin_media_schema(w, "text/event-stream");
    json_put_text(w, "type", "object");
    json_begin_object(w, "properties");
    json_begin_object(w, "data");
    json_begin_array(w, "anyOf");
    json_begin_object(w, NULL);
    json_put_text(w, "type", "string");
    json_put_text(w, "contentMediaType", "application/json");
    put_ref(w, "contentSchema", schema);
    json_end_object(w);
    json_begin_object(w, NULL);
    json_put_text(w, "const", "[DONE]");
    json_end_object(w);
    json_end_array(w);
    json_end_object(w);
    json_end_object(w);
    json_begin_array(w, "required");
    json_put_text(w, NULL, "data");
    json_end_array(w);
    end_media_schema(w);
}

static void put_answer(JsonWriter *w, const Route *route) {
    json_begin_object(w, "200");
    json_put_text(w, "description", "Done.");
    json_begin_object(w, "content");
    if (route->answer) {
        json_begin_object(w, "application/json");
        put_ref(w, "schema", route->answer);
        json_end_object(w);
    }
    if (route->media)
        put_text_media(w, route->media);
    if (route->stream)
        put_stream(w, route->stream);
    json_end_object(w);
    json_end_object(w);
}

/* paths */

static void put_request_body(Writer *writer, unsigned endpoint) {
    JsonWriter *w = &writer->json;

    json_begin_object(w, "requestBody");
    json_put_bool(w, "required", true);
    begin_media(w, "application/json");
    put_body_schema(writer, endpoint);
    end_media(w);
    json_end_object(w);
}

/* A model is all that is looked up by a path. */
static void put_path_parameter(Writer *writer, const char *name) {
    JsonWriter *w = &writer->json;

    json_begin_array(w, "parameters");
    json_begin_object(w, NULL);
    json_put_text(w, "name", name);
    json_put_text(w, "in", "path");
    json_put_bool(w, "required", true);
    json_begin_object(w, "schema");
    put_model(writer, false);
    json_end_object(w);
    json_end_object(w);
    json_end_array(w);
}

/* "get" */
static void method_word(const Route *route, char word[16]) {
    size_t n = 0;

    for (const char *c = http_method_name(route->method); *c && n < 15; c++)
        word[n++] = (char)tolower((unsigned char)*c);
    word[n] = 0;
}

/* "get_v1_models" */
static void put_operation_id(JsonWriter *w, const char *method, const Route *route) {
    CLEANUP(buffer_deinit) Buffer id = BUFFER_NULL;

    buffer_append_text(&id, method);
    for (const char *c = route->path; *c; c++)
        buffer_append_char(&id, isalnum((unsigned char)*c) ? *c : '_');
    if (route->below)
        buffer_append_text(&id, route->below);
    if (buffer_failed(&id))
        w->out->failed = true;
    json_put_string(w, "operationId", buffer_text(&id), id.size);
}

static void put_operation(Writer *writer, const Route *route) {
    JsonWriter *w = &writer->json;
    char method[16];

    method_word(route, method);
    json_begin_object(w, method);
    put_operation_id(w, method, route);
    json_put_text(w, "summary", route->summary);
    if (route->below)
        put_path_parameter(writer, route->below);
    if (route->body)
        put_request_body(writer, route->body);
    json_begin_object(w, "responses");
    put_answer(w, route);
    put_refusals(w, route);
    json_end_object(w);
    json_end_object(w);
}

/* A path with its methods, where it stands first in the table. */
static void put_path(Writer *writer, const Route *routes, size_t n, size_t at) {
    const char *below = routes[at].below;
    char path[128];

    for (size_t i = 0; i < at; i++)
        if (!strcmp(routes[i].path, routes[at].path))
            return;
    snprintf(path, sizeof(path), "%s%s%s%s", routes[at].path, below ? "{" : "", below ? below : "",
             below ? "}" : "");
    json_begin_object(&writer->json, path);
    for (size_t i = at; i < n; i++)
        if (!strcmp(routes[i].path, routes[at].path))
            put_operation(writer, &routes[i]);
    json_end_object(&writer->json);
}

/* the document */

static void put_info(JsonWriter *w) {
    json_begin_object(w, "info");
    json_put_text(w, "title", "Kvasir");
    json_put_text(w, "summary", "An LLM inference server that speaks the OpenAI API.");
    json_put_text(w, "version", KVASIR_VERSION);
    json_begin_object(w, "license");
    json_put_text(w, "name", "Apache 2.0");
    json_put_text(w, "identifier", "Apache-2.0");
    json_end_object(w);
    json_end_object(w);
    json_begin_array(w, "servers");
    json_begin_object(w, NULL);
    json_put_text(w, "url", "/");
    json_end_object(w);
    json_end_array(w);
}

static void put_components(Writer *writer) {
    JsonWriter *w = &writer->json;
    size_t n;
    const ApiSchemaFile *files = api_schema_files(&n);

    json_begin_object(w, "components");
    json_begin_object(w, "schemas");
    for (size_t i = 0; i < n; i++) {
        CLEANUP(json_unref) json_t *schemas = NULL;
        const json_t *key, *value;

        if (json_parse(&schemas, files[i].text, files[i].size, JSON_REJECT_DUPLICATES, NULL))
            w->out->failed = true;
        json_object_foreach(schemas, key, value)
            put_member(writer, key, value);
    }
    json_end_object(w);
    json_end_object(w);
}

void api_openapi_write(Buffer *out, const ApiLimits *limits, const char *model) {
    Writer writer = { .json = JSON_WRITER(out), .limits = limits, .model = model };
    JsonWriter *w = &writer.json;
    size_t n;
    const Route *routes = api_routes(&n);

    json_begin_object(w, NULL);
    json_put_text(w, "openapi", "3.1.0");
    put_info(w);
    json_begin_object(w, "paths");
    for (size_t i = 0; i < n; i++)
        put_path(&writer, routes, n, i);
    json_end_object(w);
    put_components(&writer);
    json_end_object(w);
}
