/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where the Unicode of the reference tokenizer differs from the libraries used here.
 *
 * The reference (Hugging Face `tokenizers`) matches its patterns with Oniguruma, which knows
 * Unicode 16, and normalizes with tables of Unicode 9. PCRE2 10.42 and utf8proc 2.8 know Unicode
 * 14. Ids must agree on every text, so patterns get the younger characters added to their
 * classes, and normalization leaves alone the characters that the reference does not know.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct UnicodeRange {
    uint32_t first, last;
} UnicodeRange;

typedef void UnicodeRangeFn(void *ctx, UnicodeRange range);

/* Calls `fn` for each range that a class has in the reference beyond Unicode 14. `name`: a general
 * category ("L", "Lu", ...) or "Han"; other names have none. */
void unicode_class_additions(const char *name, UnicodeRangeFn *fn, void *ctx);

/* Whether it is one of those additions. `letters`: the first letters of the general categories to
 * look in ("LM"). */
bool unicode_is_addition(uint32_t cp, const char *letters);

/* Whether normalization passes this code point through unchanged, as a starter that neither
 * decomposes nor composes. */
bool unicode_is_inert(uint32_t cp);
