/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Reads tests/data/tool_texts (tests/tools/make_tool_texts.py says what stands there), and collects
 * what a parser gives out, in the same form.
 */

#include "text/output_parser.h"
#include "util/json.h"
#include "util/json_writer.h"
#include "util/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Events as [[kind, text], ...], adjacent pieces of one kind joined. */
typedef struct Collected {
    Buffer text; /* of the last event */
    const char *kind;
    Buffer json;
    uint32_t n_calls;
    uint32_t n_pieces; /* of arguments */
} Collected;

static inline void collected_close(Collected *c) {
    JsonWriter w = JSON_WRITER(&c->json);

    if (!c->kind)
        return;
    buffer_append_text(&c->json, c->json.size ? ", [" : "[");
    json_put_text(&w, NULL, c->kind);
    buffer_append_text(&c->json, ", ");
    w = (JsonWriter)JSON_WRITER(&c->json);
    json_put_string(&w, NULL, buffer_text(&c->text), c->text.size);
    buffer_append_text(&c->json, "]");
    buffer_clear(&c->text);
    c->kind = NULL;
}

static inline int collect(void *userdata, const OutputEvent *event) {
    static const char *const kinds[] = { "content", "reasoning", "call", "arguments", "end" };
    Collected *c = userdata;
    const char *kind = kinds[event->kind];
    bool joins = c->kind == kind && event->kind != OUTPUT_CALL && event->kind != OUTPUT_CALL_END;

    assert_true(event->size || event->kind == OUTPUT_CALL_END);
    assert_true(utf8_is_valid(event->text ? event->text : "", event->size));
    if (event->kind == OUTPUT_CALL)
        assert_int_equal(event->call, c->n_calls++);
    else if (event->kind > OUTPUT_CALL)
        assert_int_equal(event->call, c->n_calls - 1);
    if (event->kind == OUTPUT_ARGUMENTS)
        c->n_pieces++;
    if (!joins)
        collected_close(c);
    c->kind = kind;
    if (event->size)
        buffer_append(&c->text, event->text, event->size);
    return 0;
}

static inline void collected_deinit(Collected *c) {
    buffer_deinit(&c->text);
    buffer_deinit(&c->json);
}
CLEANUP_DEINIT_DEFINE(Collected, collected_deinit);

/* Every text of a family's file, with a number of its own for messages. */
typedef void (*ToolTextFn)(const char *family, int line, const json_t *text);

static inline void each_tool_text(const char *family, ToolTextFn fn) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    CLEANUP(free) char *line = NULL;
    char path[512];
    size_t capacity = 0;
    ssize_t size;
    FILE *file;
    int n = 0;

    snprintf(path, sizeof(path), "%s/tests/data/tool_texts/%s.jsonl", root ? root : ".", family);
    file = fopen(path, "r");
    assert_non_null(file);
    while ((size = getline(&line, &capacity, file)) > 0) {
        CLEANUP(json_unref) json_t *text = NULL;

        assert_int_equal(json_parse(&text, line, (size_t)size, 0, NULL), 0);
        fn(family, ++n, text);
    }
    fclose(file);
    assert_true(n >= 30);
}
