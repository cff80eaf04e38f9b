/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Chat templates: Jinja programs that come with the model, run by Jinja2 itself in an embedded
 * CPython, in the environment Transformers gives them (immutable sandbox, trim_blocks,
 * lstrip_blocks, loop controls, tojson, raise_exception, strftime_now, the generation tag).
 *
 * Rendering can take long and is never done on the event loop. Calls may come from any thread;
 * one runs at a time.
 */

#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ChatTemplate ChatTemplate;

enum {
    _CHAT_TEMPLATE_E_SUCCESS,
    CHAT_TEMPLATE_E_NONE,   /* the model has no chat template */
    CHAT_TEMPLATE_E_RAISED, /* the template refused these messages; `why` holds its words */
    CHAT_TEMPLATE_E_LIMIT,  /* time or output limit hit; `why` says which */
};

typedef struct ChatTemplateOptions {
    uint32_t time_ms_max;    /* of one rendering; default 2000 */
    size_t output_bytes_max; /* default 16 MiB */
    const char *source_path; /* a Jinja file to use instead of the model's own; NULL: none */
} ChatTemplateOptions;

#define CHAT_TEMPLATE_OPTIONS_DEFAULT \
    { .time_ms_max = 2000, .output_bytes_max = 16u << 20 }

/* `path`: a model directory or a .gguf file. Of a directory, chat_template.jinja and
 * additional_chat_templates/NAME.jinja go before `chat_template` in tokenizer_config.json, and the
 * special tokens come from tokenizer_config.json; of a GGUF file, tokenizer.chat_template[.NAME]
 * and the tokens of its ids. 0; CHAT_TEMPLATE_E_NONE; -EINVAL with the file or the template's line
 * in `why`, also where compiling ran into a limit; -ENOENT if `path` or Jinja2 is not there.
 * `options` may be NULL. */
int chat_template_open(ChatTemplate **outp, const char *path, const ChatTemplateOptions *options,
                       Reason *why);
ChatTemplate *chat_template_free(ChatTemplate *chat_template);
CLEANUP_DEFINE(ChatTemplate, chat_template_free);

/* `request_json`: {"messages": [...], "tools": [...], "documents": [...], "add_generation_prompt":
 * bool, "kwargs": {...}} as UTF-8 text; all but `messages` may be absent or null, and
 * add_generation_prompt is then false, as in Transformers. Appends the prompt to `out`.
 *
 * Of several templates the one named by kwargs.chat_template is used, else "tool_use" if there are
 * tools, else "default". Anything that goes wrong in the template, also because of the messages'
 * types, is CHAT_TEMPLATE_E_RAISED. -EINVAL: the request is not JSON. */
int chat_template_render(ChatTemplate *chat_template, const char *request_json, size_t size,
                         Buffer *out, Reason *why);
