/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/grammars.h"

#include <errno.h>

/* Of a grammar when compiled, on its way between processes. */
#define COMPILED_BYTES_MAX ((uint64_t)64 << 20)

int grammars_start(Reason *why) {
    int r = grammar_start(why);

    return r == -ENOTSUP ? 0 : r;
}

static int token_bytes(const void *userdata, uint32_t id, Buffer *out) {
    const Tokenizer *tokenizer = userdata;

    if (id >= tokenizer_size(tokenizer))
        return 0;
    if (!tokenizer_is_special(tokenizer, id))
        return tokenizer_token_bytes(tokenizer, id, out);
    buffer_append_text(out, GRAMMAR_TOKEN_NO_TEXT);
    return 0;
}

GrammarLimits grammars_limits(const Config *config) {
    return (GrammarLimits){ .text_bytes = config->max_grammar_bytes,
                            .compile_ms = config->grammar_timeout_ms,
                            .compile_bytes = config->grammar_memory_bytes,
                            .compiled_bytes = COMPILED_BYTES_MAX,
                            .cache_bytes = config->grammar_cache_bytes };
}

int grammars_open(GrammarEngine **outp, const Tokenizer *tokenizer, const Checkpoint *checkpoint,
                  const EndOfTurn *ends, const GrammarLimits *limits, Account *account,
                  Reason *why) {
    GrammarVocab vocab = { .n_vocab = checkpoint_config(checkpoint)->n_vocab,
                           .token_bytes = token_bytes,
                           .userdata = tokenizer,
                           .stop_ids = ends->ids,
                           .n_stop_ids = ends->n_ids };
    int r = grammar_engine_new(outp, &vocab, limits, account, why);

    return r == -ENOTSUP ? 0 : r;
}
