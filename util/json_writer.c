/* SPDX-License-Identifier: Apache-2.0 */
#include "util/json_writer.h"

#include "util/utf8.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

static void put_escape(Buffer *out, unsigned char c) {
    static const char shorts[0x20] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'
    };

    if (c == '"' || c == '\\')
        buffer_printf(out, "\\%c", c);
    else if (shorts[c])
        buffer_printf(out, "\\%c", shorts[c]);
    else
        buffer_printf(out, "\\u%04x", c);
}

/* Bytes from `at` on that go out as they are: ASCII without what JSON escapes, eight at a time. */
static size_t skip_plain(const char *text, size_t at, size_t size) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);

    while (size - at >= sizeof(uint64_t)) {
        uint64_t eight, quotes, slashes;

        memcpy(&eight, text + at, sizeof(eight));
        quotes = eight ^ ones * '"';
        slashes = eight ^ ones * '\\';
        /* A byte below the one subtracted, or of 0x80 and more, leaves a top bit. */
        if (((eight - ones * 0x20) | (quotes - ones) | (slashes - ones) | eight) & tops)
            break;
        at += sizeof(eight);
    }
    return at;
}

static void put_quoted(Buffer *out, const char *text, size_t size) {
    size_t start = 0, at = 0;

    buffer_append_char(out, '"');
    while ((at = skip_plain(text, at, size)) < size) {
        unsigned char c = (unsigned char)text[at];
        Utf8Unit unit = utf8_unit(text + at, size - at);

        if (unit.valid && c >= 0x20 && c != '"' && c != '\\') {
            at += unit.size;
            continue;
        }
        buffer_append(out, text + start, at - start);
        if (unit.valid)
            put_escape(out, c);
        else
            buffer_append_text(out, UTF8_REPLACEMENT);
        start = at += unit.size;
    }
    buffer_append(out, text + start, size - start);
    buffer_append_char(out, '"');
}

static void put_line_end(JsonWriter *w) {
    if (w->indent)
        buffer_printf(w->out, "\n%*s", (int)(w->depth * w->indent), "");
}

/* What stands between this value, or its key, and what is before it. */
static void put_separator(JsonWriter *w) {
    if (w->comma)
        buffer_append_char(w->out, ',');
    if (w->depth)
        put_line_end(w);
    w->comma = true;
}

static void put_colon(JsonWriter *w) {
    buffer_append_text(w->out, w->indent ? ": " : ":");
}

/* The comma and the key before a value. */
static void put_lead(JsonWriter *w, const char *key) {
    if (!w->is_value)
        put_separator(w);
    w->is_value = false;
    if (!key)
        return;
    buffer_printf(w->out, "\"%s\"", key);
    put_colon(w);
}

static void begin(JsonWriter *w, const char *key, char bracket) {
    put_lead(w, key);
    buffer_append_char(w->out, bracket);
    w->comma = false;
    w->depth++;
}

static void end(JsonWriter *w, char bracket) {
    w->depth--;
    if (w->comma)
        put_line_end(w);
    buffer_append_char(w->out, bracket);
    w->comma = true;
}

void json_begin_object(JsonWriter *w, const char *key) {
    begin(w, key, '{');
}

void json_end_object(JsonWriter *w) {
    end(w, '}');
}

void json_begin_array(JsonWriter *w, const char *key) {
    begin(w, key, '[');
}

void json_end_array(JsonWriter *w) {
    end(w, ']');
}

void json_put_string(JsonWriter *w, const char *key, const char *text, size_t size) {
    put_lead(w, key);
    put_quoted(w->out, text, size);
}

void json_put_text(JsonWriter *w, const char *key, const char *text) {
    if (text)
        json_put_string(w, key, text, strlen(text));
    else
        json_put_null(w, key);
}

void json_put_u64(JsonWriter *w, const char *key, uint64_t value) {
    put_lead(w, key);
    buffer_printf(w->out, "%" PRIu64, value);
}

void json_put_i64(JsonWriter *w, const char *key, int64_t value) {
    put_lead(w, key);
    buffer_printf(w->out, "%" PRId64, value);
}

void json_put_double(JsonWriter *w, const char *key, double value) {
    if (!isfinite(value)) {
        json_put_null(w, key);
        return;
    }
    put_lead(w, key);
    buffer_printf(w->out, "%.17g", value);
}

void json_put_float(JsonWriter *w, const char *key, float value) {
    assert(isfinite(value));
    put_lead(w, key);
    buffer_printf(w->out, "%.9g", (double)value);
}

void json_put_bool(JsonWriter *w, const char *key, bool value) {
    put_lead(w, key);
    buffer_append_text(w->out, value ? "true" : "false");
}

void json_put_null(JsonWriter *w, const char *key) {
    put_lead(w, key);
    buffer_append_text(w->out, "null");
}

void json_put_key(JsonWriter *w, const char *text, size_t size) {
    put_separator(w);
    put_quoted(w->out, text, size);
    put_colon(w);
    w->is_value = true;
}

static void put_array(JsonWriter *w, const char *key, const json_t *array) {
    const json_t *item;
    size_t i;

    json_begin_array(w, key);
    json_array_foreach(array, i, item) {
        json_put_value(w, NULL, item);
    }
    json_end_array(w);
}

static void put_object(JsonWriter *w, const char *key, const json_t *object) {
    const json_t *name, *value;

    json_begin_object(w, key);
    json_object_foreach(object, name, value) {
        json_put_key(w, json_string_value(name), json_string_length(name));
        json_put_value(w, NULL, value);
    }
    json_end_object(w);
}

void json_put_value(JsonWriter *w, const char *key, const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        put_object(w, key, value);
        break;
    case JSON_ARRAY:
        put_array(w, key, value);
        break;
    case JSON_STRING:
        json_put_string(w, key, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        put_lead(w, key);
        buffer_append_text(w->out, json_number_text(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        json_put_bool(w, key, json_is_true(value));
        break;
    default:
        json_put_null(w, key);
    }
}

void json_write(const json_t *value, Buffer *out) {
    JsonWriter w = JSON_WRITER(out);

    json_put_value(&w, NULL, value);
}
