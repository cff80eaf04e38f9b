/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Targets and header values: pure text.
 */
#include "server/http/http_request.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

static const char *const method_names[HTTP_METHODS] = { "GET",    "HEAD",    "POST",
                                                        "DELETE", "OPTIONS", "" };

static const size_t buffers[] = {
    offsetof(HttpRequest, target),         offsetof(HttpRequest, path),
    offsetof(HttpRequest, content_type),   offsetof(HttpRequest, content_encoding),
    offsetof(HttpRequest, content_length), offsetof(HttpRequest, transfer_encoding),
    offsetof(HttpRequest, expect),         offsetof(HttpRequest, host),
    offsetof(HttpRequest, accept),         offsetof(HttpRequest, origin),
    offsetof(HttpRequest, x_request_id),   offsetof(HttpRequest, asked_method),
    offsetof(HttpRequest, asked_headers),  offsetof(HttpRequest, body),
};
#define N_BUFFERS (sizeof(buffers) / sizeof(*buffers))

static Buffer *buffer_at(HttpRequest *r, size_t offset) {
    return (Buffer *)(void *)((char *)r + offset);
}

const char *http_method_name(HttpMethod method) {
    return method_names[method];
}

void http_request_init(HttpRequest *r, Account *account) {
    *r = (HttpRequest){ .account = account, .body = { .account = account } };
}

int http_request_charge_head(HttpRequest *r) {
    for (size_t i = 0; i < N_BUFFERS; i++) {
        Buffer *buffer = buffer_at(r, buffers[i]);
        int error = buffer->account ? 0 : buffer_move_charge(buffer, r->account);

        if (error)
            return error;
    }
    return 0;
}

void http_request_deinit(HttpRequest *r) {
    for (size_t i = 0; i < N_BUFFERS; i++)
        buffer_deinit(buffer_at(r, buffers[i]));
    account_unref(r->account);
    *r = (HttpRequest)HTTP_REQUEST_NULL;
}

/* targets */

/* What comes after "http://host", the whole of a target that is a path already; NULL without a
 * host. */
static const char *skip_authority(const char *target) {
    static const char *const schemes[] = { "http://", "https://" };

    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        size_t n = strlen(schemes[i]), n_host;

        if (strncasecmp(target, schemes[i], n))
            continue;
        n_host = strcspn(target + n, "/?#");
        if (!http_host_is_valid(target + n, n_host))
            return NULL;
        target += n + n_host;
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
    size_t n;

    buffer_clear(&r->path);
    if (!p || *p != '/')
        return -EINVAL;
    n = strcspn(p, "?#");
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

/* header values */

static bool is_id(const Buffer *value) {
    const char *text = buffer_text(value);

    if (!value->size || value->size > HTTP_ID_BYTES_MAX)
        return false;
    for (size_t i = 0; i < value->size; i++)
        if (text[i] <= ' ' || text[i] >= 0x7f || strchr("\"'\\", text[i]))
            return false;
    return true;
}

void http_request_settle_id(HttpRequest *r) {
    uint64_t random[2];

    if (*r->id)
        return;
    if (is_id(&r->x_request_id)) {
        memcpy(r->id, buffer_text(&r->x_request_id), r->x_request_id.size + 1);
        return;
    }
    while (getrandom(random, sizeof(random), 0) != sizeof(random))
        ;
    snprintf(r->id, sizeof(r->id), "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
}

bool http_value_is(const Buffer *value, const char *expected) {
    const char *text = buffer_text(value);
    size_t n = strcspn(text, ";");

    while (n && (text[n - 1] == ' ' || text[n - 1] == '\t'))
        n--;
    return n == strlen(expected) && !strncasecmp(text, expected, n);
}

/* "8000"; an empty port means the scheme's own. */
static bool is_port(const char *text, size_t size) {
    unsigned port = 0;

    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        port = port * 10 + (unsigned)(text[i] - '0');
        if (port > 65535)
            return false;
    }
    return true;
}

/* RFC 3986's host, less the comma, which would make it two. */
bool http_host_is_valid(const char *text, size_t size) {
    static const char name[] = "-._~%!$&'()*+;=";
    bool is_literal = size && text[0] == '[';
    size_t n = is_literal;

    while (n < size && (isalnum((unsigned char)text[n]) ||
                        (text[n] && strchr(is_literal ? ":.%-_~" : name, text[n]))))
        n++;
    if (n == is_literal)
        return false;
    if (is_literal && (n == size || text[n++] != ']'))
        return false;
    return n == size || (text[n] == ':' && is_port(text + n + 1, size - n - 1));
}

/* memory */

unsigned http_memory_refusal(const Account *account, Reason *why) {
    const Account *by = account ? atomic_load(&account->refused_by) : NULL;

    if (!by || !by->limit_name) {
        reason_set(why, 0, "The server has no memory for this request now; try again later.");
        return 503;
    }
    if (!strcmp(by->limit_name, HTTP_CLIENT_LIMIT)) {
        reason_set(why, 0,
                   "Your requests together need more than the %llu bytes of memory that one client "
                   "may take (option %s); try again later.",
                   atomic_load(&by->limit), by->limit_name);
        return 429;
    }
    if (!strcmp(by->limit_name, HTTP_REQUEST_LIMIT)) {
        reason_set(why, 0,
                   "The request needs more than the %llu bytes of memory that one may take (option "
                   "%s).",
                   atomic_load(&by->limit), by->limit_name);
        return 413;
    }
    reason_set(why, 0,
               "The requests of all clients together need too much memory now (option %s); try "
               "again later.",
               by->limit_name);
    return 503;
}
