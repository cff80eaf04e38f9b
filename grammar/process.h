/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Compiling in processes that can be ended. There are three kinds, each forked from the one before
 * while that has a single thread:
 *   the nursery     one in the program, forked in its main; it does nothing but fork
 *   a vocabulary    one for each GrammarEngine: has read what tokens are, and forks
 *   a compiler      one for each text; lives for as long as its limits let it
 * All sit in a session of their own, hold no descriptor of the program's but standard error, and
 * end when the program does, or lets go of them.
 */

#include "grammar/core.h"
#include "grammar/grammar.h"

typedef struct VocabProcess {
    int fd; /* -1: there is none */
} VocabProcess;

#define VOCAB_PROCESS_NULL \
    { .fd = -1 }

/* Starts the nursery: grammar_start. */
int grammar_nursery_start(Reason *why);
bool grammar_nursery_is_started(void);

/* Starts a process that has this vocabulary. 0, or -errno with `why`. */
int vocab_process_start(VocabProcess *process, const CoreVocabText *text, Reason *why);
void vocab_process_close(VocabProcess *process);

/* A compiler, at the other end of *fdp, which the caller closes. 0; -EPIPE where the vocabulary's
 * process is gone; -errno. */
int vocab_process_fork(const VocabProcess *process, int *fdp);

/* Has it compile a text; what comes of it is appended to `out`, for core_grammar_new. Once for each
 * compiler. 0; GRAMMAR_E_INVALID and GRAMMAR_E_LIMIT with `why`; -ENOMEM; -ECANCELED as soon as
 * `account` is closed. */
int compiler_ask(int fd, GrammarKind kind, const char *text, size_t size,
                 const GrammarLimits *limits, Account *account, Buffer *out, Reason *why);
