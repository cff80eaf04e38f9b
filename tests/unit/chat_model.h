/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Model directories made on the spot, for tests of chat templates.
 */

#include "text/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define HELLO "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}"

typedef struct ChatModel {
    char path[32];
} ChatModel;

static inline ChatModel chat_model_make(void) {
    ChatModel model = { .path = "/tmp/kvasir_chat_XXXXXX" };

    assert_non_null(mkdtemp(model.path));
    return model;
}

static inline void chat_model_remove(const ChatModel *model) {
    char command[64];

    snprintf(command, sizeof(command), "rm -r %s", model->path);
    assert_int_equal(system(command), 0);
}

static inline void chat_model_write(const ChatModel *model, const char *name, const char *content,
                                    size_t size) {
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", model->path, name);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void chat_model_put(const ChatModel *model, const char *name, const char *content) {
    chat_model_write(model, name, content, strlen(content));
}

static inline void chat_model_put_folder(const ChatModel *model, const char *name) {
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", model->path, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

/* A template that must compile, by itself. */
static inline ChatTemplate *chat_template_make(const char *source,
                                               const ChatTemplateOptions *options) {
    ChatModel model = chat_model_make();
    ChatTemplate *chat_template = NULL;
    Reason why = REASON_NULL;

    chat_model_put(&model, "chat_template.jinja", source);
    if (chat_template_open(&chat_template, model.path, options, &why))
        fail_msg("%s", why.text);
    chat_model_remove(&model);
    return chat_template;
}

static inline void assert_prompt(ChatTemplate *chat_template, const char *request,
                                 const char *expected) {
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;
    Reason why = REASON_NULL;

    if (chat_template_render(chat_template, request, strlen(request), NULL, &prompt, &why))
        fail_msg("%s", why.text);
    assert_string_equal(buffer_text(&prompt), expected);
}

/* `words` must be part of the reason. */
static inline void assert_refused(ChatTemplate *chat_template, const char *request, int outcome,
                                  const char *words) {
    CLEANUP(buffer_deinit) Buffer prompt = BUFFER_NULL;
    Reason why = REASON_NULL;

    assert_int_equal(
        chat_template_render(chat_template, request, strlen(request), NULL, &prompt, &why),
        outcome);
    if (!strstr(why.text, words))
        fail_msg("expected \"%s\" in \"%s\"", words, why.text);
    assert_int_equal(prompt.size, 0);
}
