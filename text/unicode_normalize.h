/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Unicode normalization forms (UAX #15) on utf8proc's tables, as far as the reference tokenizer
 * knows them (text/unicode_drift.h), in linear time whatever the text.
 */

#include "util/buffer.h"

typedef enum UnicodeForm {
    UNICODE_NFC,
    UNICODE_NFD,
    UNICODE_NFKC,
    UNICODE_NFKD,
} UnicodeForm;

/* Appends the normalized `text` (valid UTF-8) to `out`. 0; -ENOMEM; -EOVERFLOW (more than half a
 * million characters in a row that change each other); -ECANCELED (the account of `out`, which is
 * charged with the scratch, too, is closed). */
int unicode_normalize(UnicodeForm form, const char *text, size_t size, Buffer *out);
