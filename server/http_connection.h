/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One client's connection, inside the HTTP server: bytes in, one exchange at a time, bytes out.
 * Requests that come while one is answered wait in `in`, so answers keep the order of requests.
 */

#include "server/http_server.h"

typedef struct HttpConnection HttpConnection;

typedef enum HttpPhase {
    HTTP_IDLE,      /* no byte of a request yet */
    HTTP_READING,   /* in the middle of a request */
    HTTP_ANSWERING, /* a handler has it, or its answer is still on the way out */
    HTTP_LINGERING, /* nothing more to say: reads until the client closes, so that it sees all */
    HTTP_CLOSING,   /* handles are being closed */
} HttpPhase;

struct HttpConnection {
    List link, idle_link;
    HttpServer *server;
    uv_tcp_t tcp;
    uv_timer_t timer; /* of the phase */
    uint32_t n_handles;
    uv_write_t write;
    uv_shutdown_t shutdown;
    HttpPhase phase;
    HttpParser parser;
    HttpExchange exchange;
    Buffer in;             /* read, not parsed yet */
    Buffer out;            /* not given to the socket yet */
    Buffer sending;        /* being written */
    uint64_t n_sent;       /* bytes of finished writes */
    uint64_t n_taken_seen; /* bytes that the client had taken when the timer last looked */
    uint64_t start_ms;     /* loop time of the request's first byte */
    uint64_t body_charged; /* of server->bodies_bytes */
    bool reading, writing;
    bool input_ended; /* the client will send no more */
    bool last;        /* closes after this answer */
    bool continued;   /* "100 Continue" was said */
};

/* Accepts the connection that waits at the listener. */
void http_connection_accept(HttpServer *server);
/* Calls on_empty if the last connection of a draining server is gone. */
void http_server_check_empty(HttpServer *server);

/* Sends what is in `out`, and goes on when all is sent and the answer has ended. Never calls back
 * into the handler. */
void http_connection_flush(HttpConnection *connection);
/* Bytes that the client has not taken. */
size_t http_connection_unsent(const HttpConnection *connection);
/* Ends it now; a running exchange is told. */
void http_connection_close(HttpConnection *connection);
