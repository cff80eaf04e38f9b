/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What holds a model to calls of tools: the text of a grammar, in the form of a family, with each
 * tool's parameters as the schema of its arguments. It is written as XGrammar's structural tags
 * (JSON; GRAMMAR_TAGS). It holds from the answer's first token on: reasoning may come before calls.
 *
 * Marks that are special tokens of the vocabulary are written as tokens, by id, as a model writes
 * them. XGrammar takes a token only where its vocabulary gives it bytes: special tokens for which
 * tool_tags_is_mark is true need theirs there, and others must have none.
 */

#include "text/reasoning_family.h"
#include "text/tokenizer.h"
#include "text/tool_family.h"
#include "util/buffer.h"

typedef struct ToolDemand {
    const ToolFamily *family; /* borrowed, as all here */
    const json_t *tools;      /* an array of {"function": {"name": ..., "parameters": {...}}} */
    const char *name;         /* only this tool; NULL: any of them */
    const ReasoningFamily *reasoning; /* that may come first; NULL: none */
    bool reasoning_begun;             /* by the prompt: then it comes first */
    bool forced;   /* calls and nothing else; else free text, and calls behind a mark */
    bool parallel; /* several calls */
    const Tokenizer *tokenizer; /* NULL: all marks are text */
} ToolDemand;

/* Whether this is a mark of any family, of calls or of reasoning. */
bool tool_tags_is_mark(const char *text, size_t size);

/* Appends the text. 0, or -ENOMEM. Without `forced` a call that no mark begins is not held to
 * anything, nor is one behind another mark than the first: OUTPUT_TRUST_MARKED. */
int tool_tags_write(const ToolDemand *demand, Buffer *out);
