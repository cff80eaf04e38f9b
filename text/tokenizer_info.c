/* SPDX-License-Identifier: Apache-2.0 */
#include "text/tokenizer_info.h"

#include "model/gguf.h"
#include "util/json.h"
#include "util/mapped_file.h"
#include "util/utf8.h"

#include <errno.h>
#include <string.h>

void tokenizer_info_deinit(TokenizerInfo *info) {
    buffer_deinit(&info->tokenizer_class);
    buffer_deinit(&info->pad_token);
    buffer_deinit(&info->unk_token);
    buffer_deinit(&info->chat_template);
}

/* What is not UTF-8 is as good as not there. */
static void set_text(Buffer *out, const char *text, size_t size) {
    buffer_clear(out);
    if (utf8_is_valid(text, size))
        buffer_append(out, text, size);
}

/* A whole file; one that is not there changes nothing. */
static int read_file(Buffer *out, const char *path, Reason *why) {
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;
    int r = mapped_file_open(&file, path, why);

    if (r)
        return r == -ENOENT ? 0 : r;
    set_text(out, (const char *)file.data, file.size);
    return 0;
}

/* A directory. */

/* "<pad>" or {"content": "<pad>", ...}; anything else says nothing. */
static void read_token(Buffer *out, const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);

    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (json_is_string(value))
        set_text(out, json_string_value(value), json_string_length(value));
}

/* A text, or an array of {"name", "template"}. */
static void read_template(Buffer *out, const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");

    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i), *name = json_object_get(entry, "name");

        if (json_is_string(name) && !strcmp(json_string_value(name), "default"))
            read_token(out, entry, "template");
    }
    if (json_is_string(value))
        read_token(out, config, "chat_template");
}

static int read_config(TokenizerInfo *info, const char *path, Reason *why) {
    CLEANUP(json_unref) json_t *config = NULL;
    int r = json_load_path(&config, path, 0, why);

    if (r)
        return r == -ENOENT ? 0 : r;
    read_token(&info->tokenizer_class, config, "tokenizer_class");
    read_token(&info->pad_token, config, "pad_token");
    read_token(&info->unk_token, config, "unk_token");
    read_template(&info->chat_template, config);
    return 0;
}

static int read_directory(TokenizerInfo *info, const char *path, Reason *why) {
    CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;
    int r;

    buffer_printf(&file, "%s/tokenizer_config.json", path);
    if (buffer_failed(&file))
        return -ENOMEM;
    r = read_config(info, buffer_text(&file), why);
    if (r)
        return r;
    buffer_clear(&file);
    buffer_printf(&file, "%s/chat_template.jinja", path);
    if (buffer_failed(&file))
        return -ENOMEM;
    return read_file(&info->chat_template, buffer_text(&file), why);
}

/* GGUF. */

/* The token whose id is the value of `key`. */
static int read_gguf_token(Buffer *out, const Gguf *gguf, const char *key, Reason *why) {
    GgufArray tokens;
    GgufText token;
    uint32_t id;
    int r = gguf_get_u32(gguf, key, 0, UINT32_MAX, &id, why);

    if (!r)
        r = gguf_get_texts(gguf, "tokenizer.ggml.tokens", &tokens, why);
    if (r)
        return r == GGUF_E_ABSENT ? 0 : r;
    for (uint32_t i = 0; gguf_array_next_text(&tokens, &token); i++)
        if (i == id)
            set_text(out, token.data, token.size);
    return 0;
}

static int read_gguf(TokenizerInfo *info, const char *path, Reason *why) {
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    GgufText source;
    int r = gguf_open(&gguf, path, why);

    if (!r)
        r = read_gguf_token(&info->pad_token, gguf, "tokenizer.ggml.padding_token_id", why);
    if (!r)
        r = read_gguf_token(&info->unk_token, gguf, "tokenizer.ggml.unknown_token_id", why);
    if (r)
        return r;
    r = gguf_get_text(gguf, "tokenizer.chat_template", &source, why);
    if (!r)
        set_text(&info->chat_template, source.data, source.size);
    return r == GGUF_E_ABSENT ? 0 : r;
}

static bool is_gguf(const char *path) {
    size_t n = strlen(path);

    return n >= 5 && !strcmp(path + n - 5, ".gguf");
}

int tokenizer_info_read(TokenizerInfo *info, const char *path, const char *template_path,
                        Reason *why) {
    int r = is_gguf(path) ? read_gguf(info, path, why) : read_directory(info, path, why);

    if (!r && template_path)
        r = read_file(&info->chat_template, template_path, why);
    if (!r && (buffer_failed(&info->tokenizer_class) || buffer_failed(&info->pad_token) ||
               buffer_failed(&info->unk_token) || buffer_failed(&info->chat_template)))
        r = -ENOMEM;
    return r;
}
