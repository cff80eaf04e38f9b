/* SPDX-License-Identifier: Apache-2.0 */
/*
 * llhttp calls back with spans; this keeps the few that matter. A callback that refuses sets
 * `status` and `why` and stops llhttp. llhttp starts afresh with every request, so nothing of one
 * can leak into the next.
 */
#include "server/http/http_parser.h"

#include "util/list.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#define HEADER_NAME_BYTES_KEPT 64 /* no header we read has a longer name */
/* A body in chunks of one byte has five bytes around each; more than this is not for reading. */
#define CHUNK_OVERHEAD_MAX 8
#define ORDINARY_HEAD_BYTES                                              \
    4096 /* of a request line and headers that nobody has to account for \
          */
/* Of memory, where no limit is given: so much, and so many times the body. */
#define REQUEST_BYTES ((uint64_t)10 << 20)
#define REQUEST_BYTES_PER_BODY_BYTE 5
#define LENGTH_DIGITS_MAX 18 /* of Content-Length; 19 could be too many to count */

typedef struct KeptHeader {
    const char *name;
    size_t offset; /* of a Buffer in HttpRequest */
    bool is_list;  /* may be sent in several lines, which are joined by commas */
} KeptHeader;

static const KeptHeader kept_headers[] = {
    { "host", offsetof(HttpRequest, host), false },
    { "expect", offsetof(HttpRequest, expect), false },
    { "content-type", offsetof(HttpRequest, content_type), false },
    { "content-encoding", offsetof(HttpRequest, content_encoding), false },
    { "content-length", offsetof(HttpRequest, content_length), false },
    { "transfer-encoding", offsetof(HttpRequest, transfer_encoding), false },
    { "accept", offsetof(HttpRequest, accept), true },
    { "origin", offsetof(HttpRequest, origin), true },
    { "x-request-id", offsetof(HttpRequest, x_request_id), true },
    { "access-control-request-method", offsetof(HttpRequest, asked_method), true },
    { "access-control-request-headers", offsetof(HttpRequest, asked_headers), true },
};
#define N_KEPT_HEADERS (sizeof(kept_headers) / sizeof(*kept_headers))

/* RFC 9110, section 6.5.1: what frames, routes, authenticates or describes the message is too late
 * behind its body. */
static const char *const forbidden_trailers[] = {
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-request-id",
};

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
    reason_set_list(&p->why, format, args);
    va_end(args);
    return HPE_USER;
}

static int refuse_memory(HttpParser *p) {
    if (!p->status)
        p->status = http_memory_refusal(p->request.account, &p->why);
    return HPE_USER;
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

static int take_trailer_name(HttpParser *p) {
    const char *name = buffer_text(&p->name);

    for (size_t i = 0; i < sizeof(forbidden_trailers) / sizeof(*forbidden_trailers); i++)
        if (!strcmp(name, forbidden_trailers[i]))
            return refuse(p, 400, "\"%s\" cannot be a trailer.", name);
    return 0;
}

static int take_header_name(HttpParser *p) {
    Buffer *value;
    size_t i = 0;

    while (i < N_KEPT_HEADERS && strcmp(buffer_text(&p->name), kept_headers[i].name) != 0)
        i++;
    if (i == N_KEPT_HEADERS)
        return 0;
    value = (Buffer *)(void *)((char *)&p->request + kept_headers[i].offset);
    if (p->headers_seen & 1u << i && !kept_headers[i].is_list)
        return refuse(p, 400, "The header \"%s\" is there twice.", kept_headers[i].name);
    if (p->headers_seen & 1u << i)
        buffer_append_text(value, ", ");
    p->headers_seen |= 1u << i;
    p->value = value;
    return 0;
}

static int on_header_field_complete(llhttp_t *llhttp) {
    HttpParser *p = parser_of(llhttp);
    int r;

    p->value = NULL;
    r = p->head_done ? take_trailer_name(p) : take_header_name(p);
    buffer_clear(&p->name);
    return r;
}

static int on_header_value(llhttp_t *llhttp, const char *at, size_t n) {
    HttpParser *p = parser_of(llhttp);

    if (!p->value)
        return 0;
    buffer_append(p->value, at, n);
    return buffer_failed(p->value) ? refuse_memory(p) : 0;
}

static int on_header_value_complete(llhttp_t *llhttp) {
    Buffer *value = parser_of(llhttp)->value;

    while (value && value->size && strchr(" \t", value->data[value->size - 1]))
        value->data[--value->size] = 0;
    return 0;
}

static bool was_sent(const HttpParser *p, const Buffer *value) {
    size_t offset = (size_t)((const char *)value - (const char *)&p->request);

    for (size_t i = 0; i < N_KEPT_HEADERS; i++)
        if (kept_headers[i].offset == offset)
            return p->headers_seen & 1u << i;
    return false;
}

static HttpMethod method_of(uint8_t method) {
    switch (method) {
    case HTTP_GET:
        return HTTP_METHOD_GET;
    case HTTP_HEAD:
        return HTTP_METHOD_HEAD;
    case HTTP_POST:
        return HTTP_METHOD_POST;
    case HTTP_DELETE:
        return HTTP_METHOD_DELETE;
    case HTTP_OPTIONS:
        return HTTP_METHOD_OPTIONS;
    default:
        return HTTP_METHOD_OTHER;
    }
}

static int check_transfer_encoding(HttpParser *p) {
    const HttpRequest *request = &p->request;
    const char *coding = buffer_text(&request->transfer_encoding);

    if (!was_sent(p, &request->transfer_encoding))
        return 0;
    if (request->is_http_1_0)
        return refuse(p, 400, "HTTP/1.0 has no Transfer-Encoding.");
    if (was_sent(p, &request->content_length))
        return refuse(p, 400, "The body has both a Content-Length and a Transfer-Encoding.");
    if (!*coding)
        return refuse(p, 400, "The header \"transfer-encoding\" is empty.");
    if (!strcasecmp(coding, "chunked"))
        return 0;
    if (!strncasecmp(coding, "chunked", strlen("chunked")))
        return refuse(p, 400, "\"chunked\" must be the last Transfer-Encoding, and once.");
    return refuse(p, 501, "The only Transfer-Encoding understood here is \"chunked\".");
}

static int check_length(HttpParser *p, uint64_t parsed) {
    const Buffer *text = &p->request.content_length;
    uint64_t n_bytes = 0;

    if (!was_sent(p, text))
        return 0;
    if (!text->size || strspn(text->data, "0123456789") != text->size)
        return refuse(p, 400, "Content-Length is not a number of bytes.");
    for (size_t i = 0; i < text->size && i < LENGTH_DIGITS_MAX; i++)
        n_bytes = n_bytes * 10 + (unsigned)(text->data[i] - '0');
    if (text->size > LENGTH_DIGITS_MAX || n_bytes != parsed)
        return refuse(p, 400, "Content-Length has too many digits.");
    if (n_bytes > p->limits->body_bytes_max)
        return refuse(p, 413,
                      "The body has %" PRIu64 " bytes; the most allowed is %" PRIu64
                      " (option max_body_bytes).",
                      n_bytes, p->limits->body_bytes_max);
    return 0;
}

static int check_host(HttpParser *p) {
    const HttpRequest *request = &p->request;

    if (!request->is_http_1_0 && !request->host.size)
        return refuse(p, 400, "The header \"Host\" is missing.");
    if (request->host.size && !http_host_is_valid(request->host.data, request->host.size))
        return refuse(p, 400, "The header \"Host\" is not one host and its port.");
    return 0;
}

static int check_head(HttpParser *p, const llhttp_t *llhttp) {
    HttpRequest *request = &p->request;

    if (llhttp->http_major != 1)
        return refuse(p, 505, "This server speaks HTTP/1.1 and HTTP/1.0.");
    if (llhttp->method == HTTP_CONNECT)
        return refuse(p, 501, "This server is no proxy.");
    if (check_host(p) || check_transfer_encoding(p) || check_length(p, llhttp->content_length))
        return HPE_USER;
    if (request->expect.size && !http_value_is(&request->expect, "100-continue"))
        return refuse(p, 417, "The only expectation understood here is \"100-continue\".");
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
    request->method_name = llhttp_method_name(llhttp->method);
    request->is_http_1_0 = llhttp->http_minor == 0;
    request->expects_body = llhttp->content_length || request->transfer_encoding.size;
    p->head_done = true;
    llhttp->upgrade = 0; /* an offer to speak something else: declined by going on */
    return check_head(p, llhttp);
}

/* the body */

static uint64_t memory_limit(const HttpParserLimits *limits, uint64_t n_body_bytes) {
    return limits->request_bytes_max ? limits->request_bytes_max
                                     : REQUEST_BYTES + REQUEST_BYTES_PER_BODY_BYTE * n_body_bytes;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t n) {
    HttpParser *p = parser_of(llhttp);

    if (n > p->limits->body_bytes_max - p->request.body.size)
        return refuse(p, 413,
                      "The body has more than the %" PRIu64
                      " bytes that are allowed (option max_body_bytes).",
                      p->limits->body_bytes_max);
    account_set_limit(p->request.account, memory_limit(p->limits, p->request.body.size + n));
    buffer_append(&p->request.body, at, n);
    return buffer_failed(&p->request.body) ? refuse_memory(p) : 0;
}

static int on_message_complete(llhttp_t *llhttp) {
    HttpParser *p = parser_of(llhttp);

    p->request.keep_alive = llhttp_should_keep_alive(llhttp);
    buffer_fit(&p->request.body);
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
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
    p->syntax = (HttpSyntax)HTTP_SYNTAX_START;
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
    http_request_deinit(&p->request);
    start_request(p);
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

/* The bytes of one run count for the head, or for what comes after it. */
static void count_bytes(HttpParser *p, bool in_head, size_t n) {
    if (!in_head) {
        p->n_after_bytes += n;
        check_overhead(p);
        return;
    }
    p->n_head_bytes += n;
    if (p->n_head_bytes > ORDINARY_HEAD_BYTES && http_request_charge_head(&p->request))
        refuse_memory(p);
    if (p->head_done)
        http_syntax_body(&p->syntax, p->request.transfer_encoding.size);
    else if (p->n_head_bytes == p->limits->header_bytes_max)
        refuse_long_head(p);
}

/* One run of llhttp, over bytes of the head or over bytes behind it, and over none that is wrong.
 * Nothing depends on how the bytes were cut into calls. */
static HttpParse feed_some(HttpParser *p, const char *data, size_t size, size_t *usedp) {
    bool in_head = !p->head_done;
    uint64_t room = p->limits->header_bytes_max - p->n_head_bytes;
    size_t n = http_syntax_check(&p->syntax, data, in_head && size > room ? (size_t)room : size);
    llhttp_errno_t error = llhttp_execute(&p->llhttp, data, n);

    *usedp = n;
    if (error == HPE_PAUSED) {
        *usedp = (size_t)(llhttp_get_error_pos(&p->llhttp) - data);
        return HTTP_PARSE_DONE;
    }
    if (error != HPE_OK)
        refuse_syntax(p, error);
    else if (p->syntax.status)
        refuse(p, p->syntax.status, "%s", p->syntax.reason);
    else if (!n || p->syntax.state == HTTP_SYNTAX_END) /* llhttp still waits for an end */
        refuse(p, 400, "Not valid HTTP.");
    else
        count_bytes(p, in_head, n);
    return p->status ? HTTP_PARSE_BAD : HTTP_PARSE_MORE;
}

static int begin(HttpParser *p) {
    Account *account = account_new(p->account, memory_limit(p->limits, 0), HTTP_REQUEST_LIMIT);

    p->started = true;
    if (!account)
        return refuse_memory(p);
    http_request_init(&p->request, account);
    return 0;
}

HttpParse http_parser_feed(HttpParser *p, const char *data, size_t size, size_t *usedp) {
    HttpParse parse;

    *usedp = 0;
    if (size && !p->started && !p->status)
        begin(p);
    parse = p->status ? HTTP_PARSE_BAD : HTTP_PARSE_MORE;
    while (parse == HTTP_PARSE_MORE && *usedp < size) {
        size_t used;

        parse = feed_some(p, data + *usedp, size - *usedp, &used);
        *usedp += used;
    }
    return parse;
}
