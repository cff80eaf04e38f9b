/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Text to ids: added tokens are found in the text as given, what lies between them is normalized,
 * more added tokens are found in that, and what is left is cut into pieces for the model.
 *
 * Text repeats its words, so one call remembers the ids of the short pieces it met: an entry says
 * where in the output the same piece stands already. Nothing is kept between calls.
 */

#include "model/short_hash.h"
#include "model/tokenizer_impl.h"
#include "model/utf8.h"

#include <errno.h>
#include <string.h>

#define WORD_BYTES_MAX 24
#define WORDS_MAX 16384
/* Below this, making the memory costs more than it saves. */
#define WORD_MEMORY_TEXT_BYTES 512

typedef struct Word {
    uint64_t text[WORD_BYTES_MAX / sizeof(uint64_t)]; /* padded with zeros */
    uint32_t ids_at;                                  /* in the output */
    uint16_t n_ids;
    uint8_t size; /* 0: free */
} Word;

typedef struct Encoding {
    const Tokenizer *tokenizer;
    TokenIds *out;
    bool skip_special;
    BpeScratch bpe;
    NormalizerScratch normalizer;
    PatternScratch *patterns;
    PreTokenizerRun cuts;
    Word *words; /* [words_mask + 1], or NULL */
    uint32_t words_mask;
} Encoding;

static void encoding_deinit(Encoding *encoding) {
    bpe_scratch_deinit(&encoding->bpe);
    normalizer_scratch_deinit(&encoding->normalizer);
    pretokenizer_run_deinit(&encoding->cuts);
    pattern_scratch_free(encoding->patterns);
    free(encoding->words);
}
CLEANUP_DEINIT_DEFINE(Encoding, encoding_deinit);

static int encode_piece(void *ctx, const char *text, size_t size);

static int encoding_init(Encoding *encoding, size_t size) {
    uint32_t n = WORDS_MAX;
    int r = pattern_scratch_new(&encoding->patterns);

    if (r)
        return r;
    encoding->cuts.pretokenizer = &encoding->tokenizer->pretokenizer;
    encoding->cuts.patterns = encoding->patterns;
    encoding->cuts.piece = encode_piece;
    encoding->cuts.ctx = encoding;
    if (size < WORD_MEMORY_TEXT_BYTES || !encoding->cuts.pretokenizer->n_steps)
        return 0;
    while (n > size)
        n /= 2;
    encoding->words = calloc(n, sizeof(*encoding->words));
    encoding->words_mask = n - 1;
    return encoding->words ? 0 : -ENOMEM;
}

static int encode_piece_fresh(Encoding *encoding, const char *text, size_t size) {
    return bpe_encode(&encoding->tokenizer->bpe, &encoding->bpe, text, size, encoding->out);
}

static int encode_piece(void *ctx, const char *text, size_t size) {
    Encoding *encoding = ctx;
    Word word = { .size = (uint8_t)size };
    Word *known;
    uint64_t hash;
    size_t ids_at = encoding->out->n;
    int r;

    if (!encoding->words || size > WORD_BYTES_MAX || ids_at > UINT32_MAX)
        return encode_piece_fresh(encoding, text, size);
    memcpy(word.text, text, size);
    hash = hash_mix(hash_mix(hash_mix(word.text[0]) ^ word.text[1]) ^ word.text[2]);
    known = &encoding->words[(hash ^ hash >> 16) & encoding->words_mask];
    if (known->size == size && !memcmp(known->text, word.text, sizeof(word.text))) {
        r = token_ids_reserve(encoding->out, known->n_ids);
        if (!r) /* the ids lie in the same array, which reserving may have moved */
            r = token_ids_append(encoding->out, encoding->out->ids + known->ids_at, known->n_ids);
        return r;
    }
    r = encode_piece_fresh(encoding, text, size);
    if (r)
        return r;
    word.ids_at = (uint32_t)ids_at;
    word.n_ids = (uint16_t)(encoding->out->n - ids_at);
    *known = word;
    return 0;
}

static int encode_normalized(void *ctx, const char *text, size_t size, bool at_start) {
    Encoding *encoding = ctx;

    return pretokenizer_cut(&encoding->cuts, text, size, at_start);
}

static int encode_token(void *ctx, uint32_t id) {
    Encoding *encoding = ctx;

    return token_ids_append(encoding->out, &id, 1);
}

static int encode_given(void *ctx, const char *text, size_t size, bool at_start) {
    Encoding *encoding = ctx;
    TokenFinderSink sink = { .text = encode_normalized, .token = encode_token, .ctx = ctx };
    int r = normalizer_run(&encoding->tokenizer->normalizer, &encoding->normalizer,
                           encoding->patterns, &text, &size);

    if (r)
        return r;
    return token_finder_run(&encoding->tokenizer->normalized_finder, text, size,
                            encoding->skip_special, at_start, &sink);
}

int tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size, bool add_special,
                     bool parse_special, TokenIds *out) {
    CLEANUP(encoding_deinit)
    Encoding encoding = {
        .tokenizer = tokenizer,
        .out = out,
        .skip_special = !parse_special,
    };
    TokenFinderSink sink = { .text = encode_given, .token = encode_token, .ctx = &encoding };
    int r;

    if (!utf8_is_valid(text, size))
        return -EILSEQ;
    r = encoding_init(&encoding, size);
    if (!r && add_special)
        r = token_ids_append(out, tokenizer->before.ids, tokenizer->before.n);
    if (!r)
        r = token_finder_run(&tokenizer->given_finder, text, size, encoding.skip_special, true,
                             &sink);
    if (!r && add_special)
        r = token_ids_append(out, tokenizer->after.ids, tokenizer->after.n);
    return r;
}
