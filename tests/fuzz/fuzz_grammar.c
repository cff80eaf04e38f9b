/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A grammar as a request has it: the first byte says its kind. Within one that compiles a text is
 * followed, every token by what its mask says. Compilers have a second, and a little memory; one
 * that breaks is a process that ends, which is an answer like others.
 */
#include "tests/fuzz/fuzz.h"

#include "grammar/grammar.h"

#include <errno.h>

enum { N_VOCAB = 260, STOP = 257, TOKENS_MAX = 40 };

static int token_bytes(const void *userdata, uint32_t id, Buffer *out) {
    (void)userdata;
    if (id < 256 && id)
        buffer_append_char(out, (char)id);
    return 0;
}

/* NULL in a build without. */
static GrammarEngine *engine(void) {
    static const uint32_t stops[] = { STOP };
    static const GrammarVocab vocab = {
        .n_vocab = N_VOCAB, .token_bytes = token_bytes, .stop_ids = stops, .n_stop_ids = 1
    };
    static const GrammarLimits limits = { 4096, 1000, 64 << 20, 1 << 20, 1 << 20 };
    static GrammarEngine *made;
    static bool tried;

    if (!tried) {
        Reason why = REASON_NULL;

        tried = true;
        if (!grammar_start(&why)) {
            int r = grammar_engine_new(&made, &vocab, &limits, NULL, &why);

            assert(!r);
        }
    }
    return made;
}

static void follow(Grammar *grammar, const uint8_t *choices, size_t n) {
    CLEANUP(grammar_matcher_free) GrammarMatcher *matcher = NULL;
    uint32_t mask[(N_VOCAB + 31) / 32];
    int r = grammar_matcher_new(&matcher, grammar, NULL);

    assert(!r);
    for (size_t i = 0; i < TOKENS_MAX && !grammar_matcher_is_terminated(matcher); i++) {
        uint32_t token = n ? choices[i % n] : 0, left = N_VOCAB;

        r = grammar_matcher_fill(matcher, mask);
        assert(!r);
        while (left-- && !(mask[token / 32] >> token % 32 & 1))
            token = (token + 1) % N_VOCAB;
        if (!(mask[token / 32] >> token % 32 & 1))
            return; /* nothing of this vocabulary can come */
        r = grammar_matcher_accept(matcher, token);
        assert(!r);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(grammar_unref) Grammar *grammar = NULL;
    Reason why = REASON_NULL;
    int r;

    if (!size || !engine())
        return 0;
    r = grammar_compile(engine(), (GrammarKind)(data[0] % N_GRAMMAR_KINDS), (const char *)data + 1,
                        size - 1, NULL, &grammar, &why);
    assert(!r || (r > 0 && why.text[0]) || r == -ENOMEM);
    if (!r)
        follow(grammar, data, size);
    return 0;
}
