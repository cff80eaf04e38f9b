/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Composes answers into the connection's output; the connection sends it.
 */
#include "server/http_exchange.h"

#include "server/http_connection.h"
#include "util/json_writer.h"
#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

static const struct {
    unsigned status;
    const char *text;
} status_texts[] = {
    { 200, "OK" },
    { 400, "Bad Request" },
    { 404, "Not Found" },
    { 405, "Method Not Allowed" },
    { 408, "Request Timeout" },
    { 413, "Content Too Large" },
    { 414, "URI Too Long" },
    { 415, "Unsupported Media Type" },
    { 417, "Expectation Failed" },
    { 431, "Request Header Fields Too Large" },
    { 500, "Internal Server Error" },
    { 501, "Not Implemented" },
    { 503, "Service Unavailable" },
    { 505, "HTTP Version Not Supported" },
};

const char *http_status_text(unsigned status) {
    for (size_t i = 0; i < sizeof(status_texts) / sizeof(*status_texts); i++)
        if (status_texts[i].status == status)
            return status_texts[i].text;
    return "Unknown";
}

void http_error_body(Buffer *out, unsigned status, const char *message) {
    JsonWriter w = JSON_WRITER(out);

    json_begin_object(&w, NULL);
    json_begin_object(&w, "error");
    json_put_text(&w, "message", message);
    json_put_text(&w, "type", status < 500 ? "invalid_request_error" : "server_error");
    json_put_null(&w, "param");
    json_put_null(&w, "code");
    json_end_object(&w);
    json_end_object(&w);
}

static HttpConnection *connection_of(HttpExchange *x) {
    return container_of(x, HttpConnection, exchange);
}

/* heads */

static void put_date(Buffer *out) {
    char text[64];
    time_t now = time(NULL);
    struct tm utc;

    gmtime_r(&now, &utc);
    strftime(text, sizeof(text), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &utc);
    buffer_append_text(out, text);
}

static void put_head(HttpConnection *c, unsigned status, const char *content_type,
                     const char *headers) {
    const HttpRequest *request = &c->parser.request;

    if (!request->keep_alive || c->server->draining)
        c->last = true;
    c->server->stats.responses[status]++;
    log_client_line(LOG_LEVEL_DEBUG, "answering", "method=%s path=%s status=%u",
                    http_method_name(request->method), buffer_text(&request->path), status);
    buffer_printf(&c->out, "HTTP/1.1 %u %s\r\n", status, http_status_text(status));
    put_date(&c->out);
    if (content_type)
        buffer_printf(&c->out, "Content-Type: %s\r\n", content_type);
    if (headers)
        buffer_append_text(&c->out, headers);
    if (c->last)
        buffer_append_text(&c->out, "Connection: close\r\n");
    else if (request->is_http_1_0)
        buffer_append_text(&c->out, "Connection: keep-alive\r\n");
}

/* whole answers */

void http_exchange_reply(HttpExchange *x, const HttpReply *reply) {
    HttpConnection *c = connection_of(x);

    assert(!x->ended && !x->streaming);
    put_head(c, reply->status, reply->content_type, reply->headers);
    buffer_printf(&c->out, "Content-Length: %zu\r\n\r\n", reply->size);
    if (c->parser.request.method != HTTP_METHOD_HEAD)
        buffer_append(&c->out, reply->body, reply->size);
    x->ended = true;
    http_connection_flush(c);
}

/* streams */

void http_exchange_begin(HttpExchange *x, const char *content_type) {
    HttpConnection *c = connection_of(x);

    assert(!x->ended && !x->streaming);
    x->streaming = true;
    x->chunked = !x->request->is_http_1_0;
    if (!x->chunked)
        c->last = true; /* only the end of the connection ends such a body */
    put_head(c, 200, content_type, "Cache-Control: no-cache\r\n");
    buffer_append_text(&c->out, x->chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    http_connection_flush(c);
}

/* A piece of any size may wait by itself: who reads fast is not to be cut off for it. */
static bool overflows(HttpConnection *c, size_t n_more) {
    HttpServer *server = c->server;
    HttpExchange *x = &c->exchange;

    if (n_more > x->largest_piece)
        x->largest_piece = n_more;
    if (!x->overflowed &&
        http_connection_unsent(c) + n_more > server->options.buffer_bytes_max + x->largest_piece) {
        x->overflowed = true;
        server->stats.n_overflows++;
    }
    return x->overflowed;
}

int http_exchange_write(HttpExchange *x, const void *data, size_t size) {
    HttpConnection *c = connection_of(x);

    assert(x->streaming && !x->ended);
    if (!size) /* an empty chunk would end the body */
        return 0;
    if (overflows(c, size))
        return -ENOBUFS;
    if (x->chunked)
        buffer_printf(&c->out, "%zx\r\n", size);
    buffer_append(&c->out, data, size);
    if (x->chunked)
        buffer_append_text(&c->out, "\r\n");
    http_connection_flush(c);
    return 0;
}

/* A stream that was cut ends without its last chunk, so that the client can tell. */
void http_exchange_end(HttpExchange *x) {
    HttpConnection *c = connection_of(x);

    assert(x->streaming && !x->ended);
    if (x->overflowed)
        c->last = true;
    else if (x->chunked)
        buffer_append_text(&c->out, "0\r\n\r\n");
    x->ended = true;
    http_connection_flush(c);
}
