/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where reasoning ends and a grammar begins. A model that reasons may write anything until it has
 * written a mark that ends it, whatever tokens the mark is cut into; but it may not end its turn.
 * A token of line breaks may stand between the mark and the answer.
 *
 * Where the prompt has not begun reasoning, the first token may be a mark that does; a mark that is
 * no token of its own is not offered, and the grammar begins at once.
 */

#include "text/reasoning_family.h"
#include "text/tokenizer.h"
#include "util/buffer.h"

typedef struct ReasoningForm {
    const ReasoningFamily *family; /* borrowed, as all here; NULL: the model does not reason */
    bool begun;                    /* by the prompt */
    const Tokenizer *tokenizer;
    const uint32_t *ends; /* [n_ends] tokens that end a turn */
    uint32_t n_ends;
} ReasoningForm;

typedef enum ReasoningPlace {
    REASONING_OVER, /* or there is none */
    REASONING_AT_START,
    REASONING_INSIDE,
    REASONING_BEHIND, /* its mark */
} ReasoningPlace;

typedef struct ReasoningWatch {
    ReasoningForm form;
    ReasoningPlace place;
    Buffer tail; /* of what was written inside; longer than any mark */
} ReasoningWatch;

/* `account` (borrowed, may be NULL) is charged with what is kept. */
void reasoning_watch_init(ReasoningWatch *watch, const ReasoningForm *form, Account *account);
void reasoning_watch_deinit(ReasoningWatch *watch);
CLEANUP_DEINIT_DEFINE(ReasoningWatch, reasoning_watch_deinit);

enum {
    _REASONING_E_SUCCESS,
    REASONING_E_ANSWER, /* the token is the answer's */
    REASONING_E_MIXED,  /* the answer would begin within the token */
};

/* Takes the next token. 0: it belongs to reasoning; one of these; or -ENOMEM. */
int reasoning_watch_take(ReasoningWatch *watch, uint32_t token);
/* Inside: fills a mask of n_vocab ids. 0, or -ENOMEM. */
int reasoning_watch_fill(ReasoningWatch *watch, uint32_t *mask, uint32_t n_vocab);
/* Elsewhere: adds what may still come in front of the answer to its mask. 0, or -ENOMEM. */
int reasoning_watch_add(const ReasoningWatch *watch, uint32_t *mask, uint32_t n_vocab);
