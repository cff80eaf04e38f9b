/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What holds a model to calls of tools: the text of a grammar, in the form of a family, with each
 * tool's parameters as the schema of its arguments. It is written as XGrammar's structural tags
 * (JSON; GRAMMAR_TAGS). It begins where reasoning has ended, or with the first token.
 *
 * Marks that are special tokens of the vocabulary are written as tokens, by id, as a model writes
 * them: GRAMMAR_TOKEN_NO_TEXT lets those through.
 */

#include "text/tokenizer.h"
#include "text/tool_family.h"
#include "util/buffer.h"

typedef struct ToolDemand {
    const ToolFamily *family; /* borrowed, as all here */
    const json_t *tools;      /* an array of {"function": {"name": ..., "parameters": {...}}} */
    const char *name;         /* only this tool; NULL: any of them */
    const bool *is_loose;     /* [of tools] its arguments are any object; NULL: none is */
    bool forced;              /* calls and nothing else; else free text, and calls behind a mark */
    bool has_answer;          /* with `forced`: or JSON that is no call, */
    const json_t *answer;     /* of this schema; NULL: any object */
    bool parallel;            /* several calls */
    const Tokenizer *tokenizer; /* NULL: all marks are text */
} ToolDemand;

/* Appends the text. 0, or -ENOMEM. Without `forced` a call that no mark begins is not held to
 * anything, nor is one behind another mark than the first: OUTPUT_TRUST_MARKED. */
int tool_tags_write(const ToolDemand *demand, Buffer *out);
