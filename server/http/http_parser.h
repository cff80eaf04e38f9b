/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Bytes of a connection to requests, one at a time, by llhttp. Stricter than llhttp where leniency
 * lets two parties see different requests in the same bytes (RFC 9112, section 11.2): the grammar
 * to the byte (http_syntax.h), one length, one "chunked", one host, no trailer that changes what
 * the head said.
 *
 * Each request gets an account of its own, which all that it brings is charged to, but for a head
 * of ordinary size: so that who asks how the server does hears it when memory is short.
 *
 * No sockets, no clock.
 */

#include "server/http/http_request.h"
#include "server/http/http_syntax.h"
#include "util/reason.h"

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct HttpParserLimits {
    uint64_t header_bytes_max; /* request line and headers; trailers likewise */
    uint64_t body_bytes_max;
    uint64_t request_bytes_max; /* of memory for one request; 0: 10 MiB and 5 times its body */
} HttpParserLimits;

typedef enum HttpParse {
    HTTP_PARSE_MORE, /* everything was taken, the request is not complete */
    HTTP_PARSE_DONE, /* `request` is complete; the rest of the bytes belongs to the next one */
    HTTP_PARSE_BAD,  /* `status` and `why` say what to answer; nothing more can be read */
} HttpParse;

typedef struct HttpParser {
    llhttp_t llhttp;
    const HttpParserLimits *limits; /* borrowed */
    Account *account; /* whose requests these are; borrowed; NULL: not counted. Set after init */
    HttpRequest request;
    Buffer name;            /* of the header being read, lower case */
    Buffer *value;          /* where its value goes; NULL: nowhere */
    uint64_t n_head_bytes;  /* fed before the head was complete */
    uint64_t n_after_bytes; /* fed since */
    unsigned headers_seen;  /* one bit for each kept header */
    HttpSyntax syntax;
    bool head_done;  /* the head of `request` is complete */
    bool started;    /* a byte of `request` has come */
    unsigned status; /* of the answer to a bad request; 0: none so far */
    Reason why;
} HttpParser;

void http_parser_init(HttpParser *parser, const HttpParserLimits *limits);
void http_parser_deinit(HttpParser *parser);
CLEANUP_DEINIT_DEFINE(HttpParser, http_parser_deinit);

/* Takes bytes up to the end of one request; `*usedp` says how many. */
HttpParse http_parser_feed(HttpParser *parser, const char *data, size_t size, size_t *usedp);
/* After HTTP_PARSE_DONE: forgets the request and is ready for the next. */
void http_parser_next(HttpParser *parser);
