/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The description of this API that programs read: OpenAPI 3.1,
 * https://spec.openapis.org/oas/v3.1.0. Paths and words are those of the table of paths
 * (api_routes), the parameters of a body are the rows of api_param_table.h, and other forms are of
 * schemas/.
 */

#include "server/api/api_params.h"
#include "util/buffer.h"

/* Appends the document, as JSON; bounds that options say are those of `limits`, and `model` is the
 * name of the one that is served. */
void api_openapi_write(Buffer *out, const ApiLimits *limits, const char *model);
