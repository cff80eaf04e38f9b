/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From the strings of tokens back to text: a chain of steps through which tokens flow one by one.
 * A step lets text out as soon as no later token can change it, so the same chain serves whole
 * decodes and streams.
 */

#include "text/text_pattern.h"
#include "util/buffer.h"

#include <stdbool.h>

typedef enum DecodeKind {
    DECODE_BYTE_LEVEL,    /* characters that stand for bytes become UTF-8; all tokens become one */
    DECODE_BYTE_FALLBACK, /* runs of <0xHH> become UTF-8, or one U+FFFD a byte if they are not */
    DECODE_REPLACE,       /* every match of `pattern` becomes `text` */
    DECODE_METASPACE,     /* the character `text` becomes a space, or nothing in the first token */
    DECODE_STRIP,         /* up to so many characters `text` go from a token's ends */
    DECODE_FUSE,          /* all tokens become one */
    DECODE_JOIN,          /* a space between tokens */
} DecodeKind;

typedef struct DecodeStep {
    DecodeKind kind;
    TextPattern *pattern; /* owned */
    char *text;           /* owned */
    size_t text_size;
    size_t strip_start, strip_stop; /* characters */
    bool keep_first;                /* metaspace: the first token is like the others */
} DecodeStep;

typedef struct TokenDecoder {
    DecodeStep *steps; /* owned */
    size_t n_steps;
    bool fused; /* the steps so far leave one token */
} TokenDecoder;

void token_decoder_deinit(TokenDecoder *decoder);

enum {
    _TOKEN_DECODER_E_SUCCESS,
    TOKEN_DECODER_E_ORDER, /* this step cannot follow one that makes all tokens one */
};

/* Adds a step, consuming what it owns (on failure too). 0, the outcome above, or -ENOMEM. */
int token_decoder_add(TokenDecoder *decoder, DecodeStep step);

/* One text being decoded. */
typedef struct TokenDecoderRun {
    const TokenDecoder *decoder; /* borrowed */
    struct DecodeState *states;  /* owned; [n_steps] */
    PatternScratch *patterns;    /* owned */
    Buffer *out;                 /* where text goes during a call */
    Account *account;            /* borrowed; NULL: nobody's */
} TokenDecoderRun;

#define TOKEN_DECODER_RUN_NULL \
    { .decoder = NULL }

/* `account` (borrowed, may be NULL) is charged with what the run holds back; once it is closed, the
 * functions below give -ECANCELED. */
int token_decoder_run_init(TokenDecoderRun *run, const TokenDecoder *decoder, Account *account);
void token_decoder_run_deinit(TokenDecoderRun *run);
CLEANUP_DEINIT_DEFINE(TokenDecoderRun, token_decoder_run_deinit);

/* Takes the next token's string (valid UTF-8); appends what became certain. 0, -ENOMEM,
 * -EOVERFLOW. */
int token_decoder_push(TokenDecoderRun *run, const char *token, size_t size, Buffer *out);
/* Appends the rest; the run is then as new. */
int token_decoder_finish(TokenDecoderRun *run, Buffer *out);

/* Appends the bytes that one token stands for in the middle of a text; a byte of its own stays a
 * byte, even if it is not UTF-8. */
int token_decoder_bytes(const TokenDecoder *decoder, const char *token, size_t size, Buffer *out);
