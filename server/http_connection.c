/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The phases of a connection. Its one timer belongs to the phase: idle and read limits while a
 * request is awaited, the write limit while bytes wait for the client, and a moment of grace at the
 * end. It also resumes what must not run inside a handler's call.
 *
 * A client that closes its sending side while its answer is computed counts as gone: nothing tells
 * that apart from a client that died. If the answer is complete it still gets it.
 */
#include "server/http_connection.h"

#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#define WAITING_INPUT_BYTES_MAX ((size_t)64 << 10) /* of pipelined requests; then reading stops */
#define OUTPUT_BYTES_KEPT ((size_t)64 << 10) /* a buffer larger than this goes back once sent */
#define LINGER_MS 1000
#define KERNEL_UNSENT_BYTES (64 << 10)

static void on_timer(uv_timer_t *timer);
static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);
static void consume(HttpConnection *c, const char *data, size_t size);

/* life */

static void on_handle_closed(uv_handle_t *handle) {
    HttpConnection *c = handle->data;
    HttpServer *server = c->server;

    if (--c->n_handles)
        return;
    list_remove(&c->link);
    http_parser_deinit(&c->parser);
    buffer_deinit(&c->in);
    buffer_deinit(&c->out);
    buffer_deinit(&c->sending);
    free(c);
    if (server->accept_waits)
        http_connection_accept(server);
    http_server_check_empty(server);
}

void http_connection_close(HttpConnection *c) {
    bool abandoned = c->phase == HTTP_ANSWERING && !c->exchange.ended;

    if (c->phase == HTTP_CLOSING)
        return;
    c->phase = HTTP_CLOSING;
    c->server->n_connections--;
    c->server->bodies_bytes -= c->body_charged;
    list_remove(&c->idle_link);
    uv_close((uv_handle_t *)&c->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&c->timer, on_handle_closed);
    if (!abandoned)
        return;
    c->server->stats.n_gone++;
    if (c->exchange.on_gone)
        c->exchange.on_gone(c->exchange.owner);
}

static HttpConnection *connection_new(HttpServer *server) {
    HttpConnection *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->server = server;
    list_init(&c->idle_link);
    http_parser_init(&c->parser, &server->options.parser);
    uv_tcp_init(server->options.loop, &c->tcp);
    uv_timer_init(server->options.loop, &c->timer);
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

/* Does in the next round of the loop what must not happen in this call. */
static void resume_soon(HttpConnection *c) {
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

static void read_stop(HttpConnection *c) {
    c->reading = false;
    uv_read_stop((uv_stream_t *)&c->tcp);
}

static void become_idle(HttpConnection *c) {
    c->phase = HTTP_IDLE;
    list_push_back(&c->server->idle, &c->idle_link);
    arm(c, c->server->options.idle_timeout_ms);
    read_start(c);
}

static void become_reading(HttpConnection *c) {
    c->phase = HTTP_READING;
    c->start_ms = uv_now(c->server->options.loop);
    list_remove(&c->idle_link);
    arm(c, c->server->options.header_timeout_ms);
}

static void keep_for_later(HttpConnection *c, const char *data, size_t size) {
    buffer_append(&c->in, data, size);
    if (buffer_failed(&c->in))
        http_connection_close(c);
    else if (c->in.size > WAITING_INPUT_BYTES_MAX)
        read_stop(c);
}

/* Brings the books up to what the request's body is now. */
static void charge_body(HttpConnection *c) {
    uint64_t n = c->parser.request.body.size;

    c->server->bodies_bytes += n - c->body_charged;
    c->body_charged = n;
}

/* A refusal by the server itself; the connection ends with it. */
static void refuse(HttpConnection *c, unsigned status, const char *message) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;

    uv_timer_stop(&c->timer);
    list_remove(&c->idle_link);
    c->phase = HTTP_ANSWERING;
    c->last = true;
    buffer_deinit(&c->parser.request.body);
    charge_body(c);
    c->exchange = (HttpExchange){ .request = &c->parser.request };
    http_error_body(&body, status, message);
    log_client_line(LOG_LEVEL_DEBUG, "refusing a request", "reason=%s", message);
    http_exchange_reply(&c->exchange, &(HttpReply){ .status = status,
                                                    .content_type = "application/json",
                                                    .body = buffer_text(&body),
                                                    .size = body.size });
}

static void check_bodies(HttpConnection *c) {
    HttpServer *server = c->server;

    charge_body(c);
    if (server->bodies_bytes > server->options.bodies_bytes_max)
        refuse(c, 503,
               "The requests of all clients together are too large now (option "
               "max_bodies_bytes); try again later.");
}

static void hand_over(HttpConnection *c) {
    uv_timer_stop(&c->timer);
    list_remove(&c->idle_link);
    c->phase = HTTP_ANSWERING;
    c->exchange = (HttpExchange){ .request = &c->parser.request };
    c->server->options.handler(&c->exchange, c->server->options.handler_userdata);
}

static void note_progress(HttpConnection *c) {
    const HttpServerOptions *o = &c->server->options;
    uint64_t elapsed_ms = uv_now(o->loop) - c->start_ms;

    if (!c->parser.head_done)
        return;
    arm(c, o->request_timeout_ms > elapsed_ms ? o->request_timeout_ms - elapsed_ms : 0);
    if (!c->parser.request.expect.size || c->continued || c->parser.request.is_http_1_0)
        return;
    c->continued = true;
    buffer_append_text(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    http_connection_flush(c);
}

static void consume(HttpConnection *c, const char *data, size_t size) {
    size_t used;

    if (!size)
        return;
    if (c->phase == HTTP_IDLE)
        become_reading(c);
    switch (http_parser_feed(&c->parser, data, size, &used)) {
    case HTTP_PARSE_MORE:
        check_bodies(c);
        if (c->phase == HTTP_READING)
            note_progress(c);
        break;
    case HTTP_PARSE_DONE:
        keep_for_later(c, data + used, size - used);
        if (c->phase == HTTP_READING)
            check_bodies(c);
        if (c->phase == HTTP_READING)
            hand_over(c);
        break;
    case HTTP_PARSE_BAD:
        refuse(c, c->parser.status, c->parser.why.text);
        break;
    }
}

/* What is to be done about a client that sends no more. */
static void meet_end_of_input(HttpConnection *c) {
    if (c->phase == HTTP_READING)
        refuse(c, 400, "The connection ended in the middle of a request.");
    else if (c->phase != HTTP_ANSWERING || !c->exchange.ended)
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
}

/* writing */

size_t http_connection_unsent(const HttpConnection *c) {
    return c->out.size + uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

static uint64_t bytes_taken(const HttpConnection *c) {
    return c->n_sent + c->sending.size -
           uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

static void on_shutdown(uv_shutdown_t *shutdown, int status) {
    (void)shutdown;
    (void)status; /* the linger timer ends it whatever happened */
}

static void linger(HttpConnection *c) {
    c->phase = HTTP_LINGERING;
    buffer_deinit(&c->in);
    if (c->input_ended || uv_shutdown(&c->shutdown, (uv_stream_t *)&c->tcp, on_shutdown)) {
        http_connection_close(c);
        return;
    }
    arm(c, LINGER_MS);
    read_start(c);
}

/* The answer has ended and is sent. */
static void finish_exchange(HttpConnection *c) {
    CLEANUP(buffer_deinit) Buffer waiting = BUFFER_NULL;

    uv_timer_stop(&c->timer);
    if (c->last) {
        linger(c);
        return;
    }
    http_parser_next(&c->parser);
    charge_body(c);
    c->continued = false;
    waiting = c->in;
    c->in = (Buffer)BUFFER_NULL;
    become_idle(c);
    if (c->phase == HTTP_IDLE)
        consume(c, buffer_text(&waiting), waiting.size);
    if (c->input_ended)
        meet_end_of_input(c);
    else if (c->phase == HTTP_IDLE && c->server->draining)
        http_connection_close(c);
}

static void on_written(uv_write_t *write, int status) {
    HttpConnection *c = write->data;

    c->writing = false;
    if (c->phase == HTTP_CLOSING)
        return;
    if (status < 0) {
        http_connection_close(c);
        return;
    }
    c->n_sent += c->sending.size;
    if (c->sending.capacity > OUTPUT_BYTES_KEPT)
        buffer_deinit(&c->sending);
    buffer_clear(&c->sending);
    if (c->out.size)
        http_connection_flush(c);
    else if (c->phase == HTTP_ANSWERING && c->exchange.ended)
        finish_exchange(c);
    else if (c->phase == HTTP_ANSWERING)
        uv_timer_stop(&c->timer);
}

void http_connection_flush(HttpConnection *c) {
    Buffer sent = c->sending;
    uv_buf_t buf;

    if (c->writing)
        return;
    if (buffer_failed(&c->out) || !c->out.size) {
        resume_soon(c);
        return;
    }
    c->sending = c->out;
    c->out = sent;
    buf = uv_buf_init(c->sending.data, (unsigned)c->sending.size);
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written)) {
        c->out.failed = true;
        resume_soon(c);
        return;
    }
    c->writing = true;
    if (c->phase != HTTP_ANSWERING)
        return;
    c->n_taken_seen = bytes_taken(c);
    arm(c, c->server->options.write_timeout_ms);
}

/* time */

static void check_writing(HttpConnection *c) {
    if (buffer_failed(&c->out)) {
        http_connection_close(c);
    } else if (!http_connection_unsent(c)) {
        if (c->exchange.ended)
            finish_exchange(c);
    } else if (bytes_taken(c) == c->n_taken_seen) {
        c->server->stats.n_write_timeouts++;
        http_connection_close(c);
    } else {
        c->n_taken_seen = bytes_taken(c);
        arm(c, c->server->options.write_timeout_ms);
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
        check_writing(c);
        break;
    case HTTP_LINGERING:
        http_connection_close(c);
        break;
    case HTTP_CLOSING:
        break;
    }
}

/* arrival */

/* Small writes go out at once, and what a slow client has not taken waits here, where it is
 * counted, not in the system's buffers. */
static void tune_socket(HttpConnection *c) {
    int unsent_bytes = KERNEL_UNSENT_BYTES;
    uv_os_fd_t fd;

    uv_tcp_nodelay(&c->tcp, 1);
    if (!uv_fileno((uv_handle_t *)&c->tcp, &fd))
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_bytes, sizeof(unsent_bytes));
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

static void turn_away(HttpConnection *c) {
    static char answer[] = "HTTP/1.1 503 Service Unavailable\r\n"
                           "Connection: close\r\nContent-Length: 0\r\n\r\n";
    uv_buf_t buf = uv_buf_init(answer, sizeof(answer) - 1);

    c->server->stats.n_refused++;
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
    if (has_place)
        become_idle(c);
    else
        turn_away(c);
}
