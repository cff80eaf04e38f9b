/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a chat's messages must be for a chat template to read them: the forms of their members. What
 * members a template wants, and what of contents it reads, is asked when it is run.
 */

#include "server/api/api_error.h"
#include "util/json_tree.h"

/* `messages` is the parameter's value, NULL if not given. 0, or -EINVAL with `error` filled. */
int api_chat_check(const json_t *messages, ApiError *error);
