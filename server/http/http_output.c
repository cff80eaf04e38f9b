/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From buffers to the socket: one write at a time, of all there is. What comes meanwhile collects
 * in `out`.
 */
#include "server/http/http_connection.h"

#define OUTPUT_BYTES_KEPT ((size_t)64 << 10) /* a buffer larger than this goes back once sent */

size_t http_connection_unsent(const HttpConnection *c) {
    return c->out.size + (c->answer_sending ? 0 : c->answer.size) +
           uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

uint64_t http_connection_taken(const HttpConnection *c) {
    return c->n_sent + c->n_writing - uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}

bool http_connection_reserve(HttpConnection *c, size_t n) {
    Account *account = http_connection_account(c);

    if (buffer_failed(&c->out)) /* the connection is about to end */
        return true;
    if (c->out.account != account && buffer_move_charge(&c->out, account))
        return false;
    if (buffer_reserve(&c->out, n))
        return true;
    c->out.failed = false; /* nothing is missing in it */
    return false;
}

Buffer *http_connection_uncharged(HttpConnection *c) {
    buffer_move_charge(&c->out, NULL); /* never refused */
    return &c->out;
}

void http_connection_trim(HttpConnection *c) {
    if (!c->out.size)
        buffer_deinit(&c->out);
    if (!c->writing)
        buffer_deinit(&c->sending);
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
    c->n_sent += c->n_writing;
    c->n_writing = 0;
    if (c->answer_sending)
        buffer_deinit(&c->answer);
    c->answer_sending = false;
    if (c->sending.capacity > OUTPUT_BYTES_KEPT)
        buffer_deinit(&c->sending);
    buffer_clear(&c->sending);
    if (c->out.size || c->answer.size)
        http_connection_flush(c);
    else
        http_connection_sent(c);
}

void http_connection_flush(HttpConnection *c) {
    Buffer sent = c->sending;
    uv_buf_t bufs[2];

    if (c->writing)
        return;
    if (buffer_failed(&c->out) || !c->out.size) {
        http_connection_resume_soon(c);
        return;
    }
    c->sending = c->out;
    c->out = sent;
    bufs[0] = (uv_buf_t){ .base = c->sending.data, .len = c->sending.size };
    bufs[1] = (uv_buf_t){ .base = c->answer.data, .len = c->answer.size };
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, bufs, c->answer.size ? 2 : 1, on_written)) {
        c->out.failed = true;
        http_connection_resume_soon(c);
        return;
    }
    c->writing = true;
    c->answer_sending = c->answer.size;
    c->n_writing = c->sending.size + c->answer.size;
    c->n_taken_seen = http_connection_taken(c);
    c->taken_ms = uv_now(c->server->options.loop);
    if (c->phase == HTTP_ANSWERING)
        http_connection_watch(c);
}
