/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files beside a tokenizer say for other programs: the names of its tokens' roles, its
 * class in Transformers, the chat template's source. Encoding and decoding need none of it.
 */

#include "util/buffer.h"
#include "util/reason.h"

/* Text is UTF-8; what the files do not say is empty. */
typedef struct TokenizerInfo {
    Buffer tokenizer_class;
    Buffer pad_token, unk_token;
    Buffer chat_template; /* the one named "default" where there are several */
} TokenizerInfo;

#define TOKENIZER_INFO_NULL \
    { .tokenizer_class = BUFFER_NULL }

void tokenizer_info_deinit(TokenizerInfo *info);
CLEANUP_DEINIT_DEFINE(TokenizerInfo, tokenizer_info_deinit);

/* `path`: a model directory or a .gguf file; `template_path`: a Jinja file that goes before the
 * model's own, or NULL. 0, -ENOMEM, or -errno with the file in `why`. */
int tokenizer_info_read(TokenizerInfo *info, const char *path, const char *template_path,
                        Reason *why);
