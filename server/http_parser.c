/* SPDX-License-Identifier: Apache-2.0 */
/*
 * llhttp calls back with spans; this keeps the few that matter. A callback that refuses sets
 * `status` and `why` and stops llhttp. llhttp starts afresh with every request, so nothing of one
 * can leak into the next.
 */
#include "server/http_parser.h"

#include "util/list.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#define HEADER_NAME_BYTES_KEPT 64 /* no header we read has a longer name */
/* A body in chunks of one byte has five bytes around each; more than this is not for reading. */
#define CHUNK_OVERHEAD_MAX 8

typedef struct KeptHeader {
    const char *name;
    size_t offset; /* of a Buffer in HttpRequest */
} KeptHeader;

static const KeptHeader kept_headers[] = {
    { "host", offsetof(HttpRequest, host) },
    { "expect", offsetof(HttpRequest, expect) },
    { "content-type", offsetof(HttpRequest, content_type) },
    { "content-encoding", offsetof(HttpRequest, content_encoding) },
    { "transfer-encoding", offsetof(HttpRequest, transfer_encoding) },
};
#define N_KEPT_HEADERS (sizeof(kept_headers) / sizeof(*kept_headers))

static HttpParser *parser_of(llhttp_t *llhttp) {
    return container_of(llhttp, HttpParser, llhttp);
}

__attribute__((__format__(__printf__, 3, 4))) static int refuse(HttpParser *p, unsigned status,
                                                                const char *format, ...) {
    va_list args;

    if (p->status)
        return HPE_USER;
    p->status = status;
    va_start(args, format);
    vsnprintf(p->why.text, sizeof(p->why.text), format, args);
    va_end(args);
    return HPE_USER;
}

static int refuse_memory(HttpParser *p) {
    return refuse(p, 503, "The server has no memory for this request now; try again later.");
}

/* the head */

static int on_url(llhttp_t *llhttp, const char *at, size_t n) {
    HttpParser *p = parser_of(llhttp);

    buffer_append(&p->request.target, at, n);
    return buffer_failed(&p->request.target) ? refuse_memory(p) : 0;
}

static int on_header_field(llhttp_t *llhttp, const char *at, size_t n) {
    HttpParser *p = parser_of(llhttp);

    for (size_t i = 0; i < n && p->name.size < HEADER_NAME_BYTES_KEPT; i++)
        buffer_append_char(&p->name, (char)(at[i] >= 'A' && at[i] <= 'Z' ? at[i] | 0x20 : at[i]));
    return buffer_failed(&p->name) ? refuse_memory(p) : 0;
}

static int on_header_field_complete(llhttp_t *llhttp) {
    HttpParser *p = parser_of(llhttp);
    size_t i;

    p->value = NULL;
    for (i = 0; i < N_KEPT_HEADERS; i++)
        if (!p->head_done && !strcmp(buffer_text(&p->name), kept_headers[i].name))
            break;
    buffer_clear(&p->name);
    if (i == N_KEPT_HEADERS)
        return 0;
    if (p->headers_seen & 1u << i)
        return refuse(p, 400, "The header \"%s\" is there twice.", kept_headers[i].name);
    p->headers_seen |= 1u << i;
    p->value = (Buffer *)(void *)((char *)&p->request + kept_headers[i].offset);
    return 0;
}

static int on_header_value(llhttp_t *llhttp, const char *at, size_t n) {
    HttpParser *p = parser_of(llhttp);

    for (size_t i = 0; i < n; i++)
        if (((unsigned char)at[i] < 0x20 && at[i] != '\t') || at[i] == 0x7f)
            return refuse(p, 400, "A header holds a control character.");
    if (!p->value)
        return 0;
    buffer_append(p->value, at, n);
    return buffer_failed(p->value) ? refuse_memory(p) : 0;
}

static HttpMethod method_of(uint8_t method) {
    switch (method) {
    case HTTP_GET:
        return HTTP_METHOD_GET;
    case HTTP_HEAD:
        return HTTP_METHOD_HEAD;
    case HTTP_POST:
        return HTTP_METHOD_POST;
    default:
        return HTTP_METHOD_OTHER;
    }
}

static int check_transfer_encoding(HttpParser *p) {
    const HttpRequest *request = &p->request;

    if (!request->transfer_encoding.size)
        return 0;
    if (request->is_http_1_0)
        return refuse(p, 400, "HTTP/1.0 has no Transfer-Encoding.");
    if (strcasecmp(buffer_text(&request->transfer_encoding), "chunked") != 0)
        return refuse(p, 501, "The only Transfer-Encoding understood here is \"chunked\".");
    return 0;
}

static int check_head(HttpParser *p, const llhttp_t *llhttp) {
    HttpRequest *request = &p->request;

    if (llhttp->http_major != 1)
        return refuse(p, 505, "This server speaks HTTP/1.1 and HTTP/1.0.");
    if (llhttp->method == HTTP_CONNECT)
        return refuse(p, 501, "This server is no proxy.");
    if (!request->is_http_1_0 && !request->host.size)
        return refuse(p, 400, "The header \"Host\" is missing.");
    if (check_transfer_encoding(p))
        return HPE_USER;
    if (request->expect.size && !http_value_is(&request->expect, "100-continue"))
        return refuse(p, 417, "The only expectation understood here is \"100-continue\".");
    if (llhttp->content_length > p->limits->body_bytes_max)
        return refuse(p, 413,
                      "The body has %" PRIu64 " bytes; the most allowed is %" PRIu64
                      " (option max_body_bytes).",
                      llhttp->content_length, p->limits->body_bytes_max);
    switch (http_request_split_target(request)) {
    case 0:
        return 0;
    case -ENOMEM:
        return refuse_memory(p);
    default:
        return refuse(p, 400, "The request target is not a path.");
    }
}

static int on_headers_complete(llhttp_t *llhttp) {
    HttpParser *p = parser_of(llhttp);
    HttpRequest *request = &p->request;

    request->method = method_of(llhttp->method);
    request->is_http_1_0 = llhttp->http_minor == 0;
    request->expects_body = llhttp->content_length || request->transfer_encoding.size;
    p->head_done = true;
    llhttp->upgrade = 0; /* an offer to speak something else: declined by going on */
    return check_head(p, llhttp);
}

/* the body */

static int on_body(llhttp_t *llhttp, const char *at, size_t n) {
    HttpParser *p = parser_of(llhttp);

    if (n > p->limits->body_bytes_max - p->request.body.size)
        return refuse(p, 413,
                      "The body has more than the %" PRIu64
                      " bytes that are allowed (option max_body_bytes).",
                      p->limits->body_bytes_max);
    buffer_append(&p->request.body, at, n);
    return buffer_failed(&p->request.body) ? refuse_memory(p) : 0;
}

static int on_message_complete(llhttp_t *llhttp) {
    HttpParser *p = parser_of(llhttp);

    p->request.keep_alive = llhttp_should_keep_alive(llhttp);
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* life */

static void start_request(HttpParser *p) {
    llhttp_init(&p->llhttp, HTTP_REQUEST, &settings);
    buffer_clear(&p->name);
    p->value = NULL;
    p->n_head_bytes = p->n_after_bytes = 0;
    p->headers_seen = 0;
    p->n_line_bytes = 0;
    p->line_has_cr = p->lines_begun = p->lines_done = false;
    p->head_done = p->started = false;
}

void http_parser_init(HttpParser *p, const HttpParserLimits *limits) {
    *p = (HttpParser){ .limits = limits };
    start_request(p);
}

void http_parser_deinit(HttpParser *p) {
    http_request_deinit(&p->request);
    buffer_deinit(&p->name);
}

void http_parser_next(HttpParser *p) {
    http_request_clear(&p->request);
    start_request(p);
}

/* lines */

static void end_line(HttpParser *p) {
    p->lines_done = p->lines_begun && !p->n_line_bytes;
    p->lines_begun = p->lines_begun || p->n_line_bytes;
    p->n_line_bytes = 0;
    p->line_has_cr = false;
}

/* Looks at the head's bytes before llhttp does: CR and LF only together, at the end of a line, and
 * no line that continues the one before. */
static bool check_lines(HttpParser *p, const char *data, size_t size) {
    for (size_t i = 0; i < size && !p->lines_done; i++) {
        bool is_space = data[i] == ' ' || data[i] == '\t';

        if (p->line_has_cr != (data[i] == '\n') || (is_space && !p->n_line_bytes))
            return false;
        if (data[i] == '\n')
            end_line(p);
        else if (data[i] == '\r')
            p->line_has_cr = true;
        else
            p->n_line_bytes++;
    }
    return true;
}

/* feeding */

static void refuse_long_head(HttpParser *p) {
    bool in_target = p->request.target.size > p->limits->header_bytes_max / 2;

    refuse(p, in_target ? 414 : 431,
           "%s more than the %" PRIu64 " bytes that are allowed (option max_header_bytes).",
           in_target ? "The request target takes" : "The request line and headers take",
           p->limits->header_bytes_max);
}

static void refuse_syntax(HttpParser *p, llhttp_errno_t error) {
    const char *reason = llhttp_get_error_reason(&p->llhttp);

    if (error == HPE_PAUSED_H2_UPGRADE || error == HPE_INVALID_VERSION)
        refuse(p, 505, "This server speaks HTTP/1.1 and HTTP/1.0.");
    else
        refuse(p, 400, "Not valid HTTP: %s.",
               reason && *reason ? reason : llhttp_errno_name(error));
}

/* Bounds what surrounds a body: chunk sizes, their extensions, trailers. */
static void check_overhead(HttpParser *p) {
    uint64_t n_overhead = p->n_after_bytes - p->request.body.size;

    if (n_overhead > p->limits->header_bytes_max + CHUNK_OVERHEAD_MAX * p->request.body.size)
        refuse(p, 431, "Chunk sizes, their extensions and trailers take too many bytes.");
}

/* One run of llhttp over at most what the head may still take. */
static HttpParse feed_some(HttpParser *p, const char *data, size_t size, size_t *usedp) {
    bool in_head = !p->head_done;
    uint64_t room = p->limits->header_bytes_max - p->n_head_bytes;
    size_t n = in_head && size > room ? (size_t)room : size;
    llhttp_errno_t error;

    *usedp = n;
    if (!check_lines(p, data, n)) {
        refuse(p, 400, "The request's head is not made of lines that end in CR LF.");
        return HTTP_PARSE_BAD;
    }
    error = llhttp_execute(&p->llhttp, data, n);
    if (error == HPE_PAUSED) {
        *usedp = (size_t)(llhttp_get_error_pos(&p->llhttp) - data);
        return HTTP_PARSE_DONE;
    }
    if (error != HPE_OK) {
        refuse_syntax(p, error);
        return HTTP_PARSE_BAD;
    }
    if (in_head && !p->head_done) {
        p->n_head_bytes += n;
        if (n == room)
            refuse_long_head(p);
    } else if (!in_head) {
        p->n_after_bytes += n;
        check_overhead(p);
    } else {
        p->n_after_bytes = p->request.body.size;
    }
    return p->status ? HTTP_PARSE_BAD : HTTP_PARSE_MORE;
}

HttpParse http_parser_feed(HttpParser *p, const char *data, size_t size, size_t *usedp) {
    HttpParse parse = p->status ? HTTP_PARSE_BAD : HTTP_PARSE_MORE;

    *usedp = 0;
    while (parse == HTTP_PARSE_MORE && *usedp < size) {
        size_t used;

        p->started = true;
        parse = feed_some(p, data + *usedp, size - *usedp, &used);
        *usedp += used;
    }
    return parse;
}
