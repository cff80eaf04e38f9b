/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The grammar that holds a chat's answer to calls of its tools: with tool_choice required or a name
 * all of it; else what stands behind a mark that begins calls, and the rest is free, or the JSON
 * that response_format asks for.
 */

#include "server/api/api_tools.h"
#include "text/tokenizer.h"

/* Whether the answer is read in this way at all. */
bool api_tool_grammar_is_wanted(const OutputForms *forms);

/* Compiles it, for the caller to hold; on the pool. Of parameters that were checked, with their
 * forms. A tool's schema that cannot be enforced is refused where the tool is strict or must be
 * called; else its arguments are any object. 0, or api_grammar_compile's errors. */
int api_tool_grammar_compile(const ApiParams *params, const OutputForms *forms,
                             const Tokenizer *tokenizer, GrammarEngine *engine, Account *account,
                             Grammar **outp, ApiError *error);
