/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Structured output: which tokens may come next so that a text stays within a grammar.
 *
 * A GrammarEngine belongs to one vocabulary. It compiles what users write (a JSON schema, a regular
 * expression, ...) into a Grammar, which any number of sequences share; each of them follows it
 * with a GrammarMatcher of its own, from its first output token on.
 *
 * The work is XGrammar's (https://github.com/mlc-ai/xgrammar, C++, Apache-2.0): nothing of it, and
 * no exception, is seen outside of this folder. A program that was built without it has an engine
 * that cannot be made (-ENOTSUP), and so no grammars.
 *
 * What is compiled comes from strangers: its size, depth and counts are checked first, and it is
 * compiled in a process that has limits on time and memory and can be ended at any moment.
 */

#include "grammar/kind.h"
#include "util/account.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct GrammarEngine GrammarEngine;
typedef struct Grammar Grammar;
typedef struct GrammarMatcher GrammarMatcher;

/* The bytes of special tokens: they are in no text, so that these come only where a structural tag
 * names their ids, or where anything may. */
#define GRAMMAR_TOKEN_NO_TEXT "\xff"

/* What token ids stand for; borrowed during grammar_engine_new. */
typedef struct GrammarVocab {
    uint32_t n_vocab; /* of the logits: ids from 0 on */
    /* Appends the bytes that the id stands for in the middle of a text; nothing for an id without
     * a token, which never may come. 0, or -errno. */
    int (*token_bytes)(const void *userdata, uint32_t id, Buffer *out);
    const void *userdata;
    const uint32_t *stop_ids; /* [n_stop_ids] those that end an answer, each < n_vocab */
    uint32_t n_stop_ids;
} GrammarVocab;

typedef struct GrammarLimits {
    uint64_t text_bytes;     /* of a text to compile */
    uint64_t compile_ms;     /* of compiling one */
    uint64_t compile_bytes;  /* of memory that compiling one may take */
    uint64_t compiled_bytes; /* of one when compiled, as it is passed between processes */
    uint64_t cache_bytes;    /* of compiled ones that are kept though nobody uses them */
} GrammarLimits;

/* Counters and gauges for /metrics; of any thread. */
typedef struct GrammarStats {
    uint64_t n_compiled, n_failed; /* totals */
    uint64_t n_cache_hits;         /* total */
    uint64_t cache_bytes;          /* of all grammars that are kept now */
    double compile_s;              /* total */
    uint64_t vocab_bytes;
} GrammarStats;

/* Starts the process that compiles, on which everything below rests. Once, in a program's main,
 * before there is any other thread: it is a fork of the program as it is then. 0, or -errno with
 * `why`; -ENOTSUP in a build without grammars. */
int grammar_start(Reason *why);

/* Takes a second or so for a large vocabulary: off the loop. `account` (borrowed; may be NULL) is
 * charged with every grammar that is kept; the vocabulary itself is told by grammar_engine_stats.
 * 0; -ENOTSUP in a build without grammars, or where grammar_start was not called; or -errno; with
 * `why`. */
int grammar_engine_new(GrammarEngine **outp, const GrammarVocab *vocab, const GrammarLimits *limits,
                       Account *account, Reason *why);
/* No grammar of it may be held any more. */
GrammarEngine *grammar_engine_free(GrammarEngine *engine);
CLEANUP_DEFINE(GrammarEngine, grammar_engine_free);

uint32_t grammar_engine_n_vocab(const GrammarEngine *engine);
void grammar_engine_stats(GrammarEngine *engine, GrammarStats *stats);

/* The grammar of a text, found or compiled. May take as long as the limits say: off the loop. The
 * caller holds *outp. `account` (NULL: nobody's) is whose time it costs. 0; GRAMMAR_E_INVALID,
 * GRAMMAR_E_LIMIT with what was wrong in `why`, in words for whoever wrote the text; -ENOMEM, also
 * where the engine's account refuses; -ECANCELED as soon as `account` is closed; -errno with `why`
 * where there is no process to compile it. Any thread. */
int grammar_compile(GrammarEngine *engine, GrammarKind kind, const char *text, size_t size,
                    Account *account, Grammar **outp, Reason *why);
Grammar *grammar_ref(Grammar *grammar);
Grammar *grammar_unref(Grammar *grammar); /* NULL is fine; returns NULL. Any thread */
CLEANUP_DEFINE(Grammar, grammar_unref);

/* At the beginning of a text. Holds the grammar. Charges `account` (borrowed until it is freed)
 * with about what it takes. 0, -ENOMEM, -ECANCELED. One thread at a time, for this and all below;
 * matchers of one grammar are independent. */
int grammar_matcher_new(GrammarMatcher **outp, Grammar *grammar, Account *account);
GrammarMatcher *grammar_matcher_free(GrammarMatcher *matcher);
CLEANUP_DEFINE(GrammarMatcher, grammar_matcher_free);

/* Takes the text's next token. 0; GRAMMAR_E_REJECTED, and the matcher is where it was; -ENOMEM. */
int grammar_matcher_accept(GrammarMatcher *matcher, uint32_t token);
/* Fills mask [grammar_mask_words(n_vocab)] with the tokens that may come next: where the text may
 * end here, stop tokens are among them. Ids of n_vocab and above are 0. 0, or -ENOMEM. */
int grammar_matcher_fill(GrammarMatcher *matcher, uint32_t *mask);
/* Whether a stop token was accepted: nothing may come any more. */
bool grammar_matcher_is_terminated(const GrammarMatcher *matcher);
/* Whether the text is complete: it may end here, though it may perhaps go on. */
bool grammar_matcher_is_complete(const GrammarMatcher *matcher);
/* Tokens that write what can only come next, at most n_max of them into `tokens`; *np is 0 where
 * there is a choice. Does not take them: each is to be accepted. 0, or -ENOMEM. */
int grammar_matcher_forced(const GrammarMatcher *matcher, uint32_t *tokens, uint32_t n_max,
                           uint32_t *np);
