/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A choice between texts, as rules of EBNF.
 */

#include "util/buffer.h"
#include "util/reason.h"

/* `json`: an array of strings; appends `root ::= "a" | "b"`. 0; GRAMMAR_E_INVALID with `why`; or
 * json_parse_charged's and the buffer's errors. */
int choice_write_rules(const char *json, size_t size, Buffer *out, Reason *why);
