/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The items that the input of OpenAI's responses may have: which there are, and what they must be.
 */

#include "server/api/api_error.h"
#include "util/json_tree.h"

typedef enum ApiItemKind {
    API_ITEM_MESSAGE,
    API_ITEM_CALL,
    API_ITEM_CALL_OUTPUT,
    API_ITEM_REASONING,
    API_ITEM_UNKNOWN,
} ApiItemKind;

ApiItemKind api_item_kind(const json_t *item);

/* A member; NULL where it is null. */
const json_t *api_item_member(const json_t *item, const char *key);

/* Whether all items are of a kind and form that can be told to the model. 0, or -EINVAL with
 * `error` filled: it names the place. */
int api_responses_check_input(const json_t *input, ApiError *error);
