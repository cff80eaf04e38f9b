/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One buffer holds what is not decided yet: the beginning of a mark, white space that may stand in
 * front of one, or a section of calls from its mark on. Each place has a function that takes from
 * its front what is decided, and says whether there is more to do.
 *
 * A section that turns out to be wrong is given out up to where that was seen, and the text is read
 * on from there: no byte is looked at again, however often a model goes wrong.
 */
#include "text/output_parser.h"

#include "text/output_call.h"
#include "util/text.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define MARKS_MAX 8

typedef struct Reading {
    OutputParser *parser;
    OutputSink sink;
    void *userdata;
    bool last;
} Reading;

enum { WAITS, GOES_ON }; /* besides errors */

void output_parser_init(OutputParser *p, const OutputForms *forms, Account *account) {
    *p = (OutputParser){ .forms = *forms, .is_blank = true };
    p->held.account = account;
    if (!forms->reasoning)
        p->place = OUTPUT_IN_TEXT;
    else if (forms->reasoning_begun)
        p->place = OUTPUT_IN_REASONING;
    p->trims_lines = p->had_reasoning = p->place == OUTPUT_IN_REASONING;
}

void output_parser_deinit(OutputParser *p) {
    buffer_deinit(&p->held);
    *p = (OutputParser)OUTPUT_PARSER_NULL;
}

static int give(const Reading *r, OutputKind kind, const char *text, size_t size) {
    OutputEvent event = { .kind = kind, .text = text, .size = size };

    if (kind > OUTPUT_REASONING)
        event.call = r->parser->n_calls - 1;
    return size || kind > OUTPUT_ARGUMENTS ? r->sink(r->userdata, &event) : 0;
}

static void drop(OutputParser *p, size_t n) {
    buffer_consume(&p->held, n);
    p->n_whole -= n;
}

/* Gives out the first `n` bytes that are held. */
static int give_held(const Reading *r, OutputKind kind, size_t n) {
    int result = give(r, kind, buffer_text(&r->parser->held), n);

    drop(r->parser, n);
    return result;
}

/* marks */

typedef struct MarkPlace {
    size_t at, size; /* size 0: no mark was found, and from `at` on there may be the start of one */
    size_t i;        /* which of the marks */
} MarkPlace;

static void add_marks(const char **all, size_t *np, const char *const *marks) {
    for (; *marks; marks++) {
        assert(*np < MARKS_MAX);
        all[(*np)++] = *marks;
    }
}

/* The first mark in the text that is held. */
static MarkPlace find_mark(const Reading *r, const char *const *marks, size_t n_marks) {
    const char *text = buffer_text(&r->parser->held);
    size_t n = r->parser->n_whole;

    for (size_t at = 0; at < n; at++)
        for (size_t i = 0; i < n_marks; i++) {
            if (text[at] != marks[i][0])
                continue;
            switch (mark_match(text + at, n - at, marks[i])) {
            case MARK_WHOLE:
                return (MarkPlace){ at, strlen(marks[i]), i };
            case MARK_PART:
                if (!r->last)
                    return (MarkPlace){ .at = at };
                break;
            default:
                break;
            }
        }
    return (MarkPlace){ .at = n };
}

static size_t skip_space(const OutputParser *p) {
    size_t at = 0;

    while (at < p->n_whole && json_is_space(p->held.data[at]))
        at++;
    return at;
}

/* places */

static int read_start(const Reading *r) {
    OutputParser *p = r->parser;
    const char *const *begin = p->forms.reasoning->begins;
    size_t at = skip_space(p);

    if (at == p->n_whole && !r->last)
        return WAITS;
    for (; *begin; begin++) {
        MarkMatch match = mark_match(buffer_text(&p->held) + at, p->n_whole - at, *begin);

        if (match == MARK_PART && !r->last)
            return WAITS;
        if (match != MARK_WHOLE)
            continue;
        drop(p, at + strlen(*begin));
        p->place = OUTPUT_IN_REASONING;
        p->trims_lines = p->had_reasoning = true;
        return GOES_ON;
    }
    p->place = OUTPUT_IN_TEXT;
    return GOES_ON;
}

/* True when there are none left at the front. */
static bool trim_lines(OutputParser *p) {
    size_t n = 0;

    while (n < p->n_whole && p->held.data[n] == '\n')
        n++;
    drop(p, n);
    return p->n_whole > 0;
}

static int read_reasoning(const Reading *r) {
    OutputParser *p = r->parser;
    const char *marks[MARKS_MAX];
    size_t n_marks = 0, end;
    MarkPlace mark;
    int result;

    add_marks(marks, &n_marks, p->forms.reasoning->ends);
    mark = find_mark(r, marks, n_marks);
    for (end = mark.at; end && p->held.data[end - 1] == '\n';)
        end--;
    if (!mark.size)
        return give_held(r, OUTPUT_REASONING, r->last ? p->n_whole : end);
    result = give_held(r, OUTPUT_REASONING, end);
    drop(p, mark.at - end + mark.size);
    p->place = OUTPUT_IN_TEXT;
    p->trims_lines = true;
    return result ? result : GOES_ON;
}

static void begin_section(OutputParser *p, size_t at, const MarkPlace *mark) {
    p->place = OUTPUT_IN_CALLS;
    p->has_begun = false;
    p->section = (ToolSection){
        .family = p->forms.tools, .at = at, .begin = (uint32_t)mark->i, .is_bare = !mark->size
    };
}

/* Where text is over. White space behind a call is not even that. */
static int end_text(const Reading *r) {
    OutputParser *p = r->parser;

    if (p->is_blank && p->n_calls && skip_space(p) == p->n_whole)
        drop(p, p->n_whole);
    return give_held(r, OUTPUT_CONTENT, p->n_whole);
}

/* Text up to a mark that begins calls, or to one that only has to go. */
static int read_to_mark(const Reading *r, size_t n_begins, MarkPlace mark, size_t first) {
    OutputParser *p = r->parser;
    bool begins = mark.i < n_begins;
    int result = 0;

    if (mark.at > first || !p->is_blank || !begins) {
        result = give_held(r, OUTPUT_CONTENT, mark.at);
        mark.at = 0;
        p->is_blank = false;
    }
    if (begins)
        begin_section(p, mark.at + mark.size, &mark);
    else
        drop(p, mark.size);
    return result ? result : GOES_ON;
}

static int read_text(const Reading *r) {
    OutputParser *p = r->parser;
    const ToolFamily *tools = p->forms.tools;
    const char *marks[MARKS_MAX];
    size_t n_marks = 0, n_begins, first = 0;
    MarkPlace mark = { .at = p->n_whole };

    if (tools)
        add_marks(marks, &n_marks, tools->begins);
    n_begins = n_marks;
    if (p->had_reasoning)
        add_marks(marks, &n_marks, p->forms.reasoning->others);
    if (tools && p->is_blank) {
        first = skip_space(p);
        if (first == p->n_whole)
            return r->last ? end_text(r) : WAITS;
        if (tools->takes_bare && p->held.data[first] == '{') {
            begin_section(p, first, &(MarkPlace){ .size = 0 });
            return GOES_ON;
        }
    }
    mark = find_mark(r, marks, n_marks);
    if (mark.size)
        return read_to_mark(r, n_begins, mark, first);
    if (tools && p->is_blank && mark.at == first && !r->last)
        return WAITS;
    p->is_blank = p->is_blank && !mark.at;
    return r->last ? end_text(r) : give_held(r, OUTPUT_CONTENT, mark.at);
}

/* calls */

static bool is_trusted(const OutputParser *p) {
    const ToolSection *s = &p->section;

    return p->forms.trust == OUTPUT_TRUST_ALL ||
           (p->forms.trust == OUTPUT_TRUST_MARKED && !s->is_bare && !s->begin);
}

/* Gives out what is there of a call that cannot go wrong. */
static int give_ahead(const Reading *r) {
    OutputParser *p = r->parser;
    const ToolSection *s = &p->section;
    size_t end = s->arguments.end ? s->arguments.end : s->at;
    int result = 0;

    if (!is_trusted(p) || !s->has_name || !s->arguments_started ||
        s->text[s->arguments.start] != '{')
        return 0;
    if (!p->has_begun) {
        CLEANUP(buffer_deinit) Buffer name = { .account = p->held.account };

        result = output_call_name(s, &name);
        if (result)
            return result < 0 ? result : 0;
        p->has_begun = true;
        p->n_calls++;
        p->n_given = s->arguments.start;
        result = give(r, OUTPUT_CALL, name.data, name.size);
    }
    if (!result)
        result = give(r, OUTPUT_ARGUMENTS, s->text + p->n_given, end - p->n_given);
    p->n_given = end;
    return result;
}

/* Gives out a call that is complete; OUTPUT_CALL_E_NONE: it is none. */
static int give_call(const Reading *r) {
    CLEANUP(output_call_deinit) OutputCall call = { .name.account = r->parser->held.account };
    OutputParser *p = r->parser;
    int result = give_ahead(r);

    if (!result && !p->has_begun) {
        result = output_call_read(&p->section, &call);
        if (result)
            return result;
        p->n_calls++;
        result = give(r, OUTPUT_CALL, call.name.data, call.name.size);
        if (!result)
            result = give(r, OUTPUT_ARGUMENTS, call.arguments, call.arguments_size);
    }
    return result ? result : give(r, OUTPUT_CALL_END, NULL, 0);
}

static int end_section(const Reading *r, bool wrong) {
    OutputParser *p = r->parser;
    size_t at = p->section.at;
    int result = 0;

    p->place = OUTPUT_IN_TEXT;
    p->is_blank = !wrong;
    if (wrong && r->last && is_trusted(p)) /* a call that was cut off */
        drop(p, p->n_whole);
    else if (wrong && !p->has_begun)
        result = give_held(r, OUTPUT_CONTENT, at);
    else
        drop(p, at);
    p->has_begun = false;
    return result ? result : GOES_ON;
}

static int take_call(const Reading *r) {
    OutputParser *p = r->parser;
    ToolSection *s = &p->section;
    int result = give_call(r);

    if (result == OUTPUT_CALL_E_NONE)
        return end_section(r, true);
    if (result)
        return result;
    drop(p, s->at);
    p->has_begun = false;
    s->at = 0;
    s->n_calls++;
    s->object = s->key = s->head = s->name = s->arguments = (ToolSpan){ 0 };
    s->has_name = s->arguments_started = false;
    return GOES_ON;
}

static int read_calls(const Reading *r) {
    OutputParser *p = r->parser;
    ToolSection *s = &p->section;
    int result;

    s->text = buffer_text(&p->held);
    s->size = p->n_whole;
    s->last = r->last;
    switch (s->family->step(s)) {
    case TOOL_MORE:
        result = give_ahead(r);
        return result ? result : WAITS;
    case TOOL_CALL:
        return take_call(r);
    case TOOL_END:
        return end_section(r, false);
    default:
        result = give_ahead(r);
        return result ? result : end_section(r, true);
    }
}

static int read_place(const Reading *r) {
    OutputParser *p = r->parser;

    if (p->trims_lines && !trim_lines(p))
        return WAITS;
    p->trims_lines = false;
    switch (p->place) {
    case OUTPUT_AT_START:
        return read_start(r);
    case OUTPUT_IN_REASONING:
        return read_reasoning(r);
    case OUTPUT_IN_TEXT:
        return read_text(r);
    default:
        return read_calls(r);
    }
}

static int read_held(OutputParser *p, OutputSink sink, void *userdata, bool last) {
    Reading r = { p, sink, userdata, last };
    int result = GOES_ON;

    p->n_whole = last ? p->held.size : text_whole(buffer_text(&p->held), p->held.size);
    while (result == GOES_ON)
        result = read_place(&r);
    return result;
}

static int failure_of(const OutputParser *p) {
    return account_is_closed(p->held.account) ? -ECANCELED : -ENOMEM;
}

int output_parser_push(OutputParser *p, const char *text, size_t size, OutputSink sink,
                       void *userdata) {
    buffer_append(&p->held, text, size);
    return buffer_failed(&p->held) ? failure_of(p) : read_held(p, sink, userdata, false);
}

int output_parser_finish(OutputParser *p, OutputSink sink, void *userdata) {
    return read_held(p, sink, userdata, true);
}
