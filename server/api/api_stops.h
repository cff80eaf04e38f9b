/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Stop strings that are exactly the text of a special token: "<|im_end|>". The token may have no
 * text in an answer, so that no text could match; such a string stops at the token, too.
 */

#include "server/engine/stop_matcher.h"
#include "text/tokenizer.h"

/* Writes the special tokens among `stops` to `ids` ([stops->n_stops]); returns how many there are.
 */
uint32_t api_stops_find_tokens(const Tokenizer *tokenizer, const StopSet *stops, uint32_t *ids);

/* The stop string (borrowed) that is this special token, or NULL. */
const char *api_stops_find_text(const Tokenizer *tokenizer, const StopSet *stops, uint32_t token);
