/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A state for each place in the grammar, and a bit for each level that says what to go back to.
 */
#include "util/json_scan.h"

#include <errno.h>
#include <string.h>

static bool is_array(const JsonScan *scan) {
    uint32_t level = scan->depth - 1;

    return scan->arrays[level / 8] >> level % 8 & 1;
}

static int open_level(JsonScan *scan, bool array) {
    uint32_t level = scan->depth;
    uint8_t bit = (uint8_t)(1u << level % 8);

    if (level == JSON_DEPTH_MAX)
        return -EINVAL;
    scan->arrays[level / 8] =
        (uint8_t)(array ? scan->arrays[level / 8] | bit : scan->arrays[level / 8] & ~bit);
    scan->depth++;
    scan->state = array ? JSON_SCAN_FIRST_ITEM : JSON_SCAN_FIRST_KEY;
    return 0;
}

static int close_level(JsonScan *scan, bool array) {
    if (is_array(scan) != array)
        return -EINVAL;
    scan->depth--;
    scan->state = JSON_SCAN_NEXT;
    return scan->depth ? 0 : JSON_SCAN_E_END;
}

static int begin_string(JsonScan *scan, bool is_key) {
    scan->state = JSON_SCAN_STRING;
    scan->is_key = is_key;
    return 0;
}

static int begin_value(JsonScan *scan, char c) {
    if (c == '{' || c == '[')
        return open_level(scan, c == '[');
    if (!scan->depth || !c)
        return -EINVAL;
    if (c == '"')
        return begin_string(scan, false);
    if (!strchr("-0123456789tfn", c))
        return -EINVAL;
    scan->state = JSON_SCAN_SCALAR;
    return 0;
}

static int after_value(JsonScan *scan, char c) {
    scan->state = JSON_SCAN_NEXT;
    if (json_is_space(c))
        return 0;
    if (c == '}' || c == ']')
        return close_level(scan, c == ']');
    if (c != ',')
        return -EINVAL;
    scan->state = is_array(scan) ? JSON_SCAN_VALUE : JSON_SCAN_KEY;
    return 0;
}

static int in_string(JsonScan *scan, char c) {
    if (c == '"')
        scan->state = scan->is_key ? JSON_SCAN_COLON : JSON_SCAN_NEXT;
    else if (c == '\\')
        scan->state = JSON_SCAN_ESCAPE;
    return (unsigned char)c < ' ' ? -EINVAL : 0;
}

static int in_escape(JsonScan *scan, char c) {
    scan->state = c == 'u' ? JSON_SCAN_HEX : JSON_SCAN_STRING;
    scan->n_hex = 0;
    return c && strchr("\"\\/bfnrtu", c) ? 0 : -EINVAL;
}

static int in_hex(JsonScan *scan, char c) {
    if (++scan->n_hex == 4)
        scan->state = JSON_SCAN_STRING;
    return c && strchr("0123456789abcdefABCDEF", c) ? 0 : -EINVAL;
}

static bool goes_on(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == 'E' || c == '+' || c == '-' ||
           c == '.';
}

/* Between values, where white space may stand. */
static int in_between(JsonScan *scan, char c) {
    switch (scan->state) {
    case JSON_SCAN_FIRST_ITEM:
        return c == ']' ? close_level(scan, true) : begin_value(scan, c);
    case JSON_SCAN_FIRST_KEY:
        if (c == '}')
            return close_level(scan, false);
        return c == '"' ? begin_string(scan, true) : -EINVAL;
    case JSON_SCAN_KEY:
        return c == '"' ? begin_string(scan, true) : -EINVAL;
    case JSON_SCAN_COLON:
        scan->state = JSON_SCAN_VALUE;
        return c == ':' ? 0 : -EINVAL;
    case JSON_SCAN_NEXT:
        return after_value(scan, c);
    default:
        return begin_value(scan, c);
    }
}

int json_scan_byte(JsonScan *scan, char c) {
    switch (scan->state) {
    case JSON_SCAN_STRING:
        return in_string(scan, c);
    case JSON_SCAN_ESCAPE:
        return in_escape(scan, c);
    case JSON_SCAN_HEX:
        return in_hex(scan, c);
    case JSON_SCAN_SCALAR:
        return goes_on(c) ? 0 : after_value(scan, c);
    default:
        return json_is_space(c) && scan->depth ? 0 : in_between(scan, c);
    }
}
