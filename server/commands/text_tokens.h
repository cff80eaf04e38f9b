/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The text that a model is measured on, as its tokens.
 */

#include "text/tokenizer.h"
#include "util/reason.h"

/* The tokens of a UTF-8 file (CR LF and CR count as LF), or of the passage built in where text_path
 * is NULL; at least one. They are read in windows of `window` tokens: where the tokenizer begins
 * texts with BOS, so does each window, in the place of its first token; there are no other special
 * ones. -EINVAL (no text), -EILSEQ (not UTF-8), -errno of the files. */
int text_tokens_read(TokenIds *out, const char *model_path, const char *text_path, uint32_t window,
                     Reason *why);
