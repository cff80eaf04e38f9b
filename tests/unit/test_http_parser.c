/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests from bytes: whole, cut at every place, and damaged at every place. What is on the wire
 * is also tested end to end (tests/e2e/test_http.py); here is what needs every cut.
 */
#include "server/http_parser.h"

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
        cmocka_unit_test(test_limits_to_the_byte),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_targets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
