/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * UTF-8, as Unicode's table 3-7 has it: no surrogates, nothing overlong, nothing above U+10FFFF.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UTF8_REPLACEMENT "\xef\xbf\xbd"

/* What the first bytes of some text are. */
typedef struct Utf8Unit {
    uint8_t size;   /* bytes it takes: a character, or the longest start of one that went wrong */
    bool valid;     /* a whole character */
    bool truncated; /* not whole, but more bytes could make it so */
} Utf8Unit;

/* `size` must not be 0. An invalid unit is what Unicode calls a maximal subpart: one U+FFFD. */
static inline Utf8Unit utf8_unit(const char *text, size_t size) {
    const uint8_t *s = (const uint8_t *)text;
    uint8_t low = 0x80, high = 0xbf;
    uint8_t need;

    if (s[0] < 0x80)
        return (Utf8Unit){ .size = 1, .valid = true };
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return (Utf8Unit){ .size = 1 };
    need = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    for (uint8_t i = 1; i < need; i++) {
        if (i == size)
            return (Utf8Unit){ .size = i, .truncated = true };
        if (s[i] < low || s[i] > high)
            return (Utf8Unit){ .size = i };
        low = 0x80;
        high = 0xbf;
    }
    return (Utf8Unit){ .size = need, .valid = true };
}

static inline bool utf8_is_valid(const char *text, size_t size) {
    size_t at = 0;

    while (at < size) {
        uint64_t eight;
        Utf8Unit unit;

        if (size - at >= sizeof(eight)) {
            memcpy(&eight, text + at, sizeof(eight));
            if (!(eight & UINT64_C(0x8080808080808080))) {
                at += sizeof(eight);
                continue;
            }
        }
        unit = utf8_unit(text + at, size - at);
        if (!unit.valid)
            return false;
        at += unit.size;
    }
    return true;
}

/* Bytes of the character that begins with `lead`, in valid text. */
static inline size_t utf8_size(char lead) {
    uint8_t c = (uint8_t)lead;

    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* The code point at `text`, which is valid there. */
static inline uint32_t utf8_decode(const char *text) {
    const uint8_t *s = (const uint8_t *)text;

    switch (utf8_size(text[0])) {
    case 1:
        return s[0];
    case 2:
        return (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    case 3:
        return (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    default:
        return (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
    }
}

/* Writes up to 4 bytes, returns how many. */
static inline size_t utf8_encode(uint32_t cp, char *out) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

/* Where the last character of valid `text` begins; `size` must not be 0. */
static inline size_t utf8_last(const char *text, size_t size) {
    size_t at = size - 1;

    while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}
