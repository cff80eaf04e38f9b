/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ids to text, whole or as they come: a whole decode is a stream that is pushed and finished at
 * once.
 */

#include "text/tokenizer_impl.h"

#include <errno.h>

#define IDS_PER_POLL 1024

struct TextStream {
    const Tokenizer *tokenizer; /* borrowed */
    bool skip_special;
    const uint32_t *kept; /* [n_kept], borrowed */
    size_t n_kept;
    TokenDecoderRun run;
};

TextStream *text_stream_free(TextStream *stream) {
    if (!stream)
        return NULL;
    token_decoder_run_deinit(&stream->run);
    free(stream);
    return NULL;
}

static int stream_new(TextStream **outp, const Tokenizer *tokenizer, bool skip_special,
                      Account *account) {
    CLEANUP(text_stream_free) TextStream *stream = calloc(1, sizeof(*stream));
    int r;

    if (!stream)
        return -ENOMEM;
    stream->tokenizer = tokenizer;
    stream->skip_special = skip_special;
    r = token_decoder_run_init(&stream->run, &tokenizer->decoder, account);
    if (r)
        return r;
    *outp = TAKE(stream);
    return 0;
}

int text_stream_new(TextStream **outp, const Tokenizer *tokenizer, bool skip_special) {
    return stream_new(outp, tokenizer, skip_special, NULL);
}

void text_stream_keep(TextStream *stream, const uint32_t *ids, size_t n) {
    stream->kept = ids;
    stream->n_kept = n;
}

static bool is_skipped(const TextStream *stream, uint32_t id) {
    if (!stream->skip_special || !tokenizer_is_special(stream->tokenizer, id))
        return false;
    for (size_t i = 0; i < stream->n_kept; i++)
        if (stream->kept[i] == id)
            return false;
    return true;
}

int text_stream_push(TextStream *stream, uint32_t id, Buffer *out) {
    size_t size;
    const char *token = vocab_text(&stream->tokenizer->tokens, id, &size);

    if (!token || is_skipped(stream, id))
        return 0;
    return token_decoder_push(&stream->run, token, size, out);
}

int text_stream_finish(TextStream *stream, Buffer *out) {
    return token_decoder_finish(&stream->run, out);
}

int tokenizer_decode(const Tokenizer *tokenizer, const uint32_t *ids, size_t n, bool skip_special,
                     Buffer *out) {
    CLEANUP(text_stream_free) TextStream *stream = NULL;
    int r;

    for (size_t i = 0; i < n; i++)
        if (ids[i] >= tokenizer_size(tokenizer))
            return -ERANGE;
    r = stream_new(&stream, tokenizer, skip_special, out->account);
    for (size_t i = 0; i < n && !r; i++)
        r = i % IDS_PER_POLL == 0 && account_is_closed(out->account)
                ? -ECANCELED
                : text_stream_push(stream, ids[i], out);
    if (!r)
        r = text_stream_finish(stream, out);
    return r == -ENOMEM && account_is_closed(out->account) ? -ECANCELED : r;
}

int tokenizer_token_bytes(const Tokenizer *tokenizer, uint32_t id, Buffer *out) {
    size_t size;
    const char *token = vocab_text(&tokenizer->tokens, id, &size);

    if (id >= tokenizer_size(tokenizer))
        return -ERANGE;
    return token ? token_decoder_bytes(&tokenizer->decoder, token, size, out) : 0;
}
