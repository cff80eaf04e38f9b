/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a GGUF file says about chat, for CHAT_WORKER_OPEN.
 */

#include "model/gguf.h"
#include "util/buffer.h"

/* Appends ("template", name, source) for each template: `tokenizer.chat_template` is "default",
 * `tokenizer.chat_template.NAME` those that `tokenizer.chat_templates` lists; and
 * ("token", "bos_token", text) and the like for the special tokens that the file names and its
 * vocabulary has. 0; -EINVAL with `why`. */
int gguf_chat_parts(const Gguf *gguf, Buffer *out, Reason *why);

/* Appends a part: three texts, each after its length in four bytes. */
void chat_part_append(Buffer *out, const char *tag, const char *name, const char *text,
                      size_t size);
