/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of trees. Nothing is kept between calls: a number is read from its digits each time, a
 * member is found by looking at all of them.
 */
#include "util/json_tree.h"

#include "util/json_node.h"
#include "util/list.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(json_t) == 16, "a value takes 16 bytes");

json_t *json_unref(json_t *root) {
    JsonDocument *document = root ? container_of(root, JsonDocument, root) : NULL;

    if (!document)
        return NULL;
    for (JsonChunk *chunk = document->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        account_release(document->account, chunk->bytes);
        free(chunk);
    }
    account_release(document->account, JSON_DOCUMENT_BYTES);
    free(document);
    return NULL;
}

json_type json_typeof(const json_t *value) {
    return value ? (json_type)value->type : JSON_NOTHING;
}

/* texts */

const char *json_string_value(const json_t *string) {
    return json_is_string(string) ? node_text(string) : NULL;
}

size_t json_string_length(const json_t *string) {
    return json_is_string(string) ? string->size : 0;
}

static bool has_text(const json_t *node, const char *text, size_t size) {
    return node->size == size && !memcmp(node_text(node), text, size);
}

bool json_string_is(const json_t *string, const char *text) {
    return json_is_string(string) && has_text(string, text, strlen(text));
}

bool json_string_has_nul(const json_t *string) {
    return json_is_string(string) && memchr(node_text(string), 0, string->size);
}

/* numbers */

int64_t json_integer_value(const json_t *integer) {
    return json_is_integer(integer) ? strtoll(node_text(integer), NULL, 10) : 0;
}

double json_number_value(const json_t *number) {
    return json_is_number(number) ? strtod(node_text(number), NULL) : 0;
}

const char *json_number_text(const json_t *number) {
    return json_is_number(number) ? node_text(number) : NULL;
}

/* arrays and objects */

const json_t *json_first(const json_t *container) {
    const json_t *at;

    if (!container || !node_is_container(container))
        return NULL;
    at = container + 1;
    return at->type == NODE_LINK ? at->end : at;
}

const json_t *json_next(const json_t *value) {
    const json_t *at = node_is_container(value) ? value->end : value + 1;

    return at->type == NODE_LINK ? at->end : at;
}

size_t json_array_size(const json_t *array) {
    return json_is_array(array) ? array->size : 0;
}

size_t json_object_size(const json_t *object) {
    return json_is_object(object) ? object->size : 0;
}

const json_t *json_array_get(const json_t *array, size_t i) {
    const json_t *item;
    size_t at;

    json_array_foreach(array, at, item) {
        if (at == i)
            return item;
    }
    return NULL;
}

const json_t *json_object_getn(const json_t *object, const char *key, size_t size) {
    const json_t *name, *value, *found = NULL;

    json_object_foreach(object, name, value) {
        if (has_text(name, key, size))
            found = value;
    }
    return found;
}

const json_t *json_object_get(const json_t *object, const char *key) {
    return json_object_getn(object, key, strlen(key));
}

/* comparing */

static bool numbers_equal(const json_t *a, const json_t *b) {
    if (json_is_integer(a) && json_is_integer(b))
        return json_integer_value(a) == json_integer_value(b);
    return json_is_number(b) && json_number_value(a) == json_number_value(b);
}

static bool arrays_equal(const json_t *a, const json_t *b) {
    const json_t *item, *other = json_first(b);
    size_t i;

    if (!json_is_array(b) || a->size != b->size)
        return false;
    json_array_foreach(a, i, item) {
        if (!json_equal(item, other))
            return false;
        other = json_next(other);
    }
    return true;
}

static bool objects_equal(const json_t *a, const json_t *b) {
    const json_t *key, *value;

    if (!json_is_object(b) || a->size != b->size)
        return false;
    json_object_foreach(a, key, value) {
        if (!json_equal(value, json_object_getn(b, node_text(key), key->size)))
            return false;
    }
    return true;
}

bool json_equal(const json_t *a, const json_t *b) {
    switch (json_typeof(a)) {
    case JSON_OBJECT:
        return objects_equal(a, b);
    case JSON_ARRAY:
        return arrays_equal(a, b);
    case JSON_STRING:
        return json_is_string(b) && has_text(b, node_text(a), a->size);
    case JSON_INTEGER:
    case JSON_REAL:
        return numbers_equal(a, b);
    default:
        return a && json_typeof(a) == json_typeof(b);
    }
}
