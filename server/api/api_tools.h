/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a chat says about tools: which there are, whether and how the model may call them, and how
 * calls and reasoning are told from text.
 */

#include "server/api/api_error.h"
#include "server/api/api_params.h"
#include "text/output_parser.h"

#define API_TOOLS_MAX 1024

typedef enum ApiToolChoice {
    API_TOOLS_NONE,     /* there are none, or calls are not looked for */
    API_TOOLS_AUTO,     /* as the model likes */
    API_TOOLS_REQUIRED, /* at least one call */
    API_TOOLS_NAMED,    /* of this tool */
} ApiToolChoice;

/* Checks `tools`, `tool_choice` and what goes with them. `has_grammar`: the model can be held to
 * calls. 0, or -EINVAL with `error` filled. */
int api_tools_check(const ApiParams *params, bool has_grammar, ApiError *error);

/* Of parameters that were checked; `name` (borrowed from them) is set for API_TOOLS_NAMED. */
ApiToolChoice api_tools_choice(const ApiParams *params, const char **name);

/* How the answer to a prompt is read. `served` has what the server was started with; parameters
 * may say otherwise. With `has_grammar`, which calls are trusted is settled, too: a grammar has to
 * hold the model to those. 0, or -EINVAL with `error` filled. */
int api_tools_choose_forms(OutputForms *forms, const OutputForms *served, bool has_grammar,
                           const ApiParams *params, ApiError *error);

/* Whether the chat template is to be told of tools where it knows of none: whether the answer could
 * be read. */
bool api_tools_are_told(const OutputForms *served, const ApiParams *params);

/* The names that a parser's parameter and option may have, for words: "auto, none, a, b". */
void api_tools_list_parsers(char *text, size_t size, const char *(*name_at)(size_t i));
const char *api_tools_parser_at(size_t i);     /* of tool calls; NULL behind the last */
const char *api_reasoning_parser_at(size_t i); /* likewise */
