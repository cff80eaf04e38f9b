/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Whether the alternatives of a schema's `oneOf` exclude each other, so that who keeps to any of
 * them keeps to exactly one: by their types, by values that each lists, or by a property that each
 * requires with values of its own. Follows references within the schema.
 */

#include "util/json_tree.h"

#include <stdbool.h>

bool one_of_is_exclusive(const json_t *root, const json_t *alternatives);
