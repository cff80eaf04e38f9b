/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A tokenizer from GGUF metadata (keys tokenizer.ggml.*): model "gpt2", byte-level BPE whose
 * pre-tokenizer has a name (text/gguf_pretokenizer.h), or "llama", SentencePiece's BPE by score.
 * Ids are those of the model's own tokenizer: where that normalizes (Qwen: NFC), this does, too.
 *
 * Left out: "bert", "t5", "rwkv", which none of the architectures uses.
 */

#include "model/gguf.h"
#include "text/gguf_pretokenizer.h"
#include "text/tokenizer_impl.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define KEY(_name) "tokenizer.ggml." _name

/* SentencePiece's sign for a space. */
#define SPACE_MARK "\xe2\x96\x81"

/* tokenizer.ggml.token_type */
enum {
    TOKEN_TYPE_NORMAL = 1,
    TOKEN_TYPE_UNKNOWN,
    TOKEN_TYPE_CONTROL,
    TOKEN_TYPE_USER_DEFINED,
    TOKEN_TYPE_UNUSED,
    TOKEN_TYPE_BYTE,
};

/* A flag or an id that has a default. */
static int read_flag(const Gguf *gguf, const char *key, bool *value, Reason *why) {
    int r = gguf_get_bool(gguf, key, value, why);

    return r == GGUF_E_ABSENT ? 0 : r;
}

static int read_id(const Tokenizer *tokenizer, const Gguf *gguf, const char *key, uint32_t *id,
                   Reason *why) {
    int r = gguf_get_u32(gguf, key, 0, tokenizer->tokens.n_ids - 1, id, why);

    return r == GGUF_E_ABSENT ? 0 : r;
}

static int read_token(Tokenizer *tokenizer, uint32_t id, GgufText text, int64_t type, Reason *why) {
    bool special = type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_UNKNOWN;
    bool user_defined = type == TOKEN_TYPE_USER_DEFINED;
    AddedToken added = {
        .id = id,
        .text = (char *)(uintptr_t)text.data, /* copied there */
        .size = text.size,
        .special = special,
    };
    int r = tokenizer_add_token(tokenizer, id, text.data, text.size,
                                type == TOKEN_TYPE_NORMAL || user_defined, why);

    if (r || !(special || user_defined))
        return r;
    return tokenizer_add_added(tokenizer, &added, why);
}

static int read_tokens(Tokenizer *tokenizer, const Gguf *gguf, Reason *why) {
    GgufArray tokens, types;
    GgufText text;
    bool typed;
    int r =
        gguf_required(gguf, gguf_get_texts(gguf, KEY("tokens"), &tokens, why), KEY("tokens"), why);
    size_t n;

    if (r)
        return r;
    r = gguf_get_integers(gguf, KEY("token_type"), &types, why);
    if (r < 0)
        return r;
    typed = r != GGUF_E_ABSENT;
    n = tokens.n;
    if (n > VOCAB_IDS_MAX)
        return reason_set(why, -EINVAL, "%zu tokens, at most %u are taken", n, VOCAB_IDS_MAX);
    if (typed && types.n != n)
        return reason_set(why, -EINVAL, "%zu tokens, but types of %zu", n, types.n);
    for (uint32_t id = 0; gguf_array_next_text(&tokens, &text); id++) {
        r = read_token(tokenizer, id, text, typed ? gguf_array_i64(&types, id) : TOKEN_TYPE_NORMAL,
                       why);
        if (r)
            return r;
    }
    return 0;
}

/* What stands around a text. */
static int read_ends(Tokenizer *tokenizer, const Gguf *gguf, bool add_bos, Reason *why) {
    bool add_eos = false;
    int r = read_id(tokenizer, gguf, KEY("bos_token_id"), &tokenizer->bos, why);

    if (!r)
        r = read_id(tokenizer, gguf, KEY("eos_token_id"), &tokenizer->eos, why);
    if (!r)
        r = read_flag(gguf, KEY("add_bos_token"), &add_bos, why);
    if (!r)
        r = read_flag(gguf, KEY("add_eos_token"), &add_eos, why);
    if (r)
        return r;
    if ((add_bos && tokenizer->bos == TOKEN_NONE) || (add_eos && tokenizer->eos == TOKEN_NONE))
        return reason_set(why, -EINVAL,
                          "texts are to begin or end with a token that the file does "
                          "not name");
    if (add_bos)
        r = token_ids_append(&tokenizer->before, &tokenizer->bos, 1);
    if (!r && add_eos)
        r = token_ids_append(&tokenizer->after, &tokenizer->eos, 1);
    return r;
}

/* "gpt2". */

static int read_merge(Tokenizer *tokenizer, GgufText merge, uint32_t rank, Reason *why) {
    /* A token may begin with a space only where it is the left one and nothing else. */
    const char *space = merge.size ? memchr(merge.data + 1, ' ', merge.size - 1) : NULL;
    size_t left_size;

    if (!space)
        return reason_set(why, -EINVAL, "merge %u: expected two tokens, found \"%.*s\"", rank,
                          (int)(merge.size < 80 ? merge.size : 80), merge.data);
    left_size = (size_t)(space - merge.data);
    return tokenizer_add_merge(tokenizer, rank, merge.data, left_size, space + 1,
                               merge.size - left_size - 1, why);
}

static int read_merges(Tokenizer *tokenizer, const Gguf *gguf, Reason *why) {
    GgufArray merges;
    GgufText merge;
    int r =
        gguf_required(gguf, gguf_get_texts(gguf, KEY("merges"), &merges, why), KEY("merges"), why);

    if (!r)
        r = bpe_merges_reserve(&tokenizer->bpe, merges.n);
    for (uint32_t rank = 0; !r && gguf_array_next_text(&merges, &merge); rank++)
        r = read_merge(tokenizer, merge, rank, why);
    return r;
}

static int read_pretokenizer(Tokenizer *tokenizer, const Gguf *gguf, const GgufPretokenizer **outp,
                             Reason *why) {
    const GgufPretokenizer *known;
    GgufText name;
    int r = gguf_required(gguf, gguf_get_text(gguf, KEY("pre"), &name, why), KEY("pre"), why);

    if (r)
        return r;
    known = gguf_pretokenizer_find(name.data, name.size);
    if (!known)
        return reason_set(why, -EINVAL, KEY("pre") " \"%.*s\" is not supported",
                          (int)(name.size < 64 ? name.size : 64), name.data);
    for (size_t i = 0; !r && i < GGUF_PRE_PATTERNS_MAX && known->patterns[i]; i++) {
        CutStep step = { .kind = CUT_SPLIT, .behavior = SPLIT_ISOLATED };

        r = text_pattern_new_regex(&step.pattern, known->patterns[i], strlen(known->patterns[i]),
                                   why);
        if (!r)
            r = pretokenizer_add(&tokenizer->pretokenizer, step);
    }
    tokenizer->pretokenizer.byte_level = true;
    tokenizer->bpe.ignore_merges = known->ignore_merges;
    *outp = known;
    return r;
}

static int read_gpt2(Tokenizer *tokenizer, const Gguf *gguf, Reason *why) {
    const GgufPretokenizer *known = NULL;
    bool prefix = false;
    int r = read_flag(gguf, KEY("add_space_prefix"), &prefix, why);

    if (!r && prefix)
        return reason_set(why, -EINVAL,
                          KEY("add_space_prefix") " with model \"gpt2\" is not "
                                                  "supported");
    if (!r)
        r = read_pretokenizer(tokenizer, gguf, &known, why);
    if (!r && known->nfc)
        r = normalizer_add(&tokenizer->normalizer,
                           (NormalizeStep){ .kind = NORMALIZE_UNICODE, .form = UNICODE_NFC });
    if (!r)
        r = token_decoder_add(&tokenizer->decoder, (DecodeStep){ .kind = DECODE_BYTE_LEVEL });
    if (!r)
        r = read_tokens(tokenizer, gguf, why);
    if (!r)
        r = read_merges(tokenizer, gguf, why);
    if (!r)
        r = read_ends(tokenizer, gguf, known->add_bos, why);
    return r ? r : tokenizer_complete(tokenizer, false, why);
}

/* "llama". */

static int read_scores(Tokenizer *tokenizer, const Gguf *gguf, Reason *why) {
    CLEANUP(free) float *scores = NULL;
    GgufArray array;
    uint32_t n = tokenizer->bpe.pieces.n_ids;
    int r =
        gguf_required(gguf, gguf_get_numbers(gguf, KEY("scores"), &array, why), KEY("scores"), why);

    if (r)
        return r;
    if (array.n != tokenizer->tokens.n_ids)
        return reason_set(why, -EINVAL, "%u tokens, but scores of %zu", tokenizer->tokens.n_ids,
                          array.n);
    scores = calloc((size_t)n + 1, sizeof(*scores));
    if (!scores)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        scores[i] = (float)gguf_array_double(&array, i);
        if (isnan(scores[i]))
            return reason_set(why, -EINVAL, "the score of token %u is not a number", i);
    }
    return bpe_scores_set(&tokenizer->bpe, scores);
}

/* One literal becomes another. */
static int mark_pattern(const char *from, const char *to, TextPattern **pattern, char **text,
                        Reason *why) {
    int r = text_pattern_new_literal(pattern, from, strlen(from), why);

    if (r)
        return r;
    *text = strdup(to);
    if (*text)
        return 0;
    *pattern = text_pattern_free(*pattern);
    return -ENOMEM;
}

/* Text to pieces: spaces become marks, one goes in front. */
static int build_normalizer(Tokenizer *tokenizer, bool prefix, Reason *why) {
    NormalizeStep prepend = { .kind = NORMALIZE_PREPEND, .text_size = strlen(SPACE_MARK) };
    NormalizeStep mark = { .kind = NORMALIZE_REPLACE, .text_size = strlen(SPACE_MARK) };
    int r = 0;

    if (prefix) {
        prepend.text = strdup(SPACE_MARK);
        r = prepend.text ? normalizer_add(&tokenizer->normalizer, prepend) : -ENOMEM;
    }
    if (!r)
        r = mark_pattern(" ", SPACE_MARK, &mark.pattern, &mark.text, why);
    return r ? r : normalizer_add(&tokenizer->normalizer, mark);
}

/* And back. */
static int build_decoder(Tokenizer *tokenizer, bool prefix, Reason *why) {
    DecodeStep space = { .kind = DECODE_REPLACE, .text_size = 1 };
    DecodeStep strip = { .kind = DECODE_STRIP, .text_size = 1, .strip_start = 1 };
    int r = mark_pattern(SPACE_MARK, " ", &space.pattern, &space.text, why);

    if (!r)
        r = token_decoder_add(&tokenizer->decoder, space);
    if (!r)
        r = token_decoder_add(&tokenizer->decoder, (DecodeStep){ .kind = DECODE_BYTE_FALLBACK });
    if (!r)
        r = token_decoder_add(&tokenizer->decoder, (DecodeStep){ .kind = DECODE_FUSE });
    if (r || !prefix)
        return r;
    strip.text = strdup(" ");
    return strip.text ? token_decoder_add(&tokenizer->decoder, strip) : -ENOMEM;
}

static int read_llama(Tokenizer *tokenizer, const Gguf *gguf, Reason *why) {
    bool prefix = true;
    int r = read_flag(gguf, KEY("add_space_prefix"), &prefix, why);

    if (!r)
        r = build_normalizer(tokenizer, prefix, why);
    if (!r)
        r = build_decoder(tokenizer, prefix, why);
    if (!r)
        r = read_tokens(tokenizer, gguf, why);
    if (!r)
        r = read_scores(tokenizer, gguf, why);
    if (!r && tokenizer->tokens.n_ids > 2) {
        /* SentencePiece's own numbers, where the file names none. */
        tokenizer->bpe.unknown_id = 0;
        tokenizer->bos = 1;
        tokenizer->eos = 2;
    }
    if (!r)
        r = read_id(tokenizer, gguf, KEY("unknown_token_id"), &tokenizer->bpe.unknown_id, why);
    if (!r)
        r = read_ends(tokenizer, gguf, true, why);
    return r ? r : tokenizer_complete(tokenizer, true, why);
}

static bool text_is(GgufText text, const char *other) {
    return text.size == strlen(other) && !memcmp(text.data, other, text.size);
}

static int read_root(Tokenizer *tokenizer, const Gguf *gguf, Reason *why) {
    GgufText model;
    int r = gguf_required(gguf, gguf_get_text(gguf, KEY("model"), &model, why), KEY("model"), why);

    if (r)
        return r;
    if (text_is(model, "gpt2"))
        return read_gpt2(tokenizer, gguf, why);
    if (text_is(model, "llama"))
        return read_llama(tokenizer, gguf, why);
    return reason_set(why, -EINVAL, KEY("model") " \"%.*s\" is not supported, gpt2 and llama are",
                      (int)(model.size < 64 ? model.size : 64), model.data);
}

/* The getters' sentences begin with the path, all others get it here. */
static int add_path(Reason *why, int r, const char *path) {
    return strncmp(why->text, path, strlen(path)) ? reason_prefix(why, r, "%s: ", path) : r;
}

int tokenizer_open_gguf(Tokenizer **outp, const char *path, Reason *why) {
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    int r = gguf_open(&gguf, path, why);

    if (r)
        return r;
    tokenizer = tokenizer_new();
    if (!tokenizer)
        return -ENOMEM;
    r = read_root(tokenizer, gguf, why);
    if (r)
        return add_path(why, r, path);
    *outp = TAKE(tokenizer);
    return 0;
}
