/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page is written from the document and knows of OpenAPI and JSON Schema what that uses. Null
 * is not told of: it always means "not given".
 */
#include "server/api/api_docs.h"

#include "util/html.h"
#include "util/json_tree.h"
#include "util/json_writer.h"

#include <string.h>

static const char page_head[] =
    "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n<title>kvasird: API</title>\n"
    "<style>\n"
    ":root{color-scheme:light dark}\n"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}\n"
    "pre{background:#8881;padding:1em;overflow:auto;font-size:.85em}\n"
    "h2{border-top:1px solid #8884;padding-top:1em;margin-top:2em}\n"
    "table{border-collapse:collapse;width:100%}\n"
    "td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}\n"
    "tr{border-bottom:1px solid #8882}\n"
    "</style>\n";

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

/* the words of a schema */

static void put_code(Buffer *out, const json_t *value) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    json_write(value, &text);
    buffer_append_text(out, "<code>");
    html_escape(out, buffer_text(&text));
    buffer_append_text(out, "</code>");
    if (buffer_failed(&text))
        out->failed = true;
}

static void put_bound(Buffer *out, const json_t *schema, const char *key, const char *words) {
    const json_t *bound = json_object_get(schema, key);

    if (bound)
        buffer_printf(out, "%s %s", words, json_number_text(bound));
}

/* A link to the component that a "$ref" names. */
static void put_link(Buffer *out, const char *ref) {
    const char *name = strrchr(ref, '/');

    name = name ? name + 1 : ref;
    buffer_append_text(out, "<a href=\"#schema-");
    html_escape(out, name);
    buffer_append_text(out, "\">");
    html_escape(out, name);
    buffer_append_text(out, "</a>");
}

static bool is_null_schema(const json_t *schema) {
    return json_string_is(json_object_get(schema, "type"), "null");
}

/* Values, types or schemas, with "or" between; null left out. */
static void put_list(Buffer *out, const json_t *list, void (*put)(Buffer *, const json_t *)) {
    const char *between = "";
    const json_t *item;
    size_t i;

    json_array_foreach(list, i, item) {
        if (json_is_null(item) || json_string_is(item, "null") || is_null_schema(item))
            continue;
        buffer_append_text(out, between);
        put(out, item);
        between = " or ";
    }
}

static void put_word(Buffer *out, const json_t *type) {
    html_escape(out, json_string_value(type));
}

static void put_words(Buffer *out, const json_t *schema) {
    const json_t *type = json_object_get(schema, "type");

    if (json_object_get(schema, "$ref"))
        put_link(out, text_of(schema, "$ref"));
    else if (json_object_get(schema, "anyOf"))
        put_list(out, json_object_get(schema, "anyOf"), put_words);
    else if (json_object_get(schema, "enum"))
        put_list(out, json_object_get(schema, "enum"), put_code);
    else if (json_is_array(type))
        put_list(out, type, put_word);
    else if (type)
        put_word(out, type);
    put_bound(out, schema, "minimum", ", at least");
    put_bound(out, schema, "maximum", ", at most");
}

/* operations */

static bool is_required(const json_t *schema, const json_t *name) {
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(schema, "required"), i, item)
        if (json_equal(item, name))
            return true;
    return false;
}

static void put_parameter(Buffer *out, const json_t *body, const json_t *name,
                          const json_t *schema) {
    buffer_append_text(out, "<tr><td><code>");
    html_escape(out, json_string_value(name));
    buffer_append_text(out, is_required(body, name) ? "</code> (required)</td><td>"
                                                    : "</code></td><td>");
    put_words(out, schema);
    buffer_append_text(out, "</td><td>");
    html_escape(out, text_of(schema, "description"));
    buffer_append_text(out, "</td><td>");
    html_escape(out, text_of(schema, "x-defined-by"));
    buffer_append_text(out, "</td></tr>\n");
}

static void put_body(Buffer *out, const json_t *body) {
    const json_t *content = json_object_get(body, "content");
    const json_t *schema = json_object_get(json_object_get(content, "application/json"), "schema");
    const json_t *name, *parameter;

    buffer_append_text(out, "<p>The body is a JSON object; null means \"not given\".</p>\n"
                            "<table>\n<tr><th>parameter</th><th>type</th><th></th>"
                            "<th>defined by</th></tr>\n");
    json_object_foreach(json_object_get(schema, "properties"), name, parameter)
        put_parameter(out, schema, name, parameter);
    buffer_append_text(out, "</table>\n");
}

/* Of a stream's event, the data. */
static const json_t *schema_of(const json_t *media) {
    const json_t *schema = json_object_get(media, "schema");
    const json_t *data = json_object_get(json_object_get(schema, "properties"), "data");
    const json_t *first = json_array_get(json_object_get(data, "anyOf"), 0);
    const json_t *content = json_object_get(first, "contentSchema");

    return content ? content : schema;
}

static void put_media(Buffer *out, const json_t *content) {
    const char *between = " ";
    const json_t *type, *media;

    json_object_foreach(content, type, media) {
        buffer_append_text(out, between);
        html_escape(out, json_string_value(type));
        buffer_append_text(out, ": ");
        put_words(out, schema_of(media));
        between = "; ";
    }
}

static void put_answers(Buffer *out, const json_t *answers) {
    const json_t *status, *answer;

    buffer_append_text(out, "<details><summary>Answers</summary>\n<table>\n");
    json_object_foreach(answers, status, answer) {
        buffer_printf(out, "<tr><td>%s</td><td>", json_string_value(status));
        html_escape(out, text_of(answer, "description"));
        put_media(out, json_object_get(answer, "content"));
        buffer_append_text(out, "</td></tr>\n");
    }
    buffer_append_text(out, "</table>\n</details>\n");
}

static void put_operation(Buffer *out, const json_t *path, const json_t *method,
                          const json_t *operation) {
    buffer_printf(out, "<h2 id=\"%s\"><code>", text_of(operation, "operationId"));
    for (const char *c = json_string_value(method); *c; c++)
        buffer_append_char(out, (char)(*c - 'a' + 'A'));
    buffer_append_char(out, ' ');
    html_escape(out, json_string_value(path));
    buffer_append_text(out, "</code></h2>\n<p>");
    html_escape(out, text_of(operation, "summary"));
    buffer_append_text(out, "</p>\n");
    if (json_object_get(operation, "requestBody"))
        put_body(out, json_object_get(operation, "requestBody"));
    put_answers(out, json_object_get(operation, "responses"));
}

static void put_operations(Buffer *out, const json_t *paths) {
    const json_t *path, *methods, *method, *operation;

    json_object_foreach(paths, path, methods)
        json_object_foreach(methods, method, operation)
            put_operation(out, path, method, operation);
}

/* the page */

static void put_contents(Buffer *out, const json_t *paths) {
    const json_t *path, *methods, *method, *operation;

    buffer_append_text(out, "<ul>\n");
    json_object_foreach(paths, path, methods) {
        json_object_foreach(methods, method, operation) {
            buffer_printf(out, "<li><a href=\"#%s\"><code>", text_of(operation, "operationId"));
            html_escape(out, json_string_value(path));
            buffer_append_text(out, "</code></a> ");
            html_escape(out, text_of(operation, "summary"));
            buffer_append_text(out, "</li>\n");
        }
    }
    buffer_append_text(out, "</ul>\n");
}

static void put_schemas(Buffer *out, const json_t *schemas) {
    const json_t *name, *schema;

    buffer_append_text(out, "<h2>Schemas</h2>\n");
    json_object_foreach(schemas, name, schema) {
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        JsonWriter w = { .out = &text, .indent = 2 };

        json_put_value(&w, NULL, schema);
        buffer_append_text(out, "<h3 id=\"schema-");
        html_escape(out, json_string_value(name));
        buffer_append_text(out, "\">");
        html_escape(out, json_string_value(name));
        buffer_append_text(out, "</h3>\n<pre>");
        html_escape(out, buffer_text(&text));
        buffer_append_text(out, "</pre>\n");
        if (buffer_failed(&text))
            out->failed = true;
    }
}

void api_docs_write(Buffer *out, const Buffer *openapi) {
    CLEANUP(json_unref) json_t *document = NULL;
    const json_t *paths;

    if (json_parse(&document, buffer_text(openapi), openapi->size, 0, NULL))
        out->failed = true;
    paths = json_object_get(document, "paths");
    buffer_append_text(out, page_head);
    buffer_append_text(out, "<h1>The API of kvasird " KVASIR_VERSION "</h1>\n"
                            "<p>For programs: <a href=\"openapi.json\">openapi.json</a>.</p>\n");
    put_contents(out, paths);
    put_operations(out, paths);
    put_schemas(out, json_object_get(json_object_get(document, "components"), "schemas"));
    buffer_append_text(out, "</html>\n");
}
