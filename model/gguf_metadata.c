/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Typed access to the metadata that gguf.c has walked and bounded. Values lie unaligned in the
 * file, so every read is a copy.
 */
#include "model/gguf_file.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_names[GGUF_TYPES] = {
    [GGUF_U8] = "an 8-bit integer",  [GGUF_I8] = "an 8-bit integer",
    [GGUF_U16] = "a 16-bit integer", [GGUF_I16] = "a 16-bit integer",
    [GGUF_U32] = "a 32-bit integer", [GGUF_I32] = "a 32-bit integer",
    [GGUF_F32] = "a 32-bit float",   [GGUF_BOOL] = "a bool",
    [GGUF_TEXT] = "a text",          [GGUF_ARRAY] = "an array of arrays",
    [GGUF_U64] = "a 64-bit integer", [GGUF_I64] = "a 64-bit integer",
    [GGUF_F64] = "a 64-bit float",
};

static bool is_integer(GgufType type) {
    return type == GGUF_U8 || type == GGUF_I8 || type == GGUF_U16 || type == GGUF_I16 ||
           type == GGUF_U32 || type == GGUF_I32 || type == GGUF_U64 || type == GGUF_I64;
}

static bool is_float(GgufType type) {
    return type == GGUF_F32 || type == GGUF_F64;
}

static int compare_key_with_entry(const void *key, const void *entry) {
    return gguf_text_compare(key, &((const GgufEntry *)entry)->key);
}

static const GgufEntry *find(const Gguf *g, const char *key) {
    GgufText text = { .data = key, .size = strlen(key) };

    if (!g->n_entries)
        return NULL;
    return bsearch(&text, g->entries, g->n_entries, sizeof(*g->entries), compare_key_with_entry);
}

static int wrong_type(const Gguf *g, const char *key, const char *expected, const GgufEntry *e,
                      Reason *why) {
    return reason_set(why, -EINVAL, "%s: key \"%s\": expected %s, found %s%s", g->path, key,
                      expected, e->is_array ? "an array, of which each item is " : "",
                      type_names[e->value.type]);
}

int gguf_required(const Gguf *g, int r, const char *key, Reason *why) {
    if (r == GGUF_E_ABSENT)
        return reason_set(why, -EINVAL, "%s: key \"%s\" is missing", g->path, key);
    return r;
}

bool gguf_is_array(const Gguf *g, const char *key) {
    const GgufEntry *e = find(g, key);

    return e && e->is_array;
}

int gguf_get_bool(const Gguf *g, const char *key, bool *out, Reason *why) {
    const GgufEntry *e = find(g, key);

    if (!e)
        return GGUF_E_ABSENT;
    if (e->is_array || e->value.type != GGUF_BOOL)
        return wrong_type(g, key, "a bool", e, why);
    *out = gguf_array_i64(&e->value, 0) != 0;
    return 0;
}

int gguf_get_i64(const Gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                 Reason *why) {
    const GgufEntry *e = find(g, key);
    int64_t value = 0;

    if (!e)
        return GGUF_E_ABSENT;
    if (e->is_array || !is_integer(e->value.type))
        return wrong_type(g, key, "an integer", e, why);
    value = gguf_array_i64(&e->value, 0);
    if (value < min || value > max)
        return reason_set(why, -EINVAL,
                          "%s: key \"%s\": expected an integer from %" PRId64 " to %" PRId64
                          ", found %" PRId64,
                          g->path, key, min, max, value);
    *out = value;
    return 0;
}

int gguf_get_u32(const Gguf *g, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                 Reason *why) {
    int64_t value = 0;
    int r;

    r = gguf_get_i64(g, key, min, max, &value, why);
    if (r)
        return r;
    *out = (uint32_t)value;
    return 0;
}

int gguf_get_float(const Gguf *g, const char *key, float *out, Reason *why) {
    const GgufEntry *e = find(g, key);
    float value;

    if (!e)
        return GGUF_E_ABSENT;
    if (e->is_array || (!is_integer(e->value.type) && !is_float(e->value.type)))
        return wrong_type(g, key, "a number", e, why);
    value = (float)gguf_array_double(&e->value, 0);
    if (!isfinite(value))
        return reason_set(why, -EINVAL, "%s: key \"%s\": expected a finite number", g->path, key);
    *out = value;
    return 0;
}

int gguf_get_text(const Gguf *g, const char *key, GgufText *out, Reason *why) {
    const GgufEntry *e = find(g, key);
    GgufArray value;

    if (!e)
        return GGUF_E_ABSENT;
    if (e->is_array || e->value.type != GGUF_TEXT)
        return wrong_type(g, key, "a text", e, why);
    value = e->value;
    gguf_array_next_text(&value, out);
    return 0;
}

int gguf_get_texts(const Gguf *g, const char *key, GgufArray *out, Reason *why) {
    const GgufEntry *e = find(g, key);

    if (!e)
        return GGUF_E_ABSENT;
    if (!e->is_array || e->value.type != GGUF_TEXT)
        return wrong_type(g, key, "an array of texts", e, why);
    *out = e->value;
    return 0;
}

int gguf_get_integers(const Gguf *g, const char *key, GgufArray *out, Reason *why) {
    const GgufEntry *e = find(g, key);

    if (!e)
        return GGUF_E_ABSENT;
    if (!e->is_array || (!is_integer(e->value.type) && e->value.type != GGUF_BOOL))
        return wrong_type(g, key, "an array of integers", e, why);
    *out = e->value;
    return 0;
}

int gguf_get_numbers(const Gguf *g, const char *key, GgufArray *out, Reason *why) {
    const GgufEntry *e = find(g, key);

    if (!e)
        return GGUF_E_ABSENT;
    if (!e->is_array || (!is_integer(e->value.type) && !is_float(e->value.type)))
        return wrong_type(g, key, "an array of numbers", e, why);
    *out = e->value;
    return 0;
}

/* items */

#define LOAD(_type)                                                           \
    __extension__({                                                           \
        _type load_v_;                                                        \
        memcpy(&load_v_, array->data + i * sizeof(load_v_), sizeof(load_v_)); \
        load_v_;                                                              \
    })

int64_t gguf_array_i64(const GgufArray *array, size_t i) {
    uint64_t large;

    assert(i < array->n);
    switch (array->type) {
    case GGUF_U8:
    case GGUF_BOOL:
        return LOAD(uint8_t);
    case GGUF_I8:
        return LOAD(int8_t);
    case GGUF_U16:
        return LOAD(uint16_t);
    case GGUF_I16:
        return LOAD(int16_t);
    case GGUF_U32:
        return LOAD(uint32_t);
    case GGUF_I32:
        return LOAD(int32_t);
    case GGUF_I64:
        return LOAD(int64_t);
    case GGUF_U64:
        large = LOAD(uint64_t);
        return large > INT64_MAX ? INT64_MAX : (int64_t)large;
    default:
        assert(!"an array of integers");
        return 0;
    }
}

double gguf_array_double(const GgufArray *array, size_t i) {
    assert(i < array->n);
    if (array->type == GGUF_F32)
        return (double)LOAD(float);
    if (array->type == GGUF_F64)
        return LOAD(double);
    return (double)gguf_array_i64(array, i);
}

bool gguf_array_next_text(GgufArray *array, GgufText *out) {
    uint64_t size;

    assert(array->type == GGUF_TEXT);
    if (!array->n)
        return false;
    memcpy(&size, array->data, sizeof(size));
    *out = (GgufText){ .data = (const char *)array->data + sizeof(size), .size = size };
    array->data += sizeof(size) + size;
    array->n--;
    return true;
}
