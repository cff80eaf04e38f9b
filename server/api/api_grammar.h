/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a request says of the form of its answer: OpenAI's `response_format`, vLLM's
 * `structured_outputs` and the older names of the same, guided_json and the like. All of them come
 * to one grammar.
 */

#include "grammar/grammar.h"
#include "server/api/api_error.h"
#include "util/json_tree.h"

/* Borrowed from the body. */
typedef struct ApiGrammar {
    const char *param; /* that asks for it; static; NULL: none does */
    GrammarKind kind;
    const json_t *value; /* a text, or JSON to be written as one; NULL: there is nothing to say */
} ApiGrammar;

/* Reads one of those parameters. 0, or -EINVAL with `error` filled, also where two ask for a
 * grammar. */
int api_grammar_read(ApiGrammar *grammar, const char *name, const json_t *value, ApiError *error);

/* Compiles it, for the caller to hold; NULL where there is none. May take long: on the pool.
 * `engine` NULL: this server has no grammars. 0, or negative with `error` filled: -EINVAL, -ENOMEM,
 * -ECANCELED. */
int api_grammar_compile(const ApiGrammar *grammar, GrammarEngine *engine, Account *account,
                        Grammar **outp, ApiError *error);
/* The same of a text that was written for it; its value is not looked at. */
int api_grammar_compile_text(const ApiGrammar *grammar, const Buffer *text, GrammarEngine *engine,
                             Account *account, Grammar **outp, ApiError *error);
/* Turns what compiling or checking came to, not 0, into an answer. */
int api_grammar_refuse(const ApiGrammar *grammar, int result, const Reason *why, ApiError *error);
