/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The tokens that end an answer: those that the model's files name, and those whose well-known
 * texts say so. Files often name one of several, none, or a wrong one, and then an answer would
 * never end.
 */

#include "model/checkpoint.h"
#include "text/tokenizer.h"
#include "util/reason.h"

#define END_OF_TURN_IDS_MAX 48

typedef struct EndOfTurn {
    uint32_t ids[END_OF_TURN_IDS_MAX]; /* no two alike */
    uint32_t n_ids;
} EndOfTurn;

/* Finds them. `doubt` gets a sentence for the log where the files' word is not all that is used,
 * and stays empty otherwise. */
void end_of_turn_find(EndOfTurn *ends, const Tokenizer *tokenizer,
                      const GenerationDefaults *generation, Reason *doubt);
