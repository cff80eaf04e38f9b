/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things stand, the section's steps have found; whether they are JSON, the parser of JSON
 * says. Arguments are the bytes that the model wrote: reading and writing them anew would change
 * numbers and spaces. Some models write them as a string that holds the object.
 */
#include "text/output_call.h"

#include <errno.h>
#include <string.h>

void output_call_deinit(OutputCall *call) {
    buffer_deinit(&call->name);
    json_unref(call->tree);
    *call = (OutputCall){ .tree = NULL };
}

/* The value that stands there; OUTPUT_CALL_E_NONE: no JSON does. */
static int parse(json_t **outp, const char *text, size_t size, Account *account) {
    int r = json_parse_charged(outp, text, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, account,
                               NULL);

    return r == -EINVAL ? OUTPUT_CALL_E_NONE : r;
}

static int parse_span(json_t **outp, const ToolSection *s, ToolSpan span, Account *account) {
    return parse(outp, s->text + span.start, span.end - span.start, account);
}

static int take_name(Buffer *name, const char *text, size_t size) {
    if (!size || memchr(text, 0, size))
        return OUTPUT_CALL_E_NONE;
    buffer_append(name, text, size);
    if (!buffer_failed(name))
        return 0;
    return account_is_closed(name->account) ? -ECANCELED : -ENOMEM;
}

int output_call_name(const ToolSection *s, Buffer *name) {
    CLEANUP(json_unref) json_t *tree = NULL;
    size_t size = s->name.end - s->name.start;
    int r;

    if (!s->has_name)
        return OUTPUT_CALL_E_NONE;
    if (!s->in_json)
        return take_name(name, s->text + s->name.start, size);
    r = parse_span(&tree, s, s->name, name->account);
    if (r)
        return r;
    if (!json_is_string(tree))
        return OUTPUT_CALL_E_NONE;
    return take_name(name, json_string_value(tree), json_string_length(tree));
}

/* The object that a string holds. */
static int take_string(OutputCall *call, const json_t *string) {
    CLEANUP(json_unref) json_t *object = NULL;
    int r;

    call->arguments = json_string_value(string);
    call->arguments_size = json_string_length(string);
    r = parse(&object, call->arguments, call->arguments_size, call->name.account);
    return r || json_is_object(object) ? r : OUTPUT_CALL_E_NONE;
}

static int take_arguments(const ToolSection *s, OutputCall *call) {
    int r;

    call->arguments = "{}";
    call->arguments_size = 2;
    if (!s->arguments_started)
        return 0;
    r = parse_span(&call->tree, s, s->arguments, call->name.account);
    if (r || json_is_null(call->tree))
        return r;
    if (json_is_string(call->tree))
        return take_string(call, call->tree);
    call->arguments = s->text + s->arguments.start;
    call->arguments_size = s->arguments.end - s->arguments.start;
    return json_is_object(call->tree) ? 0 : OUTPUT_CALL_E_NONE;
}

/* Whether all of an object that holds a call is JSON. */
static int check_object(const ToolSection *s, Account *account) {
    CLEANUP(json_unref) json_t *object = NULL;

    return s->in_json ? parse_span(&object, s, s->object, account) : 0;
}

int output_call_read(const ToolSection *s, OutputCall *call) {
    int r = check_object(s, call->name.account);

    if (!r)
        r = output_call_name(s, &call->name);
    return r ? r : take_arguments(s, call);
}
