/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The phases of a connection. Its one timer belongs to the phase and is always set
 * (`check_timer`); it also resumes what must not run inside a handler's call.
 *
 * A client that has gone must not be worked for; one that only ended its sending side still waits
 * for its answer. Both look alike from here: an end of input, or no input at all once so much of it
 * waits that reading stopped. TCP tells them apart only when something is sent: who closed answers
 * with a reset, who waits does not. (Keepalive probes do not do it: for a minute the system answers
 * them for a socket that its program closed, since it holds the half-closed state itself. Measured
 * on Linux: a byte sent brings the reset in 60 us, keepalive none in 8 s.)
 *
 * A stream's own pieces are such bytes. Before an answer there is something to send, too: every
 * answer begins with "HTTP/1.1 ", and nobody minds when those nine bytes come. So while a client
 * cannot be heard, they go out one by one: the first at once, which is enough for who had closed,
 * then each after twice the time, for who closes later: it is noticed after at most as long as it
 * had waited before. An interim answer ("102 Processing") would do the same, but HTTP/1.0 has none
 * and some clients take it for the answer.
 */
#include "server/http/http_connection.h"

#include "server/http/cors.h"
#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#define WAITING_INPUT_BYTES_MAX ((size_t)64 << 10) /* of pipelined requests; then reading stops */
#define LINGER_MS 1000
#define WATCH_MS 1000 /* between two looks at who can be heard */
#define UNHEARD_MS 50 /* and at who cannot */
#define PROBE_WAIT_MS 500
#define KEEPALIVE_S 30 /* without a byte either way; finds hosts that vanished without a word */
#define KERNEL_UNSENT_BYTES (64 << 10)

static void on_timer(uv_timer_t *timer);
static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);
static void consume(HttpConnection *c, const char *data, size_t size);

/* life */

static uint64_t now_ms(const HttpConnection *c) {
    return uv_now(c->server->options.loop);
}

/* Must hold whenever the loop goes on to something else. */
static void check_timer(const HttpConnection *c) {
    assert(c->phase == HTTP_CLOSING || uv_is_active((const uv_handle_t *)&c->timer));
}

Account *http_connection_account(const HttpConnection *c) {
    return c->client ? c->client->account : NULL;
}

static Buffer input_buffer(const HttpConnection *c) {
    return (Buffer){ .account = http_connection_account(c) };
}

static void on_handle_closed(uv_handle_t *handle) {
    HttpConnection *c = handle->data;
    HttpServer *server = c->server;

    if (--c->n_handles)
        return;
    list_remove(&c->link);
    buffer_deinit(&c->in);
    buffer_deinit(&c->out);
    buffer_deinit(&c->sending);
    buffer_deinit(&c->answer);
    http_parser_deinit(&c->parser);
    if (c->client)
        http_clients_leave(c->client);
    free(c);
    if (server->accept_waits)
        http_connection_accept(server);
    http_server_check_empty(server);
}

static void write_access(HttpConnection *c, bool aborted) {
    const HttpRequest *request = &c->parser.request;

    if (!c->server->options.access_log)
        return;
    access_log_write(c->server->options.access_log,
                     &(AccessEntry){ .id = request->id,
                                     .client = c->peer.address,
                                     .method = request->method_name,
                                     .path = request->path.size ? request->path.data : NULL,
                                     .status = c->exchange.status,
                                     .n_bytes_received = c->n_received,
                                     .n_bytes_sent = http_connection_taken(c) - c->n_sent_before,
                                     .duration_ms = now_ms(c) - c->start_ms,
                                     .aborted = aborted });
}

void http_connection_close(HttpConnection *c) {
    bool answering = c->phase == HTTP_ANSWERING, abandoned = answering && !c->exchange.ended;

    if (c->phase == HTTP_CLOSING)
        return;
    c->phase = HTTP_CLOSING;
    c->server->n_connections--;
    if (c->client)
        c->client->n_open--;
    list_remove(&c->idle_link);
    if (answering)
        write_access(c, true);
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    if (!abandoned)
        return;
    c->server->stats.n_gone++;
    account_close(c->parser.request.account);
    if (c->exchange.on_gone)
        c->exchange.on_gone(c->exchange.owner);
}

static HttpConnection *connection_new(HttpServer *server) {
    HttpConnection *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return NULL;
    c->server = server;
    list_init(&c->idle_link);
    http_parser_init(&c->parser, &server->options.parser);
    /* Neither opens anything, so neither can fail: the socket comes with uv_accept. */
    r = uv_tcp_init(server->options.loop, &c->tcp);
    assert(!r);
    r = uv_timer_init(server->options.loop, &c->timer);
    assert(!r);
    c->tcp.data = c->timer.data = c->write.data = c->shutdown.data = c;
    c->n_handles = 2;
    list_push_back(&server->connections, &c->link);
    server->n_connections++;
    server->stats.n_accepted++;
    return c;
}

static void arm(HttpConnection *c, uint64_t ms) {
    uv_timer_start(&c->timer, on_timer, ms, 0);
}

void http_connection_resume_soon(HttpConnection *c) {
    arm(c, 0);
}

/* reading */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    HttpConnection *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->server->read_buffer, sizeof(c->server->read_buffer));
}

static void read_start(HttpConnection *c) {
    if (c->reading || c->input_ended)
        return;
    c->reading = true;
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read))
        http_connection_close(c);
}

/* The client cannot be heard from now on, so it is asked. */
static void read_stop(HttpConnection *c) {
    c->reading = false;
    uv_read_stop((uv_stream_t *)&c->tcp);
    c->probe_ms = now_ms(c);
    c->probe_wait_ms = PROBE_WAIT_MS;
    if (c->phase == HTTP_ANSWERING)
        http_connection_resume_soon(c);
}

static void become_idle(HttpConnection *c) {
    c->phase = HTTP_IDLE;
    http_connection_trim(c);
    list_push_back(&c->server->idle, &c->idle_link);
    arm(c, c->server->options.idle_timeout_ms);
    read_start(c);
}

static void become_reading(HttpConnection *c) {
    c->phase = HTTP_READING;
    c->start_ms = now_ms(c);
    c->n_received = 0;
    c->n_sent_before = http_connection_taken(c);
    c->continued = false;
    list_remove(&c->idle_link);
    arm(c, c->server->options.header_timeout_ms);
}

/* Where the requests that wait cannot be held, the running one is still answered, and then the
 * connection ends: the client is free to ask for the others again. */
static void keep_for_later(HttpConnection *c, const char *data, size_t size) {
    buffer_append(&c->in, data, size);
    if (buffer_failed(&c->in)) {
        buffer_deinit(&c->in);
        c->last = true;
    } else if (c->in.size > WAITING_INPUT_BYTES_MAX && c->reading) {
        read_stop(c);
    }
}

/* The request gets its answer from now on, good or bad. */
static void become_answering(HttpConnection *c) {
    HttpRequest *request = &c->parser.request;

    list_remove(&c->idle_link);
    c->phase = HTTP_ANSWERING;
    c->exchange = (HttpExchange){ .request = request };
    c->taken_ms = c->probe_ms = now_ms(c);
    c->probe_wait_ms = PROBE_WAIT_MS;
    c->n_probed = 0;
    request->client_key = c->peer.key;
    http_request_settle_id(request);
    http_connection_watch(c);
}

/* A refusal by the server itself; the connection ends with it. */
static void refuse(HttpConnection *c, unsigned status, const char *message) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;

    c->last = true;
    buffer_deinit(&c->parser.request.body);
    become_answering(c);
    http_error_body(&body, status, message, NULL, NULL);
    http_exchange_log_refusal(&c->exchange, status, message);
    http_exchange_reply(&c->exchange, &(HttpReply){ .status = status,
                                                    .content_type = "application/json",
                                                    .body = buffer_text(&body),
                                                    .size = body.size });
}

static void hand_over(HttpConnection *c) {
    const HttpServerOptions *o = &c->server->options;

    become_answering(c);
    if (cors_is_preflight(o->allowed_origins, &c->parser.request))
        http_exchange_reply_preflight(&c->exchange);
    else
        o->handler(&c->exchange, o->handler_userdata);
}

static void note_progress(HttpConnection *c) {
    const HttpServerOptions *o = &c->server->options;
    uint64_t elapsed_ms = now_ms(c) - c->start_ms;

    if (!c->parser.head_done)
        return;
    arm(c, o->request_timeout_ms > elapsed_ms ? o->request_timeout_ms - elapsed_ms : 0);
    if (!c->parser.request.expect.size || c->continued || c->parser.request.is_http_1_0)
        return;
    c->continued = true;
    buffer_append_text(http_connection_uncharged(c), "HTTP/1.1 100 Continue\r\n\r\n");
    if (buffer_failed(&c->out))
        http_connection_close(c);
    else
        http_connection_flush(c);
}

static void consume(HttpConnection *c, const char *data, size_t size) {
    HttpParse parse;
    size_t used;

    if (!size)
        return;
    if (c->phase == HTTP_IDLE)
        become_reading(c);
    parse = http_parser_feed(&c->parser, data, size, &used);
    c->n_received += used;
    switch (parse) {
    case HTTP_PARSE_MORE:
        note_progress(c);
        break;
    case HTTP_PARSE_DONE:
        keep_for_later(c, data + used, size - used);
        hand_over(c);
        break;
    case HTTP_PARSE_BAD:
        refuse(c, c->parser.status, c->parser.why.text);
        break;
    }
}

/* What is to be done about a client that sends no more. While it is answered: nothing; it may
 * wait. */
static void meet_end_of_input(HttpConnection *c) {
    if (c->phase == HTTP_READING)
        refuse(c, 400, "The connection ended in the middle of a request.");
    else if (c->phase != HTTP_ANSWERING)
        http_connection_close(c);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    HttpConnection *c = stream->data;

    if (n == UV_EOF) {
        c->input_ended = true;
        read_stop(c);
        meet_end_of_input(c);
    } else if (n < 0) {
        http_connection_close(c);
    } else if (c->phase == HTTP_IDLE || c->phase == HTTP_READING) {
        consume(c, buf->base, (size_t)n);
    } else if (c->phase == HTTP_ANSWERING && !c->last) {
        keep_for_later(c, buf->base, (size_t)n);
    }
    check_timer(c);
}

/* the end of an answer */

static void on_shutdown(uv_shutdown_t *shutdown, int status) {
    (void)shutdown;
    (void)status; /* the linger timer ends it whatever happened */
}

static void linger(HttpConnection *c) {
    c->phase = HTTP_LINGERING;
    buffer_deinit(&c->in);
    arm(c, LINGER_MS);
    if (c->input_ended || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown))
        http_connection_close(c);
    else
        read_start(c);
}

/* The answer has ended and is sent. */
static void finish_exchange(HttpConnection *c) {
    CLEANUP(buffer_deinit) Buffer waiting = BUFFER_NULL;

    write_access(c, c->exchange.overflowed);
    if (c->last) {
        linger(c);
        return;
    }
    http_parser_next(&c->parser);
    waiting = c->in;
    c->in = input_buffer(c);
    become_idle(c);
    if (c->phase == HTTP_IDLE)
        consume(c, buffer_text(&waiting), waiting.size);
    if (c->input_ended)
        meet_end_of_input(c);
    else if (c->phase == HTTP_IDLE && c->server->draining)
        http_connection_close(c);
}

void http_connection_sent(HttpConnection *c) {
    if (c->phase == HTTP_ANSWERING && c->exchange.ended)
        finish_exchange(c);
    check_timer(c);
}

/* time */

/* Sends the next byte of the answer's first line, if it is time and nothing else was sent. */
static void probe(HttpConnection *c) {
    const HttpExchange *x = &c->exchange;

    if (now_ms(c) < c->probe_ms || x->streaming || x->ended || http_connection_unsent(c) ||
        c->n_probed == strlen(HTTP_ANSWER_START))
        return;
    c->probe_ms = now_ms(c) + c->probe_wait_ms;
    c->probe_wait_ms *= 2;
    buffer_append_char(http_connection_uncharged(c), HTTP_ANSWER_START[c->n_probed++]);
    http_connection_flush(c);
}

/* A look at a client that is not being read. */
static void listen_otherwise(HttpConnection *c) {
    HttpPeerState state = HTTP_PEER_GONE;
    uv_os_fd_t fd;

    if (!uv_fileno((uv_handle_t *)&c->tcp, &fd))
        state = http_peer_state(fd);
    if (state == HTTP_PEER_GONE) {
        http_connection_close(c);
        return;
    }
    if (state == HTTP_PEER_FINISHED && !c->peer_finished) {
        c->peer_finished = true;
        c->probe_ms = now_ms(c);
        c->probe_wait_ms = PROBE_WAIT_MS;
    }
    probe(c);
}

void http_connection_watch(HttpConnection *c) {
    uint64_t wait_ms = c->reading ? WATCH_MS : UNHEARD_MS;
    uint64_t elapsed_ms = now_ms(c) - c->taken_ms, left_ms = c->server->options.write_timeout_ms;

    left_ms -= elapsed_ms < left_ms ? elapsed_ms : left_ms;
    if (http_connection_unsent(c) && left_ms < wait_ms)
        wait_ms = left_ms;
    arm(c, wait_ms);
}

static void look(HttpConnection *c) {
    uint64_t n_taken = http_connection_taken(c);
    bool waits = http_connection_unsent(c);

    if (!waits || n_taken != c->n_taken_seen)
        c->taken_ms = now_ms(c);
    c->n_taken_seen = n_taken;
    http_connection_watch(c);
    if (buffer_failed(&c->out)) {
        http_connection_close(c);
    } else if (c->exchange.ended && !waits && !c->writing) {
        finish_exchange(c); /* a write's end does it where there is one */
    } else if (now_ms(c) - c->taken_ms >= c->server->options.write_timeout_ms) {
        c->server->stats.n_write_timeouts++;
        http_connection_close(c);
    } else if (!c->reading) {
        listen_otherwise(c);
    }
}

static void on_timer(uv_timer_t *timer) {
    HttpConnection *c = timer->data;

    switch (c->phase) {
    case HTTP_IDLE:
        c->server->stats.n_idle_timeouts++;
        http_connection_close(c);
        break;
    case HTTP_READING:
        c->server->stats.n_read_timeouts++;
        refuse(c, 408,
               "The request did not arrive in time (options header_timeout, "
               "request_timeout).");
        break;
    case HTTP_ANSWERING:
        look(c);
        break;
    case HTTP_LINGERING:
        http_connection_close(c);
        break;
    case HTTP_CLOSING:
        break;
    }
    check_timer(c);
}

/* arrival */

/* Small writes go out at once, and what a slow client has not taken waits here, where it is
 * counted, not in the system's buffers. */
static void tune_socket(HttpConnection *c) {
    int unsent_bytes = KERNEL_UNSENT_BYTES;
    uv_os_fd_t fd;

    uv_tcp_nodelay(&c->tcp, 1);
    uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
    if (!uv_fileno((uv_handle_t *)&c->tcp, &fd))
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_bytes, sizeof(unsent_bytes));
}

/* Finds out whose the connection is. False: there is no memory for it. */
static bool note_peer(HttpConnection *c) {
    struct sockaddr_storage address;
    int size = sizeof(address);
    bool is_known = !uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&address, &size);

    http_peer_set(&c->peer, is_known ? (const struct sockaddr *)&address : NULL);
    c->client = http_clients_enter(&c->server->clients, c->peer.key);
    if (!c->client)
        return false;
    c->client->n_open++;
    c->parser.account = c->client->account;
    c->in = input_buffer(c);
    return true;
}

/* True if there is a place for one more, perhaps because an idle one lost its own. */
static bool make_place(HttpServer *server) {
    List *longest_idle = server->idle.next;

    if (server->n_connections < server->options.connections_max)
        return true;
    if (longest_idle == &server->idle)
        return false;
    server->stats.n_displaced++;
    http_connection_close(container_of(longest_idle, HttpConnection, idle_link));
    return true;
}

/* Whether the client may have this connection, perhaps because its longest idle one went. */
static bool make_place_for_client(HttpConnection *c) {
    HttpServer *server = c->server;

    if (c->client->n_open <= server->options.client_connections_max)
        return true;
    list_for_each(link, &server->idle) {
        HttpConnection *idle = container_of(link, HttpConnection, idle_link);

        if (idle->client != c->client)
            continue;
        server->stats.n_displaced++;
        http_connection_close(idle);
        return true;
    }
    return false;
}

static void turn_away(HttpConnection *c, const char *limit_name) {
    static char answer[] = "HTTP/1.1 503 Service Unavailable\r\n"
                           "Connection: close\r\nContent-Length: 0\r\n\r\n";
    uv_buf_t buf = uv_buf_init(answer, sizeof(answer) - 1);

    c->server->stats.n_refused++;
    log_client_line(LOG_LEVEL_DEBUG, "refusing a connection", "client=%s status=503 reason=%s",
                    c->peer.address, limit_name);
    uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
    http_connection_close(c);
}

void http_connection_accept(HttpServer *server) {
    bool has_place = make_place(server);
    HttpConnection *c = connection_new(server);

    server->accept_waits = !c && !server->draining;
    if (!c)
        return;
    if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&c->tcp)) {
        http_connection_close(c);
        return;
    }
    tune_socket(c);
    if (!note_peer(c))
        http_connection_close(c);
    else if (!has_place)
        turn_away(c, "max_connections");
    else if (!make_place_for_client(c))
        turn_away(c, "max_client_connections");
    else
        become_idle(c);
    check_timer(c);
}
