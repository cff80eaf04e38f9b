/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a GGUF file says about chat, as Python dicts. Interpreter thread only; new references, or
 * NULL with a Python exception set.
 */

#include "model/gguf.h"

typedef struct _object PyObject;

/* {name: source}: `tokenizer.chat_template` is "default", `tokenizer.chat_template.NAME` for the
 * names that `tokenizer.chat_templates` lists. Empty if there is none. */
PyObject *gguf_chat_templates(const Gguf *gguf);

/* {"bos_token": text, ...} of those that the file names and its vocabulary has. */
PyObject *gguf_special_tokens(const Gguf *gguf);
