/* SPDX-License-Identifier: Apache-2.0 */
#include "util/json.h"

#include "util/mapped_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define DESCRIPTION_BYTES_MAX 64

json_t *json_unref(json_t *value) {
    json_decref(value);
    return NULL;
}

int json_parse(json_t **outp, const char *text, size_t size, size_t flags, Reason *why) {
    json_error_t error;
    json_t *value;

    flags |= JSON_ALLOW_NUL;
    value = json_loadb(text, size, flags, &error);
    if (!value && json_error_code(&error) == json_error_numeric_overflow)
        value = json_loadb(text, size, flags | JSON_DECODE_INT_AS_REAL, &error);
    if (!value && json_error_code(&error) == json_error_out_of_memory)
        return reason_set(why, -ENOMEM, "out of memory");
    if (!value)
        return reason_set(why, -EINVAL, "not valid JSON: line %d, column %d: %s", error.line,
                          error.column, error.text);
    *outp = value;
    return 0;
}

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

const char *json_describe(const json_t *value, char *text, size_t size) {
    CLEANUP(free) char *dump = NULL;

    if (json_is_array(value) || json_is_object(value)) {
        snprintf(text, size, "%s", json_is_array(value) ? "an array" : "an object");
        return text;
    }
    /* Escaping to ASCII keeps control characters and half characters out of the message. */
    dump = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
    if (snprintf(text, size, "%s", dump ? dump : "a value") >= (int)size && size >= 4)
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
        real = json_real_value(value);
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
