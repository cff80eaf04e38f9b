/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One client's connection, inside the HTTP server: bytes in, one exchange at a time, bytes out.
 * Requests that come while one is answered wait in `in`, so answers keep the order of requests.
 */

#include "server/http/http_peer.h"
#include "server/http/http_server.h"

typedef struct HttpConnection HttpConnection;

/* Each phase has a timer that ends it; HTTP_CLOSING ends by itself. */
typedef enum HttpPhase {
    HTTP_IDLE,      /* no byte of a request yet: idle_timeout */
    HTTP_READING,   /* in the middle of a request: header_timeout, then request_timeout, whatever
                       is being written meanwhile */
    HTTP_ANSWERING, /* a handler has it, or its answer is still on the way out: a look now and then
                       at what the client takes (write_timeout) and whether it is there */
    HTTP_LINGERING, /* nothing more to say: reads until the client closes, so that it sees all, for
                       at most a moment */
    HTTP_CLOSING,   /* handles are being closed */
} HttpPhase;

struct HttpConnection {
    List link, idle_link;
    HttpServer *server;
    HttpPeer peer;
    HttpClient *client; /* whose it is; NULL before the peer is known */
    uv_tcp_t tcp;
    uv_timer_t timer; /* of the phase */
    uint32_t n_handles;
    uv_write_t write;
    uv_shutdown_t shutdown;
    HttpPhase phase;
    HttpParser parser;
    HttpExchange exchange;

    /* What waits and is charged to the account of all requests; heads and short answers are not,
     * so that a refusal can always be sent. */
    Buffer in;      /* read, not parsed yet */
    Buffer out;     /* not given to the socket yet */
    Buffer sending; /* being written */
    Buffer answer;  /* a whole answer's body, which goes out behind `out`; perhaps charged to the
                       request's account */

    uint64_t n_writing;    /* bytes of the write that is under way */
    uint64_t n_sent;       /* bytes of finished writes */
    uint64_t n_taken_seen; /* bytes that the client had taken at `taken_ms` */
    uint64_t taken_ms;     /* loop time at which it last took some, or had nothing to take */
    uint64_t probe_ms;     /* loop time of the next probe */
    uint64_t probe_wait_ms;
    unsigned n_probed; /* bytes of the answer's first line that went out as probes */

    /* Of the request, for the access log. */
    uint64_t start_ms; /* loop time of its first byte */
    uint64_t n_received;
    uint64_t n_sent_before;

    bool reading, writing;
    bool answer_sending; /* `answer` is part of the write that is under way */
    bool input_ended;    /* the client will send no more */
    bool peer_finished;  /* the same, perhaps behind bytes not read yet */
    bool last;           /* closes after this answer */
    bool continued;      /* "100 Continue" was said */
};

/* Accepts the connection that waits at the listener. */
void http_connection_accept(HttpServer *server);
/* Calls on_empty if the last connection of a draining server is gone. */
void http_server_check_empty(HttpServer *server);
/* Ends it now; a running exchange is told. */
void http_connection_close(HttpConnection *connection);

/* output (http_output.c) */

/* Sends what is in `out` and `answer`, and goes on when all is sent and the answer has ended. Never
 * calls back into the handler. */
void http_connection_flush(HttpConnection *connection);
/* What its buffers are charged to: its client's account. */
Account *http_connection_account(const HttpConnection *connection);
/* Bytes that the client has not taken. */
size_t http_connection_unsent(const HttpConnection *connection);
/* Bytes that it has taken, since it connected. */
uint64_t http_connection_taken(const HttpConnection *connection);
/* Room in `out` for `n` bytes, charged. False where there is none: `out` is as it was. */
bool http_connection_reserve(HttpConnection *connection, size_t n);
/* `out`, for a head or a short answer, which nothing is charged for. */
Buffer *http_connection_uncharged(HttpConnection *connection);
/* Gives the memory of all empty output back. */
void http_connection_trim(HttpConnection *connection);

/* What output wants of the connection (http_connection.c). */

/* All was sent; what follows may be the next request. */
void http_connection_sent(HttpConnection *connection);
/* Does in the next round of the loop what must not happen in this call. */
void http_connection_resume_soon(HttpConnection *connection);
/* Sets the timer of HTTP_ANSWERING. */
void http_connection_watch(HttpConnection *connection);
