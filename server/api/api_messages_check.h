/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The parts of a body of Anthropic's messages that have parts themselves: which objects may stand
 * where, and what they may hold. What is not known is refused by its place ("messages[2].content[0]
 * is of type "image""); hints, which change no answer's meaning, are known.
 */

#include "server/api/api_error.h"
#include "server/api/api_params.h"

/* Of `messages`, `system`, `tools`, `tool_choice`, `thinking` and `output_config`, as they came. 0,
 * or -EINVAL with `error` filled. */
int api_messages_check(const ApiParams *params, ApiError *error);
