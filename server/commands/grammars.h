/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The grammars of a model's vocabulary, for commands that have them.
 */

#include "config/config.h"
#include "grammar/grammar.h"
#include "model/checkpoint.h"
#include "text/end_of_turn.h"
#include "text/tokenizer.h"

/* As the first thing of a command, while the program has one thread. A build without grammars has
 * nothing to start. 0, or -errno with `why`. */
int grammars_start(Reason *why);

/* *outp is NULL in a build without grammars. All is borrowed, `account` until the engine is freed.
 * 0, or -errno with `why`. */
int grammars_open(GrammarEngine **outp, const Tokenizer *tokenizer, const Checkpoint *checkpoint,
                  const EndOfTurn *ends, const GrammarLimits *limits, Account *account,
                  Reason *why);
/* What the options say. */
GrammarLimits grammars_limits(const Config *config);
