/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A request as the rest of the server sees it: what was asked, and the few headers anyone reads.
 * http_parser.h makes it from bytes.
 */

#include "util/buffer.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_ID_BYTES_MAX 128
#define HTTP_REQUEST_LIMIT "max_request_memory" /* the limit's name of a request's account */
#define HTTP_CLIENT_LIMIT "max_client_memory"   /* of its parent, the client's account */

typedef enum HttpMethod {
    HTTP_METHOD_GET,
    HTTP_METHOD_HEAD,
    HTTP_METHOD_POST,
    HTTP_METHOD_DELETE,
    HTTP_METHOD_OPTIONS,
    HTTP_METHOD_OTHER, /* one that no route of ours has */
    HTTP_METHODS
} HttpMethod;

typedef struct HttpRequest {
    Account *account;    /* owned reference: what the request costs; charged by its Buffers. NULL:
                            nobody answers for it, or no byte has come */
    uint64_t client_key; /* the same for all that may be one client (http_peer.h) */
    char id[HTTP_ID_BYTES_MAX + 1]; /* the client's x-request-id, or one made here */
    HttpMethod method;
    const char *method_name; /* as sent, static; NULL before the head is complete */
    Buffer target;           /* the request target as sent, without line ends or spaces */
    Buffer path;         /* of the target, percent-decoded: no query; begins with '/'; UTF-8 is not
                            checked; never holds NUL */
    Buffer content_type; /* headers that were not sent are empty */
    Buffer content_encoding;
    Buffer content_length;
    Buffer transfer_encoding;
    Buffer expect;
    Buffer host;
    Buffer accept;
    Buffer origin;
    Buffer x_request_id;
    Buffer asked_method;  /* access-control-request-method */
    Buffer asked_headers; /* access-control-request-headers */
    Buffer body;
    bool is_http_1_0;
    bool keep_alive;   /* the client wants the connection afterwards */
    bool expects_body; /* a body follows the head */
} HttpRequest;

#define HTTP_REQUEST_NULL \
    { .account = NULL }

/* The body is charged to `account`, whose reference is consumed. */
void http_request_init(HttpRequest *request, Account *account);
/* From now on the head is charged as well. 0, or account_charge's error. */
int http_request_charge_head(HttpRequest *request);
/* Gives everything back. */
void http_request_deinit(HttpRequest *request);
CLEANUP_DEINIT_DEFINE(HttpRequest, http_request_deinit);

/* "GET", ...; "" for HTTP_METHOD_OTHER. */
const char *http_method_name(HttpMethod method);
/* Sets `path` from `target`. 0, -ENOMEM, or -EINVAL where the target is neither a path nor a URL
 * with a host, or its percent signs encode nothing or NUL. */
int http_request_split_target(HttpRequest *request);
/* Sets `id`, once: what the client sent, if it is 1 to HTTP_ID_BYTES_MAX visible ASCII characters
 * without quotes and backslashes; else a random one. */
void http_request_settle_id(HttpRequest *request);
/* Whether a header's value, its parameters left out, is `expected` (case does not matter). */
bool http_value_is(const Buffer *value, const char *expected);
/* Whether text is one host, perhaps with a port: no blanks, no lists, no user. */
bool http_host_is_valid(const char *text, size_t size);

/* Why a charge on a request's account failed: the status to answer (413 for its own limit, 429 for
 * its client's, 503 for that of all requests, or where there is just no memory) and a sentence that
 * names the option. */
unsigned http_memory_refusal(const Account *account, Reason *why);
