/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What parameters are before any of them is read, and what they must be to each other once each was
 * read by itself. Parts of api_params_read.
 */

#include "server/api/api_params.h"

/* Of a request that gives none; `defaults` are the model's. */
ApiParams api_params_defaults(const GenerationDefaults *defaults);
/* Also settles what follows from several of them: lengths, logprobs, `best_of`, temperature. 0, or
 * -EINVAL with `error` filled. */
int api_params_check(ApiParams *params, const ApiParamsContext *context, ApiError *error);
