/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How a tree lies in memory; for util/json_parse.c and util/json_tree.c alone.
 *
 * The values stand in the order of the text, an object's members as key, value, key, value. They
 * fill blocks that never move; the last place of a full block is a link to the next one. An array
 * or object knows where the value behind it stands, so that one step leads over it.
 */

#include "util/json_tree.h"

/* More types, for what is no value. */
enum {
    NODE_LINK = JSON_NULL + 1, /* goes on at `end` */
    NODE_END,                  /* behind the root */
};

#define NODE_INLINE_BYTES 8 /* of a text with its NUL */

struct json_t {
    uint8_t type;
    uint32_t size; /* bytes of the text; items; members */
    union {
        char inlined[NODE_INLINE_BYTES]; /* a text that fits */
        const char *text;                /* any other */
        const json_t *end;               /* array, object: what stands behind; link */
    };
};

/* A piece of memory that a tree owns. */
typedef struct JsonChunk {
    struct JsonChunk *next;
    size_t bytes; /* with this header, as charged */
} JsonChunk;

typedef struct JsonDocument {
    JsonChunk *chunks; /* blocks of values and of texts, all but the first */
    Account *account;  /* borrowed; NULL: nobody's */
    json_t root[];     /* the first block */
} JsonDocument;

#define JSON_DOCUMENT_BYTES 1024 /* with the first block */

static inline const char *node_text(const json_t *node) {
    return node->size < NODE_INLINE_BYTES ? node->inlined : node->text;
}

static inline bool node_is_container(const json_t *node) {
    return node->type == JSON_OBJECT || node->type == JSON_ARRAY;
}
