/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Cuts normalized text into the pieces that the model encodes one by one: a list of steps, each of
 * which cuts what the one before left, or rewrites it.
 */

#include "text/text_pattern.h"
#include "util/buffer.h"

#include <stdbool.h>

/* What becomes of the matches of a split. */
typedef enum SplitBehavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
} SplitBehavior;

typedef enum CutKind {
    CUT_SPLIT,     /* at matches of `pattern` */
    CUT_PREFIX,    /* a space in front, unless one is there */
    CUT_METASPACE, /* spaces become `mark`, which also goes in front as `prefix` says */
    CUT_AT_MARKS,  /* before each `mark` that follows something else */
} CutKind;

typedef enum CutPrefix {
    CUT_PREFIX_NEVER,
    CUT_PREFIX_FIRST, /* only at the very start of the text */
    CUT_PREFIX_ALWAYS,
} CutPrefix;

typedef struct CutStep {
    CutKind kind;
    TextPattern *pattern; /* split; owned */
    SplitBehavior behavior;
    bool invert;  /* what does not match is the match */
    char mark[4]; /* metaspace, at marks */
    size_t mark_size;
    CutPrefix prefix;
} CutStep;

typedef struct PreTokenizer {
    CutStep *steps; /* owned */
    size_t n_steps;
    bool byte_level; /* the model sees the bytes of the pieces, not their characters */
} PreTokenizer;

/* Deepest list of steps; each step of a running cut holds one buffer. */
#define PRETOKENIZER_STEPS_MAX 16

void pretokenizer_deinit(PreTokenizer *pretokenizer);

/* Adds a step, consuming what it owns (on failure too). 0, -ENOMEM, -EINVAL (too many). */
int pretokenizer_add(PreTokenizer *pretokenizer, CutStep step);

/* A run of the cuts over one text. */
typedef struct PreTokenizerRun {
    const PreTokenizer *pretokenizer;
    PatternScratch *patterns;
    int (*piece)(void *ctx, const char *text, size_t size); /* not empty; 0 or -errno: stop */
    void *ctx;
    Account *account; /* borrowed, charged with `texts`; NULL: nobody's; closed: the run ends */
    Buffer texts[PRETOKENIZER_STEPS_MAX]; /* what each rewriting step made */
    size_t n_marks;                       /* passed so far, for looking at the account */
} PreTokenizerRun;

void pretokenizer_run_deinit(PreTokenizerRun *run);
CLEANUP_DEINIT_DEFINE(PreTokenizerRun, pretokenizer_run_deinit);

/* Calls `piece` for every piece, in order. `at_start`: the text is the beginning of all text.
 * 0, -ENOMEM, -EOVERFLOW, -ECANCELED, or what `piece` returned. */
int pretokenizer_cut(PreTokenizerRun *run, const char *text, size_t size, bool at_start);
