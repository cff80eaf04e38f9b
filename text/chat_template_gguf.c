/* SPDX-License-Identifier: Apache-2.0 */
#include "text/chat_template_gguf.h"

#include <errno.h>
#include <string.h>

#define TEMPLATE_KEY "tokenizer.chat_template"
#define KEY_BYTES_MAX 256

static const struct {
    const char *variable, *key;
} special_tokens[] = {
    { "bos_token", "tokenizer.ggml.bos_token_id" },
    { "eos_token", "tokenizer.ggml.eos_token_id" },
    { "unk_token", "tokenizer.ggml.unknown_token_id" },
    { "sep_token", "tokenizer.ggml.seperator_token_id" }, /* so spelled in the format */
    { "pad_token", "tokenizer.ggml.padding_token_id" },
    { "cls_token", "tokenizer.ggml.cls_token_id" },
    { "mask_token", "tokenizer.ggml.mask_token_id" },
};
enum { N_SPECIAL_TOKENS = sizeof(special_tokens) / sizeof(special_tokens[0]) };

static void text_append(Buffer *out, const char *text, size_t size) {
    uint32_t n = (uint32_t)size;

    buffer_append(out, &n, sizeof(n));
    buffer_append(out, text, size);
}

void chat_part_append(Buffer *out, const char *tag, const char *name, const char *text,
                      size_t size) {
    text_append(out, tag, strlen(tag));
    text_append(out, name, strlen(name));
    text_append(out, text, size);
}

/* `name` is the last part of `key`, or "default". */
static int template_append(Buffer *out, const Gguf *gguf, const char *key, const char *name,
                           Reason *why) {
    GgufText source;
    int r = gguf_get_text(gguf, key, &source, why);

    if (r == GGUF_E_ABSENT)
        return 0;
    if (r == 0)
        chat_part_append(out, "template", name, source.data, source.size);
    return r;
}

static int templates_append(Buffer *out, const Gguf *gguf, Reason *why) {
    char key[KEY_BYTES_MAX];
    GgufArray names;
    GgufText name;
    int n, listed = gguf_get_texts(gguf, "tokenizer.chat_templates", &names, why);
    int r = listed < 0 ? listed : template_append(out, gguf, TEMPLATE_KEY, "default", why);

    while (r == 0 && listed == 0 && gguf_array_next_text(&names, &name)) {
        n = snprintf(key, sizeof(key), "%s.%.*s", TEMPLATE_KEY,
                     (int)(name.size < sizeof(key) ? name.size : sizeof(key)), name.data);
        if (n >= (int)sizeof(key))
            return reason_set(why, -EINVAL, "%s: tokenizer.chat_templates: a name is too long",
                              gguf_path(gguf));
        r = template_append(out, gguf, key, key + sizeof(TEMPLATE_KEY), why);
    }
    return r;
}

static int tokens_append(Buffer *out, const Gguf *gguf, Reason *why) {
    uint32_t ids[N_SPECIAL_TOKENS];
    GgufArray vocab;
    GgufText token;
    int r = gguf_get_texts(gguf, "tokenizer.ggml.tokens", &vocab, why);

    for (size_t k = 0; r >= 0 && k < N_SPECIAL_TOKENS; k++) {
        ids[k] = UINT32_MAX;
        if (gguf_get_u32(gguf, special_tokens[k].key, 0, UINT32_MAX, &ids[k], why) < 0)
            r = -EINVAL;
    }
    for (uint32_t id = 0; r == 0 && gguf_array_next_text(&vocab, &token); id++)
        for (size_t k = 0; k < N_SPECIAL_TOKENS; k++)
            if (ids[k] == id)
                chat_part_append(out, "token", special_tokens[k].variable, token.data, token.size);
    return r < 0 ? r : 0;
}

int gguf_chat_parts(const Gguf *gguf, Buffer *out, Reason *why) {
    int r = templates_append(out, gguf, why);

    return r ? r : tokens_append(out, gguf, why);
}
