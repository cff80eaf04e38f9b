/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a chat's choice comes to besides its content: reasoning and calls of tools, told from the
 * text by a parser. Streams pass on what the parser gives out; of whole answers it is kept here.
 */

#include "text/output_parser.h"
#include "text/tokenizer.h"
#include "util/json_writer.h"

#define API_CALL_ID_BYTES 32 /* with its NUL */

typedef struct ApiOutput {
    OutputParser parser;
    Buffer reasoning;
    Buffer calls;     /* KeptCall after KeptCall */
    Buffer call_text; /* names and arguments of them */
    uint32_t n_reasoning_tokens;
    uint32_t n_start_tokens; /* of what may become a mark that begins reasoning */
} ApiOutput;

void api_output_init(ApiOutput *output, const OutputForms *forms, Account *account);
void api_output_deinit(ApiOutput *output);

/* Appends the special tokens whose texts are marks of these forms; charged to `account`. 0, or
 * -ENOMEM. */
int api_output_kept_tokens(const OutputForms *forms, const Tokenizer *tokenizer, Account *account,
                           TokenIds *out);

/* Pushes the text of `n_tokens` tokens, and the end of all where it `ends`; counts those tokens
 * that are reasoning. Errors as output_parser_push has them. */
int api_output_push(ApiOutput *output, const Buffer *text, uint32_t n_tokens, bool ends,
                    OutputSink sink, void *userdata);

/* An id for a call, as the family wants it. */
void api_output_make_id(const ApiOutput *output, char id[API_CALL_ID_BYTES]);

/* Whole answers: keeps what is no content. 0, or -ENOMEM. */
int api_output_keep(ApiOutput *output, const OutputEvent *event);

/* What was kept of a call; borrowed. */
typedef struct ApiOutputCall {
    const char *id; /* with its NUL */
    const char *name, *arguments;
    size_t name_size, arguments_size;
} ApiOutputCall;

size_t api_output_n_calls(const ApiOutput *output);
ApiOutputCall api_output_call(const ApiOutput *output, size_t i);

/* The members of a chat's message that it has: reasoning_content, reasoning, tool_calls. */
void api_output_put(JsonWriter *writer, const ApiOutput *output);
