/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reads a tokenizer.json (Hugging Face `tokenizers`), and from the tokenizer_config.json beside it
 * which tokens begin and end a text. The order of reading follows from what needs what: the
 * pre-tokenizer says how the model sees tokens, merges and added tokens refer to the vocabulary.
 *
 * Left out: "truncation" and "padding", which are for training batches; models other than BPE;
 * dropout, which is for training.
 */

#include "text/tokenizer_json.h"

#include <errno.h>
#include <string.h>

/* What the reference does with all of these is join prefixes and suffixes to symbols. */
static int refuse_unless_empty(const json_t *model, const char *key, Reason *why) {
    const char *text;
    size_t size;
    int r = json_get_text(model, key, &text, &size, why);

    if (r)
        return r == JSON_E_ABSENT ? 0 : r;
    return size ? reason_set(why, -EINVAL, "%s \"%.64s\" is not supported", key, text) : 0;
}

static int check_model(const json_t *model, Reason *why) {
    const char *type;
    double dropout = 0;
    int r = json_get_word(model, "type", &type, why);

    if (!r && strcmp(type, "BPE") != 0)
        return reason_set(why, -EINVAL, "type \"%.64s\" is not supported, only BPE is", type);
    if (r == JSON_E_ABSENT && !json_object_get(model, "merges"))
        return reason_set(why, -EINVAL, "no type and no merges: only BPE is supported");
    if (r && r != JSON_E_ABSENT)
        return r;
    r = json_get_double(model, "dropout", &dropout, why);
    if (!r && dropout != 0)
        return reason_set(why, -EINVAL, "dropout is not supported: it makes ids random");
    if (!r || r == JSON_E_ABSENT)
        r = refuse_unless_empty(model, "continuing_subword_prefix", why);
    return r ? r : refuse_unless_empty(model, "end_of_word_suffix", why);
}

static int read_vocab(Tokenizer *tokenizer, const json_t *model, Reason *why) {
    const json_t *vocab, *token, *value;
    int r = json_required(json_get_object(model, "vocab", &vocab, why), "vocab", why);

    if (r)
        return r;
    json_object_foreach(vocab, token, value) {
        char found[80];
        int64_t id;

        if (!json_as_i64(value, 0, VOCAB_IDS_MAX - 1, &id))
            return reason_set(why, -EINVAL, "vocab: the id of %s is no number in 0..%u",
                              json_describe(token, found, sizeof(found)), VOCAB_IDS_MAX - 1);
        r = tokenizer_add_token(tokenizer, (uint32_t)id, json_string_value(token),
                                json_string_length(token), true, why);
        if (r)
            return r;
    }
    return 0;
}

/* "a b", or since 2024 ["a", "b"], where tokens may hold spaces. */
static int read_merge(Tokenizer *tokenizer, const json_t *merge, uint32_t rank, Reason *why) {
    const char *left, *right;
    size_t left_size, right_size;
    char found[64];

    if (json_is_string(merge)) {
        left = json_string_value(merge);
        right = memchr(left, ' ', json_string_length(merge));
        if (right) {
            left_size = (size_t)(right - left);
            right_size = json_string_length(merge) - left_size - 1;
            right++;
            if (!memchr(right, ' ', right_size))
                return tokenizer_add_merge(tokenizer, rank, left, left_size, right, right_size,
                                           why);
        }
    } else if (json_array_size(merge) == 2 && json_is_string(json_array_get(merge, 0)) &&
               json_is_string(json_array_get(merge, 1))) {
        left = json_string_value(json_array_get(merge, 0));
        left_size = json_string_length(json_array_get(merge, 0));
        right = json_string_value(json_array_get(merge, 1));
        right_size = json_string_length(json_array_get(merge, 1));
        return tokenizer_add_merge(tokenizer, rank, left, left_size, right, right_size, why);
    }
    return reason_set(why, -EINVAL, "merge %u: expected two tokens, found %s", rank,
                      json_describe(merge, found, sizeof(found)));
}

static int read_merges(Tokenizer *tokenizer, const json_t *model, Reason *why) {
    const json_t *merges, *merge;
    size_t i;
    int r = json_required(json_get_array(model, "merges", &merges, why), "merges", why);

    if (!r)
        r = bpe_merges_reserve(&tokenizer->bpe, json_array_size(merges));
    if (r)
        return r;
    json_array_foreach(merges, i, merge) {
        r = read_merge(tokenizer, merge, (uint32_t)i, why);
        if (r)
            return r;
    }
    return 0;
}

static int read_unknown(Tokenizer *tokenizer, const json_t *model, Reason *why) {
    const char *text;
    size_t size;
    int r = json_get_text(model, "unk_token", &text, &size, why);

    if (r)
        return r == JSON_E_ABSENT ? 0 : r;
    tokenizer->bpe.unknown_id = vocab_find(&tokenizer->tokens, text, size);
    if (tokenizer->bpe.unknown_id == TOKEN_NONE)
        return reason_set(why, -EINVAL, "unk_token \"%.64s\" is not in the vocabulary", text);
    return 0;
}

/* `byte_fallback`: of the model, needed once everything is there. */
static int read_model(Tokenizer *tokenizer, const json_t *model, bool *byte_fallback, Reason *why) {
    const struct {
        const char *key;
        bool *value;
    } flags[] = {
        { "byte_fallback", byte_fallback },
        { "fuse_unk", &tokenizer->bpe.fuse_unknown },
        { "ignore_merges", &tokenizer->bpe.ignore_merges },
    };
    int r = check_model(model, why);

    for (size_t i = 0; !r && i < sizeof(flags) / sizeof(flags[0]); i++) {
        r = json_get_bool(model, flags[i].key, flags[i].value, why);
        if (r == JSON_E_ABSENT)
            r = 0;
    }
    if (!r)
        r = read_vocab(tokenizer, model, why);
    if (!r)
        r = read_merges(tokenizer, model, why);
    return r ? r : read_unknown(tokenizer, model, why);
}

static int read_added_token(Tokenizer *tokenizer, const json_t *entry, Reason *why) {
    AddedToken token = { .normalized = true };
    const struct {
        const char *key;
        bool *value;
    } flags[] = {
        { "special", &token.special },       { "single_word", &token.single_word },
        { "lstrip", &token.lstrip },         { "rstrip", &token.rstrip },
        { "normalized", &token.normalized },
    };
    const char *text;
    int r;

    if (!json_is_object(entry))
        return reason_set(why, -EINVAL, "expected an object");
    r = json_required(json_get_u32(entry, "id", 0, VOCAB_IDS_MAX - 1, &token.id, why), "id", why);
    if (!r)
        r = json_required(json_get_text(entry, "content", &text, &token.size, why), "content", why);
    for (size_t i = 0; !r && i < sizeof(flags) / sizeof(flags[0]); i++) {
        r = json_get_bool(entry, flags[i].key, flags[i].value, why);
        if (r == JSON_E_ABSENT)
            r = 0;
    }
    if (r)
        return r;
    token.text = (char *)(uintptr_t)text; /* copied there */
    return tokenizer_add_added(tokenizer, &token, why);
}

static int read_added_tokens(Tokenizer *tokenizer, const json_t *root, Reason *why) {
    const json_t *list, *entry;
    size_t i;
    int r = json_get_array(root, "added_tokens", &list, why);

    if (r)
        return r == JSON_E_ABSENT ? 0 : r;
    json_array_foreach(list, i, entry) {
        r = read_added_token(tokenizer, entry, why);
        if (r)
            return reason_prefix(why, r, "added_tokens[%zu]: ", i);
    }
    return 0;
}

static int read_root(Tokenizer *tokenizer, const json_t *root, Reason *why) {
    const json_t *model;
    bool byte_fallback = false;
    int r;

    if (!json_is_object(root))
        return reason_set(why, -EINVAL, "expected an object");
    r = json_required(json_get_object(root, "model", &model, why), "model", why);
    if (r)
        return r;
    r = tokenizer_json_pretokenizer(tokenizer, json_object_get(root, "pre_tokenizer"), why);
    if (!r)
        r = tokenizer_json_normalizer(tokenizer, json_object_get(root, "normalizer"), why);
    if (!r)
        r = tokenizer_json_decoder(tokenizer, json_object_get(root, "decoder"), why);
    if (r)
        return r;
    r = read_model(tokenizer, model, &byte_fallback, why);
    if (r)
        return reason_prefix(why, r, "model: ");
    r = read_added_tokens(tokenizer, root, why);
    if (!r)
        r = tokenizer_json_postprocessor(tokenizer, json_object_get(root, "post_processor"), why);
    return r ? r : tokenizer_complete(tokenizer, byte_fallback, why);
}

/* "bos_token": "<s>" or {"content": "<s>", ...}. A token that is unknown is none. */
static int read_role(const Tokenizer *tokenizer, const json_t *config, const char *key,
                     uint32_t *id, Reason *why) {
    const json_t *value = json_object_get(config, key);
    const char *text;
    size_t size;
    int r;

    if (json_is_object(value))
        r = json_get_text(value, "content", &text, &size, why);
    else
        r = json_get_text(config, key, &text, &size, why);
    if (r)
        return r == JSON_E_ABSENT ? 0 : r;
    *id = vocab_find(&tokenizer->tokens, text, size);
    return 0;
}

/* The file beside tokenizer.json; there may be none. */
static int read_config(Tokenizer *tokenizer, const char *path, Reason *why) {
    CLEANUP(json_unref) json_t *config = NULL;
    CLEANUP(buffer_deinit) Buffer beside = BUFFER_NULL;
    const char *slash = strrchr(path, '/');
    int r;

    if (slash)
        buffer_append(&beside, path, (size_t)(slash + 1 - path));
    buffer_append_text(&beside, "tokenizer_config.json");
    if (buffer_failed(&beside))
        return -ENOMEM;
    r = json_load_path(&config, buffer_text(&beside), 0, why);
    if (r)
        return r == -ENOENT ? 0 : r;
    if (!json_is_object(config))
        return reason_set(why, -EINVAL, "%s: must hold a JSON object", buffer_text(&beside));
    r = read_role(tokenizer, config, "bos_token", &tokenizer->bos, why);
    if (!r)
        r = read_role(tokenizer, config, "eos_token", &tokenizer->eos, why);
    return r ? reason_prefix(why, r, "%s: ", buffer_text(&beside)) : 0;
}

int tokenizer_open_json(Tokenizer **outp, const char *path, Reason *why) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    CLEANUP(json_unref) json_t *root = NULL;
    int r = json_load_path(&root, path, JSON_REJECT_DUPLICATES, why);

    if (r)
        return r;
    tokenizer = tokenizer_new();
    if (!tokenizer)
        return -ENOMEM;
    r = read_root(tokenizer, root, why);
    if (r)
        return reason_prefix(why, r, "%s: ", path);
    r = read_config(tokenizer, path, why);
    if (r)
        return r;
    *outp = TAKE(tokenizer);
    return 0;
}
