/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which web pages' scripts may read the server's answers (the Fetch standard's CORS protocol).
 * `allowed` is the option allowed_origins: origins separated by commas, or "*" for any; NULL for
 * none, then nothing is said to anybody.
 */

#include "server/http/http_request.h"

/* 0, or -EINVAL with the words in `why`: an entry that no browser would send as an origin. */
int cors_check(const char *allowed, Reason *why);

/* Appends the header lines that an answer to this request gets. */
void cors_put_headers(Buffer *out, const char *allowed, const HttpRequest *request);

/* Whether the request is a browser's question, asked before the real one, from a page that is
 * allowed. */
bool cors_is_preflight(const char *allowed, const HttpRequest *request);
/* Appends the header lines of the answer to it, besides those of every answer. */
void cors_put_preflight(Buffer *out, const HttpRequest *request);
