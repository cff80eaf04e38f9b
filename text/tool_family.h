/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How models write calls of tools. Every family of models has a form of its own, which its chat
 * template shows it: marks around a call, the order of name and arguments, how several calls follow
 * each other. A family is a row of a table with a function that reads its form step by step.
 *
 * A section is the text from a mark that begins calls up to the end of the last of them. It is read
 * as it comes: each call of `step` goes as far as the text reaches. What a mark may be cut into,
 * and where, plays no role.
 */

#include "util/json_scan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOOL_NAME_BYTES_MAX 256 /* of names that no quotes end */

typedef struct ToolFamily ToolFamily;

/* Bytes of a section's text; `end` is 0 while they still come. */
typedef struct ToolSpan {
    size_t start, end;
} ToolSpan;

typedef struct ToolSection {
    const ToolFamily *family; /* borrowed */
    const char *text;         /* borrowed; valid during a step, then perhaps moved */
    size_t size;
    bool last;      /* no more text comes */
    size_t at;      /* bytes of `text` that were read */
    uint32_t state; /* the family's own; 0 behind the mark that began the section */
    uint32_t begin; /* which of `begins` did */
    bool is_bare;   /* no mark began it */
    bool is_list;   /* an array of calls */
    bool in_json;   /* a call is an object of JSON, its name a string within */
    uint32_t n_calls;
    JsonScan scan;
    /* Of the call that is being read; all of it 0 between calls. */
    ToolSpan object;        /* `in_json`: all of it */
    ToolSpan key;           /* the last one of that object */
    ToolSpan head;          /* what stands in front of a separator */
    ToolSpan name;          /* `in_json`: with its quotes */
    ToolSpan arguments;     /* any JSON value; nothing: there are none */
    bool has_name;          /* `name` is complete */
    bool arguments_started; /* `arguments.start` is there */
} ToolSection;

/* What a step came to; what is negative is an error. */
typedef enum ToolStep {
    TOOL_MORE,  /* needs text that has not come; never with `last` */
    TOOL_CALL,  /* a call ends at `at` */
    TOOL_END,   /* no call comes any more; the text goes on at `at` */
    TOOL_WRONG, /* this is no call of the family; seen at `at` */
} ToolStep;

/* How a call is written for a model that is held to it: what stands around its name and arguments,
 * and around several calls. */
typedef struct ToolWriting {
    const char *call, *arguments, *end; /* in front of the name, behind it, behind the arguments */
    const char *separator;              /* between calls */
    const char *before, *after;         /* behind the mark, and behind the last call */
    bool marks_each;                    /* each call has a mark of its own */
    bool has_no_mark;                   /* none has, where the model is made to call */
} ToolWriting;

struct ToolFamily {
    const char *name;
    const char *begins[4];      /* marks that begin calls; NULL behind the last */
    const char *end;            /* what may stand behind JSON of them, and belongs to it */
    const char *other_marks[4]; /* within a section; likewise */
    const char *signs[3];       /* what templates of the family hold, each by itself; likewise */
    const char *without;        /* what they do not hold; NULL: nothing tells them so */
    bool takes_bare;            /* a section also begins with an object where no text is before */
    bool reads_told;            /* its parser reads what SmolLM2's words ask for */
    bool has_short_ids;         /* its template wants ids of nine letters and digits */
    ToolStep (*step)(ToolSection *section);
    ToolWriting writing;
};

/* The one of this name; NULL: there is none. */
const ToolFamily *tool_family_find(const char *name);
/* The one whose signs the text of a chat template has; NULL: it has no signs of any. A template
 * that knows of no tools is shown them, and calls, in SmolLM2's words (chat_messages.py), whatever
 * signs it has. */
const ToolFamily *tool_family_detect(const char *template_text);
/* By index, for lists; NULL behind the last. */
const ToolFamily *tool_family_at(size_t i);

/* For families. */

typedef enum MarkMatch { MARK_NONE, MARK_PART, MARK_WHOLE } MarkMatch;

/* Whether `mark` stands at the beginning of the text, or the text ends within it. */
MarkMatch mark_match(const char *text, size_t size, const char *mark);

/* Moves `at` over white space; false: the text ends there. */
bool tool_skip_space(ToolSection *section);
/* Takes a mark at `at`, or what the end of all text left of it; MARK_PART only where more may come.
 */
MarkMatch tool_take_mark(ToolSection *section, const char *mark);
/* Takes white space and the family's `end`, if it stands there; TOOL_MORE or TOOL_END. */
ToolStep tool_take_end(ToolSection *section);
/* Reads on in an object of arguments, which has begun if section->arguments_started: TOOL_MORE,
 * TOOL_WRONG, or TOOL_CALL behind it. */
ToolStep tool_take_arguments(ToolSection *section);

/* Steps of forms that several families have, or that are long. */

/* An object {"name": ..., "arguments": ...}, or an array of such. State TOOL_JSON_STATES and above
 * are for the caller. */
#define TOOL_JSON_STATES 4
ToolStep tool_json_step(ToolSection *section);
ToolStep tool_mistral_step(ToolSection *section);
ToolStep tool_deepseek_step(ToolSection *section);
