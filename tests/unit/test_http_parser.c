/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests from bytes: whole, cut at every place, and damaged at every place. What is on the wire
 * is also tested end to end (tests/e2e/test_http.py); here is what needs every cut.
 */
#include "server/http/http_parser.h"

#include "tests/unit/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const HttpParserLimits limits = { .header_bytes_max = 512, .body_bytes_max = 256 };

static const char two_requests[] = "POST /v1/completions?a=b HTTP/1.1\r\n"
                                   "Host: localhost:8000\r\n"
                                   "Content-Type: application/json; charset=utf-8\r\n"
                                   "Content-Length: 11\r\n"
                                   "\r\n"
                                   "{\"n\":\t1234}"
                                   "GET /he%61lth HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n";

static const char chunked[] = "POST /tokenize HTTP/1.1\r\n"
                              "Host: k\r\n"
                              "Transfer-Encoding: chunked\r\n"
                              "\r\n"
                              "5;ext=\"a\"\r\nhello\r\n"
                              "001\r\n \r\n"
                              "5\r\nworld\r\n"
                              "0\r\nTrailer: x\r\n\r\n";

/* Feeds pieces of at most `piece` bytes, the first of `first` bytes. Returns how the first request
 * ended; `*takenp` is how many bytes it took. */
static HttpParse feed(HttpParser *p, const char *data, size_t size, size_t first, size_t piece,
                      size_t *takenp) {
    HttpParse parse = HTTP_PARSE_MORE;
    size_t at = 0, n = first, used;

    while (parse == HTTP_PARSE_MORE && at < size) {
        if (n > size - at)
            n = size - at;
        parse = http_parser_feed(p, data + at, n, &used);
        assert_true(used <= n);
        at += parse == HTTP_PARSE_MORE ? n : used;
        n = piece;
    }
    *takenp = at;
    return parse;
}

static void check_first(const HttpParser *p) {
    assert_int_equal(p->request.method, HTTP_METHOD_POST);
    assert_string_equal(buffer_text(&p->request.path), "/v1/completions");
    assert_string_equal(buffer_text(&p->request.host), "localhost:8000");
    assert_true(http_value_is(&p->request.content_type, "application/json"));
    assert_string_equal(buffer_text(&p->request.body), "{\"n\":\t1234}");
    assert_true(p->request.keep_alive);
}

static void test_requests_cut_at_every_place(void **state) {
    size_t size = sizeof(two_requests) - 1, first_size = strlen(strstr(two_requests, "GET"));

    (void)state;
    first_size = size - first_size;
    for (size_t first = 0; first <= size; first++) {
        for (size_t piece = 1; piece < 80; piece += 13) {
            CLEANUP(http_parser_deinit) HttpParser p;
            size_t taken;

            http_parser_init(&p, &limits);
            assert_int_equal(feed(&p, two_requests, size, first ? first : 1, piece, &taken),
                             HTTP_PARSE_DONE);
            assert_int_equal(taken, first_size);
            check_first(&p);
            http_parser_next(&p);
            assert_false(p.started);
            assert_int_equal(feed(&p, two_requests + taken, size - taken, piece, first + 1, &taken),
                             HTTP_PARSE_DONE);
            assert_int_equal(taken, size - first_size);
            assert_int_equal(p.request.method, HTTP_METHOD_GET);
            assert_string_equal(buffer_text(&p.request.path), "/health");
            assert_int_equal(p.request.body.size, 0);
            assert_int_equal(p.request.content_type.size, 0);
            assert_false(p.request.keep_alive);
        }
    }
}

static void test_chunks_cut_at_every_place(void **state) {
    size_t size = sizeof(chunked) - 1;

    (void)state;
    for (size_t first = 1; first <= size; first++) {
        CLEANUP(http_parser_deinit) HttpParser p;
        size_t taken;

        http_parser_init(&p, &limits);
        assert_int_equal(feed(&p, chunked, size, first, 3, &taken), HTTP_PARSE_DONE);
        assert_int_equal(taken, size);
        assert_string_equal(buffer_text(&p.request.body), "hello world");
    }
}

/* Truncated requests stay incomplete, whatever the cut. */
static void test_no_request_is_complete_before_its_end(void **state) {
    const char *texts[] = { two_requests, chunked };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        size_t end = i ? sizeof(chunked) - 1 : (size_t)(strstr(two_requests, "GET") - two_requests);

        for (size_t n = 0; n < end; n++) {
            CLEANUP(http_parser_deinit) HttpParser p;
            size_t taken;

            http_parser_init(&p, &limits);
            assert_int_equal(feed(&p, texts[i], n, n, 1, &taken), HTTP_PARSE_MORE);
        }
    }
}

/* Whatever a byte is changed to: an answer, the limits kept, and nothing read past the end. */
static void test_damage_at_every_place(void **state) {
    const char *texts[] = { two_requests, chunked };
    const char bytes[] = { 0, '\r', '\n', ' ', '\t', ':', ';', '0', 'f', '%', '\x7f', '\xff' };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        size_t size = i ? sizeof(chunked) - 1 : sizeof(two_requests) - 1;

        for (size_t at = 0; at < size; at++) {
            for (size_t b = 0; b < sizeof(bytes); b++) {
                CLEANUP(http_parser_deinit) HttpParser p;
                CLEANUP(free) char *copy = malloc(size);
                HttpParse parse;
                size_t taken;

                memcpy(copy, texts[i], size);
                copy[at] = bytes[b];
                http_parser_init(&p, &limits);
                parse = feed(&p, copy, size, 1 + at, 7, &taken);
                assert_int_equal(parse == HTTP_PARSE_BAD, p.status != 0);
                if (parse == HTTP_PARSE_BAD)
                    assert_true(strlen(p.why.text) > 0);
                assert_true(p.request.body.size <= limits.body_bytes_max);
            }
        }
    }
}

static unsigned status_of(const char *text, size_t size) {
    CLEANUP(http_parser_deinit) HttpParser p;
    size_t taken;

    http_parser_init(&p, &limits);
    feed(&p, text, size, 64, 64, &taken);
    return p.status;
}

/* Requests that are wrong, or only look so, with what is answered (0: it is read). Each is fed cut
 * at every byte, and the cut must not matter. */
#define HOST "Host: k\r\n"
#define GET "GET / HTTP/1.1\r\n" HOST
#define POST "POST / HTTP/1.1\r\n" HOST
#define CHUNKS POST "Transfer-Encoding: chunked\r\n\r\n"

static const struct {
    const char *text;
    unsigned status;
} strict[] = {
    /* the request line */
    { GET "\r\n", 0 },
    { "\r\n\r\n" GET "\r\n", 0 },
    { "\n" GET "\r\n", 400 },
    { " " GET "\r\n", 400 },
    { "GET  / HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET /  HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET / HTTP/1.1 \r\n" HOST "\r\n", 400 },
    { "GET\t/ HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET /\tHTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET /a\tb HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET /a\x0b HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET /\x7f HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET / HTTP/1.1\n" HOST "\r\n", 400 },
    { "GET / HTTP/1.1\r" HOST "\r\n", 400 },
    { "GET / HTTP/1.1\r\r\n" HOST "\r\n", 400 },
    { "get / HTTP/1.1\r\n" HOST "\r\n", 400 },
    { "GET / http/1.1\r\n" HOST "\r\n", 400 },
    { "GET / RTSP/1.0\r\n" HOST "\r\n", 400 },
    { "OPTIONS / RTSP/1.0\r\n" HOST "\r\n", 400 },
    { "SETUP / RTSP/1.0\r\n" HOST "\r\n", 400 },
    { "SOURCE / ICE/1.0\r\n" HOST "\r\n", 400 },
    { "GET / ICE/1.0\r\n" HOST "\r\n", 400 },
    { "GET / HTTPS/1.1\r\n" HOST "\r\n", 400 },
    { "GET / HTTP/2.0\r\n" HOST "\r\n", 505 },
    { "GET / HTTP/0.9\r\n" HOST "\r\n", 505 },
    { "GET / HTTP/1.2\r\n" HOST "\r\n", 505 },
    { "GET / HTTP/1.10\r\n" HOST "\r\n", 400 },
    { "GET / HTTP/01.1\r\n" HOST "\r\n", 505 },
    { "GET /\r\n" HOST "\r\n", 505 },
    /* headers */
    { GET "X:\r\n\r\n", 0 },
    { GET "X: a\tb \xc3\xa9\t \r\n\r\n", 0 },
    { GET ": x\r\n\r\n", 400 },
    { GET ":\r\n\r\n", 400 },
    { GET "X : x\r\n\r\n", 400 },
    { GET "X\t: x\r\n\r\n", 400 },
    { GET "X\r\n\r\n", 400 },
    { GET "X y: x\r\n\r\n", 400 },
    { GET "X(y): x\r\n\r\n", 400 },
    { GET "X\xc3\xa9: x\r\n\r\n", 400 },
    { GET " X: x\r\n\r\n", 400 },
    { GET "X: x\r\n\ty\r\n\r\n", 400 },
    { GET "X: x\r\n \r\n\r\n", 400 },
    { GET "X: x\ny: z\r\n\r\n", 400 },
    { GET "X: x\ry: z\r\n\r\n", 400 },
    { GET "X: \x01\r\n\r\n", 400 },
    { GET "X: x\r\n\n", 400 },
    { GET "X: x\n\n", 400 },
    { "GET / HTTP/1.1\r\n X: y\r\n" HOST "\r\n", 400 },
    /* hosts */
    { "GET / HTTP/1.1\r\nHost: example.com:8000\r\n\r\n", 0 },
    { "GET / HTTP/1.1\r\nHost:k\t \r\n\r\n", 0 },
    { "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0 },
    { "GET / HTTP/1.1\r\nHost: my_host\r\n\r\n", 0 },
    { "GET / HTTP/1.0\r\n\r\n", 0 },
    { "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\n\r\n", 400 },
    { "GET / HTTP/1.1\r\nHost: k\r\nhOST: k\r\n\r\n", 400 },
    { "GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400 },
    { "GET http://k/ HTTP/1.1\r\nHost: other\r\n\r\n", 0 }, /* RFC 9112, 3.2.2 */
    { "GET http:///x HTTP/1.1\r\nHost: k\r\n\r\n", 400 },
    { "GET http://a,b/x HTTP/1.1\r\nHost: k\r\n\r\n", 400 },
    { "GET http://u@a/x HTTP/1.1\r\nHost: k\r\n\r\n", 400 },
    { "GET ftp://k/x HTTP/1.1\r\nHost: k\r\n\r\n", 400 },
    /* lengths */
    { POST "Content-Length: 2\r\n\r\n{}", 0 },
    { POST "Content-Length:2 \r\n\r\n{}", 0 },
    { POST "Content-Length: 002\r\n\r\n{}", 0 },
    { POST "Content-Length: 0\r\n\r\n", 0 },
    { POST "Content-Length: +2\r\n\r\n{}", 400 },
    { POST "Content-Length: -2\r\n\r\n{}", 400 },
    { POST "Content-Length: 2,2\r\n\r\n{}", 400 },
    { POST "Content-Length: 2 2\r\n\r\n{}", 400 },
    { POST "Content-Length: 0x2\r\n\r\n{}", 400 },
    { POST "Content-Length: 2.0\r\n\r\n{}", 400 },
    { POST "Content-Length: 2e0\r\n\r\n{}", 400 },
    { POST "Content-Length:\r\n\r\n", 400 },
    { POST "Content-Length: \r\n\r\n", 400 },
    { POST "Content-Length: \xef\xbc\x92\r\n\r\n{}", 400 },
    { POST "Content-Length: 20000000000000000000\r\n\r\n{}", 400 },
    { POST "Content-Length: 18446744073709551618\r\n\r\n{}", 400 },
    { POST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400 },
    { POST "Content-Length : 2\r\n\r\n{}", 400 },
    { POST "Content-Length: 257\r\n\r\n", 413 },
    /* codings */
    { POST "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", 0 },
    { POST "Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}", 400 },
    { POST "Content-Length: 2\r\nTransfer-Encoding:\r\n\r\n{}", 400 },
    { POST "Content-Length: 2\r\nTransfer-Encoding: \t\r\n\r\n{}", 400 },
    { POST "Transfer-Encoding:\r\n\r\n", 400 },
    { POST "Content-Length: 2\r\nTransfer-Encoding: identity\r\n\r\n{}", 400 },
    { POST "Transfer-Encoding: identity\r\n\r\n", 501 },
    { POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: chunked;x=y\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: chunked identity\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", 501 },
    { POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 501 },
    { POST "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400 },
    { POST "Transfer-Encoding: chun\x0bked\r\n\r\n0\r\n\r\n", 400 },
    { "POST / HTTP/1.0\r\nTransfer-Encoding:\r\n\r\n", 400 },
    /* chunks */
    { CHUNKS "2\r\n{}\r\n0\r\n\r\n", 0 },
    { CHUNKS "002;a;b=c\r\n{}\r\n000\r\n\r\n", 0 },
    { CHUNKS "A\r\n0123456789\r\na\r\n\r\n\n\n\r\r\r\n\r\n\r\n0\r\n\r\n", 0 },
    { CHUNKS "0\r\n\n", 400 },
    { CHUNKS "0\n\r\n", 400 },
    { CHUNKS "0\n\n", 400 },
    { CHUNKS "0\r\n\r\r\n", 400 },
    { CHUNKS "0\r\r\n\r\n", 400 },
    { CHUNKS "2\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2\r\n{}\n0\r\n\r\n", 400 },
    { CHUNKS "2\r\n{}\r0\r\n\r\n", 400 },
    { CHUNKS "2\r\n{}0\r\n\r\n", 400 },
    { CHUNKS "2\r\n{}x\r\n0\r\n\r\n", 400 },
    { CHUNKS "2\r\n{}\r\n\r\n0\r\n\r\n", 400 },
    { CHUNKS "\r\n0\r\n\r\n", 400 },
    { CHUNKS ";x\r\n0\r\n\r\n", 400 },
    { CHUNKS " 2\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2 \r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2\t\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2 ;a\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2 a\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "0x2\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "+2\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "-2\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2_\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2,\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "g\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2;a\rb\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2;a\nb\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "2;a\x01\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "00000000000000002\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "10000000000000002\r\n{}\r\n0\r\n\r\n", 400 },
    { CHUNKS "101\r\n", 0 },
    /* trailers */
    { CHUNKS "0\r\nX: y\r\nDigest: z\r\n\r\n", 0 },
    { CHUNKS "0\r\nX: y\r\n z\r\n\r\n", 400 },
    { CHUNKS "0\r\n X: y\r\n\r\n", 400 },
    { CHUNKS "0\r\nX: y\n\r\n", 400 },
    { CHUNKS "0\r\nX: y\r\n\n", 400 },
    { CHUNKS "0\r\n: y\r\n\r\n", 400 },
    { CHUNKS "0\r\nX : y\r\n\r\n", 400 },
    { CHUNKS "0\r\nX\r\n\r\n", 400 },
    { CHUNKS "0\r\nX: \x02\r\n\r\n", 400 },
    { CHUNKS "0\r\ncontent-length: 5\r\n\r\n", 400 },
    { CHUNKS "0\r\nTransfer-Encoding: chunked\r\n\r\n", 400 },
    { CHUNKS "0\r\nTransfer-Encoding:\r\n\r\n", 400 },
    { CHUNKS "0\r\nHOST: l\r\n\r\n", 400 },
    { CHUNKS "0\r\nConnection: close\r\n\r\n", 400 },
    { CHUNKS "0\r\nConnection: keep-alive\r\n\r\n", 400 },
    { CHUNKS "0\r\nProxy-Connection: close\r\n\r\n", 400 },
    { CHUNKS "0\r\nUpgrade: h2c\r\n\r\n", 400 },
    { CHUNKS "0\r\nContent-Type: text/plain\r\n\r\n", 400 },
    { CHUNKS "0\r\nAuthorization: x\r\n\r\n", 400 },
    { CHUNKS "0\r\nExpect: 100-continue\r\n\r\n", 400 },
};

static void test_strictness_does_not_depend_on_cuts(void **state) {
    unsigned n_wrong = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(strict) / sizeof(*strict); i++) {
        size_t size = strlen(strict[i].text);

        bool is_wrong = false;

        for (size_t first = 1; first <= size && !is_wrong; first++) {
            for (size_t piece = 1; piece <= size && !is_wrong; piece += size > 1 ? size - 1 : 1) {
                CLEANUP(http_parser_deinit) HttpParser p;
                size_t taken;

                http_parser_init(&p, &limits);
                feed(&p, strict[i].text, size, first, piece, &taken);
                if (p.status == strict[i].status)
                    continue;
                n_wrong++;
                is_wrong = true;
                print_error("%u instead of %u (%s), cut at %zu: %s\n", p.status, strict[i].status,
                            p.why.text, first, strict[i].text);
            }
        }
    }
    assert_int_equal(n_wrong, 0);
}

/* What belongs to the next request is not taken, even right behind a chunked body. */
static void test_the_end_of_a_chunked_body(void **state) {
    static const char text[] = CHUNKS "2\r\n{}\r\n0\r\nX: y\r\n\r\n" GET "\r\n";
    size_t size = sizeof(text) - 1, n_second = strlen(GET "\r\n");

    (void)state;
    for (size_t first = 1; first <= size; first++) {
        CLEANUP(http_parser_deinit) HttpParser p;
        size_t taken;

        http_parser_init(&p, &limits);
        assert_int_equal(feed(&p, text, size, first, size, &taken), HTTP_PARSE_DONE);
        assert_int_equal(taken, size - n_second);
        http_parser_next(&p);
        assert_int_equal(feed(&p, text + taken, n_second, n_second, 1, &taken), HTTP_PARSE_DONE);
        assert_int_equal(p.request.method, HTTP_METHOD_GET);
    }
}

static void test_limits_to_the_byte(void **state) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;

    (void)state;
    for (size_t n_body = 255; n_body <= 258; n_body++) {
        buffer_clear(&text);
        buffer_printf(&text, "POST / HTTP/1.1\r\nHost: k\r\nContent-Length: %zu\r\n\r\n", n_body);
        for (size_t i = 0; i < n_body; i++)
            buffer_append_char(&text, 'x');
        assert_int_equal(status_of(text.data, text.size), n_body > 256 ? 413 : 0);
    }
    for (size_t n_head = 508; n_head <= 516; n_head++) {
        buffer_clear(&text);
        buffer_append_text(&text, "GET / HTTP/1.1\r\nHost: k\r\nX: ");
        while (text.size < n_head - 4)
            buffer_append_char(&text, 'x');
        buffer_append_text(&text, "\r\n\r\n");
        assert_int_equal(status_of(text.data, text.size), n_head > 512 ? 431 : 0);
    }
}

/* accounts */

static unsigned status_with(const HttpParserLimits *with, Account *account, size_t n_body,
                            Reason *why) {
    CLEANUP(http_parser_deinit) HttpParser p;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    size_t taken;

    buffer_printf(&text, POST "Content-Length: %zu\r\n\r\n", n_body);
    for (size_t i = 0; i < n_body; i++)
        buffer_append_char(&text, 'x');
    http_parser_init(&p, with);
    p.account = account;
    if (feed(&p, text.data, text.size, 100, 1000, &taken) == HTTP_PARSE_DONE) {
        assert_int_equal(p.request.body.size, n_body);
        assert_ptr_equal(p.request.body.account, p.request.account);
        assert_true(atomic_load(&p.request.account->used) >= n_body);
    }
    *why = p.why;
    return p.status;
}

static void test_memory_limits_are_named(void **state) {
    Account all, client;
    HttpParserLimits with = { .header_bytes_max = 512, .body_bytes_max = 1 << 20 };
    Reason why;

    (void)state;
    account_init(&all, NULL, 64 << 10, "max_requests_memory");
    account_init(&client, &all, 48 << 10, "max_client_memory");
    assert_int_equal(status_with(&with, &all, 1000, &why), 0);
    assert_int_equal(status_with(&with, &all, 100000, &why), 503);
    assert_non_null(strstr(why.text, "max_requests_memory"));
    assert_int_equal(status_with(&with, &client, 1000, &why), 0);
    assert_int_equal(status_with(&with, &client, 50000, &why), 429);
    assert_non_null(strstr(why.text, "max_client_memory"));
    with.request_bytes_max = 16 << 10;
    assert_int_equal(status_with(&with, &client, 1000, &why), 0);
    assert_int_equal(status_with(&with, &client, 40000, &why), 413);
    assert_non_null(strstr(why.text, "max_request_memory"));
    account_deinit(&client);
    account_deinit(&all); /* asserts that everything was released */
}

/* Who asks how the server does must hear it when others have taken all memory. */
static void test_an_ordinary_head_is_not_charged(void **state) {
    HttpParserLimits with = { .header_bytes_max = 64 << 10, .body_bytes_max = 1 << 20 };
    Account none;

    (void)state;
    account_init(&none, NULL, 0, "max_requests_memory");
    for (size_t n = 0; n < 20000; n += 3000) {
        CLEANUP(http_parser_deinit) HttpParser p;
        CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
        size_t taken;

        buffer_append_text(&text, GET "Accept: ");
        for (size_t i = 0; i < n; i++)
            buffer_append_char(&text, 'x');
        buffer_append_text(&text, "\r\n\r\n");
        http_parser_init(&p, &with);
        p.account = &none;
        assert_int_equal(feed(&p, text.data, text.size, 100, 1000, &taken),
                         n < 4000 ? HTTP_PARSE_DONE : HTTP_PARSE_BAD);
        assert_int_equal(p.status, n < 4000 ? 0 : 503);
    }
    account_deinit(&none);
}

static void test_the_limit_grows_with_the_body(void **state) {
    HttpParserLimits with = { .header_bytes_max = 512, .body_bytes_max = 64 << 20 };
    CLEANUP(http_parser_deinit) HttpParser p;
    static const char head[] = POST "Content-Length: 20000000\r\n\r\n";
    char zeros[10000] = "";
    size_t used;

    (void)state;
    http_parser_init(&p, &with);
    http_parser_feed(&p, head, sizeof(head) - 1, &used);
    for (int i = 0; i < 1999; i++)
        assert_int_equal(http_parser_feed(&p, zeros, sizeof(zeros), &used), HTTP_PARSE_MORE);
    assert_int_equal(http_parser_feed(&p, zeros, sizeof(zeros), &used), HTTP_PARSE_DONE);
    assert_int_equal(atomic_load(&p.request.account->limit), (10 << 20) + 5 * 20000000);
    assert_true(atomic_load(&p.request.account->used) < 20001000); /* no room left over */
}

/* ids */

static void check_id(const char *sent, bool is_kept) {
    CLEANUP(http_parser_deinit) HttpParser p;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    size_t taken;

    buffer_printf(&text, GET "%s\r\n", sent);
    http_parser_init(&p, &limits);
    assert_int_equal(feed(&p, text.data, text.size, 7, 7, &taken), HTTP_PARSE_DONE);
    http_request_settle_id(&p.request);
    assert_int_equal(strlen(p.request.id) == 32 && strspn(p.request.id, "0123456789abcdef") == 32,
                     !is_kept);
    if (is_kept)
        assert_memory_equal(p.request.id, strchr(sent, ' ') + 1, strlen(p.request.id));
}

static void test_request_ids(void **state) {
    CLEANUP(buffer_deinit) Buffer header = BUFFER_NULL;

    (void)state;
    check_id("", false);
    check_id("X-Request-ID: a-1~{}\r\n", true);
    check_id("x-request-id: a b\r\n", false);
    check_id("x-request-id: a\"b\r\n", false);
    check_id("x-request-id: a'b\r\n", false);
    check_id("x-request-id: a\\b\r\n", false);
    check_id("x-request-id: \xc3\xa9\r\n", false);
    check_id("x-request-id:\r\n", false);
    check_id("x-request-id: a\r\nx-request-id: b\r\n", false);
    for (int n = 127; n <= 129; n++) {
        buffer_clear(&header);
        buffer_printf(&header, "x-request-id: %0*d\r\n", n, 7);
        check_id(header.data, n <= 128);
    }
}

static void test_random_bytes(void **state) {
    Random r = random_start("random bytes");

    (void)state;
    for (int round = 0; round < 2000; round++) {
        char data[200];
        size_t n = random_below(&r, sizeof(data));

        for (size_t i = 0; i < n; i++)
            data[i] = (char)random_u64(&r);
        status_of(data, n);
    }
}

static void test_targets(void **state) {
    static const struct {
        const char *target, *path; /* NULL: refused */
    } cases[] = {
        { "/", "/" },
        { "/a/b?c=d#e", "/a/b" },
        { "/a%2Fb%20", "/a/b " },
        { "/%e2%82%ac", "/\xe2\x82\xac" },
        { "http://host/x?y", "/x" },
        { "HTTPS://host:1", "/" },
        { "http://host?x", "/" },
        { "http://", NULL },
        { "http:///x", NULL },
        { "http://a b/x", NULL },
        { "", NULL },
        { "*", NULL },
        { "x", NULL },
        { "host:80", NULL },
        { "/%", NULL },
        { "/%4", NULL },
        { "/%4g", NULL },
        { "/%00", NULL },
        { "/%4?1", NULL },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CLEANUP(http_request_deinit) HttpRequest request = HTTP_REQUEST_NULL;

        buffer_append_text(&request.target, cases[i].target);
        assert_int_equal(http_request_split_target(&request) == 0, cases[i].path != NULL);
        if (cases[i].path)
            assert_string_equal(buffer_text(&request.path), cases[i].path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_cut_at_every_place),
        cmocka_unit_test(test_chunks_cut_at_every_place),
        cmocka_unit_test(test_no_request_is_complete_before_its_end),
        cmocka_unit_test(test_damage_at_every_place),
        cmocka_unit_test(test_strictness_does_not_depend_on_cuts),
        cmocka_unit_test(test_the_end_of_a_chunked_body),
        cmocka_unit_test(test_limits_to_the_byte),
        cmocka_unit_test(test_memory_limits_are_named),
        cmocka_unit_test(test_an_ordinary_head_is_not_charged),
        cmocka_unit_test(test_the_limit_grows_with_the_body),
        cmocka_unit_test(test_request_ids),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_targets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
