/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Text to ids: added tokens are found in the text as given, what lies between them is normalized,
 * more added tokens are found in that, and what is left is cut into pieces for the model.
 *
 * Text repeats its words, so one call remembers the ids of the short pieces it met: an entry says
 * where in the output the same piece stands already. Nothing is kept between calls.
 */

#include "text/short_hash.h"
#include "text/tokenizer_impl.h"
#include "util/utf8.h"

#include <errno.h>
#include <string.h>

#define WORD_BYTES_MAX 24
#define WORDS_MAX 16384
/* Below this, making the memory costs more than it saves. */
#define WORD_MEMORY_TEXT_BYTES 512
#define PIECES_PER_POLL 64
#define STRETCH_BYTES ((size_t)1 << 20)

typedef struct Word {
    uint64_t text[WORD_BYTES_MAX / sizeof(uint64_t)]; /* padded with zeros */
    uint32_t ids_at;                                  /* in the output */
    uint16_t n_ids;
    uint8_t size; /* 0: free */
} Word;

typedef struct Encoding {
    const Tokenizer *tokenizer;
    TokenIds *out;
    const EncodeOptions *options;
    size_t n_max;    /* ids that `out` may hold before those that stand behind the text */
    size_t n_pieces; /* so far */
    BpeScratch bpe;
    NormalizerScratch normalizer;
    PatternScratch *patterns;
    PreTokenizerRun cuts;
    Word *words; /* [words_mask + 1], or NULL */
    uint32_t words_mask;
} Encoding;

static size_t words_bytes(const Encoding *encoding) {
    return ((size_t)encoding->words_mask + 1) * sizeof(*encoding->words);
}

static void encoding_deinit(Encoding *encoding) {
    bpe_scratch_deinit(&encoding->bpe);
    normalizer_scratch_deinit(&encoding->normalizer);
    pretokenizer_run_deinit(&encoding->cuts);
    pattern_scratch_free(encoding->patterns);
    if (encoding->words)
        account_release(encoding->options->account, words_bytes(encoding));
    free(encoding->words);
}
CLEANUP_DEINIT_DEFINE(Encoding, encoding_deinit);

static int encode_piece(void *ctx, const char *text, size_t size);

static int words_make(Encoding *encoding, size_t text_bytes) {
    uint32_t n = WORDS_MAX;
    int r;

    if (text_bytes < WORD_MEMORY_TEXT_BYTES || !encoding->cuts.pretokenizer->n_steps)
        return 0;
    while (n > text_bytes)
        n /= 2;
    encoding->words_mask = n - 1;
    r = account_charge(encoding->options->account, words_bytes(encoding));
    if (r)
        return r;
    encoding->words = calloc(n, sizeof(*encoding->words));
    if (encoding->words)
        return 0;
    account_release(encoding->options->account, words_bytes(encoding));
    return -ENOMEM;
}

static int encoding_init(Encoding *encoding, size_t text_bytes) {
    const Tokenizer *tokenizer = encoding->tokenizer;
    const EncodeOptions *options = encoding->options;
    size_t n_after = options->add_special ? tokenizer->after.n : 0;
    int r;

    encoding->n_max = SIZE_MAX;
    if (options->ids_max) {
        if (options->ids_max < n_after)
            return -E2BIG;
        encoding->n_max = encoding->out->n + options->ids_max - n_after;
    }
    encoding->bpe.account = options->account;
    encoding->normalizer = (NormalizerScratch)NORMALIZER_SCRATCH_INIT(options->account);
    r = pattern_scratch_new(&encoding->patterns, options->account);
    if (r)
        return r;
    encoding->cuts.pretokenizer = &tokenizer->pretokenizer;
    encoding->cuts.patterns = encoding->patterns;
    encoding->cuts.account = options->account;
    encoding->cuts.piece = encode_piece;
    encoding->cuts.ctx = encoding;
    return words_make(encoding, text_bytes);
}

/* -E2BIG if `n_bytes` more of text are more than `n_max` leaves room for. */
static int check_room(const Encoding *encoding, size_t n_bytes, size_t bytes_per_id) {
    size_t n = encoding->out->n;

    if (n > encoding->n_max)
        return -E2BIG;
    return bytes_per_id && n_bytes / bytes_per_id > encoding->n_max - n ? -E2BIG : 0;
}

static int encode_piece_fresh(Encoding *encoding, const char *text, size_t size) {
    int r = check_room(encoding, size, encoding->tokenizer->normalized_bytes_per_id);

    if (!r)
        r = bpe_encode(&encoding->tokenizer->bpe, &encoding->bpe, text, size, encoding->n_max,
                       encoding->out);
    return r ? r : check_room(encoding, 0, 0);
}

static int repeat_ids(Encoding *encoding, const Word *word) {
    TokenIds *out = encoding->out;
    int r = token_ids_reserve(out, word->n_ids);

    if (!r) /* the ids lie in the same array, which reserving may have moved */
        r = token_ids_append(out, out->ids + word->ids_at, word->n_ids);
    return r ? r : check_room(encoding, 0, 0);
}

static int encode_piece(void *ctx, const char *text, size_t size) {
    Encoding *encoding = ctx;
    Word word = { .size = (uint8_t)size };
    Word *known;
    uint64_t hash;
    size_t ids_at = encoding->out->n;
    int r;

    if (!(++encoding->n_pieces % PIECES_PER_POLL) && account_is_closed(encoding->options->account))
        return -ECANCELED;
    if (!encoding->words || size > WORD_BYTES_MAX || ids_at > UINT32_MAX)
        return encode_piece_fresh(encoding, text, size);
    memcpy(word.text, text, size);
    hash = hash_mix(hash_mix(hash_mix(word.text[0]) ^ word.text[1]) ^ word.text[2]);
    known = &encoding->words[(hash ^ hash >> 16) & encoding->words_mask];
    if (known->size == size && !memcmp(known->text, word.text, sizeof(word.text)))
        return repeat_ids(encoding, known);
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
    int r = token_ids_append(encoding->out, &id, 1);

    return r ? r : check_room(encoding, 0, 0);
}

static int encode_given(void *ctx, const char *text, size_t size, bool at_start) {
    Encoding *encoding = ctx;
    TokenFinderSink sink = { .account = encoding->options->account,
                             .text = encode_normalized,
                             .token = encode_token,
                             .ctx = ctx };
    int r = check_room(encoding, size, encoding->tokenizer->given_bytes_per_id);

    if (!r)
        r = normalizer_run(&encoding->tokenizer->normalizer, &encoding->normalizer,
                           encoding->patterns, &text, &size);
    if (!r)
        r = check_room(encoding, size, encoding->tokenizer->normalized_bytes_per_id);
    if (r)
        return r;
    return token_finder_run(&encoding->tokenizer->normalized_finder, text, size,
                            !encoding->options->parse_special, at_start, &sink);
}

/* In stretches that take few milliseconds. */
static int check_utf8(const char *text, size_t size, const Account *account) {
    size_t done = 0;

    while (done < size) {
        size_t end = size - done > STRETCH_BYTES ? done + STRETCH_BYTES : size;

        while (end < size && ((uint8_t)text[end] & 0xc0) == 0x80 && end > done + 1)
            end--;
        if (!utf8_is_valid(text + done, end - done))
            return -EILSEQ;
        if (account_is_closed(account))
            return -ECANCELED;
        done = end;
    }
    return 0;
}

static int encode_text(Encoding *encoding, const char *text, size_t size) {
    const Tokenizer *tokenizer = encoding->tokenizer;
    const EncodeOptions *options = encoding->options;
    TokenFinderSink sink = {
        .account = options->account, .text = encode_given, .token = encode_token, .ctx = encoding
    };
    int r = encoding_init(encoding, size);

    if (!r)
        r = check_room(encoding, size, tokenizer->given_bytes_per_id);
    if (!r)
        r = check_utf8(text, size, options->account);
    if (!r && options->add_special)
        r = token_ids_append(encoding->out, tokenizer->before.ids, tokenizer->before.n);
    if (!r)
        r = token_finder_run(&tokenizer->given_finder, text, size, !options->parse_special, true,
                             &sink);
    if (!r && options->add_special)
        r = token_ids_append(encoding->out, tokenizer->after.ids, tokenizer->after.n);
    return r;
}

int tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size,
                     const EncodeOptions *options, TokenIds *out) {
    CLEANUP(encoding_deinit)
    Encoding encoding = { .tokenizer = tokenizer, .options = options, .out = out };
    int r = encode_text(&encoding, text, size);

    /* Buffers do not say why they could not grow. */
    return r == -ENOMEM && account_is_closed(options->account) ? -ECANCELED : r;
}
