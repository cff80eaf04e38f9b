/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a body of Anthropic's messages says, as a chat says it: the system prompt is the first
 * message; turns of one role behind each other are one message; results of tools are messages of
 * their own; a call's input is the text of its arguments.
 */

#include "server/api/api_params.h"

/* ApiParamsTranslateFn: of messages, and of what counts their tokens and makes none. */
int api_messages_translate(ApiParams *params, Account *account, ApiError *error);
int api_messages_translate_counted(ApiParams *params, Account *account, ApiError *error);

/* ApiJobKind.name_places of both. */
void api_messages_name_places(const ApiParams *params, ApiError *error);
