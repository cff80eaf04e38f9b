/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tokenizers and vectors for the tokenizer's tests: those of tests/data/tokenizers, unpacked into
 * the test program's directory, and those of the optional directory of shared material.
 */

#include "tests/unit/model_files.h"
#include "text/tokenizer.h"
#include "util/json.h"

/* Unpacks tests/data/tokenizers/`packed` to model_path(`name`), which is returned. */
static inline const char *tokenizer_unpack(const char *packed, const char *name) {
    const char *root = getenv("KVASIR_SOURCE_ROOT"), *path = model_path(name);
    char command[1024];

    assert_non_null(root);
    snprintf(command, sizeof(command), "xz -dc '%s/tests/data/tokenizers/%s' >'%s'", root, packed,
             path);
    assert_int_equal(system(command), 0);
    return path;
}

/* A path in the shared directory; false if there is no such file. */
static inline bool tokenizer_shared(const char *name, char *path, size_t size) {
    const char *given = getenv("KVASIR_SHARED"), *root = getenv("KVASIR_SOURCE_ROOT");

    snprintf(path, size, "%s%s/%s", given ? given : root, given ? "" : "/../shared", name);
    return access(path, R_OK) == 0;
}

static inline Tokenizer *tokenizer_must_open(const char *path) {
    Tokenizer *tokenizer = NULL;
    Reason why = REASON_NULL;

    if (tokenizer_open(&tokenizer, path, &why))
        fail_msg("%s", why.text);
    return tokenizer;
}

/* Opens a tokenizer.json of this text. */
static inline int tokenizer_open_text(Tokenizer **outp, const char *text, size_t size,
                                      Reason *why) {
    model_file_write("tokenizer.json", text, size);
    return tokenizer_open(outp, model_path("tokenizer.json"), why);
}
