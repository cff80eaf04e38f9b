/* SPDX-License-Identifier: Apache-2.0 */
#include "util/json.h"

#include "util/mapped_file.h"
#include "util/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define DESCRIPTION_BYTES_MAX 64

int json_load_path(json_t **outp, const char *path, size_t flags, Reason *why) {
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    int r;

    r = mapped_file_open(&file, path, why);
    if (r)
        return r;
    r = json_parse(outp, (const char *)file.data, file.size, flags, why);
    if (r)
        return reason_prefix(why, r, "%s: ", path);
    return 0;
}

/* A line of text within bounds. */
typedef struct Line {
    char *text;
    size_t size; /* of `text` */
    size_t n;
    bool cut;
} Line;

static void put(Line *line, const char *words) {
    size_t n = strlen(words);

    if (n >= line->size - line->n) {
        n = line->size - line->n - 1;
        line->cut = true;
    }
    memcpy(line->text + line->n, words, n);
    line->n += n;
    line->text[line->n] = 0;
}

/* One character; returns its bytes. Escapes keep control characters and half characters out. */
static size_t put_character(Line *line, const char *text) {
    uint32_t cp = utf8_decode(text);
    char words[16] = { (char)cp };

    if (cp == '"' || cp == '\\')
        snprintf(words, sizeof(words), "\\%c", (char)cp);
    else if (cp == '\n' || cp == '\t' || cp == '\r')
        snprintf(words, sizeof(words), "\\%c", cp == '\n' ? 'n' : cp == '\t' ? 't' : 'r');
    else if (cp >= 0x10000)
        snprintf(words, sizeof(words), "\\u%04X\\u%04X", 0xd800 + ((cp - 0x10000) >> 10),
                 0xdc00 + (cp & 0x3ff));
    else if (cp < 0x20 || cp >= 0x7f)
        snprintf(words, sizeof(words), "\\u%04X", cp);
    put(line, words);
    return utf8_size(*text);
}

static void put_string(Line *line, const char *text, size_t size) {
    put(line, "\"");
    for (size_t at = 0; at < size && !line->cut;)
        at += put_character(line, text + at);
    put(line, "\"");
}

const char *json_describe(const json_t *value, char *text, size_t size) {
    static const char *const names[] = {
        [JSON_NOTHING] = "nothing", [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",
        [JSON_TRUE] = "true",       [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    Line line = { .text = text, .size = size };

    if (json_is_string(value))
        put_string(&line, json_string_value(value), json_string_length(value));
    else if (json_is_number(value))
        put(&line, json_number_text(value));
    else
        put(&line, names[json_typeof(value)]);
    if (line.cut && size >= 4)
        memcpy(text + size - 4, "...", 4);
    return text;
}

static int wrong_type(const json_t *value, const char *key, const char *expected, Reason *why) {
    char found[DESCRIPTION_BYTES_MAX];

    return reason_set(why, -EINVAL, "key \"%s\": expected %s, found %s", key, expected,
                      json_describe(value, found, sizeof(found)));
}

/* NULL if missing or null. */
static const json_t *find(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}

int json_required(int r, const char *key, Reason *why) {
    if (r == JSON_E_ABSENT)
        return reason_set(why, -EINVAL, "key \"%s\" is missing", key);
    return r;
}

int json_get_bool(const json_t *object, const char *key, bool *out, Reason *why) {
    const json_t *value = find(object, key);

    if (!value)
        return JSON_E_ABSENT;
    if (!json_is_boolean(value))
        return wrong_type(value, key, "true or false", why);
    *out = json_is_true(value);
    return 0;
}

bool json_as_i64(const json_t *value, int64_t min, int64_t max, int64_t *out) {
    const double exact_max = 9007199254740992.0; /* 2^53 */
    int64_t whole;
    double real;

    if (json_is_integer(value)) {
        whole = json_integer_value(value);
    } else if (json_is_real(value)) {
        real = json_number_value(value);
        if (real != floor(real) || fabs(real) > exact_max)
            return false;
        whole = (int64_t)real;
    } else {
        return false;
    }
    if (whole < min || whole > max)
        return false;
    *out = whole;
    return true;
}

int json_get_i64(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                 Reason *why) {
    const json_t *value = find(object, key);
    char expected[96];

    if (!value)
        return JSON_E_ABSENT;
    if (json_as_i64(value, min, max, out))
        return 0;
    snprintf(expected, sizeof(expected), "a whole number from %" PRId64 " to %" PRId64, min, max);
    return wrong_type(value, key, expected, why);
}

int json_get_u32(const json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                 Reason *why) {
    int64_t value = 0;
    int r;

    r = json_get_i64(object, key, min, max, &value, why);
    if (r)
        return r;
    *out = (uint32_t)value;
    return 0;
}

int json_get_double(const json_t *object, const char *key, double *out, Reason *why) {
    const json_t *value = find(object, key);

    if (!value)
        return JSON_E_ABSENT;
    if (!json_is_number(value) || !isfinite(json_number_value(value)))
        return wrong_type(value, key, "a number", why);
    *out = json_number_value(value);
    return 0;
}

int json_get_float(const json_t *object, const char *key, float *out, Reason *why) {
    double value = 0;
    int r;

    r = json_get_double(object, key, &value, why);
    if (r)
        return r;
    if (!isfinite((float)value))
        return wrong_type(find(object, key), key, "a number within the range of float", why);
    *out = (float)value;
    return 0;
}

int json_get_text(const json_t *object, const char *key, const char **out, size_t *size,
                  Reason *why) {
    const json_t *value = find(object, key);

    if (!value)
        return JSON_E_ABSENT;
    if (!json_is_string(value))
        return wrong_type(value, key, "a string", why);
    *out = json_string_value(value);
    *size = json_string_length(value);
    return 0;
}

int json_get_word(const json_t *object, const char *key, const char **out, Reason *why) {
    const json_t *value = find(object, key);

    if (!value)
        return JSON_E_ABSENT;
    if (!json_is_string(value) || json_string_has_nul(value))
        return wrong_type(value, key, "a string without NUL", why);
    *out = json_string_value(value);
    return 0;
}

int json_get_array(const json_t *object, const char *key, const json_t **out, Reason *why) {
    const json_t *value = find(object, key);

    if (!value)
        return JSON_E_ABSENT;
    if (!json_is_array(value))
        return wrong_type(value, key, "an array", why);
    *out = value;
    return 0;
}

int json_get_object(const json_t *object, const char *key, const json_t **out, Reason *why) {
    const json_t *value = find(object, key);

    if (!value)
        return JSON_E_ABSENT;
    if (!json_is_object(value))
        return wrong_type(value, key, "an object", why);
    *out = value;
    return 0;
}
