/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * JSON from outside as a tree that never changes. The text is read by yajl; the tree is ours, and
 * small: 16 bytes a value, and the bytes of those texts and numbers that are longer than 7. The
 * tree has copies of them, so the text it was read from may go.
 *
 * Numbers keep the digits they were written with. Strings, keys among them, are checked UTF-8 of a
 * known length; they may hold NUL, and a NUL that does not count follows. So a string must never be
 * compared as a C string: json_string_is does it right.
 *
 * A tree has one owner, who gives its root to json_unref. All other values are borrowed from it.
 * Every function for reading takes NULL, and values of another type, for "nothing there": it
 * returns NULL, 0 or false. The names are those of jansson, where it has such a function.
 */

#include "util/account.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How deep arrays and objects may be nested. Whoever follows a tree may recurse; Python's json, to
 * which chats are written, ends a little below 1,000 levels, some of which are around what a client
 * sent. */
#define JSON_DEPTH_MAX 920

typedef struct json_t json_t;

typedef enum json_type {
    JSON_NOTHING, /* of NULL */
    JSON_OBJECT,
    JSON_ARRAY,
    JSON_STRING,
    JSON_INTEGER, /* a number without fraction and exponent, of at most 64 bits with its sign */
    JSON_REAL,    /* any other number, integers beyond 64 bits among them */
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
} json_type;

enum {
    JSON_REJECT_DUPLICATES = 1, /* an object with the same key twice is refused */
    JSON_DECODE_ANY = 2,        /* the text may be any value, not only an object or an array */
};

/* Reads one text that holds one value. What the tree takes, and what reading it takes meanwhile, is
 * charged to `account` before it is taken; the tree's part is released by json_unref. `account` is
 * borrowed and must outlive the tree; NULL: nobody's. -EINVAL says line and column, for numbers
 * beyond the range of double, too; -ENOMEM; -ECANCELED if the account is closed meanwhile. */
int json_parse_charged(json_t **outp, const char *text, size_t size, size_t flags, Account *account,
                       Reason *why);
int json_parse(json_t **outp, const char *text, size_t size, size_t flags, Reason *why);

/* What is wrong with a text, in pieces: for those who write lines in a way of their own. */
typedef struct JsonError {
    size_t line, column; /* both from 1 */
    char problem[128];
} JsonError;

/* json_parse_charged; `error` is filled for -EINVAL. */
int json_parse_located(json_t **outp, const char *text, size_t size, size_t flags, Account *account,
                       JsonError *error);

/* Frees the tree of this root. Returns NULL. */
json_t *json_unref(json_t *root);
CLEANUP_DEFINE(json_t, json_unref);

json_type json_typeof(const json_t *value);

static inline bool json_is_object(const json_t *value) {
    return json_typeof(value) == JSON_OBJECT;
}
static inline bool json_is_array(const json_t *value) {
    return json_typeof(value) == JSON_ARRAY;
}
static inline bool json_is_string(const json_t *value) {
    return json_typeof(value) == JSON_STRING;
}
static inline bool json_is_integer(const json_t *value) {
    return json_typeof(value) == JSON_INTEGER;
}
static inline bool json_is_real(const json_t *value) {
    return json_typeof(value) == JSON_REAL;
}
static inline bool json_is_number(const json_t *value) {
    return json_is_integer(value) || json_is_real(value);
}
static inline bool json_is_true(const json_t *value) {
    return json_typeof(value) == JSON_TRUE;
}
static inline bool json_is_boolean(const json_t *value) {
    return json_is_true(value) || json_typeof(value) == JSON_FALSE;
}
static inline bool json_is_null(const json_t *value) {
    return json_typeof(value) == JSON_NULL;
}

const char *json_string_value(const json_t *string);
size_t json_string_length(const json_t *string); /* bytes */
/* Whether it is a string, and this one. */
bool json_string_is(const json_t *string, const char *text);
bool json_string_has_nul(const json_t *string);

int64_t json_integer_value(const json_t *integer);
double json_number_value(const json_t *number);
/* As it was written; a C string. */
const char *json_number_text(const json_t *number);

size_t json_array_size(const json_t *array);
/* Steps from the first item to this one: whoever wants them all takes json_array_foreach. */
const json_t *json_array_get(const json_t *array, size_t i);

size_t json_object_size(const json_t *object); /* members */
/* Looks at every member. The last one counts where duplicates were not refused. */
const json_t *json_object_get(const json_t *object, const char *key);
const json_t *json_object_getn(const json_t *object, const char *key, size_t size);

/* The first item of an array, or key of an object; for the loops below. */
const json_t *json_first(const json_t *container);
/* From an item to the next one, from a key to its value, and from that to the next key. Behind the
 * last it is some value that must not be used. */
const json_t *json_next(const json_t *value);

/* `i` is a size_t, `item` a const json_t *. */
#define json_array_foreach(_array, _i, _item)                                    \
    for ((_i) = 0, (_item) = json_first(_array); (_i) < json_array_size(_array); \
         (_i)++, (_item) = json_next(_item))

/* `key`, a string, and `value` are names of const json_t * variables. */
#define json_object_foreach(_object, _key, _value)                                     \
    for (size_t _key##_left = (_key = json_first(_object), json_object_size(_object)); \
         _key##_left && (_value = json_next(_key), true); _key##_left--, _key = json_next(_value))

/* Whether two values mean the same; numbers by their value, members in any order. Takes the product
 * of two objects' sizes. */
bool json_equal(const json_t *a, const json_t *b);
