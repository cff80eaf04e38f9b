/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * GET /tokenizer_info: what programs need that use this server's tokenizer instead of one of their
 * own (lm-eval's tokenizer_backend=remote), in the words of Hugging Face's tokenizer_config.json.
 */

#include "text/end_of_turn.h"
#include "text/tokenizer_info.h"

typedef struct ApiTokenizerInfo {
    const Tokenizer *tokenizer;
    const TokenizerInfo *info;
    const EndOfTurn *ends; /* what ends an answer */
    uint32_t max_model_len;
} ApiTokenizerInfo;

/* Writes the answer; lack of memory shows in `out`. */
void api_tokenizer_info_write(Buffer *out, const ApiTokenizerInfo *from);
