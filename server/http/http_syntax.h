/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The bytes around a request's content, checked before llhttp sees them. llhttp forgives much, and
 * differs between versions; what it forgives is where two servers on one path come to see different
 * requests in the same bytes. So this holds to RFC 9112's grammar byte by byte: the request line,
 * header lines, chunk sizes and trailers, each line ended by CR LF.
 *
 * What headers mean is not looked at here.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum HttpSyntaxState {
    HTTP_SYNTAX_BEFORE, /* empty lines before the request line are allowed */
    HTTP_SYNTAX_BEFORE_LF,
    HTTP_SYNTAX_METHOD,
    HTTP_SYNTAX_TARGET_FIRST,
    HTTP_SYNTAX_TARGET,
    HTTP_SYNTAX_VERSION,
    HTTP_SYNTAX_LINE_LF,
    HTTP_SYNTAX_NAME_FIRST, /* of a header or, after the last chunk, a trailer */
    HTTP_SYNTAX_NAME,
    HTTP_SYNTAX_VALUE,
    HTTP_SYNTAX_HEAD_LF,
    HTTP_SYNTAX_HEAD_END, /* http_syntax_body says what follows */
    HTTP_SYNTAX_PLAIN,    /* a body of known length: anything goes */
    HTTP_SYNTAX_SIZE_FIRST,
    HTTP_SYNTAX_SIZE,
    HTTP_SYNTAX_EXTENSION,
    HTTP_SYNTAX_SIZE_LF,
    HTTP_SYNTAX_DATA,
    HTTP_SYNTAX_DATA_LF,
    HTTP_SYNTAX_END, /* of a chunked body, its trailers included */
} HttpSyntaxState;

typedef struct HttpSyntax {
    HttpSyntaxState state;
    uint8_t n_version;  /* bytes of the version so far */
    bool in_trailers;   /* names and values are those of trailers */
    uint8_t n_digits;   /* of the chunk size */
    uint64_t n_left;    /* of the chunk */
    unsigned status;    /* of the answer to a wrong byte; 0: none so far */
    const char *reason; /* static, a whole sentence */
} HttpSyntax;

#define HTTP_SYNTAX_START \
    { .state = HTTP_SYNTAX_BEFORE }

/* How many of the bytes are as they must be: all; or those up to the end of the head or of a
 * chunked body; or those before the first wrong one, and then `status` is set. */
size_t http_syntax_check(HttpSyntax *syntax, const char *data, size_t size);
/* After HTTP_SYNTAX_HEAD_END: how the body comes. */
void http_syntax_body(HttpSyntax *syntax, bool chunked);
