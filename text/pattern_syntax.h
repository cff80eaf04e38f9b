/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Rewrites a regular expression from Oniguruma's dialect (Ruby syntax, Unicode 16) to PCRE2's, so
 * that it matches the same texts: \s, \w, \b, \h, \v differ, classes lack younger characters, and
 * some syntax means something else. What has no exact equivalent is refused by name.
 */

#include "util/buffer.h"
#include "util/reason.h"

/* Appends the rewritten expression to `out`. 0, -EINVAL, -ENOMEM. */
int pattern_syntax_rewrite(const char *regex, size_t size, Buffer *out, Reason *why);
