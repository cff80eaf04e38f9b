/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * JSON from outside, as programs want it. The getters name the key and say what was expected, so
 * that a caller adds only the file or parameter in front.
 */

#include "util/json_tree.h"

/* json_parse of a file; `why` begins with the path. -errno also where it cannot be read. */
int json_load_path(json_t **outp, const char *path, size_t flags, Reason *why);

/*
 * Getters: 0, and the value in `*out`; JSON_E_ABSENT, and `*out` unchanged, if the key is missing
 * or null; -EINVAL if the value is something else ("key "top_p": expected a number, found "x"").
 * `object` must be a JSON object. What is returned is borrowed from it.
 */
enum {
    _JSON_E_SUCCESS,
    JSON_E_ABSENT,
};

int json_get_bool(const json_t *object, const char *key, bool *out, Reason *why);
/* Whole numbers within min..max; a real without a fraction, below 2^53, counts (1.0 is 1). An
 * integer beyond 64 bits is within no bounds. */
int json_get_i64(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                 Reason *why);
int json_get_u32(const json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                 Reason *why);
/* Any finite number. */
int json_get_double(const json_t *object, const char *key, double *out, Reason *why);
int json_get_float(const json_t *object, const char *key, float *out, Reason *why);
/* UTF-8 of `*size` bytes, then a NUL; it may hold NUL. */
int json_get_text(const json_t *object, const char *key, const char **out, size_t *size,
                  Reason *why);
/* A text without NUL, such as a name: it can be compared and copied as a C string. */
int json_get_word(const json_t *object, const char *key, const char **out, Reason *why);
int json_get_array(const json_t *object, const char *key, const json_t **out, Reason *why);
int json_get_object(const json_t *object, const char *key, const json_t **out, Reason *why);

/* For a key that must be there: turns JSON_E_ABSENT into -EINVAL, "key "x" is missing"; passes on
 * every other `r`. */
int json_required(int r, const char *key, Reason *why);

/* The rule of json_get_i64 on a value by itself, as of an array's items. */
bool json_as_i64(const json_t *value, int64_t min, int64_t max, int64_t *out);

/* A value as an error message shows it: short, one line of ASCII, within `size` bytes; returns
 * `text`. */
const char *json_describe(const json_t *value, char *text, size_t size);
