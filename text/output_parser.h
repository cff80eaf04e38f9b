/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a model writes, taken apart as it comes: reasoning, the answer's own text, and calls of
 * tools. It is pushed in pieces of any size, cut anywhere; what comes of it does not depend on the
 * cuts, only when it comes does.
 *
 * Reasoning is looked for at the beginning, calls behind it. Marks are no part of what is given
 * out, nor are line breaks next to those of reasoning, nor white space alone around calls. All
 * other text is given out to the byte, and never a part of a character.
 *
 * A call that is none after all (no JSON, no name) is text like any other, with its marks. So that
 * nothing has to be taken back, a call is given out when all of it is there and is right. Where a
 * grammar sees to that (OutputTrust), it is given out as it comes instead; what is cut off in front
 * of its arguments is not given out at all.
 */

#include "text/reasoning_family.h"
#include "text/tool_family.h"
#include "util/buffer.h"

typedef enum OutputKind {
    OUTPUT_CONTENT,
    OUTPUT_REASONING,
    OUTPUT_CALL,      /* a call begins; the text is the tool's name, whole */
    OUTPUT_ARGUMENTS, /* of the call that began last: a piece of a JSON object's text */
    OUTPUT_CALL_END,  /* no text; never for a call that was cut off */
} OutputKind;

typedef struct OutputEvent {
    OutputKind kind;
    uint32_t call;    /* of calls: 0, 1, ... */
    const char *text; /* [size], UTF-8, borrowed for the call of the sink; may hold NUL */
    size_t size;
} OutputEvent;

/* 0, or a negative error, which output_parser_push then returns. */
typedef int (*OutputSink)(void *userdata, const OutputEvent *event);

/* Which calls cannot go wrong, because a grammar holds the model to them (text/tool_tags.h). */
typedef enum OutputTrust {
    OUTPUT_TRUST_NONE,
    OUTPUT_TRUST_MARKED, /* those that the family's first mark begins */
    OUTPUT_TRUST_ALL,
} OutputTrust;

typedef struct OutputForms {
    const ToolFamily *tools;          /* borrowed; NULL: calls are not looked for */
    const ReasoningFamily *reasoning; /* likewise */
    bool reasoning_begun;             /* by the prompt */
    OutputTrust trust;
} OutputForms;

typedef enum OutputPlace {
    OUTPUT_AT_START,
    OUTPUT_IN_REASONING,
    OUTPUT_IN_TEXT,
    OUTPUT_IN_CALLS,
} OutputPlace;

typedef struct OutputParser {
    OutputForms forms;
    OutputPlace place;
    bool trims_lines; /* line breaks behind a mark of reasoning go */
    bool is_blank;    /* the text since the beginning or the last call is white space */
    bool had_reasoning;
    bool has_begun;      /* the call that is being read was given out in part */
    size_t n_given;      /* of `held`: up to there its arguments were */
    uint32_t n_calls;    /* that began */
    Buffer held;         /* what was not given out, from the beginning of a call on */
    size_t n_whole;      /* of it: whole characters */
    ToolSection section; /* of OUTPUT_IN_CALLS */
} OutputParser;

#define OUTPUT_PARSER_NULL \
    { .place = OUTPUT_AT_START }

/* `account` (borrowed, may be NULL) is charged with what is held. */
void output_parser_init(OutputParser *parser, const OutputForms *forms, Account *account);
void output_parser_deinit(OutputParser *parser);
CLEANUP_DEINIT_DEFINE(OutputParser, output_parser_deinit);

/* Takes a piece. 0, -ENOMEM (also where the account refuses), -ECANCELED (it is closed), or what
 * the sink returned. After an error nothing more may be pushed. */
int output_parser_push(OutputParser *parser, const char *text, size_t size, OutputSink sink,
                       void *userdata);
/* No more comes: gives out the rest. */
int output_parser_finish(OutputParser *parser, OutputSink sink, void *userdata);

/* Whether what comes next belongs to reasoning, as far as it is known. */
static inline bool output_parser_is_reasoning(const OutputParser *parser) {
    return parser->place == OUTPUT_IN_REASONING;
}
