/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XGrammar looks at one keyword of a schema first: `$ref`, `const`, `enum`, `anyOf`, `oneOf` or
 * `allOf`, in this order; where there is one of these, nothing beside it counts. Else it looks at
 * `type`, or finds it from `properties` or `items`; without that nothing counts at all. Of a string
 * it looks at `pattern`, else at a `format` that it knows, else at bounds on its length.
 */
#include "grammar/schema_check.h"

#include "grammar/kind.h"
#include "grammar/one_of.h"
#include "util/json.h"
#include "util/json_tree.h"

#include <errno.h>
#include <string.h>

/* Say nothing of the value; `nullable`, which is OpenAPI's, takes nothing away. */
static const char *const annotations[] = {
    "$anchor",         "$comment", "$defs",       "$id",        "$schema",
    "contentEncoding", "default",  "definitions", "deprecated", "description",
    "discriminator",   "example",  "examples",    "format",     "id",
    "nullable",        "readOnly", "title",       "writeOnly",  NULL,
};
/* Known, where it looks. */
static const char *const keywords[] = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    NULL,
};
static const char *const first_looked_at[] = {
    "$ref", "const", "enum", "anyOf", "oneOf", "allOf", NULL,
};
/* Without a type these tell it. */
static const char *const typing[] = {
    "type",  "properties",  "additionalProperties", "unevaluatedProperties",
    "items", "prefixItems", "unevaluatedItems",     NULL,
};

/* Values of `format` that it keeps to. */
static const char *const kept_formats[] = {
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "uri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    NULL,
};

static bool is_one_of(const json_t *key, const char *const *names) {
    while (*names && !json_string_is(key, *names))
        names++;
    return *names;
}

/* The first of these names that the schema has; NULL: none. */
static const char *first_of(const json_t *schema, const char *const *names) {
    while (*names && !json_object_get(schema, *names))
        names++;
    return *names;
}

static int refuse(Reason *why, const json_t *key, const char *because) {
    return reason_set(why, GRAMMAR_E_INVALID, "`%.64s` %s", json_string_value(key), because);
}

static bool is_of_type(const json_t *value, const json_t *type) {
    const json_t *item;
    size_t i;

    json_array_foreach(type, i, item)
        if (is_of_type(value, item))
            return true;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return json_string_is(type, "object");
    case JSON_ARRAY:
        return json_string_is(type, "array");
    case JSON_STRING:
        return json_string_is(type, "string");
    case JSON_INTEGER:
        return json_string_is(type, "integer") || json_string_is(type, "number");
    case JSON_REAL:
        return json_string_is(type, "number");
    case JSON_NULL:
        return json_string_is(type, "null");
    default:
        return json_string_is(type, "boolean");
    }
}

/* Whether a type beside it takes nothing away from `const` or `enum`. */
static bool type_says_nothing(const json_t *schema, const char *first) {
    const json_t *value = json_object_get(schema, first), *type = json_object_get(schema, "type");
    const json_t *item;
    size_t i;

    if (!strcmp(first, "const"))
        return is_of_type(value, type);
    if (strcmp(first, "enum"))
        return false;
    json_array_foreach(value, i, item)
        if (!is_of_type(item, type))
            return false;
    return true;
}

/* What it looks at instead of this bound on a string's length; NULL: nothing. */
static const char *instead_of_length(const json_t *schema, const json_t *key, const json_t *value) {
    const json_t *format = json_object_get(schema, "format");
    int64_t n;

    if (!json_string_is(key, "maxLength") && !json_string_is(key, "minLength"))
        return NULL;
    if (json_string_is(key, "minLength") && json_as_i64(value, 0, 0, &n))
        return NULL;
    if (json_object_get(schema, "pattern"))
        return "pattern";
    return json_is_string(format) && is_one_of(format, kept_formats) ? "format" : NULL;
}

static int check_keyword(const json_t *schema, const json_t *key, const json_t *value,
                         const char *first, Reason *why) {
    bool is_known = is_one_of(key, keywords) || is_one_of(key, first_looked_at);
    const char *instead = instead_of_length(schema, key, value);

    if (is_one_of(key, annotations) || (first && json_string_is(key, first)) ||
        (json_string_is(key, "uniqueItems") && json_typeof(value) == JSON_FALSE))
        return 0;
    if (!is_known)
        return refuse(why, key, "is no keyword that can be enforced");
    if (first && !(json_string_is(key, "type") && type_says_nothing(schema, first)))
        return reason_set(why, GRAMMAR_E_INVALID,
                          "`%s` cannot be enforced beside `%s`: say it inside of that",
                          json_string_value(key), first);
    if (instead)
        return reason_set(why, GRAMMAR_E_INVALID,
                          "`%s` cannot be enforced beside `%s`: leave one of them out",
                          json_string_value(key), instead);
    if (!first && !first_of(schema, typing))
        return refuse(why, key, "cannot be enforced without a `type`");
    return 0;
}

static int check(const json_t *root, const json_t *schema, Reason *why);

static int check_each(const json_t *root, const json_t *container, Reason *why) {
    const json_t *key, *item;
    size_t i;
    int r = 0;

    json_array_foreach(container, i, item)
        if (!r)
            r = check(root, item, why);
    if (json_is_object(container))
        json_object_foreach(container, key, item)
            if (!r && (r = check(root, item, why)))
                reason_prefix(why, 0, "%.64s: ", json_string_value(key));
    return r;
}

static int check_below(const json_t *root, const json_t *key, const json_t *value, Reason *why) {
    static const char *const schemas[] = { "items",
                                           "additionalProperties",
                                           "propertyNames",
                                           "unevaluatedItems",
                                           "unevaluatedProperties",
                                           NULL };
    static const char *const lists[] = { "anyOf", "oneOf", "allOf", "prefixItems", NULL };
    static const char *const maps[] = { "properties", "patternProperties", "$defs", "definitions",
                                        NULL };

    if (json_string_is(key, "oneOf") && !one_of_is_exclusive(root, value))
        return refuse(why, key,
                      "can be enforced only where its alternatives exclude each other by their "
                      "types, or by a required property of different constants; use anyOf");
    if (is_one_of(key, schemas))
        return check(root, value, why);
    return is_one_of(key, lists) || is_one_of(key, maps) ? check_each(root, value, why) : 0;
}

/* What is no schema at all is XGrammar's to refuse. */
static int check(const json_t *root, const json_t *schema, Reason *why) {
    const char *first = first_of(schema, first_looked_at);
    const json_t *key, *value;
    int r = 0;

    if (!json_is_object(schema))
        return 0;
    json_object_foreach(schema, key, value) {
        if (!r)
            r = check_keyword(schema, key, value, first, why);
        if (!r)
            r = check_below(root, key, value, why);
    }
    return r;
}

int schema_check(const char *text, size_t size, Account *account, Reason *why) {
    CLEANUP(json_unref) json_t *schema = NULL;
    int r = json_parse_charged(&schema, text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY,
                               account, why);

    if (r)
        return r == -EINVAL ? reason_prefix(why, GRAMMAR_E_INVALID, "it is ") : r;
    return check(schema, schema, why);
}
