/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Text to token ids and back, exactly as the model's own tokenizer does it: `tokenizer.json`
 * (Hugging Face) or GGUF metadata. Immutable after load, so any thread may use it.
 */

#include "model/token_ids.h"
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

/* Appends the ids of `text` (valid UTF-8, may hold NUL). `add_special`: what the post-processor
 * puts around a text (BOS). Special tokens written out in the text are recognised when
 * `parse_special`; other added tokens always are. 0, -ENOMEM, -EILSEQ (not UTF-8), -EOVERFLOW (a
 * pattern of this tokenizer needs too many steps on this text). */
int tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size, bool add_special,
                     bool parse_special, TokenIds *out);

/* Appends the text of `ids`; `skip_special` leaves special tokens out. An id of tokenizer_size or
 * above is -ERANGE (nothing is appended); one below it that names no token has no text. Incomplete
 * UTF-8 comes out as U+FFFD, as the reference decoder does. 0, -ERANGE, -ENOMEM, -EOVERFLOW. */
int tokenizer_decode(const Tokenizer *tokenizer, const uint32_t *ids, size_t n, bool skip_special,
                     Buffer *out);

uint32_t tokenizer_size(const Tokenizer *tokenizer); /* highest id + 1 */
uint32_t tokenizer_bos(const Tokenizer *tokenizer);  /* TOKEN_NONE if there is none */
uint32_t tokenizer_eos(const Tokenizer *tokenizer);  /* TOKEN_NONE if there is none */
bool tokenizer_is_special(const Tokenizer *tokenizer, uint32_t id);
/* The id of a token written exactly so, or TOKEN_NONE. */
uint32_t tokenizer_find(const Tokenizer *tokenizer, const char *token, size_t size);
/* The bytes a single token stands for in text (raw bytes of a byte-level piece, possibly not UTF-8
 * by themselves); appends. For `logprobs.content[].bytes`. */
int tokenizer_token_bytes(const Tokenizer *tokenizer, uint32_t id, Buffer *out);

/* Detokenizing as tokens come: what is given out is never half a character, and the pieces joined
 * equal tokenizer_decode of the whole, except that a trailing incomplete character waits for
 * text_stream_finish. */
int text_stream_new(TextStream **outp, const Tokenizer *tokenizer, bool skip_special);
TextStream *text_stream_free(TextStream *stream);
CLEANUP_DEFINE(TextStream, text_stream_free);
/* Takes one id, appends to `out` whatever text became certain. An id that names no token has no
 * text: models have more rows than tokenizers have tokens. 0, -ENOMEM, -EOVERFLOW. */
int text_stream_push(TextStream *stream, uint32_t id, Buffer *out);
/* Appends what is left (U+FFFD for an incomplete character). */
int text_stream_finish(TextStream *stream, Buffer *out);
