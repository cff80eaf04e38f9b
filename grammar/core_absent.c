/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A build without XGrammar: there is no vocabulary, and so nothing else that could be asked.
 */
#include "grammar/core.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

static int refuse(char why[CORE_WHY_BYTES]) {
    snprintf(why, CORE_WHY_BYTES, "this program was built without XGrammar");
    return -ENOTSUP;
}

bool core_is_built(void) {
    return false;
}

int core_vocab_new(CoreVocab **outp, const CoreVocabText *text, char why[CORE_WHY_BYTES]) {
    (void)outp, (void)text;
    return refuse(why);
}

CoreVocab *core_vocab_free(CoreVocab *vocab) {
    assert(!vocab);
    return NULL;
}

uint64_t core_vocab_bytes(const CoreVocab *vocab) {
    assert(!vocab);
    return 0;
}

int core_compile(const CoreVocab *vocab, GrammarKind kind, const char *text, size_t size,
                 char **outp, size_t *out_size, char why[CORE_WHY_BYTES]) {
    (void)vocab, (void)kind, (void)text, (void)size, (void)outp, (void)out_size;
    return refuse(why);
}

int core_grammar_new(CoreGrammar **outp, const CoreVocab *vocab, const char *data, size_t size,
                     char why[CORE_WHY_BYTES]) {
    (void)outp, (void)vocab, (void)data, (void)size;
    return refuse(why);
}

CoreGrammar *core_grammar_free(CoreGrammar *grammar) {
    assert(!grammar);
    return NULL;
}

uint64_t core_grammar_bytes(const CoreGrammar *grammar) {
    assert(!grammar);
    return 0;
}

int core_matcher_new(CoreMatcher **outp, const CoreGrammar *grammar) {
    (void)outp, (void)grammar;
    return -ENOTSUP;
}

CoreMatcher *core_matcher_free(CoreMatcher *matcher) {
    assert(!matcher);
    return NULL;
}

int core_matcher_accept(CoreMatcher *matcher, uint32_t token) {
    (void)matcher, (void)token;
    return -ENOTSUP;
}

int core_matcher_fill(CoreMatcher *matcher, uint32_t *mask, uint32_t n_vocab) {
    (void)matcher, (void)mask, (void)n_vocab;
    return -ENOTSUP;
}

bool core_matcher_is_terminated(const CoreMatcher *matcher) {
    return !matcher;
}

bool core_matcher_is_complete(const CoreMatcher *matcher) {
    return !matcher;
}

int core_matcher_forced(const CoreMatcher *matcher, uint32_t *tokens, uint32_t n_max,
                        uint32_t *np) {
    (void)matcher, (void)tokens, (void)n_max, (void)np;
    return -ENOTSUP;
}
