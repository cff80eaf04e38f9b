/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Writes JSON into a Buffer as it is said: no tree, no copies. `key` names a member of an object;
 * it is NULL in arrays and at the top, and needs no escapes. Text goes out as it is, but for what
 * JSON must escape; what is no UTF-8 becomes U+FFFD. Running out of memory shows in the Buffer.
 */

#include "util/buffer.h"
#include "util/json_tree.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct JsonWriter {
    Buffer *out;     /* borrowed */
    uint32_t indent; /* spaces a level, each value on a line of its own; 0: all on one line */
    uint32_t depth;
    bool comma;    /* something stands before in this object or array */
    bool is_value; /* the key has been put */
} JsonWriter;

#define JSON_WRITER(_out) \
    { .out = (_out) }

void json_begin_object(JsonWriter *writer, const char *key);
void json_end_object(JsonWriter *writer);
void json_begin_array(JsonWriter *writer, const char *key);
void json_end_array(JsonWriter *writer);

void json_put_string(JsonWriter *writer, const char *key, const char *text, size_t size);
void json_put_text(JsonWriter *writer, const char *key, const char *text); /* NULL: null */
void json_put_u64(JsonWriter *writer, const char *key, uint64_t value);
void json_put_i64(JsonWriter *writer, const char *key, int64_t value);
/* With as many digits as tell it from its neighbours; null where it is not finite. */
void json_put_double(JsonWriter *writer, const char *key, double value);
/* A finite f32, with as many digits as tell it from its neighbours. */
void json_put_float(JsonWriter *writer, const char *key, float value);
void json_put_bool(JsonWriter *writer, const char *key, bool value);
void json_put_null(JsonWriter *writer, const char *key);
/* A key of any text; the next value is put with key NULL. */
void json_put_key(JsonWriter *writer, const char *text, size_t size);
/* A value of a tree with all that is in it; numbers as they were written. */
void json_put_value(JsonWriter *writer, const char *key, const json_t *value);

/* The value as JSON text on one line. */
void json_write(const json_t *value, Buffer *out);
