/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How many bytes of text one id can stand for, so that a text that cannot fit is refused before
 * any work. There is such a bound where every character gives an id of its own or joins others in
 * a token of the vocabulary, and none where text can vanish: unknown characters that are dropped or
 * fused, white space that added tokens take with them, what a pre-tokenizer removes. A normalizer
 * makes text shorter by a known factor or by any.
 */

#include "text/tokenizer_impl.h"

/* What the forms can shrink text by, rounded up: three jamo of three bytes become a syllable of
 * three; compatibility forms know letters of four bytes that become ASCII, which joins marks. */
#define CANONICAL_SHRINKING 4
#define COMPATIBLE_SHRINKING 8
/* U+212A, three bytes, becomes "k". */
#define LOWERCASE_SHRINKING 3
#define CHARACTER_BYTES_MAX 4

static bool has_all_bytes(const Bpe *bpe) {
    for (unsigned byte = 0; byte <= 0xf4; byte++)
        if (bpe->byte_ids[byte] == TOKEN_NONE && byte != 0xc0 && byte != 0xc1)
            return false;
    return true;
}

/* Whether all that the model sees becomes ids. */
static bool keeps_pieces(const Bpe *bpe) {
    return has_all_bytes(bpe) ||
           (bpe->unknown_id != TOKEN_NONE && (bpe->score_ranks || !bpe->fuse_unknown));
}

static bool keeps_text(const Tokenizer *tokenizer) {
    for (size_t i = 0; i < tokenizer->added.n_tokens; i++)
        if (tokenizer->added.tokens[i].lstrip || tokenizer->added.tokens[i].rstrip)
            return false;
    for (size_t i = 0; i < tokenizer->pretokenizer.n_steps; i++) {
        const CutStep *step = &tokenizer->pretokenizer.steps[i];

        if (step->kind == CUT_SPLIT && step->behavior == SPLIT_REMOVED)
            return false;
    }
    return keeps_pieces(&tokenizer->bpe);
}

/* 0: by any factor. */
static size_t step_shrinking(const NormalizeStep *step) {
    size_t size;

    switch (step->kind) {
    case NORMALIZE_UNICODE:
        return step->form == UNICODE_NFC || step->form == UNICODE_NFD ? CANONICAL_SHRINKING
                                                                      : COMPATIBLE_SHRINKING;
    case NORMALIZE_PREPEND:
        return 1;
    case NORMALIZE_REPLACE:
        if (!text_pattern_literal(step->pattern, &size) || !step->text_size)
            return 0;
        return (size + step->text_size - 1) / step->text_size;
    case NORMALIZE_LOWERCASE:
        return LOWERCASE_SHRINKING;
    }
    return 0;
}

void tokenizer_bound_ids(Tokenizer *tokenizer, size_t longest_added) {
    size_t longest = tokenizer->tokens.longest;

    tokenizer->given_bytes_per_id = 0;
    tokenizer->normalized_bytes_per_id = 0;
    if (!keeps_text(tokenizer))
        return;
    if (longest < tokenizer->bpe.pieces.longest)
        longest = tokenizer->bpe.pieces.longest;
    if (longest < longest_added)
        longest = longest_added;
    if (longest < CHARACTER_BYTES_MAX)
        longest = CHARACTER_BYTES_MAX; /* an unknown one */
    tokenizer->normalized_bytes_per_id = longest;
    for (size_t i = 0; i < tokenizer->normalizer.n_steps; i++)
        if (__builtin_mul_overflow(longest, step_shrinking(&tokenizer->normalizer.steps[i]),
                                   &longest))
            longest = 0;
    tokenizer->given_bytes_per_id = longest;
}
