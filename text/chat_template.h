/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Chat templates: Jinja programs that come with the model, run by Jinja2 itself in the environment
 * that Transformers gives them (immutable sandbox, trim_blocks, lstrip_blocks, loop controls,
 * tojson, raise_exception, strftime_now, the generation tag), and shown messages in the form that
 * they read, whichever way clients send them.
 *
 * They run in processes of their own (chat_worker.h), so that whatever one does can be ended. How
 * many there are at a time is an option; further calls wait for one of them. Rendering can take
 * long and is never done on the event loop. Calls may come from any thread.
 */

#include "util/account.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ChatTemplate ChatTemplate;

enum {
    _CHAT_TEMPLATE_E_SUCCESS,
    CHAT_TEMPLATE_E_NONE,    /* the model has no chat template */
    CHAT_TEMPLATE_E_RAISED,  /* the template refused these messages; `why` holds its words */
    CHAT_TEMPLATE_E_LIMIT,   /* time, memory or output limit hit; `why` says which */
    CHAT_TEMPLATE_E_MESSAGE, /* a message is none; `why` begins with its place, in backquotes */
};

#define CHAT_TEMPLATE_WORKERS_MAX 64

typedef struct ChatTemplateOptions {
    uint32_t time_ms_max;    /* of one rendering; default 2000 */
    size_t output_bytes_max; /* default 16 MiB */
    uint32_t n_workers;      /* at most CHAT_TEMPLATE_WORKERS_MAX; default 2 */
    const char *source_path; /* a Jinja file to use instead of the model's own; NULL: none */
} ChatTemplateOptions;

#define CHAT_TEMPLATE_OPTIONS_DEFAULT \
    { .time_ms_max = 2000, .output_bytes_max = 16u << 20, .n_workers = 2 }

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

/* Appends the sources of the model's templates, a line break behind each; nothing where one of them
 * is no Unicode. 0, or -ENOMEM. */
int chat_template_sources(const ChatTemplate *chat_template, Buffer *out);

/* `request_json`: {"messages": [...], "tools": [...], "documents": [...], "add_generation_prompt":
 * bool, "continue_final_message": bool, "reasoning_effort": "...", "kwargs": {...}} as UTF-8 text;
 * all but `messages` may be absent or null, and both bools are then false, as in Transformers. With
 * "as_written": true the messages are shown to the template as they are, as Transformers would,
 * whether it reads them so or not. Appends the prompt to `out`, up to the end of the last message's
 * text if that is to be continued.
 *
 * With "tell_tools": true a template that knows of no tools (its source does not name them) is
 * shown them in a system message, and calls in the text of who called.
 *
 * Of several templates the one named by kwargs.chat_template is used, else "tool_use" if there are
 * tools, else "default". Anything that goes wrong in the template, also because of the messages'
 * types, is CHAT_TEMPLATE_E_RAISED. -EINVAL: the request is not JSON, or nested too deeply.
 *
 * What the process may take is charged to `account` (NULL: nobody's) meanwhile. -ENOMEM: that has
 * too little room, or its parents have (account->refused_by); -ECANCELED, within milliseconds, once
 * it is closed. */
int chat_template_render(ChatTemplate *chat_template, const char *request_json, size_t size,
                         Account *account, Buffer *out, Reason *why);
