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
    uint32_t time_ms_max;     /* of one rendering; default 2000 */
    size_t output_bytes_max;  /* default 16 MiB */
} ChatTemplateOptions;

#define CHAT_TEMPLATE_OPTIONS_DEFAULT { .time_ms_max = 2000, .output_bytes_max = 16u << 20 }

/* `path`: a model directory (tokenizer_config.json, chat_template.jinja) or a .gguf file. 0,
 * CHAT_TEMPLATE_E_NONE, or -EINVAL (a template that does not compile: name and line in `why`). */
int chat_template_open(ChatTemplate **outp, const char *path, const ChatTemplateOptions *options,
                       Reason *why);
ChatTemplate *chat_template_free(ChatTemplate *chat_template);
CLEANUP_DEFINE(ChatTemplate, chat_template_free);

/* `request_json`: {"messages": [...], "tools": [...] or null, "add_generation_prompt": bool,
 * "kwargs": {...}} as text. Appends the prompt to `out`. */
int chat_template_render(ChatTemplate *chat_template, const char *request_json, size_t size,
                         Buffer *out, Reason *why);
