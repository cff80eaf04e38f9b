/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A GGUF file, version 3, mapped and checked: typed metadata and tensors. (Format: "GGUF" in
 * ggml's docs/gguf.md.) Opening walks the whole header: every length, count, type, offset and name
 * is checked once, and what the getters hand out lies within the file. Knows the container only,
 * not what a model needs. Immutable after open: any thread may read it.
 *
 * Texts and arrays are borrowed from the mapped file, which lives until gguf_free. All `why`
 * sentences begin with the file's path.
 */

#include "backend/weight_format.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Gguf Gguf;

/* Numbers as in the file. */
typedef enum GgufType {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
} GgufType;

/* Bytes, not NUL-terminated; the file promises UTF-8, nobody checked it. */
typedef struct GgufText {
    const char *data;
    size_t size;
} GgufText;

/* Items of one type. Numbers and bools by gguf_array_i64 or gguf_array_double at any index; texts
 * in order by gguf_array_next_text. */
typedef struct GgufArray {
    GgufType type; /* of the items */
    size_t n;
    const uint8_t *data; /* packed, unaligned */
} GgufArray;

#define GGUF_DIMS_MAX 4

typedef struct GgufTensor {
    const char *name;             /* NUL-terminated */
    uint32_t type;                /* ggml's number */
    const char *type_name;        /* "q4_1"; "unknown" where ggml's list ends */
    WeightFormat format;          /* WEIGHT_FORMATS: a type this program cannot read */
    uint32_t n_dims;              /* 1 .. 4 */
    uint64_t dims[GGUF_DIMS_MAX]; /* fastest first: [columns, rows, ..]; 1 beyond n_dims */
    uint64_t offset_bytes;        /* of its data, in the file */
    const uint8_t *data;          /* aligned as the file says; NULL if the format is unknown */
    size_t size_bytes;            /* 0 if the format is unknown */
} GgufTensor;

/* -EINVAL (not GGUF, broken, not version 3), -ENOMEM, or the errno of opening. */
int gguf_open(Gguf **outp, const char *path, Reason *why);
Gguf *gguf_free(Gguf *gguf);
CLEANUP_DEFINE(Gguf, gguf_free);

const char *gguf_path(const Gguf *gguf);

/* tensors, sorted by name */
size_t gguf_n_tensors(const Gguf *gguf);
const GgufTensor *gguf_tensor(const Gguf *gguf, size_t i);
/* NULL if there is none of that name. */
const GgufTensor *gguf_find_tensor(const Gguf *gguf, const char *name);

/* Metadata: 0 and the value; GGUF_E_ABSENT, and nothing written, if there is no such key; -EINVAL
 * if its value is of another type or out of bounds. */
enum {
    _GGUF_E_SUCCESS,
    GGUF_E_ABSENT,
};

/* Whether there is such a key, and its value is an array. */
bool gguf_is_array(const Gguf *gguf, const char *key);
int gguf_get_bool(const Gguf *gguf, const char *key, bool *out, Reason *why);
/* Integers of any width, within min .. max. */
int gguf_get_i64(const Gguf *gguf, const char *key, int64_t min, int64_t max, int64_t *out,
                 Reason *why);
int gguf_get_u32(const Gguf *gguf, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                 Reason *why);
/* Floats of either width and integers; finite. */
int gguf_get_float(const Gguf *gguf, const char *key, float *out, Reason *why);
int gguf_get_text(const Gguf *gguf, const char *key, GgufText *out, Reason *why);
/* An array of texts. */
int gguf_get_texts(const Gguf *gguf, const char *key, GgufArray *out, Reason *why);
/* An array of integers (any width, or bools), or of numbers (floats too). */
int gguf_get_integers(const Gguf *gguf, const char *key, GgufArray *out, Reason *why);
int gguf_get_numbers(const Gguf *gguf, const char *key, GgufArray *out, Reason *why);

/* For a key that must be there: GGUF_E_ABSENT becomes -EINVAL with the key in `why`; passes on
 * every other `r`. */
int gguf_required(const Gguf *gguf, int r, const char *key, Reason *why);

/* Item i < n. Integer items (bools are 0 or 1; u64 above INT64_MAX saturates), any number. */
int64_t gguf_array_i64(const GgufArray *array, size_t i);
double gguf_array_double(const GgufArray *array, size_t i);
/* Takes the first text off the array; false when none is left. */
bool gguf_array_next_text(GgufArray *array, GgufText *out);
