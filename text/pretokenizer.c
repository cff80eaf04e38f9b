/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Depth first: a step hands each of its pieces to the next step before it looks for another, so
 * nothing is stored but one rewritten text a step. Patterns see a piece as if it were the whole
 * text, as in the reference.
 */

#include "text/pretokenizer.h"

#include <errno.h>
#include <string.h>

#define MARKS_PER_POLL 4096

static void step_deinit(CutStep *step) {
    text_pattern_free(step->pattern);
}

void pretokenizer_deinit(PreTokenizer *pretokenizer) {
    for (size_t i = 0; i < pretokenizer->n_steps; i++)
        step_deinit(&pretokenizer->steps[i]);
    free(pretokenizer->steps);
    *pretokenizer = (PreTokenizer){ .steps = NULL };
}

int pretokenizer_add(PreTokenizer *pretokenizer, CutStep step) {
    CutStep *steps = NULL;
    int r = -EINVAL;

    if (pretokenizer->n_steps < PRETOKENIZER_STEPS_MAX) {
        r = -ENOMEM;
        steps = reallocarray(pretokenizer->steps, pretokenizer->n_steps + 1, sizeof(*steps));
    }
    if (!steps) {
        step_deinit(&step);
        return r;
    }
    steps[pretokenizer->n_steps++] = step;
    pretokenizer->steps = steps;
    return 0;
}

void pretokenizer_run_deinit(PreTokenizerRun *run) {
    for (size_t i = 0; i < PRETOKENIZER_STEPS_MAX; i++)
        buffer_deinit(&run->texts[i]);
}

/* A piece on its way from one step to the next. */
typedef struct Piece {
    size_t start, end;
    bool matched;
    bool pending; /* holds something */
} Piece;

typedef struct Split {
    PreTokenizerRun *run;
    size_t step;
    const char *text;
    bool at_start;
    Piece last; /* not yet handed on: the next one may join it */
} Split;

static int cut_from(PreTokenizerRun *run, size_t step, const char *text, size_t size,
                    bool at_start);

static int split_flush(Split *split) {
    Piece piece = split->last;

    split->last.pending = false;
    if (!piece.pending || piece.start == piece.end)
        return 0;
    return cut_from(split->run, split->step + 1, split->text + piece.start, piece.end - piece.start,
                    split->at_start && !piece.start);
}

/* Whether `next` is to be one piece with the last one. */
static bool split_joins(SplitBehavior behavior, const Piece *last, const Piece *next) {
    switch (behavior) {
    case SPLIT_MERGED_WITH_PREVIOUS:
        return next->matched && !last->matched;
    case SPLIT_MERGED_WITH_NEXT:
        return last->matched && !next->matched;
    case SPLIT_CONTIGUOUS:
        return next->matched == last->matched;
    default:
        return false;
    }
}

/* Takes the next stretch of text, a match or what is between matches. */
static int split_take(Split *split, size_t start, size_t end, bool matched) {
    const CutStep *step = &split->run->pretokenizer->steps[split->step];
    Piece next = { start, end, matched != step->invert, true };
    int r;

    if (step->behavior == SPLIT_REMOVED && next.matched)
        return 0;
    if (split->last.pending && split_joins(step->behavior, &split->last, &next)) {
        split->last.end = end;
        split->last.matched = next.matched;
        return 0;
    }
    r = split_flush(split);
    split->last = next;
    return r;
}

static int cut_split(PreTokenizerRun *run, size_t step, const char *text, size_t size,
                     bool at_start) {
    PatternMatches matches =
        PATTERN_MATCHES_INIT(run->pretokenizer->steps[step].pattern, run->patterns, text, size);
    Split split = { .run = run, .step = step, .text = text, .at_start = at_start };
    size_t done = 0;
    int r;

    while (!(r = pattern_matches_next(&matches))) {
        if (matches.start > done)
            r = split_take(&split, done, matches.start, false);
        if (!r)
            r = split_take(&split, matches.start, matches.end, true);
        if (r)
            return r;
        done = matches.end;
    }
    if (r != PATTERN_E_END)
        return r;
    if (done < size) {
        r = split_take(&split, done, size, false);
        if (r)
            return r;
    }
    return split_flush(&split);
}

/* A step's own text, empty, with room for `size` bytes. */
static Buffer *own_text(PreTokenizerRun *run, size_t step, size_t size) {
    Buffer *own = &run->texts[step];

    own->account = run->account;
    buffer_clear(own);
    buffer_reserve(own, size);
    return own;
}

/* To be asked at each mark. */
static bool is_canceled(PreTokenizerRun *run) {
    return !(++run->n_marks % MARKS_PER_POLL) && account_is_closed(run->account);
}

static int cut_prefix(PreTokenizerRun *run, size_t step, const char *text, size_t size,
                      bool at_start) {
    Buffer *own = own_text(run, step, size + 1);

    if (text[0] == ' ')
        return cut_from(run, step + 1, text, size, at_start);
    buffer_append_char(own, ' ');
    buffer_append(own, text, size);
    if (buffer_failed(own))
        return -ENOMEM;
    return cut_from(run, step + 1, own->data, own->size, at_start);
}

static int cut_metaspace(PreTokenizerRun *run, size_t step_index, const char *text, size_t size,
                         bool at_start) {
    const CutStep *step = &run->pretokenizer->steps[step_index];
    bool marked =
        text[0] == ' ' || (size >= step->mark_size && !memcmp(text, step->mark, step->mark_size));
    bool wanted =
        step->prefix == CUT_PREFIX_ALWAYS || (step->prefix == CUT_PREFIX_FIRST && at_start);
    Buffer *own = own_text(run, step_index, size);

    if (wanted && !marked)
        buffer_append(own, step->mark, step->mark_size);
    while (size) {
        const char *space = memchr(text, ' ', size);
        size_t n = space ? (size_t)(space - text) : size;

        if (is_canceled(run))
            return -ECANCELED;
        buffer_append(own, text, n);
        if (space)
            buffer_append(own, step->mark, step->mark_size);
        n += space != NULL;
        text += n;
        size -= n;
    }
    if (buffer_failed(own))
        return -ENOMEM;
    return cut_from(run, step_index + 1, own->data, own->size, at_start);
}

static int cut_at_marks(PreTokenizerRun *run, size_t step_index, const char *text, size_t size,
                        bool at_start) {
    const CutStep *step = &run->pretokenizer->steps[step_index];
    size_t done = 0, behind = 0; /* behind the mark found last */

    while (behind < size) {
        const char *mark = memmem(text + behind, size - behind, step->mark, step->mark_size);
        size_t at = mark ? (size_t)(mark - text) : size;

        if (is_canceled(run))
            return -ECANCELED;
        if (at > behind && at < size) {
            int r = cut_from(run, step_index + 1, text + done, at - done, at_start && !done);

            if (r)
                return r;
            done = at;
        }
        behind = at + step->mark_size;
    }
    return cut_from(run, step_index + 1, text + done, size - done, at_start && !done);
}

/* `size` is never 0. */
static int cut_from(PreTokenizerRun *run, size_t step, const char *text, size_t size,
                    bool at_start) {
    if (step == run->pretokenizer->n_steps)
        return run->piece(run->ctx, text, size);
    switch (run->pretokenizer->steps[step].kind) {
    case CUT_SPLIT:
        return cut_split(run, step, text, size, at_start);
    case CUT_PREFIX:
        return cut_prefix(run, step, text, size, at_start);
    case CUT_METASPACE:
        return cut_metaspace(run, step, text, size, at_start);
    case CUT_AT_MARKS:
        return cut_at_marks(run, step, text, size, at_start);
    }
    return -EINVAL;
}

int pretokenizer_cut(PreTokenizerRun *run, const char *text, size_t size, bool at_start) {
    return size ? cut_from(run, 0, text, size, at_start) : 0;
}
