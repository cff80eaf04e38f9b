/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What gguf.c (the walk over the header) leaves for gguf_metadata.c (the getters). */

#include "model/gguf.h"
#include "util/mapped_file.h"

typedef struct GgufEntry {
    GgufText key;
    bool is_array;
    GgufArray value; /* a single value is an array of one */
} GgufEntry;

struct Gguf {
    char *path;
    MappedFile file;
    GgufEntry *entries; /* [n_entries], sorted by key */
    size_t n_entries;
    GgufTensor *tensors; /* [n_tensors], sorted by name; names owned */
    size_t n_tensors;
};

/* Bytes of one value of this type; 0 for texts and arrays. */
size_t gguf_type_bytes(GgufType type);

/* Order of keys: bytes, then length. */
int gguf_text_compare(const GgufText *a, const GgufText *b);
