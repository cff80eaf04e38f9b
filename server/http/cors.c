/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/cors.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#define MAX_AGE_S "600" /* browsers ask again after this */
/* What OpenAI's client for browsers sends, where the question does not name what will come. */
#define USUAL_HEADERS                                                                            \
    "authorization, content-type, x-request-id, openai-organization, openai-project, "           \
    "x-stainless-arch, x-stainless-async, x-stainless-custom-poll-interval, "                    \
    "x-stainless-helper-method, x-stainless-lang, x-stainless-os, x-stainless-package-version, " \
    "x-stainless-poll-helper, x-stainless-retry-count, x-stainless-runtime, "                    \
    "x-stainless-runtime-version, x-stainless-timeout"

/* The next entry without blanks around it, and where the one after it begins; NULL at the end. */
static const char *next_entry(const char **restp, size_t *sizep) {
    const char *entry = *restp;

    if (!entry)
        return NULL;
    *restp = strchr(entry, ',');
    *sizep = *restp ? (size_t)((*restp)++ - entry) : strlen(entry);
    while (*sizep && isspace((unsigned char)*entry)) {
        entry++;
        --*sizep;
    }
    while (*sizep && isspace((unsigned char)entry[*sizep - 1]))
        --*sizep;
    return entry;
}

static bool is_any(const char *entry, size_t size) {
    return size == 1 && *entry == '*';
}

/* "https://host:port"; pages of files and sandboxes are "null". */
static bool is_origin(const char *entry, size_t size) {
    const char *host = memmem(entry, size, "://", 3);
    size_t n_scheme = host ? (size_t)(host - entry) : 0;

    if (size == 4 && !memcmp(entry, "null", 4))
        return true;
    for (size_t i = 0; i < n_scheme; i++)
        if (!isalnum((unsigned char)entry[i]) && !strchr("+-.", entry[i]))
            return false;
    return n_scheme && !memchr(entry, '*', size) &&
           http_host_is_valid(host + 3, size - n_scheme - 3);
}

int cors_check(const char *allowed, Reason *why) {
    const char *entry;
    size_t size;

    while ((entry = next_entry(&allowed, &size)))
        if (!is_any(entry, size) && !is_origin(entry, size))
            return reason_set(
                why, -EINVAL,
                "\"%.*s\" is no origin: expected scheme://host[:port] without a path, "
                "null, or * (option allowed_origins)",
                (int)size, entry);
    return 0;
}

/* The entry that allows the request's origin; NULL: none does. */
static const char *find(const char *allowed, const HttpRequest *request, size_t *sizep) {
    const Buffer *origin = &request->origin;
    const char *entry;

    if (!origin->size)
        return NULL;
    while ((entry = next_entry(&allowed, sizep)))
        if (is_any(entry, *sizep) ||
            (origin->size == *sizep && !strncasecmp(entry, origin->data, *sizep)))
            return entry;
    return NULL;
}

void cors_put_headers(Buffer *out, const char *allowed, const HttpRequest *request) {
    const char *entry;
    size_t size;

    if (!allowed)
        return;
    buffer_append_text(out, "Vary: Origin\r\n"); /* said to caches, so to everybody */
    entry = find(allowed, request, &size);
    if (entry)
        buffer_printf(out,
                      "Access-Control-Allow-Origin: %.*s\r\n"
                      "Access-Control-Expose-Headers: x-request-id, retry-after\r\n",
                      (int)size, entry);
}

bool cors_is_preflight(const char *allowed, const HttpRequest *request) {
    size_t size;

    return request->method == HTTP_METHOD_OPTIONS && request->asked_method.size &&
           find(allowed, request, &size);
}

/* Who may read the answers may send what it likes: the names are given back as they came. */
void cors_put_preflight(Buffer *out, const HttpRequest *request) {
    const Buffer *asked = &request->asked_headers;

    buffer_printf(out,
                  "Access-Control-Allow-Methods: GET, HEAD, POST, DELETE, OPTIONS\r\n"
                  "Access-Control-Allow-Headers: %s\r\n"
                  "Access-Control-Max-Age: " MAX_AGE_S "\r\n",
                  asked->size ? buffer_text(asked) : USUAL_HEADERS);
}
