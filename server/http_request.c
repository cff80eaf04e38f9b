/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Targets and header values: pure text.
 */
#include "server/http_request.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#define BODY_BYTES_KEPT \
    ((size_t)64 << 10) /* a buffer larger than this goes back after its request */

static const char *const method_names[HTTP_METHODS] = { "GET", "HEAD", "POST", "" };

const char *http_method_name(HttpMethod method) {
    return method_names[method];
}

void http_request_deinit(HttpRequest *r) {
    buffer_deinit(&r->target);
    buffer_deinit(&r->path);
    buffer_deinit(&r->content_type);
    buffer_deinit(&r->content_encoding);
    buffer_deinit(&r->transfer_encoding);
    buffer_deinit(&r->expect);
    buffer_deinit(&r->host);
    buffer_deinit(&r->body);
}

void http_request_clear(HttpRequest *r) {
    buffer_clear(&r->target);
    buffer_clear(&r->path);
    buffer_clear(&r->content_type);
    buffer_clear(&r->content_encoding);
    buffer_clear(&r->transfer_encoding);
    buffer_clear(&r->expect);
    buffer_clear(&r->host);
    if (r->body.capacity > BODY_BYTES_KEPT)
        buffer_deinit(&r->body);
    buffer_clear(&r->body);
    r->is_http_1_0 = r->keep_alive = r->expects_body = false;
}

/* What comes after "http://host", or the whole of a target that is a path already. */
static const char *skip_authority(const char *target) {
    static const char *const schemes[] = { "http://", "https://" };

    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        size_t n = strlen(schemes[i]);

        if (strncasecmp(target, schemes[i], n))
            continue;
        target += n + strcspn(target + n, "/?#");
        return *target == '/' ? target : "/";
    }
    return target;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int http_request_split_target(HttpRequest *r) {
    const char *p = skip_authority(buffer_text(&r->target));
    size_t n = strcspn(p, "?#");

    buffer_clear(&r->path);
    if (*p != '/')
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        int high, low;

        if (p[i] != '%') {
            buffer_append_char(&r->path, p[i]);
            continue;
        }
        high = n - i > 2 ? hex_value(p[i + 1]) : -1;
        low = n - i > 2 ? hex_value(p[i + 2]) : -1;
        if (high < 0 || low < 0 || high + low == 0)
            return -EINVAL;
        buffer_append_char(&r->path, (char)(high * 16 + low));
        i += 2;
    }
    return buffer_failed(&r->path) ? -ENOMEM : 0;
}

bool http_value_is(const Buffer *value, const char *expected) {
    const char *text = buffer_text(value);
    size_t n = strcspn(text, ";");

    while (n && (text[n - 1] == ' ' || text[n - 1] == '\t'))
        n--;
    return n == strlen(expected) && !strncasecmp(text, expected, n);
}
