/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Text to token ids and back, exactly as the model's own tokenizer does it: `tokenizer.json`
 * (Hugging Face) or GGUF metadata. Immutable after load, so any thread may use it.
 */

#include "text/token_ids.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Tokenizer Tokenizer;
typedef struct TextStream TextStream;

/* `path` is a model directory, a tokenizer.json, or a .gguf file. -EINVAL names the file and the
 * unknown component or broken entry; -ENOENT if there is no tokenizer. */
int tokenizer_open(Tokenizer **outp, const char *path, Reason *why);
Tokenizer *tokenizer_free(Tokenizer *tokenizer);
CLEANUP_DEFINE(Tokenizer, tokenizer_free);

typedef struct EncodeOptions {
    bool add_special;   /* with what the post-processor puts around a text (BOS) */
    bool parse_special; /* special tokens written out in the text are recognised; other added
                           tokens always are */
    size_t ids_max;     /* how many ids are wanted at most; 0: any number */
    Account *account;   /* borrowed; charged with scratch memory, and asked now and then whether
                           anybody waits; NULL: nobody's */
} EncodeOptions;

/* Appends the ids of `text` (valid UTF-8, may hold NUL). What is appended to `out` charges the
 * account of `out`. 0; -EILSEQ (not UTF-8); -EOVERFLOW (a pattern of this tokenizer needs too many
 * steps on this text); -E2BIG as soon as it is certain that there would be more than `ids_max` ids;
 * -ENOMEM, also where an account refuses; -ECANCELED within 50 ms of the account's closing. Where
 * it fails, `out` holds any part of the ids. */
int tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size,
                     const EncodeOptions *options, TokenIds *out);

/* Appends the text of `ids`; `skip_special` leaves special tokens out. An id of tokenizer_size or
 * above is -ERANGE (nothing is appended); one below it that names no token has no text. Incomplete
 * UTF-8 comes out as U+FFFD, as the reference decoder does. The account of `out` answers for what
 * is held, and ends the work once it is closed. 0, -ERANGE, -ENOMEM, -EOVERFLOW, -ECANCELED. */
int tokenizer_decode(const Tokenizer *tokenizer, const uint32_t *ids, size_t n, bool skip_special,
                     Buffer *out);

uint32_t tokenizer_size(const Tokenizer *tokenizer); /* highest id + 1 */
uint32_t tokenizer_bos(const Tokenizer *tokenizer);  /* TOKEN_NONE if there is none */
uint32_t tokenizer_eos(const Tokenizer *tokenizer);  /* TOKEN_NONE if there is none */
bool tokenizer_is_special(const Tokenizer *tokenizer, uint32_t id);
/* Whether it is found in text before anything else looks at it, special or not. */
bool tokenizer_is_added(const Tokenizer *tokenizer, uint32_t id);
/* The id of a token written exactly so, or TOKEN_NONE. */
uint32_t tokenizer_find(const Tokenizer *tokenizer, const char *token, size_t size);
/* The same among special tokens. */
uint32_t tokenizer_find_special(const Tokenizer *tokenizer, const char *token, size_t size);
/* A token as its file writes it; NULL (size 0) if the id names none. Not terminated. */
const char *tokenizer_token(const Tokenizer *tokenizer, uint32_t id, size_t *size);
/* The bytes a single token stands for in text (raw bytes of a byte-level piece, possibly not UTF-8
 * by themselves); appends. For `logprobs.content[].bytes`. */
int tokenizer_token_bytes(const Tokenizer *tokenizer, uint32_t id, Buffer *out);

/* Detokenizing as tokens come: what is given out is never half a character, and the pieces joined
 * equal tokenizer_decode of the whole, except that a trailing incomplete character waits for
 * text_stream_finish. */
int text_stream_new(TextStream **outp, const Tokenizer *tokenizer, bool skip_special);
TextStream *text_stream_free(TextStream *stream);
CLEANUP_DEFINE(TextStream, text_stream_free);
/* Special tokens that have text though the others are skipped: ids [n], borrowed. */
void text_stream_keep(TextStream *stream, const uint32_t *ids, size_t n);
/* Takes one id, appends to `out` whatever text became certain. An id that names no token has no
 * text: models have more rows than tokenizers have tokens. 0, -ENOMEM, -EOVERFLOW. */
int text_stream_push(TextStream *stream, uint32_t id, Buffer *out);
/* Appends what is left (U+FFFD for an incomplete character). */
int text_stream_finish(TextStream *stream, Buffer *out);
