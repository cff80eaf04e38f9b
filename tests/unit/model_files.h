/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Small model files made by tests: a directory of one's own, and builders of GGUF and safetensors
 * bytes that can also build what no writer would. For one test program each, one thread.
 */

#include "util/buffer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* files */

static char model_directory[64];

/* Group setup and teardown. In memory where that is possible: the corruption tests write thousands
 * of files. */
static inline int model_files_setup(void **state) {
    const char *parent = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";

    (void)state;
    snprintf(model_directory, sizeof(model_directory), "%s/kvasir-test-model-XXXXXX", parent);
    return mkdtemp(model_directory) ? 0 : -1;
}

static inline int model_files_teardown(void **state) {
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", model_directory);
    return system(command);
}

/* Valid until the next call but three. */
static inline const char *model_path(const char *name) {
    static char paths[4][256];
    static unsigned i;
    char *path = paths[i++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", model_directory, name);
    return path;
}

static inline void model_file_write(const char *name, const void *data, size_t size) {
    FILE *file = fopen(model_path(name), "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void model_file_write_text(const char *name, const char *text) {
    model_file_write(name, text, strlen(text));
}

static inline void assert_mentions(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("\"%s\" does not mention \"%s\"", text, part);
}

/* GGUF bytes */

static inline void put_u32(Buffer *b, uint32_t x) {
    buffer_append(b, &x, sizeof(x));
}

static inline void put_u64(Buffer *b, uint64_t x) {
    buffer_append(b, &x, sizeof(x));
}

static inline void put_f32(Buffer *b, float x) {
    buffer_append(b, &x, sizeof(x));
}

static inline void put_text(Buffer *b, const char *text) {
    put_u64(b, strlen(text));
    buffer_append_text(b, text);
}

static inline void put_gguf_head(Buffer *b, uint64_t n_tensors, uint64_t n_keys) {
    buffer_append_text(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

static inline void put_key(Buffer *b, const char *key, uint32_t type) {
    put_text(b, key);
    put_u32(b, type);
}

static inline void put_key_u32(Buffer *b, const char *key, uint32_t x) {
    put_key(b, key, 4);
    put_u32(b, x);
}

static inline void put_key_f32(Buffer *b, const char *key, float x) {
    put_key(b, key, 6);
    put_f32(b, x);
}

static inline void put_key_text(Buffer *b, const char *key, const char *text) {
    put_key(b, key, 8);
    put_text(b, text);
}

static inline void put_key_array(Buffer *b, const char *key, uint32_t item_type, uint64_t n) {
    put_key(b, key, 9);
    put_u32(b, item_type);
    put_u64(b, n);
}

/* `columns` first, as in the file; rows 0: a vector. */
static inline void put_tensor(Buffer *b, const char *name, uint64_t columns, uint64_t rows,
                              uint32_t type, uint64_t offset) {
    put_text(b, name);
    put_u32(b, rows ? 2 : 1);
    put_u64(b, columns);
    if (rows)
        put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static inline void put_zeros(Buffer *b, size_t n) {
    char *to = buffer_reserve(b, n);

    assert_non_null(to);
    memset(to, 0, n);
    b->size += n;
}

static inline void put_padding(Buffer *b, size_t alignment) {
    put_zeros(b, (alignment - b->size % alignment) % alignment);
}

/* safetensors bytes */

/* The header padded with spaces, as writers do it. */
static inline void put_safetensors(Buffer *b, const char *header, size_t data_bytes) {
    size_t size = strlen(header), padding = (8 - size % 8) % 8;

    put_u64(b, size + padding);
    buffer_append_text(b, header);
    buffer_append(b, "        ", padding);
    put_zeros(b, data_bytes);
}
