/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One state for each place in the grammar, one byte at a time. Where RFC 9112 lets a server be
 * lenient (blanks around a chunk's size, bare LF), this one is not: clients have no need of it.
 */
#include "server/http/http_syntax.h"

#include <string.h>

#define SIZE_DIGITS_MAX 16 /* of 64 bits */

static bool refuse(HttpSyntax *s, unsigned status, const char *reason) {
    s->status = status;
    s->reason = reason;
    return false;
}

static bool go(HttpSyntax *s, HttpSyntaxState state) {
    s->state = state;
    return true;
}

/* RFC 9110's tchar: what names and methods are made of. */
static bool is_token(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_control(char c) {
    return ((unsigned char)c < 0x20 && c != '\t') || c == 0x7f;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* the request line */

static bool step_line(HttpSyntax *s, char c) {
    static const char version[] = "HTTP/1.";

    switch (s->state) {
    case HTTP_SYNTAX_METHOD:
        if (c == ' ')
            return go(s, HTTP_SYNTAX_TARGET_FIRST);
        return is_token(c) || refuse(s, 400, "The request line does not begin with a method.");
    case HTTP_SYNTAX_TARGET_FIRST:
    case HTTP_SYNTAX_TARGET:
        if (c == ' ' && s->state == HTTP_SYNTAX_TARGET)
            return go(s, HTTP_SYNTAX_VERSION);
        if (c == '\r' && s->state == HTTP_SYNTAX_TARGET)
            return refuse(s, 505,
                          "The request line has no version; this server speaks HTTP/1.1 "
                          "and HTTP/1.0.");
        if ((unsigned char)c <= ' ' || (unsigned char)c >= 0x7f)
            return refuse(s, 400,
                          "The request target must be visible ASCII, between single "
                          "spaces; other bytes are percent-encoded.");
        return go(s, HTTP_SYNTAX_TARGET);
    default: /* HTTP_SYNTAX_VERSION */
        if (s->n_version == sizeof(version))
            return c == '\r' ? go(s, HTTP_SYNTAX_LINE_LF)
                             : refuse(s, 400, "The request line goes on behind the version.");
        if (s->n_version < sizeof(version) - 1 ? c == version[s->n_version] : c == '0' || c == '1')
            return ++s->n_version;
        return s->n_version < strlen("HTTP/")
                   ? refuse(s, 400, "The request line is not: method, target, HTTP version.")
                   : refuse(s, 505, "This server speaks HTTP/1.1 and HTTP/1.0.");
    }
}

/* headers and trailers */

static bool step_field(HttpSyntax *s, char c) {
    switch (s->state) {
    case HTTP_SYNTAX_NAME_FIRST:
        if (c == '\r')
            return go(s, HTTP_SYNTAX_HEAD_LF);
        if (c == ' ' || c == '\t')
            return refuse(s, 400, "A header is continued on the next line.");
        return is_token(c) ? go(s, HTTP_SYNTAX_NAME) : refuse(s, 400, "A header has no name.");
    case HTTP_SYNTAX_NAME:
        if (c == ':')
            return go(s, HTTP_SYNTAX_VALUE);
        return is_token(c) ||
               refuse(s, 400, "A header's name holds a character that names do not have.");
    default: /* HTTP_SYNTAX_VALUE */
        if (c == '\r')
            return go(s, HTTP_SYNTAX_LINE_LF);
        return !is_control(c) || refuse(s, 400, "A header holds a control character.");
    }
}

/* chunks */

static bool end_size(HttpSyntax *s, char c) {
    if (c == ';')
        return go(s, HTTP_SYNTAX_EXTENSION);
    if (c == '\r')
        return go(s, HTTP_SYNTAX_SIZE_LF);
    return refuse(s, 400, "A chunk's size is not hexadecimal digits, then CR LF.");
}

static bool step_chunk(HttpSyntax *s, char c) {
    int digit;

    switch (s->state) {
    case HTTP_SYNTAX_SIZE_FIRST:
    case HTTP_SYNTAX_SIZE:
        digit = hex_value(c);
        if (digit < 0)
            return s->state == HTTP_SYNTAX_SIZE
                       ? end_size(s, c)
                       : refuse(s, 400, "A chunk does not begin with its size.");
        if (++s->n_digits > SIZE_DIGITS_MAX)
            return refuse(s, 400, "A chunk's size has too many digits.");
        s->n_left = s->n_left << 4 | (unsigned)digit;
        return go(s, HTTP_SYNTAX_SIZE);
    case HTTP_SYNTAX_EXTENSION:
        if (c == '\r')
            return go(s, HTTP_SYNTAX_SIZE_LF);
        return !is_control(c) || refuse(s, 400, "A chunk extension holds a control character.");
    default: /* HTTP_SYNTAX_DATA, at its end */
        return c == '\r' ? go(s, HTTP_SYNTAX_DATA_LF)
                         : refuse(s, 400, "A chunk is longer than its size says.");
    }
}

static bool begin_size(HttpSyntax *s) {
    s->n_digits = 0;
    s->n_left = 0;
    return go(s, HTTP_SYNTAX_SIZE_FIRST);
}

/* What an LF ends. */
static bool step_line_end(HttpSyntax *s, char c) {
    if (c != '\n')
        return refuse(s, 400, "A line does not end in CR LF.");
    switch (s->state) {
    case HTTP_SYNTAX_BEFORE_LF:
        return go(s, HTTP_SYNTAX_BEFORE);
    case HTTP_SYNTAX_HEAD_LF:
        return go(s, s->in_trailers ? HTTP_SYNTAX_END : HTTP_SYNTAX_HEAD_END);
    case HTTP_SYNTAX_SIZE_LF:
        s->in_trailers = !s->n_left;
        return go(s, s->in_trailers ? HTTP_SYNTAX_NAME_FIRST : HTTP_SYNTAX_DATA);
    case HTTP_SYNTAX_DATA_LF:
        return begin_size(s);
    default: /* HTTP_SYNTAX_LINE_LF */
        return go(s, HTTP_SYNTAX_NAME_FIRST);
    }
}

static bool step(HttpSyntax *s, char c) {
    switch (s->state) {
    case HTTP_SYNTAX_BEFORE:
        if (c == '\r')
            return go(s, HTTP_SYNTAX_BEFORE_LF);
        s->state = HTTP_SYNTAX_METHOD;
        if (c == ' ')
            return refuse(s, 400, "The request line does not begin with a method.");
        return step_line(s, c);
    case HTTP_SYNTAX_METHOD:
    case HTTP_SYNTAX_TARGET_FIRST:
    case HTTP_SYNTAX_TARGET:
    case HTTP_SYNTAX_VERSION:
        return step_line(s, c);
    case HTTP_SYNTAX_NAME_FIRST:
    case HTTP_SYNTAX_NAME:
    case HTTP_SYNTAX_VALUE:
        return step_field(s, c);
    case HTTP_SYNTAX_SIZE_FIRST:
    case HTTP_SYNTAX_SIZE:
    case HTTP_SYNTAX_EXTENSION:
    case HTTP_SYNTAX_DATA:
        return step_chunk(s, c);
    default:
        return step_line_end(s, c);
    }
}

size_t http_syntax_check(HttpSyntax *s, const char *data, size_t size) {
    size_t at = 0;

    if (s->state == HTTP_SYNTAX_PLAIN)
        return size;
    while (at < size && s->state != HTTP_SYNTAX_HEAD_END && s->state != HTTP_SYNTAX_END) {
        if (s->state == HTTP_SYNTAX_DATA && s->n_left) {
            size_t n = s->n_left < size - at ? (size_t)s->n_left : size - at;

            s->n_left -= n;
            at += n;
        } else if (step(s, data[at])) {
            at++;
        } else {
            break;
        }
    }
    return at;
}

void http_syntax_body(HttpSyntax *s, bool chunked) {
    if (chunked)
        begin_size(s);
    else
        s->state = HTTP_SYNTAX_PLAIN;
}
