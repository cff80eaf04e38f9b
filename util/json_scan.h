/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Follows a JSON object or array in text that comes piece by piece, one byte at a time, to say
 * where it ends and what it is in, or that it is none. It keeps no text and looks no further than
 * it must for that: of numbers, literals and escapes it knows the characters only, and it does not
 * check UTF-8. Who wants the value reads it with json_parse, which does.
 */

#include "util/json_tree.h"

typedef enum JsonScanState {
    JSON_SCAN_VALUE,      /* a value must come */
    JSON_SCAN_FIRST_ITEM, /* an array has begun */
    JSON_SCAN_FIRST_KEY,  /* an object has begun */
    JSON_SCAN_KEY,        /* a key must come */
    JSON_SCAN_COLON,      /* a key has ended */
    JSON_SCAN_NEXT,       /* a value has ended */
    JSON_SCAN_STRING,
    JSON_SCAN_ESCAPE,
    JSON_SCAN_HEX,    /* of an escape */
    JSON_SCAN_SCALAR, /* a number or a literal, whose end is seen from what follows */
} JsonScanState;

typedef struct JsonScan {
    JsonScanState state;
    uint8_t n_hex;
    bool is_key;                              /* the string is one */
    uint32_t depth;                           /* arrays and objects around the next byte */
    uint8_t arrays[(JSON_DEPTH_MAX + 7) / 8]; /* a bit for each of them: not an object */
} JsonScan;

/* Before its first byte, '{' or '['. */
#define JSON_SCAN_NULL \
    { .state = JSON_SCAN_VALUE }

enum {
    _JSON_SCAN_E_SUCCESS,
    JSON_SCAN_E_END, /* this byte was the value's last */
};

/* 0, the outcome above, or -EINVAL: no JSON goes on so. */
int json_scan_byte(JsonScan *scan, char c);

/* Whether the byte is white space to JSON. */
static inline bool json_is_space(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}
