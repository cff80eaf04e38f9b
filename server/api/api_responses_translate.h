/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A body of OpenAI's responses as that of a chat, and what is wrong with the chat in the body's own
 * words.
 */

#include "server/api/api_params.h"

/* An ApiParamsTranslateFn. */
int api_responses_translate(ApiParams *params, Account *account, ApiError *error);
/* ApiJobKind.name_places. */
void api_responses_name_places(const ApiParams *params, ApiError *error);
