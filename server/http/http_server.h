/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * An HTTP/1.1 server on a libuv loop: a listener, its connections, and for each request one call
 * of a handler, which answers at once or later through its HttpExchange. Everything happens on the
 * loop's thread.
 */

#include "server/http/access_log.h"
#include "server/http/http_clients.h"
#include "server/http/http_exchange.h"
#include "server/http/http_parser.h"
#include "util/list.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define HTTP_STATUS_END 600

typedef struct HttpServer HttpServer;
typedef void (*HttpHandlerFn)(HttpExchange *exchange, void *userdata);

typedef struct HttpServerOptions {
    uv_loop_t *loop; /* borrowed */
    HttpHandlerFn handler;
    void *handler_userdata;
    void (*on_empty)(void *userdata); /* draining, and the last connection is gone */
    void *on_empty_userdata;

    HttpParserLimits parser;
    Account *account;          /* of all requests and unread answers; borrowed; may be NULL */
    uint64_t client_bytes_max; /* of it, what one client may have */
    uint32_t connections_max;
    uint32_t client_connections_max;
    const char *allowed_origins;                    /* cors.h; borrowed */
    AccessLog *access_log;                          /* borrowed; NULL: none */
    uint64_t buffer_bytes_max;                      /* of a stream, for a slow reader */
    uint64_t header_timeout_ms, request_timeout_ms; /* from a request's first byte */
    uint64_t idle_timeout_ms;
    uint64_t write_timeout_ms; /* without a byte taken */
} HttpServerOptions;

/* Why connections ended that did not end by themselves, and what was answered. */
typedef struct HttpStats {
    uint64_t n_accepted;
    uint64_t n_refused;   /* answered 503 for want of a place */
    uint64_t n_displaced; /* idle ones closed to make a place */
    uint64_t n_idle_timeouts, n_read_timeouts, n_write_timeouts;
    uint64_t n_overflows;                /* streams cut because too much of them waited */
    uint64_t n_gone;                     /* clients that left before their answer was complete */
    uint64_t responses[HTTP_STATUS_END]; /* by status */
} HttpStats;

struct HttpServer {
    HttpServerOptions options;
    uv_tcp_t listener;
    bool listening, draining;
    bool accept_waits; /* for memory: when a connection goes, the one at the listener comes in */
    HttpClients clients;
    List connections; /* HttpConnection.link, all */
    List idle;        /* HttpConnection.idle_link: between requests, longest first */
    uint32_t n_connections;
    HttpStats stats;
    char read_buffer[64 << 10]; /* of whoever reads now; consumed before the next read */
};

void http_server_init(HttpServer *server, const HttpServerOptions *options);
/* Binds and listens. `host` is an address or a name; port 0 takes a free one. -errno with the words
 * in `why`. */
int http_server_listen(HttpServer *server, const char *host, uint16_t port, Reason *why);
/* "127.0.0.1:8000", "[::1]:8000"; returns `text`. */
const char *http_server_address(const HttpServer *server, char *text, size_t size);

/* Stops accepting, closes idle connections; others close after their answer. */
void http_server_drain(HttpServer *server);
/* Closes every connection now; their exchanges are told. */
void http_server_abort(HttpServer *server);
