/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What grammars cost with a model's vocabulary: compiling a JSON schema of 200 lines, and following
 * texts at random within it, token by token; and text that is free where no call of a tool begins.
 */

#include "server/commands/grammars.h"
#include "server/commands/session.h"

typedef struct BenchGrammar {
    bool is_built; /* else the rest is 0 */
    uint32_t n_vocab, n_lines;
    double compile_s;
    double compiled_bytes;
    double mask_p50_s, mask_p99_s; /* following a token and filling the next mask */
    double mask_mean_s;
    double free_p50_s, free_p99_s; /* the same where calls may come */
} BenchGrammar;

/* grammars_start must have been called. */
int bench_grammar(const Session *session, const Config *config, BenchGrammar *out, Reason *why);
