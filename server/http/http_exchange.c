/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Composes answers into the connection's output; the connection sends it.
 */
#include "server/http/http_exchange.h"

#include "server/http/cors.h"
#include "server/http/http_connection.h"
#include "util/json_writer.h"
#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

/* Answers that nobody has to account for: the system's buffer takes them at once. Metrics among
 * them, since who looks at them wants to know who has all the memory. */
#define SHORT_BYTES ((size_t)64 << 10)
#define CHUNK_FRAME_BYTES ((size_t)32) /* size and line ends around a chunk */

static const struct {
    unsigned status;
    const char *text;
} status_texts[] = {
    { 200, "OK" },
    { 204, "No Content" },
    { 400, "Bad Request" },
    { 401, "Unauthorized" },
    { 403, "Forbidden" },
    { 404, "Not Found" },
    { 405, "Method Not Allowed" },
    { 408, "Request Timeout" },
    { 409, "Conflict" },
    { 413, "Content Too Large" },
    { 414, "URI Too Long" },
    { 415, "Unsupported Media Type" },
    { 417, "Expectation Failed" },
    { 422, "Unprocessable Content" },
    { 429, "Too Many Requests" },
    { 431, "Request Header Fields Too Large" },
    { 500, "Internal Server Error" },
    { 501, "Not Implemented" },
    { 503, "Service Unavailable" },
    { 504, "Gateway Timeout" },
    { 505, "HTTP Version Not Supported" },
};

const char *http_status_text(unsigned status) {
    for (size_t i = 0; i < sizeof(status_texts) / sizeof(*status_texts); i++)
        if (status_texts[i].status == status)
            return status_texts[i].text;
    return "Unknown";
}

void http_error_body(Buffer *out, unsigned status, const char *message, const char *param,
                     const char *code) {
    JsonWriter w = JSON_WRITER(out);

    json_begin_object(&w, NULL);
    json_begin_object(&w, "error");
    json_put_text(&w, "message", message);
    json_put_text(&w, "type", status < 500 ? "invalid_request_error" : "server_error");
    json_put_text(&w, "param", param);
    json_put_text(&w, "code", code);
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
    Buffer *out = http_connection_uncharged(c);

    if (!request->keep_alive || c->server->draining)
        c->last = true;
    c->exchange.status = status;
    c->server->stats.responses[status]++;
    if (status < 400)
        log_client_line(LOG_LEVEL_DEBUG, "answering", "id=%s method=%s path=%s status=%u",
                        request->id, http_method_name(request->method), buffer_text(&request->path),
                        status);
    buffer_printf(out, "%s%u %s\r\n", &HTTP_ANSWER_START[c->n_probed], status,
                  http_status_text(status));
    put_date(out);
    if (content_type)
        buffer_printf(out, "Content-Type: %s\r\n", content_type);
    buffer_printf(out, "x-request-id: %s\r\n", request->id);
    cors_put_headers(out, c->server->options.allowed_origins, request);
    if (headers)
        buffer_append_text(out, headers);
    if (c->last)
        buffer_append_text(out, "Connection: close\r\n");
    else if (request->is_http_1_0)
        buffer_append_text(out, "Connection: keep-alive\r\n");
}

void http_exchange_log_refusal(const HttpExchange *x, unsigned status, const char *reason) {
    const HttpRequest *request = x->request;

    log_client_line(LOG_LEVEL_DEBUG, "refusing a request",
                    "id=%s method=%s path=%s status=%u reason=%s", request->id,
                    request->method_name ? request->method_name : "-", buffer_text(&request->path),
                    status, reason);
}

/* whole answers */

/* Makes the body what is sent behind the head. False: there is no memory for it. */
static bool take_body(HttpConnection *c, const HttpReply *reply) {
    Account *account = http_connection_account(c);

    if (reply->moved) {
        assert(!reply->moved->account || reply->moved->account == account ||
               reply->moved->account == c->parser.request.account);
        if (!reply->moved->account && reply->moved->size > SHORT_BYTES &&
            buffer_move_charge(reply->moved, account))
            return false;
        c->answer = buffer_take(reply->moved);
        return !buffer_failed(&c->answer);
    }
    c->answer = (Buffer){ .account = reply->size > SHORT_BYTES ? account : NULL };
    buffer_append(&c->answer, reply->body, reply->size);
    return !buffer_failed(&c->answer);
}

/* Where there is no memory for the answer. */
static void reply_without_memory(HttpExchange *x) {
    CLEANUP(buffer_deinit) Buffer body = BUFFER_NULL;
    Reason why;
    unsigned status = http_memory_refusal(http_connection_account(connection_of(x)), &why);

    http_error_body(&body, status, why.text, NULL, NULL);
    http_exchange_log_refusal(x, status, why.text);
    http_exchange_reply(x, &(HttpReply){ .status = status,
                                         .content_type = "application/json",
                                         .body = buffer_text(&body),
                                         .size = body.size });
}

void http_exchange_reply(HttpExchange *x, const HttpReply *reply) {
    HttpConnection *c = connection_of(x);
    size_t size = reply->moved ? reply->moved->size : reply->size;

    assert(!x->ended && !x->streaming && !c->answer.size);
    if (!take_body(c, reply)) {
        buffer_deinit(&c->answer);
        if (size > SHORT_BYTES) {
            reply_without_memory(x);
            return;
        }
        c->out.failed = true; /* not even that */
    }
    put_head(c, reply->status, reply->content_type, reply->headers);
    if (reply->status != 204)
        buffer_printf(&c->out, "Content-Length: %zu\r\n", size);
    buffer_append_text(&c->out, "\r\n");
    if (!size || c->parser.request.method == HTTP_METHOD_HEAD)
        buffer_deinit(&c->answer); /* nothing of it will be sent */
    x->ended = true;
    http_connection_flush(c);
}

void http_exchange_reply_preflight(HttpExchange *x) {
    CLEANUP(buffer_deinit) Buffer headers = BUFFER_NULL;

    cors_put_preflight(&headers, x->request);
    http_exchange_reply(x, &(HttpReply){ .status = 204, .headers = buffer_text(&headers) });
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

/* A piece of any size may wait by itself: who reads fast is not to be cut off for it, as long as
 * all clients together leave room. */
static bool overflows(HttpConnection *c, size_t n_more) {
    HttpServer *server = c->server;
    HttpExchange *x = &c->exchange;

    if (n_more > x->largest_piece)
        x->largest_piece = n_more;
    if (!x->overflowed &&
        (http_connection_unsent(c) + n_more > server->options.buffer_bytes_max + x->largest_piece ||
         !http_connection_reserve(c, n_more + CHUNK_FRAME_BYTES))) {
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
