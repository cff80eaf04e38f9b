/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What this folder uses of XGrammar, in C: core.cc, or core_absent.c in a build without it. No
 * exception leaves these functions. Nothing here limits time; process.h does.
 */

#include "grammar/kind.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of a text that says what was wrong, with its NUL. */
#define CORE_WHY_BYTES 512

typedef struct CoreVocab CoreVocab;
typedef struct CoreGrammar CoreGrammar;
typedef struct CoreMatcher CoreMatcher;

/* A vocabulary in one piece, as it is sent to another process. */
typedef struct CoreVocabText {
    uint32_t n_vocab, n_stop_ids;
    const uint32_t *ends;     /* [n_vocab] where the bytes of each id end */
    const uint32_t *stop_ids; /* [n_stop_ids] */
    const char *bytes;
} CoreVocabText;

bool core_is_built(void);

/* 0, -ENOMEM, -EINVAL; -ENOTSUP in a build without it. */
int core_vocab_new(CoreVocab **outp, const CoreVocabText *text, char why[CORE_WHY_BYTES]);
CoreVocab *core_vocab_free(CoreVocab *vocab);
uint64_t core_vocab_bytes(const CoreVocab *vocab); /* about */

/* Compiles a text of a kind (not GRAMMAR_CHOICE) into what core_grammar_new reads: `out`, to be
 * freed by free(). 0, GRAMMAR_E_INVALID with the words in `why`, -ENOMEM. */
int core_compile(const CoreVocab *vocab, GrammarKind kind, const char *text, size_t size,
                 char **outp, size_t *out_size, char why[CORE_WHY_BYTES]);

/* 0, -EINVAL (not what core_compile writes), -ENOMEM. Shares the vocabulary, which may go. */
int core_grammar_new(CoreGrammar **outp, const CoreVocab *vocab, const char *data, size_t size,
                     char why[CORE_WHY_BYTES]);
CoreGrammar *core_grammar_free(CoreGrammar *grammar);
uint64_t core_grammar_bytes(const CoreGrammar *grammar); /* about, without the vocabulary */

/* As grammar.h has them; the grammar may go. */
int core_matcher_new(CoreMatcher **outp, const CoreGrammar *grammar);
CoreMatcher *core_matcher_free(CoreMatcher *matcher);
int core_matcher_accept(CoreMatcher *matcher, uint32_t token);
int core_matcher_fill(CoreMatcher *matcher, uint32_t *mask, uint32_t n_vocab);
bool core_matcher_is_terminated(const CoreMatcher *matcher);
bool core_matcher_is_complete(const CoreMatcher *matcher);
int core_matcher_forced(const CoreMatcher *matcher, uint32_t *tokens, uint32_t n_max, uint32_t *np);

#ifdef __cplusplus
}
#endif
