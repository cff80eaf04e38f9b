/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * POST /v1/messages: a chat's turn as Anthropic has it, its content in blocks of text, thinking and
 * calls, in the order in which the model wrote them.
 */

#include "server/api/api_call.h"

extern const ApiCallKind api_messages;

/* ApiErrorPutFn: {"type": "error", "error": {"type", "message"}}. */
void api_messages_put_error(Buffer *out, const ApiError *error);
