/* SPDX-License-Identifier: Apache-2.0 */
#include "grammar/one_of.h"

#include <stdint.h>
#include <string.h>

#define REFERENCES_MAX 16
#define ALTERNATIVES_MAX 256 /* each is compared with each */
#define NAME_BYTES_MAX 256

/* What JSON values are, as bits; an integer is a number, too. */
enum {
    IS_NULL = 1,
    IS_BOOLEAN = 2,
    IS_INTEGER = 4,
    IS_FRACTION = 8,
    IS_STRING = 16,
    IS_ARRAY = 32,
    IS_OBJECT = 64,
    IS_ANY = 127,
};

/* The next name of a pointer, of *n bytes, unescaped; NULL: too long. */
static const char *next_name(const char **at, char *name, size_t *n) {
    const char *p = *at;

    for (*n = 0; *p && *p != '/'; p++) {
        char c = *p;

        if (c == '~' && (p[1] == '0' || p[1] == '1'))
            c = *++p == '0' ? '~' : '/';
        if (*n == NAME_BYTES_MAX)
            return NULL;
        name[(*n)++] = c;
    }
    *at = p;
    return name;
}

/* What `#/a/b` names; NULL: nothing that is known here. */
static const json_t *pointed_at(const json_t *root, const json_t *reference) {
    const char *at = json_string_value(reference);
    const json_t *found = root;

    if (!at || *at != '#')
        return NULL;
    for (at++; found && *at == '/';) {
        char name[NAME_BYTES_MAX];
        size_t n;

        at++;
        if (!next_name(&at, name, &n))
            return NULL;
        found = json_object_getn(found, name, n);
    }
    return *at ? NULL : found;
}

static const json_t *resolved(const json_t *root, const json_t *schema) {
    const json_t *reference;

    for (int i = 0; i < REFERENCES_MAX && (reference = json_object_get(schema, "$ref")); i++)
        schema = pointed_at(root, reference);
    return json_object_get(schema, "$ref") ? NULL : schema;
}

static unsigned type_bits(const json_t *type) {
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = { { "null", IS_NULL },       { "boolean", IS_BOOLEAN },
                  { "integer", IS_INTEGER }, { "number", IS_INTEGER | IS_FRACTION },
                  { "string", IS_STRING },   { "array", IS_ARRAY },
                  { "object", IS_OBJECT } };
    const json_t *item;
    unsigned bits = 0;
    size_t i;

    json_array_foreach(type, i, item)
        bits |= type_bits(item);
    for (i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (json_string_is(type, types[i].name))
            return types[i].bits;
    return bits ? bits : IS_ANY;
}

static unsigned value_bits(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return IS_OBJECT;
    case JSON_ARRAY:
        return IS_ARRAY;
    case JSON_STRING:
        return IS_STRING;
    case JSON_NULL:
        return IS_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return IS_BOOLEAN;
    default: /* 1.0 is an integer */
        return IS_INTEGER | IS_FRACTION;
    }
}

/* What the values are that a schema lists; 0: it lists none. */
static unsigned listed_bits(const json_t *schema) {
    const json_t *values = json_object_get(schema, "enum"), *item;
    const json_t *constant = json_object_get(schema, "const");
    unsigned bits = 0;
    size_t i;

    if (constant)
        return value_bits(constant);
    json_array_foreach(values, i, item)
        bits |= value_bits(item);
    return bits;
}

static unsigned bits_of(const json_t *schema) {
    unsigned listed = listed_bits(schema);

    if (listed)
        return listed;
    if (json_object_get(schema, "anyOf") || json_object_get(schema, "oneOf") ||
        json_object_get(schema, "allOf") || !json_object_get(schema, "type"))
        return IS_ANY;
    return type_bits(json_object_get(schema, "type"));
}

static bool lists(const json_t *schema, const json_t *value) {
    const json_t *values = json_object_get(schema, "enum"), *item;
    const json_t *constant = json_object_get(schema, "const");
    size_t i;

    if (constant)
        return json_equal(constant, value);
    json_array_foreach(values, i, item)
        if (json_equal(item, value))
            return true;
    return false;
}

/* Both list their values, and none is in both lists. */
static bool lists_differ(const json_t *a, const json_t *b) {
    const json_t *values = json_object_get(a, "enum"), *item;
    const json_t *constant = json_object_get(a, "const");
    size_t i;

    if (!listed_bits(a) || !listed_bits(b))
        return false;
    if (constant)
        return !lists(b, constant);
    json_array_foreach(values, i, item)
        if (lists(b, item))
            return false;
    return true;
}

static bool requires(const json_t *schema, const json_t *name) {
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(schema, "required"), i, item)
        if (json_equal(item, name))
            return true;
    return false;
}

static const json_t *property(const json_t *root, const json_t *schema, const json_t *name) {
    return resolved(root, json_object_getn(json_object_get(schema, "properties"),
                                           json_string_value(name), json_string_length(name)));
}

/* A property that both require tells them apart. */
static bool is_told_by_property(const json_t *root, const json_t *a, const json_t *b) {
    const json_t *name;
    size_t i;

    json_array_foreach(json_object_get(a, "required"), i, name) {
        const json_t *of_a, *of_b;

        if (!json_is_string(name) || !requires(b, name))
            continue;
        of_a = property(root, a, name);
        of_b = property(root, b, name);
        if (of_a && of_b && (!(bits_of(of_a) & bits_of(of_b)) || lists_differ(of_a, of_b)))
            return true;
    }
    return false;
}

static bool excludes(const json_t *root, const json_t *a, const json_t *b) {
    unsigned both = bits_of(a) & bits_of(b);

    return !both || lists_differ(a, b) || (both == IS_OBJECT && is_told_by_property(root, a, b));
}

bool one_of_is_exclusive(const json_t *root, const json_t *alternatives) {
    const json_t *items[ALTERNATIVES_MAX], *item;
    size_t n = json_array_size(alternatives), i;

    if (n > ALTERNATIVES_MAX)
        return false;
    json_array_foreach(alternatives, i, item) {
        items[i] = resolved(root, item);
        if (!json_is_object(items[i]))
            return false;
        for (size_t j = 0; j < i; j++)
            if (!excludes(root, items[i], items[j]))
                return false;
    }
    return true;
}
