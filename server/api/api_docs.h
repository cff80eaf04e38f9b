/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The description of the API for people: one page, without scripts and without anything of somebody
 * else's, that says what the description for programs (api_openapi.h) says.
 */

#include "util/buffer.h"

/* Appends the page of a document that api_openapi_write wrote. */
void api_docs_write(Buffer *out, const Buffer *openapi);
