/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_tokenizer_info.h"

#include "util/json_writer.h"

/* What Transformers calls a tokenizer that is a tokenizer.json and nothing more. */
#define CLASS_OF_THE_OTHERS "PreTrainedTokenizerFast"

static void put_token(JsonWriter *w, const char *key, const Tokenizer *tokenizer, uint32_t id) {
    size_t size;
    const char *text = tokenizer_token(tokenizer, id, &size);

    if (text)
        json_put_string(w, key, text, size);
    else
        json_put_null(w, key);
}

static void put_text(JsonWriter *w, const char *key, const Buffer *text) {
    if (text->size)
        json_put_string(w, key, text->data, text->size);
    else
        json_put_null(w, key);
}

/* The files' own, if answers end at it; else the first of those at which they do. */
static uint32_t choose_eos(const Tokenizer *tokenizer, const EndOfTurn *ends) {
    uint32_t eos = tokenizer_eos(tokenizer);

    for (uint32_t i = 0; i < ends->n_ids; i++)
        if (ends->ids[i] == eos)
            return eos;
    return ends->n_ids ? ends->ids[0] : TOKEN_NONE;
}

static bool adds(const TokenIds *around, uint32_t id) {
    for (size_t i = 0; i < around->n; i++)
        if (around->ids[i] == id)
            return true;
    return false;
}

void api_tokenizer_info_write(Buffer *out, const ApiTokenizerInfo *from) {
    CLEANUP(token_ids_deinit) TokenIds around = TOKEN_IDS_NULL;
    const EncodeOptions options = { .add_special = true };
    uint32_t bos = tokenizer_bos(from->tokenizer), eos = choose_eos(from->tokenizer, from->ends);
    JsonWriter w = JSON_WRITER(out);

    if (tokenizer_encode(from->tokenizer, "", 0, &options, &around))
        out->failed = true;
    json_begin_object(&w, NULL);
    if (from->info->tokenizer_class.size)
        put_text(&w, "tokenizer_class", &from->info->tokenizer_class);
    else
        json_put_text(&w, "tokenizer_class", CLASS_OF_THE_OTHERS);
    put_token(&w, "bos_token", from->tokenizer, bos);
    put_token(&w, "eos_token", from->tokenizer, eos);
    put_text(&w, "pad_token", &from->info->pad_token);
    put_text(&w, "unk_token", &from->info->unk_token);
    json_put_bool(&w, "add_bos_token", adds(&around, bos));
    json_put_bool(&w, "add_eos_token", adds(&around, eos));
    json_put_bool(&w, "clean_up_tokenization_spaces", false);
    json_put_u64(&w, "model_max_length", from->max_model_len);
    json_put_u64(&w, "vocab_size", tokenizer_size(from->tokenizer));
    put_text(&w, "chat_template", &from->info->chat_template);
    json_end_object(&w);
}
