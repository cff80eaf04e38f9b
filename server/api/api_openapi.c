/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each path's answers are those that it can give, HTTP's own among them: a client sees no status
 * that is not listed. The exception is 405, which answers methods that the document does not have.
 */
#include "server/api/api_openapi.h"

#include "server/api/api.h"
#include "server/api/api_schema_writer.h"
#include "server/api/api_schemas.h"

#include <ctype.h>
#include <string.h>

static void put_ref(JsonWriter *w, const char *key, const char *name) {
    char ref[128];

    snprintf(ref, sizeof(ref), "#/components/schemas/%s", name);
    json_begin_object(w, key);
    json_put_text(w, "$ref", ref);
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
static void put_stream(JsonWriter *w, const Route *route) {
    begin_media_schema(w, "text/event-stream");
    json_put_text(w, "type", "object");
    json_begin_object(w, "properties");
    if (route->names_events) {
        json_begin_object(w, "event");
        json_put_text(w, "type", "string");
        json_end_object(w);
    }
    json_begin_object(w, "data");
    json_begin_array(w, "anyOf");
    json_begin_object(w, NULL);
    json_put_text(w, "type", "string");
    json_put_text(w, "contentMediaType", "application/json");
    put_ref(w, "contentSchema", route->stream);
    json_end_object(w);
    if (!route->names_events) {
        json_begin_object(w, NULL);
        json_put_text(w, "const", "[DONE]");
        json_end_object(w);
    }
    json_end_array(w);
    json_end_object(w);
    json_end_object(w);
    json_begin_array(w, "required");
    if (route->names_events)
        json_put_text(w, NULL, "event");
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
        put_stream(w, route);
    json_end_object(w);
    json_end_object(w);
}

/* paths */

static void put_request_body(ApiSchemaWriter *writer, unsigned endpoint) {
    JsonWriter *w = &writer->json;

    json_begin_object(w, "requestBody");
    json_put_bool(w, "required", true);
    begin_media(w, "application/json");
    api_schema_put_body(writer, endpoint);
    end_media(w);
    json_end_object(w);
}

/* A model is all that is looked up by a path. */
static void put_path_parameter(ApiSchemaWriter *writer, const char *name) {
    JsonWriter *w = &writer->json;

    json_begin_array(w, "parameters");
    json_begin_object(w, NULL);
    json_put_text(w, "name", name);
    json_put_text(w, "in", "path");
    json_put_bool(w, "required", true);
    api_schema_put_model(writer);
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

static void put_operation(ApiSchemaWriter *writer, const Route *route) {
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
static void put_path(ApiSchemaWriter *writer, const Route *routes, size_t n, size_t at) {
    const char *below = routes[at].below;
    char path[128];

    for (size_t i = 0; i < at; i++)
        if (routes[i].summary && !strcmp(routes[i].path, routes[at].path))
            return;
    snprintf(path, sizeof(path), "%s%s%s%s", routes[at].path, below ? "{" : "", below ? below : "",
             below ? "}" : "");
    json_begin_object(&writer->json, path);
    for (size_t i = at; i < n; i++)
        if (routes[i].summary && !strcmp(routes[i].path, routes[at].path))
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

static void put_components(ApiSchemaWriter *writer) {
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
            api_schema_put_member(writer, key, value);
    }
    json_end_object(w);
    json_end_object(w);
}

void api_openapi_write(Buffer *out, const ApiLimits *limits, const char *model) {
    ApiSchemaWriter writer = { .json = JSON_WRITER(out), .limits = limits, .model = model };
    JsonWriter *w = &writer.json;
    size_t n;
    const Route *routes = api_routes(&n);

    json_begin_object(w, NULL);
    json_put_text(w, "openapi", "3.1.0");
    put_info(w);
    json_begin_object(w, "paths");
    for (size_t i = 0; i < n; i++)
        if (routes[i].summary)
            put_path(&writer, routes, n, i);
    json_end_object(w);
    put_components(&writer);
    json_end_object(w);
}
