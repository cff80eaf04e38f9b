/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request as the rest of the server sees it: what was asked, and the few headers anyone reads.
 * http_parser.h makes it from bytes.
 */

#include "util/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum HttpMethod {
    HTTP_METHOD_GET,
    HTTP_METHOD_HEAD,
    HTTP_METHOD_POST,
    HTTP_METHOD_OTHER, /* one that no route of ours has */
    HTTP_METHODS
} HttpMethod;

typedef struct HttpRequest {
    HttpMethod method;
    Buffer target;       /* the request target as sent, without line ends or spaces */
    Buffer path;         /* of the target, percent-decoded: no query; begins with '/'; UTF-8 is not
                            checked; never holds NUL */
    Buffer content_type; /* headers that were not sent are empty */
    Buffer content_encoding;
    Buffer transfer_encoding;
    Buffer expect;
    Buffer host;
    Buffer body;
    Account *account;    /* of the request; a reference; NULL: nobody counts */
    uint64_t client_key; /* of the peer's address, for turns between clients */
    bool is_http_1_0;
    bool keep_alive;   /* the client wants the connection afterwards */
    bool expects_body; /* a body follows the head */
} HttpRequest;

#define HTTP_REQUEST_NULL \
    { .body = BUFFER_NULL }

void http_request_deinit(HttpRequest *request);
CLEANUP_DEINIT_DEFINE(HttpRequest, http_request_deinit);

/* Forgets the content; keeps the memory of all but large bodies. */
void http_request_clear(HttpRequest *request);

/* "GET", ...; "" for HTTP_METHOD_OTHER. */
const char *http_method_name(HttpMethod method);
/* Sets `path` from `target`. 0, -ENOMEM, or -EINVAL where the target is neither a path nor a URL,
 * or its percent signs encode nothing or NUL. */
int http_request_split_target(HttpRequest *request);
/* Whether a header's value, its parameters left out, is `expected` (case does not matter). */
bool http_value_is(const Buffer *value, const char *expected);
