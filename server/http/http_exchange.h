/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One request and its answer, as a handler sees them. The exchange is the connection's; a handler
 * may use it until the answer has ended or it was told that the client is gone.
 *
 * An answer is either one reply or a stream: begun, written, ended.
 */

#include "server/http/http_request.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct HttpExchange HttpExchange;

/* The client is gone before its answer ended. The exchange is not to be used any more. */
typedef void (*HttpGoneFn)(void *owner);

struct HttpExchange {
    HttpRequest *request; /* borrowed; the handler may take its body */
    HttpGoneFn on_gone;   /* NULL: nobody has to know */
    void *owner;          /* of on_gone; the handler's */
    unsigned status;      /* of the answer; 0: not said yet */
    size_t largest_piece; /* of a stream, so far */
    bool streaming;       /* the head of a stream went out */
    bool chunked;         /* it has chunks */
    bool overflowed;      /* too much of it waits; what is written now is dropped */
    bool ended;
};

typedef struct HttpReply {
    unsigned status;
    const char *content_type; /* NULL: no body */
    const char *headers;      /* more header lines, each with its line end; NULL: none */
    const void *body;         /* [size], copied */
    size_t size;
    Buffer *moved; /* instead of `body`: the content of this, which is empty afterwards. Charged to
                      the request's account, to that of all requests, or to none: then it is charged
                      to that of all requests */
} HttpReply;

/* What the first line of every answer begins with. */
#define HTTP_ANSWER_START "HTTP/1.1 "

/* An answer that there is no memory for becomes a 503. */
void http_exchange_reply(HttpExchange *exchange, const HttpReply *reply);
/* The answer to a browser that asks what it may send (cors.h). */
void http_exchange_reply_preflight(HttpExchange *exchange);
/* Leaves a line in the log, at level debug, about a request that is answered with an error. */
void http_exchange_log_refusal(const HttpExchange *exchange, unsigned status, const char *reason);

void http_exchange_begin(HttpExchange *exchange, const char *content_type);
/* 0; -ENOBUFS if the client leaves too much unread (buffer_bytes_max beside the largest piece), or
 * all clients together do: stop, and end the stream. */
int http_exchange_write(HttpExchange *exchange, const void *data, size_t size);
void http_exchange_end(HttpExchange *exchange);

/* "Not Found"; "Unknown" for what this server never answers. */
const char *http_status_text(unsigned status);
/* Appends {"error": {...}} as OpenAI's API has it. `param` is the parameter at fault and `code` a
 * word for programs; either may be NULL. */
void http_error_body(Buffer *out, unsigned status, const char *message, const char *param,
                     const char *code);
