/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What of a JSON schema would be passed over: keywords that XGrammar does not know, and those that
 * stand where it does not look. An answer would not have to keep to them; so they are refused.
 */

#include "util/account.h"
#include "util/reason.h"

#include <stddef.h>

/* 0; GRAMMAR_E_INVALID with the keyword and its place in `why`; or json_parse_charged's errors. */
int schema_check(const char *schema, size_t size, Account *account, Reason *why);
