/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pure parts around HTTP: peers, origins, paths that are near.
 */
#include "server/http/cors.h"
#include "server/http/http_peer.h"
#include "server/http/route.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static HttpPeer peer(const char *text, uint16_t port) {
    struct sockaddr_in in4 = { .sin_family = AF_INET, .sin_port = htons(port) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    HttpPeer found = { 0 };

    if (inet_pton(AF_INET, text, &in4.sin_addr) == 1)
        http_peer_set(&found, (const struct sockaddr *)&in4);
    else if (inet_pton(AF_INET6, text, &in6.sin6_addr) == 1)
        http_peer_set(&found, (const struct sockaddr *)&in6);
    else
        fail_msg("%s", text);
    return found;
}

static void test_who_is_one_client(void **state) {
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        { "192.0.2.1", "192.0.2.1", true },
        { "192.0.2.1", "192.0.2.2", false },
        { "192.0.2.1", "::ffff:192.0.2.1", true },
        { "::ffff:192.0.2.1", "::ffff:192.0.2.2", false },
        { "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true },
        { "2001:db8:0:1::1", "2001:db8:0:2::1", false },
        { "::1", "127.0.0.1", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        HttpPeer a = peer(cases[i].a, 1), b = peer(cases[i].b, 2);

        assert_int_equal(a.key == b.key, cases[i].same);
    }
    assert_string_equal(peer("::ffff:192.0.2.1", 1).address, "192.0.2.1");
    assert_string_equal(peer("2001:db8::1", 1).address, "2001:db8::1");
}

static void test_origins_that_are_none(void **state) {
    static const char *const good[] = { "*",
                                        "null",
                                        "https://a",
                                        " https://a:8 ,http://b.c ",
                                        "http://[::1]:3000",
                                        "chrome-extension://abc" };
    static const char *const bad[] = { "",           "a",           "https://",
                                       "https://a/", "https://a,",  "https://a b",
                                       "*.a",        "https://*.a", "://a" };
    Reason why;

    (void)state;
    assert_int_equal(cors_check(NULL, &why), 0);
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        assert_int_equal(cors_check(good[i], &why), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_true(cors_check(bad[i], &why) < 0);
        assert_non_null(strstr(why.text, "allowed_origins"));
    }
}

static void check_allowed(const char *allowed, const char *origin, const char *named) {
    CLEANUP(http_request_deinit) HttpRequest request = HTTP_REQUEST_NULL;
    CLEANUP(buffer_deinit) Buffer out = BUFFER_NULL;
    char line[128];

    buffer_append_text(&request.origin, origin);
    cors_put_headers(&out, allowed, &request);
    assert_int_equal(!!strstr(buffer_text(&out), "Vary: Origin\r\n"), allowed != NULL);
    snprintf(line, sizeof(line), "Access-Control-Allow-Origin: %s\r\n", named ? named : "");
    assert_int_equal(!!strstr(buffer_text(&out), named ? line : "Allow-Origin"), named != NULL);
}

static void test_who_may_read(void **state) {
    (void)state;
    check_allowed(NULL, "https://a", NULL);
    check_allowed("*", "", NULL);
    check_allowed("*", "https://a", "*");
    check_allowed("https://a", "https://a", "https://a");
    check_allowed("https://a", "HTTPS://A", "https://a");
    check_allowed("https://b, https://a", "https://a", "https://a");
    check_allowed("https://a", "https://ab", NULL);
    check_allowed("https://ab", "https://a", NULL);
    check_allowed("https://a", "http://a", NULL);
    check_allowed("https://a", "https://a:443", NULL);
    check_allowed("https://a", "https://a, https://b", NULL);
    check_allowed("https://a", "null", NULL);
    check_allowed("null", "null", "null");
}

static void test_near_paths(void **state) {
    static const Route routes[] = { { HTTP_METHOD_POST, "/v1/completions", .handler = NULL },
                                    { HTTP_METHOD_POST, "/v1/chat/completions", .handler = NULL },
                                    { HTTP_METHOD_GET, "/v1/models", .handler = NULL },
                                    { HTTP_METHOD_GET, "/health", .handler = NULL },
                                    { HTTP_METHOD_GET, "/", .handler = NULL } };
    static const struct {
        const char *path, *nearest;
    } cases[] = {
        { "/chat/completions", "/v1/chat/completions" },
        { "/v1/v1/chat/completions", "/v1/chat/completions" },
        { "/completions", "/v1/completions" },
        { "/v1/chat/completion", "/v1/chat/completions" },
        { "/v1/chat/completions/", "/v1/chat/completions" },
        { "/healthz", "/health" },
        { "/v1/model", "/v1/models" },
        { "/favicon.ico", NULL },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const char *nearest =
            route_nearest(routes, sizeof(routes) / sizeof(*routes), cases[i].path);

        if (cases[i].nearest)
            assert_string_equal(nearest, cases[i].nearest);
        else
            assert_null(nearest);
    }
    for (size_t n = 1; n < 200; n++) {
        char path[200];

        memset(path, '/', n);
        path[n] = 0;
        route_nearest(routes, sizeof(routes) / sizeof(*routes), path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_is_one_client),
        cmocka_unit_test(test_origins_that_are_none),
        cmocka_unit_test(test_who_may_read),
        cmocka_unit_test(test_near_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
