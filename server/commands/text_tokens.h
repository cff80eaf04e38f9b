/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The text that a model is measured on, as its tokens.
 */

#include "text/tokenizer.h"
#include "util/reason.h"

/* The tokens of a UTF-8 file (CR LF and CR count as LF), or of the passage built in where text_path
 * is NULL, without special ones around it; at least one. -EINVAL (no text), -EILSEQ (not UTF-8),
 * -errno of the files. */
int text_tokens_read(TokenIds *out, const char *model_path, const char *text_path, Reason *why);
