/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a tokenizer does to text before cutting it: a list of steps, each from text to text.
 */

#include "text/text_pattern.h"
#include "text/unicode_normalize.h"
#include "util/buffer.h"

typedef enum NormalizeKind {
    NORMALIZE_UNICODE,
    NORMALIZE_PREPEND, /* `text` in front of anything not empty */
    NORMALIZE_REPLACE, /* every match of `pattern` becomes `text` */
    NORMALIZE_LOWERCASE,
} NormalizeKind;

typedef struct NormalizeStep {
    NormalizeKind kind;
    UnicodeForm form;
    TextPattern *pattern; /* owned */
    char *text;           /* owned */
    size_t text_size;
} NormalizeStep;

typedef struct Normalizer {
    NormalizeStep *steps; /* owned */
    size_t n_steps;
} Normalizer;

void normalizer_deinit(Normalizer *normalizer);

/* Adds a step, consuming what it owns (on failure too). 0, -ENOMEM. */
int normalizer_add(Normalizer *normalizer, NormalizeStep step);

/* Two buffers that the steps write in turn, charged to `account` (borrowed, may be NULL). */
typedef struct NormalizerScratch {
    Account *account;
    Buffer a, b;
} NormalizerScratch;

#define NORMALIZER_SCRATCH_INIT(_account)                                                    \
    {                                                                                        \
        .account = (_account), .a = { .account = (_account) }, .b = {.account = (_account) } \
    }

void normalizer_scratch_deinit(NormalizerScratch *scratch);
CLEANUP_DEINIT_DEFINE(NormalizerScratch, normalizer_scratch_deinit);

/* Points `*textp`, `*sizep` (valid UTF-8) to the normalized text: the given one if nothing
 * changes it, or one in `scratch`, valid until the next call. 0, -ENOMEM, -EOVERFLOW, -ECANCELED
 * (the account is closed). */
int normalizer_run(const Normalizer *normalizer, NormalizerScratch *scratch,
                   PatternScratch *patterns, const char **textp, size_t *sizep);
