/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: the mapped file, a sorted table of metadata entries and one of tensors. The header is
 * walked once, front to back, by a cursor that never passes the end of the file; counts are bounded
 * before memory is taken for them. After the walk nothing is checked again.
 *
 * Leaves out: big-endian files, versions 1 and 2, and models split over several files (the
 * checkpoint refuses those).
 */
#include "model/gguf_file.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GGUF_VERSION 3
#define GGUF_ALIGNMENT_DEFAULT 32
#define GGUF_KEY_BYTES_MAX 65535 /* the format's own bound */
#define GGUF_NAME_BYTES_MAX 1024 /* the format says 64; nobody holds to it */
#define GGUF_NESTING_MAX 8       /* arrays in arrays; no real key nests at all */
/* Far above any real model, so that a broken count is told from a cut file. */
#define GGUF_KEYS_MAX 65536
#define GGUF_TENSORS_MAX 1048576
/* The least bytes an entry takes: lengths, types and counts without any content. */
#define GGUF_KEY_BYTES_MIN (8 + 4 + 1)
#define GGUF_TENSOR_BYTES_MIN (8 + 4 + 8 + 4 + 8)

/* ggml's list of types; the holes were withdrawn. Only some can be computed with here. */
static const struct {
    const char *name;
    WeightFormat format;
} tensor_types[] = {
    [0] = { "f32", WEIGHT_F32 },          [1] = { "f16", WEIGHT_F16 },
    [2] = { "q4_0", WEIGHT_Q4_0 },        [3] = { "q4_1", WEIGHT_Q4_1 },
    [6] = { "q5_0", WEIGHT_Q5_0 },        [7] = { "q5_1", WEIGHT_Q5_1 },
    [8] = { "q8_0", WEIGHT_Q8_0 },        [9] = { "q8_1", WEIGHT_FORMATS },
    [10] = { "q2_k", WEIGHT_FORMATS },    [11] = { "q3_k", WEIGHT_FORMATS },
    [12] = { "q4_k", WEIGHT_Q4_K },       [13] = { "q5_k", WEIGHT_Q5_K },
    [14] = { "q6_k", WEIGHT_Q6_K },       [15] = { "q8_k", WEIGHT_FORMATS },
    [16] = { "iq2_xxs", WEIGHT_FORMATS }, [17] = { "iq2_xs", WEIGHT_FORMATS },
    [18] = { "iq3_xxs", WEIGHT_FORMATS }, [19] = { "iq1_s", WEIGHT_FORMATS },
    [20] = { "iq4_nl", WEIGHT_FORMATS },  [21] = { "iq3_s", WEIGHT_FORMATS },
    [22] = { "iq2_s", WEIGHT_FORMATS },   [23] = { "iq4_xs", WEIGHT_FORMATS },
    [24] = { "i8", WEIGHT_FORMATS },      [25] = { "i16", WEIGHT_FORMATS },
    [26] = { "i32", WEIGHT_FORMATS },     [27] = { "i64", WEIGHT_FORMATS },
    [28] = { "f64", WEIGHT_FORMATS },     [29] = { "iq1_m", WEIGHT_FORMATS },
    [30] = { "bf16", WEIGHT_BF16 },       [34] = { "tq1_0", WEIGHT_FORMATS },
    [35] = { "tq2_0", WEIGHT_FORMATS },   [39] = { "mxfp4", WEIGHT_FORMATS },
    [40] = { "nvfp4", WEIGHT_FORMATS },   [41] = { "q1_0", WEIGHT_FORMATS },
};

#define N_TENSOR_TYPES (sizeof(tensor_types) / sizeof(*tensor_types))

typedef struct Cursor {
    const uint8_t *begin, *at, *end;
    const char *path;
    char place[160]; /* what is being read, for people */
    Reason *why;
} Cursor;

size_t gguf_type_bytes(GgufType type) {
    static const uint8_t bytes[GGUF_TYPES] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_BOOL] = 1, [GGUF_U16] = 2,
        [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,  [GGUF_F32] = 4,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };

    return bytes[type];
}

int gguf_text_compare(const GgufText *a, const GgufText *b) {
    int order = memcmp(a->data, b->data, a->size < b->size ? a->size : b->size);

    return order ? order : (a->size > b->size) - (a->size < b->size);
}

/* reading */

static int broken(const Cursor *c, const char *format, ...)
    __attribute__((__format__(__printf__, 2, 3)));

static int broken(const Cursor *c, const char *format, ...) {
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return reason_set(c->why, -EINVAL, "%s: %s, at byte %zu: %s", c->path, c->place,
                      (size_t)(c->at - c->begin), text);
}

static int cut_off(const Cursor *c) {
    broken(c, "the file ends within it; it is cut off or damaged");
    return -EINVAL;
}

static size_t left_bytes(const Cursor *c) {
    return (size_t)(c->end - c->at);
}

static int take(Cursor *c, void *out, size_t n) {
    if (n > left_bytes(c))
        return cut_off(c);
    memcpy(out, c->at, n);
    c->at += n;
    return 0;
}

static int skip(Cursor *c, uint64_t n) {
    if (n > left_bytes(c))
        return cut_off(c);
    c->at += n;
    return 0;
}

static int take_text(Cursor *c, GgufText *out) {
    uint64_t size;
    int r;

    r = take(c, &size, sizeof(size));
    if (r)
        return r;
    *out = (GgufText){ .data = (const char *)c->at, .size = size };
    return skip(c, size);
}

/* Names go into messages and comparisons of C strings: no NUL, no control characters. */
static int take_name(Cursor *c, size_t size_max, GgufText *out) {
    int r;

    r = take_text(c, out);
    if (r)
        return r;
    if (!out->size || out->size > size_max)
        return broken(c, "its name has %zu bytes; expected 1 to %zu", out->size, size_max);
    for (size_t i = 0; i < out->size; i++)
        if ((unsigned char)out->data[i] < 0x20 || out->data[i] == 0x7f)
            return broken(c, "its name holds a control character");
    return 0;
}

/* metadata */

static int take_items(Cursor *c, GgufType type, uint64_t n, int depth);

static int take_type(Cursor *c, GgufType *out) {
    uint32_t type;
    int r;

    r = take(c, &type, sizeof(type));
    if (r)
        return r;
    if (type >= GGUF_TYPES)
        return broken(c, "its value has type %" PRIu32 "; expected 0 to %d", type, GGUF_TYPES - 1);
    *out = (GgufType)type;
    return 0;
}

static int take_array_head(Cursor *c, GgufType *type, uint64_t *n) {
    int r;

    r = take_type(c, type);
    if (r)
        return r;
    return take(c, n, sizeof(*n));
}

static int take_texts(Cursor *c, uint64_t n) {
    GgufText text;
    int r;

    for (uint64_t i = 0; i < n; i++) {
        r = take_text(c, &text);
        if (r)
            return r;
    }
    return 0;
}

static int take_arrays(Cursor *c, uint64_t n, int depth) {
    GgufType type = GGUF_TYPES;
    uint64_t n_items;
    int r;

    if (depth == GGUF_NESTING_MAX)
        return broken(c, "arrays within arrays, deeper than %d", GGUF_NESTING_MAX);
    for (uint64_t i = 0; i < n; i++) {
        r = take_array_head(c, &type, &n_items);
        if (!r)
            r = take_items(c, type, n_items, depth + 1);
        if (r)
            return r;
    }
    return 0;
}

/* Walks over n values of a type. */
static int take_items(Cursor *c, GgufType type, uint64_t n, int depth) {
    const uint8_t *first = c->at;
    uint64_t size;
    int r;

    if (type == GGUF_TEXT)
        return take_texts(c, n);
    if (type == GGUF_ARRAY)
        return take_arrays(c, n, depth);
    if (__builtin_mul_overflow(n, gguf_type_bytes(type), &size))
        return cut_off(c);
    r = skip(c, size);
    if (r)
        return r;
    for (uint64_t i = 0; type == GGUF_BOOL && i < n; i++)
        if (first[i] > 1)
            return broken(c, "a bool is %d; expected 0 or 1", first[i]);
    return 0;
}

static int take_entry(Cursor *c, GgufEntry *e) {
    GgufType type = GGUF_TYPES;
    uint64_t n = 1;
    int r;

    r = take_name(c, GGUF_KEY_BYTES_MAX, &e->key);
    if (r)
        return r;
    snprintf(c->place, sizeof(c->place), "key \"%.*s\"", (int)e->key.size, e->key.data);
    r = take_type(c, &type);
    if (r)
        return r;
    e->is_array = type == GGUF_ARRAY;
    if (e->is_array) {
        r = take_array_head(c, &type, &n);
        if (r)
            return r;
    }
    e->value = (GgufArray){ .type = type, .n = n, .data = c->at };
    return take_items(c, type, n, 0);
}

static int compare_entries(const void *a, const void *b) {
    return gguf_text_compare(&((const GgufEntry *)a)->key, &((const GgufEntry *)b)->key);
}

static int read_entries(Gguf *g, Cursor *c, uint64_t n) {
    int r;

    g->entries = calloc(n, sizeof(*g->entries));
    if (n && !g->entries)
        return -ENOMEM;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(c->place, sizeof(c->place), "key %" PRIu64 " of %" PRIu64, i + 1, n);
        r = take_entry(c, &g->entries[i]);
        if (r)
            return r;
    }
    g->n_entries = n;
    qsort(g->entries, n, sizeof(*g->entries), compare_entries);
    for (size_t i = 1; i < n; i++)
        if (!compare_entries(&g->entries[i - 1], &g->entries[i]))
            return reason_set(c->why, -EINVAL, "%s: key \"%.*s\" is there twice", g->path,
                              (int)g->entries[i].key.size, g->entries[i].key.data);
    return 0;
}

/* tensors */

static int take_shape(Cursor *c, GgufTensor *t) {
    uint64_t n_values = 1;
    int r;

    r = take(c, &t->n_dims, sizeof(t->n_dims));
    if (r)
        return r;
    if (!t->n_dims || t->n_dims > GGUF_DIMS_MAX)
        return broken(c, "it has %" PRIu32 " dimensions; expected 1 to %d", t->n_dims,
                      GGUF_DIMS_MAX);
    for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) {
        t->dims[i] = 1;
        r = i < t->n_dims ? take(c, &t->dims[i], sizeof(t->dims[i])) : 0;
        if (r)
            return r;
        if (!t->dims[i] || __builtin_mul_overflow(n_values, t->dims[i], &n_values) ||
            n_values > INT64_MAX / sizeof(double))
            return broken(c, "dimension %" PRIu32 " is %" PRIu64 ": it holds no values or too many",
                          i, t->dims[i]);
    }
    return 0;
}

static int take_tensor_type(Cursor *c, GgufTensor *t) {
    const WeightFormatInfo *info;
    int r;

    r = take(c, &t->type, sizeof(t->type));
    if (r)
        return r;
    t->type_name = "unknown";
    t->format = WEIGHT_FORMATS;
    if (t->type < N_TENSOR_TYPES && tensor_types[t->type].name) {
        t->type_name = tensor_types[t->type].name;
        t->format = tensor_types[t->type].format;
    }
    if (t->format == WEIGHT_FORMATS)
        return 0;
    info = &weight_formats[t->format];
    if (t->dims[0] % info->block_values)
        return broken(c, "its rows have %" PRIu64 " values; %s needs a multiple of %" PRIu32,
                      t->dims[0], info->name, info->block_values);
    /* take_shape left room for 8 bytes a value. */
    t->size_bytes =
        t->dims[0] / info->block_values * info->block_bytes * t->dims[1] * t->dims[2] * t->dims[3];
    return 0;
}

/* Leaves the offset as the file has it: from where the data of all tensors begins. */
static int take_tensor(Cursor *c, GgufTensor *t, uint32_t alignment) {
    GgufText name;
    int r;

    r = take_name(c, GGUF_NAME_BYTES_MAX, &name);
    if (r)
        return r;
    snprintf(c->place, sizeof(c->place), "tensor \"%.*s\"", (int)name.size, name.data);
    t->name = strndup(name.data, name.size);
    if (!t->name)
        return -ENOMEM;
    r = take_shape(c, t);
    if (!r)
        r = take_tensor_type(c, t);
    if (!r)
        r = take(c, &t->offset_bytes, sizeof(t->offset_bytes));
    if (r)
        return r;
    if (t->offset_bytes % alignment)
        return broken(c, "its data is at %" PRIu64 ", not a multiple of the alignment, %" PRIu32,
                      t->offset_bytes, alignment);
    return 0;
}

static int compare_offsets(const void *a, const void *b) {
    uint64_t x = ((const GgufTensor *)a)->offset_bytes, y = ((const GgufTensor *)b)->offset_bytes;

    return (x > y) - (x < y);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const GgufTensor *)a)->name, ((const GgufTensor *)b)->name);
}

/* Finds each tensor's data, which must lie in the file and belong to it alone. */
static int place_tensors(Gguf *g, const Cursor *c, uint32_t alignment) {
    size_t head_bytes = (size_t)(c->at - c->begin), last_end = 0;
    uint64_t start = (head_bytes + (uint64_t)alignment - 1) / alignment * alignment, end;

    qsort(g->tensors, g->n_tensors, sizeof(*g->tensors), compare_offsets);
    for (size_t i = 0; i < g->n_tensors; i++) {
        GgufTensor *t = &g->tensors[i];

        if (__builtin_add_overflow(t->offset_bytes, start, &t->offset_bytes) ||
            __builtin_add_overflow(t->offset_bytes, t->size_bytes, &end) || end > g->file.size)
            return reason_set(c->why, -EINVAL,
                              "%s: tensor \"%s\" needs %zu bytes from byte %" PRIu64
                              " on, but the file has %zu; it is cut off or damaged",
                              g->path, t->name, t->size_bytes, t->offset_bytes, g->file.size);
        if (t->offset_bytes < last_end)
            return reason_set(c->why, -EINVAL, "%s: tensors \"%s\" and \"%s\" overlap", g->path,
                              g->tensors[i - 1].name, t->name);
        last_end = end;
        t->data = t->format == WEIGHT_FORMATS ? NULL : g->file.data + t->offset_bytes;
    }
    qsort(g->tensors, g->n_tensors, sizeof(*g->tensors), compare_names);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!compare_names(&g->tensors[i - 1], &g->tensors[i]))
            return reason_set(c->why, -EINVAL, "%s: tensor \"%s\" is there twice", g->path,
                              g->tensors[i].name);
    return 0;
}

static int read_alignment(const Gguf *g, uint32_t *out, Reason *why) {
    const char *key = "general.alignment";
    int r;

    *out = GGUF_ALIGNMENT_DEFAULT;
    r = gguf_get_u32(g, key, 8, UINT32_MAX, out, why);
    if (r < 0)
        return r;
    if (*out & (*out - 1))
        return reason_set(why, -EINVAL, "%s: key \"%s\": expected a power of two, found %" PRIu32,
                          g->path, key, *out);
    return 0;
}

static int read_tensors(Gguf *g, Cursor *c, uint64_t n) {
    uint32_t alignment;
    int r;

    r = read_alignment(g, &alignment, c->why);
    if (r)
        return r;
    g->tensors = calloc(n, sizeof(*g->tensors));
    if (n && !g->tensors)
        return -ENOMEM;
    g->n_tensors = n;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(c->place, sizeof(c->place), "tensor %" PRIu64 " of %" PRIu64, i + 1, n);
        r = take_tensor(c, &g->tensors[i], alignment);
        if (r)
            return r;
    }
    return place_tensors(g, c, alignment);
}

/* the whole */

static int take_count(Cursor *c, const char *what, uint64_t max, size_t each_bytes_min,
                      uint64_t *out) {
    int r;

    r = take(c, out, sizeof(*out));
    if (r)
        return r;
    if (*out > max)
        return broken(c, "it counts %" PRIu64 " %s; expected at most %" PRIu64, *out, what, max);
    if (*out > left_bytes(c) / each_bytes_min)
        return broken(c, "it counts %" PRIu64 " %s, more than the rest of the file can hold", *out,
                      what);
    return 0;
}

static int take_magic(Cursor *c) {
    uint32_t version;
    int r;

    if (left_bytes(c) < 4 || memcmp(c->at, "GGUF", 4))
        return reason_set(c->why, -EINVAL, "%s: not a GGUF file: it does not begin with \"GGUF\"",
                          c->path);
    c->at += 4;
    r = take(c, &version, sizeof(version));
    if (r)
        return r;
    if (version == __builtin_bswap32(GGUF_VERSION))
        return broken(c, "the file is big-endian; only little-endian files are read");
    if (version != GGUF_VERSION)
        return broken(c, "the file is GGUF version %" PRIu32 "; only version %d is read", version,
                      GGUF_VERSION);
    return 0;
}

static int read_file(Gguf *g, Cursor *c) {
    uint64_t n_tensors, n_entries;
    int r;

    r = take_magic(c);
    if (!r)
        r = take_count(c, "tensors", GGUF_TENSORS_MAX, GGUF_TENSOR_BYTES_MIN, &n_tensors);
    if (!r)
        r = take_count(c, "keys", GGUF_KEYS_MAX, GGUF_KEY_BYTES_MIN, &n_entries);
    if (!r)
        r = read_entries(g, c, n_entries);
    if (!r)
        r = read_tensors(g, c, n_tensors);
    return r;
}

int gguf_open(Gguf **outp, const char *path, Reason *why) {
    CLEANUP(gguf_free) Gguf *g = calloc(1, sizeof(*g));
    Cursor c = { .path = path, .place = "the header", .why = why };
    int r;

    if (g)
        g->path = strdup(path);
    if (!g || !g->path)
        return reason_set(why, -ENOMEM, "%s: out of memory", path);
    r = mapped_file_open(&g->file, path, why);
    if (r)
        return r;
    c.begin = c.at = g->file.data;
    c.end = c.begin + g->file.size;
    r = read_file(g, &c);
    if (r == -ENOMEM)
        return reason_set(why, r, "%s: out of memory", path);
    if (!r)
        *outp = TAKE(g);
    return r;
}

Gguf *gguf_free(Gguf *g) {
    if (!g)
        return NULL;
    for (size_t i = 0; i < g->n_tensors; i++)
        free((char *)(uintptr_t)g->tensors[i].name);
    free(g->tensors);
    free(g->entries);
    mapped_file_close(&g->file);
    free(g->path);
    free(g);
    return NULL;
}

const char *gguf_path(const Gguf *g) {
    return g->path;
}

size_t gguf_n_tensors(const Gguf *g) {
    return g->n_tensors;
}

const GgufTensor *gguf_tensor(const Gguf *g, size_t i) {
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

const GgufTensor *gguf_find_tensor(const Gguf *g, const char *name) {
    const GgufTensor wanted = { .name = name };

    if (!g->n_tensors)
        return NULL;
    return bsearch(&wanted, g->tensors, g->n_tensors, sizeof(*g->tensors), compare_names);
}
