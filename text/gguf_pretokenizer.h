/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The pre-tokenizers that GGUF files only name (tokenizer.ggml.pre). The names are llama.cpp's, the
 * patterns those of the models' own tokenizer.json where llama.cpp quotes them.
 */

#include <stdbool.h>
#include <stddef.h>

#define GGUF_PRE_PATTERNS_MAX 6

typedef struct GgufPretokenizer {
    const char *const *names; /* NULL-terminated */
    const char
        *patterns[GGUF_PRE_PATTERNS_MAX]; /* each isolates its matches; NULL after the last */
    bool ignore_merges;
    bool add_bos; /* where the file does not say */
    bool nfc;     /* the models' own tokenizers normalize */
} GgufPretokenizer;

/* NULL if the name is unknown. */
const GgufPretokenizer *gguf_pretokenizer_find(const char *name, size_t size);
