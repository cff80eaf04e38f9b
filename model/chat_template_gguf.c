/* SPDX-License-Identifier: Apache-2.0 */
#include <Python.h>

#include "model/chat_template_gguf.h"

#include "model/chat_template_python.h"

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

/* Turns a Reason into the exception that stands for it. */
static bool invalid_raise(const Reason *why) {
    PyErr_SetString(python_lookup("Invalid"), why->text);
    return false;
}

static bool dict_set(PyObject *dict, const char *name, GgufText text) {
    PyObject *value = PyUnicode_DecodeUTF8(text.data, (Py_ssize_t)text.size, "replace");
    bool set = value && PyDict_SetItemString(dict, name, value) == 0;

    Py_XDECREF(value);
    return set;
}

/* `name` is the last part of `key`, or "default". */
static bool template_add(PyObject *templates, const Gguf *gguf, const char *key, const char *name) {
    Reason why = REASON_NULL;
    GgufText source;
    int r = gguf_get_text(gguf, key, &source, &why);

    if (r < 0)
        return invalid_raise(&why);
    return r == GGUF_E_ABSENT || dict_set(templates, name, source);
}

static bool templates_add(PyObject *templates, const Gguf *gguf) {
    char key[KEY_BYTES_MAX];
    Reason why = REASON_NULL;
    GgufArray names;
    GgufText name;
    int n, r = gguf_get_texts(gguf, "tokenizer.chat_templates", &names, &why);

    if (r < 0)
        return invalid_raise(&why);
    if (!template_add(templates, gguf, TEMPLATE_KEY, "default"))
        return false;
    while (r == 0 && gguf_array_next_text(&names, &name)) {
        n = snprintf(key, sizeof(key), "%s.%.*s", TEMPLATE_KEY,
                     (int)(name.size < sizeof(key) ? name.size : sizeof(key)), name.data);
        if (n >= (int)sizeof(key)) {
            reason_set(&why, -EINVAL, "%s: tokenizer.chat_templates: a name is too long",
                       gguf_path(gguf));
            return invalid_raise(&why);
        }
        if (!template_add(templates, gguf, key, key + sizeof(TEMPLATE_KEY)))
            return false;
    }
    return true;
}

PyObject *gguf_chat_templates(const Gguf *gguf) {
    PyObject *templates = PyDict_New();

    if (templates && !templates_add(templates, gguf))
        Py_CLEAR(templates);
    return templates;
}

static bool tokens_add(PyObject *tokens, const Gguf *gguf) {
    uint32_t ids[N_SPECIAL_TOKENS];
    Reason why = REASON_NULL;
    GgufArray vocab;
    GgufText token;
    int r = gguf_get_texts(gguf, "tokenizer.ggml.tokens", &vocab, &why);

    for (size_t k = 0; r >= 0 && k < N_SPECIAL_TOKENS; k++) {
        ids[k] = UINT32_MAX;
        if (gguf_get_u32(gguf, special_tokens[k].key, 0, UINT32_MAX, &ids[k], &why) < 0)
            r = -EINVAL;
    }
    if (r < 0)
        return invalid_raise(&why);
    for (uint32_t id = 0; r == 0 && gguf_array_next_text(&vocab, &token); id++)
        for (size_t k = 0; k < N_SPECIAL_TOKENS; k++)
            if (ids[k] == id && !dict_set(tokens, special_tokens[k].variable, token))
                return false;
    return true;
}

PyObject *gguf_special_tokens(const Gguf *gguf) {
    PyObject *tokens = PyDict_New();

    if (tokens && !tokens_add(tokens, gguf))
        Py_CLEAR(tokens);
    return tokens;
}
