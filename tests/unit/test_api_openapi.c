/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The description of the API against what it is written from: the table of paths, the rows of
 * parameters, and the schemas. That rows and readers agree on values is tested over HTTP
 * (tests/e2e/test_openapi.py); here, on the bounds of numbers.
 */
#include "server/api/api.h"
#include "server/api/api_docs.h"
#include "server/api/api_openapi.h"
#include "server/api/api_param_table.h"
#include "server/api/api_schemas.h"
#include "util/json.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define REF "#/components/schemas/"

static const ApiLimits limits = { .choices_max = 5, .prompts_max = 6, .stops_max = 7 };
static const ApiLimits lenient = { .unknown_taken = true };
static const GenerationDefaults no_defaults;

static json_t *document; /* of `limits` */

static json_t *write_document(const ApiLimits *with) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    json_t *tree = NULL;
    Reason why;

    api_openapi_write(&text, with, "tiny");
    assert_false(buffer_failed(&text));
    if (json_parse(&tree, text.data, text.size, JSON_REJECT_DUPLICATES, &why))
        fail_msg("%s", why.text);
    return tree;
}

static int set_up(void **state) {
    (void)state;
    document = write_document(&limits);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    document = json_unref(document);
    return 0;
}

static const json_t *at(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);

    if (!value)
        fail_msg("there is no \"%s\"", key);
    return value;
}

/* Routes without words are not told of. */
static bool is_told(const Route *route) {
    return route->summary;
}

static const json_t *operation_of(const json_t *tree, const Route *route) {
    char path[128], method[16] = "";

    snprintf(path, sizeof(path), "%s%s%s%s", route->path, route->below ? "{" : "",
             route->below ? route->below : "", route->below ? "}" : "");
    snprintf(method, sizeof(method), "%s", http_method_name(route->method));
    for (char *c = method; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return at(at(at(tree, "paths"), path), method);
}

static const json_t *body_of(const json_t *tree, const Route *route) {
    const json_t *body = at(operation_of(tree, route), "requestBody");

    return at(at(at(body, "content"), "application/json"), "schema");
}

static void test_every_path_is_there_with_its_words(void **state) {
    size_t n;
    const Route *routes = api_routes(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        const json_t *operation;

        if (!is_told(&routes[i]))
            continue;
        operation = operation_of(document, &routes[i]);
        assert_true(json_string_is(at(operation, "summary"), routes[i].summary));
        assert_int_equal(routes[i].body != 0, json_object_get(operation, "requestBody") != NULL);
        assert_int_equal(routes[i].body != 0, routes[i].method == HTTP_METHOD_POST);
        assert_true(json_object_size(at(at(at(operation, "responses"), "200"), "content")) > 0);
        assert_int_equal(routes[i].path[strlen(routes[i].path) - 1] == '/' && i + 1 < n,
                         routes[i].below != NULL);
    }
}

/* Each reference, at any depth, has what it names. */
static void check_refs(const json_t *value) {
    const json_t *key, *item;
    size_t i;

    json_array_foreach(value, i, item)
        check_refs(item);
    json_object_foreach(value, key, item) {
        check_refs(item);
        if (!json_string_is(key, "$ref"))
            continue;
        assert_memory_equal(json_string_value(item), REF, strlen(REF));
        at(at(at(document, "components"), "schemas"), json_string_value(item) + strlen(REF));
    }
}

static void test_every_reference_leads_somewhere(void **state) {
    (void)state;
    check_refs(document);
}

static void test_files_of_schemas_are_json(void **state) {
    size_t n;
    const ApiSchemaFile *files = api_schema_files(&n);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        CLEANUP(json_unref) json_t *schemas = NULL;

        assert_int_equal(
            json_parse(&schemas, files[i].text, files[i].size, JSON_REJECT_DUPLICATES, NULL), 0);
        assert_true(json_object_size(schemas) > 0);
    }
}

static void check_row(const json_t *schema, const ApiParam *param, unsigned endpoint) {
    const json_t *shown = json_object_get(at(schema, "properties"), param->name);
    const json_t *item;
    bool is_required = false;
    size_t i;

    if (param->type == PARAM_FIXED) {
        assert_null(shown);
        return;
    }
    assert_true(json_string_is(at(shown, "description"), param->help));
    assert_true(json_string_is(at(shown, "x-defined-by"), param->by));
    assert_true(strlen(param->help) > 0 && strlen(param->by) > 0);
    json_array_foreach(at(schema, "required"), i, item)
        is_required |= json_string_is(item, param->name);
    assert_int_equal(is_required, (param->required_by & endpoint) != 0);
    assert_int_equal(param->type == PARAM_CUSTOM, param->read != NULL);
    if (param->type == PARAM_CUSTOM)
        assert_non_null(param->schema);
}

/* What is read, and nothing else: in both directions. */
static void test_bodies_have_the_rows(void **state) {
    size_t n_routes, n_params;
    const Route *routes = api_routes(&n_routes);
    const ApiParam *table = api_param_table(&n_params);

    (void)state;
    for (size_t i = 0; i < n_routes; i++) {
        const json_t *schema;
        size_t n = 0;

        if (!routes[i].body)
            continue;
        schema = body_of(document, &routes[i]);
        for (size_t j = 0; j < n_params; j++) {
            if (!(table[j].endpoints & routes[i].body))
                continue;
            check_row(schema, &table[j], routes[i].body);
            n += table[j].type != PARAM_FIXED;
        }
        assert_int_equal(json_object_size(at(schema, "properties")), n);
    }
}

static void test_options_are_in_it(void **state) {
    CLEANUP(json_unref) json_t *other = write_document(&lenient);
    size_t n;
    const Route *completions = api_routes(&n);
    const json_t *strict = body_of(document, completions);
    const json_t *schemas = at(at(document, "components"), "schemas");
    const json_t *lists = json_array_get(at(at(schemas, "Stop"), "anyOf"), 1);
    const json_t *unknown = at(at(schemas, "StreamOptions"), "additionalProperties");

    (void)state;
    assert_int_equal(json_integer_value(at(at(at(strict, "properties"), "n"), "maximum")), 5);
    assert_int_equal(json_integer_value(at(lists, "maxItems")), 7);
    assert_true(json_string_is(at(unknown, "type"), "null"));
    assert_true(json_string_is(at(at(strict, "additionalProperties"), "type"), "null"));
    assert_true(json_is_true(at(body_of(other, completions), "additionalProperties")));
}

/* numbers at their bounds, and behind them */

/* What other parameters have to say for this one, where one has. */
static const char *companion(const char *name, unsigned endpoint) {
    if (!strcmp(name, "max_tokens") && !(endpoint & API_CHATS))
        return ", \"echo\": true";
    if (strcmp(name, "top_logprobs") != 0)
        return "";
    return endpoint == API_RESPONSES ? ", \"include\": [\"message.output_text.logprobs\"]"
                                     : ", \"logprobs\": true";
}

static bool is_read(const ApiParam *param, unsigned endpoint, double value) {
    ApiParamsContext context = {
        .endpoint = endpoint, .limits = limits, .n_vocab = 100, .defaults = &no_defaults
    };
    CLEANUP(api_params_deinit) ApiParams params = API_PARAMS_NULL;
    CLEANUP(json_unref) json_t *body = NULL;
    ApiError error = API_ERROR_NULL;
    char text[160];

    snprintf(text, sizeof(text), "{\"%s\": %.17g%s}", param->name, value,
             companion(param->name, endpoint));
    assert_int_equal(json_parse(&body, text, strlen(text), JSON_REJECT_DUPLICATES, NULL), 0);
    if (!api_params_read(&params, body, &context, &error))
        return true;
    assert_string_equal(error.param, param->name);
    return false;
}

static void check_bounds(const ApiParam *param, unsigned endpoint, const json_t *schema) {
    double min = json_number_value(at(schema, "minimum"));
    double max = json_number_value(at(schema, "maximum"));
    double step = param->type == PARAM_FLOAT ? 1e-6 : 1;

    if (!is_read(param, endpoint, min) || !is_read(param, endpoint, max) ||
        is_read(param, endpoint, min - step) || is_read(param, endpoint, max + step))
        fail_msg("%s: not read from %g to %g", param->name, min, max);
    if (param->type != PARAM_FLOAT && is_read(param, endpoint, min + 0.5))
        fail_msg("%s: half of a number is read", param->name);
}

static void test_numbers_are_read_within_their_bounds(void **state) {
    size_t n_routes, n_params, n_checked = 0;
    const Route *routes = api_routes(&n_routes);
    const ApiParam *table = api_param_table(&n_params);

    (void)state;
    for (size_t i = 0; i < n_routes; i++) {
        for (size_t j = 0; j < n_params; j++) {
            bool is_number = table[j].type >= PARAM_U32 && table[j].type <= PARAM_FLOAT;

            if (!(table[j].endpoints & routes[i].body) || !is_number)
                continue;
            check_bounds(&table[j], routes[i].body,
                         at(at(body_of(document, &routes[i]), "properties"), table[j].name));
            n_checked++;
        }
    }
    assert_true(n_checked > 20);
}

/* the page */

static bool says(const Buffer *page, const char *text) {
    return strstr(buffer_text(page), text) != NULL;
}

static void test_the_page_says_the_same(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer page = BUFFER_NULL;
    size_t n_routes, n_params;
    const Route *routes = api_routes(&n_routes);
    const ApiParam *table = api_param_table(&n_params);
    char words[128];

    (void)state;
    api_openapi_write(&text, &limits, "<b>&\"'");
    api_docs_write(&page, &text);
    assert_false(buffer_failed(&page));
    for (size_t i = 0; i < n_routes; i++) {
        if (!is_told(&routes[i]))
            continue;
        snprintf(words, sizeof(words), "<h2 id=\"%s",
                 json_string_value(at(operation_of(document, &routes[i]), "operationId")));
        assert_true(says(&page, words));
    }
    for (size_t i = 0; i < n_params; i++) {
        snprintf(words, sizeof(words), "<td><code>%s</code>", table[i].name);
        if (table[i].type != PARAM_FIXED)
            assert_true(says(&page, words));
    }
    assert_false(says(&page, "<td><code>bad_words</code>"));
    assert_true(says(&page, "integer, at least 1, at most 5"));
    assert_false(says(&page, "<b>") || says(&page, "<script") || says(&page, "src="));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_path_is_there_with_its_words),
        cmocka_unit_test(test_every_reference_leads_somewhere),
        cmocka_unit_test(test_files_of_schemas_are_json),
        cmocka_unit_test(test_bodies_have_the_rows),
        cmocka_unit_test(test_options_are_in_it),
        cmocka_unit_test(test_numbers_are_read_within_their_bounds),
        cmocka_unit_test(test_the_page_says_the_same),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
