/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Between steps travels a fragment of a token, and whether it begins the token. A step that makes
 * all tokens one lets the first fragment begin it and no other. The order of steps is checked when
 * the chain is built: what has to see whole tokens cannot come after such a step.
 *
 * <0xHH> tokens wait for the end of their run: the reference turns the whole run into U+FFFD if it
 * is not UTF-8, even where a part of it is.
 */

#include "text/token_decoder.h"

#include "text/byte_alphabet.h"
#include "util/utf8.h"

#include <errno.h>
#include <string.h>

#define BYTES_PER_POLL 4096

typedef struct DecodeState {
    bool begun;        /* a token has come */
    size_t start_left; /* strip: how many characters may still go from this token's start */
    size_t held;       /* strip: characters at the end so far that may go */
    Buffer pending;    /* bytes that are no text yet */
    Buffer work;
} DecodeState;

static void step_deinit(DecodeStep *step) {
    text_pattern_free(step->pattern);
    free(step->text);
}

void token_decoder_deinit(TokenDecoder *decoder) {
    for (size_t i = 0; i < decoder->n_steps; i++)
        step_deinit(&decoder->steps[i]);
    free(decoder->steps);
    *decoder = (TokenDecoder){ .steps = NULL };
}

int token_decoder_add(TokenDecoder *decoder, DecodeStep step) {
    DecodeStep *steps;

    if (decoder->fused && step.kind != DECODE_STRIP && step.kind != DECODE_FUSE) {
        step_deinit(&step);
        return TOKEN_DECODER_E_ORDER;
    }
    steps = reallocarray(decoder->steps, decoder->n_steps + 1, sizeof(*steps));
    if (!steps) {
        step_deinit(&step);
        return -ENOMEM;
    }
    steps[decoder->n_steps++] = step;
    decoder->steps = steps;
    decoder->fused = decoder->fused || step.kind == DECODE_FUSE || step.kind == DECODE_BYTE_LEVEL;
    return 0;
}

int token_decoder_run_init(TokenDecoderRun *run, const TokenDecoder *decoder, Account *account) {
    *run = (TokenDecoderRun){ .decoder = decoder, .account = account };
    run->states = calloc(decoder->n_steps + 1, sizeof(*run->states));
    if (!run->states)
        return -ENOMEM;
    for (size_t i = 0; i < decoder->n_steps; i++)
        run->states[i].pending.account = account;
    return 0;
}

void token_decoder_run_deinit(TokenDecoderRun *run) {
    for (size_t i = 0; run->states && i < run->decoder->n_steps; i++) {
        buffer_deinit(&run->states[i].pending);
        buffer_deinit(&run->states[i].work);
    }
    free(run->states);
    pattern_scratch_free(run->patterns);
    *run = (TokenDecoderRun)TOKEN_DECODER_RUN_NULL;
}

static int step_take(TokenDecoderRun *run, size_t i, const char *text, size_t size, bool begins);

static int pass_on(TokenDecoderRun *run, size_t i, const char *text, size_t size, bool begins) {
    return step_take(run, i + 1, text, size, begins);
}

/* Hands on a fragment of the one token that this step makes of all. */
static int pass_on_fused(TokenDecoderRun *run, size_t i, const char *text, size_t size) {
    bool begins = !run->states[i].begun;

    run->states[i].begun = true;
    return pass_on(run, i, text, size, begins);
}

/* Bytes to text: what is whole goes on, what is wrong becomes U+FFFD, what may become whole stays;
 * with `last` nothing stays. */
static int bytes_pass_on(TokenDecoderRun *run, size_t i, bool last) {
    DecodeState *state = &run->states[i];
    size_t at = 0;

    buffer_clear(&state->work);
    while (at < state->pending.size) {
        Utf8Unit unit = utf8_unit(state->pending.data + at, state->pending.size - at);

        if (unit.truncated && !last)
            break;
        if (unit.valid)
            buffer_append(&state->work, state->pending.data + at, unit.size);
        else
            buffer_append_text(&state->work, UTF8_REPLACEMENT);
        at += unit.size;
    }
    buffer_consume(&state->pending, at);
    if (buffer_failed(&state->work))
        return -ENOMEM;
    return pass_on_fused(run, i, buffer_text(&state->work), state->work.size);
}

static int take_byte_level(TokenDecoderRun *run, size_t i, const char *text, size_t size) {
    Buffer *pending = &run->states[i].pending;

    if (!byte_alphabet_decode(text, size, pending))
        buffer_append(pending, text, size);
    return buffer_failed(pending) ? -ENOMEM : bytes_pass_on(run, i, false);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of a token <0xHH>, or -1. */
static int fallback_byte(const char *token, size_t size) {
    int high, low;

    if (size != 6 || memcmp(token, "<0x", 3) || token[5] != '>')
        return -1;
    high = token[3] == '+' ? 0 : hex_digit(token[3]); /* the reference's parser takes a sign */
    low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* The run of bytes has ended: one token if it is text, else one U+FFFD token a byte. */
static int fallback_flush(TokenDecoderRun *run, size_t i) {
    Buffer *pending = &run->states[i].pending;
    int r = 0;

    if (!pending->size)
        return 0;
    if (utf8_is_valid(pending->data, pending->size)) {
        r = pass_on(run, i, pending->data, pending->size, true);
    } else {
        for (size_t n = 0; n < pending->size && !r; n++)
            r = n % BYTES_PER_POLL == 0 && account_is_closed(run->account)
                    ? -ECANCELED
                    : pass_on(run, i, UTF8_REPLACEMENT, strlen(UTF8_REPLACEMENT), true);
    }
    buffer_clear(pending);
    return r;
}

static int take_byte_fallback(TokenDecoderRun *run, size_t i, const char *text, size_t size) {
    int byte = fallback_byte(text, size), r;

    if (byte >= 0) {
        buffer_append_char(&run->states[i].pending, (char)byte);
        return buffer_failed(&run->states[i].pending) ? -ENOMEM : 0;
    }
    r = fallback_flush(run, i);
    return r ? r : pass_on(run, i, text, size, true);
}

static int replace(const DecodeStep *step, PatternScratch *patterns, const char *text, size_t size,
                   Buffer *out) {
    PatternMatches matches = PATTERN_MATCHES_INIT(step->pattern, patterns, text, size);
    size_t done = 0;
    int r;

    while (!(r = pattern_matches_next(&matches))) {
        buffer_append(out, text + done, matches.start - done);
        buffer_append(out, step->text, step->text_size);
        done = matches.end;
    }
    buffer_append(out, text + done, size - done);
    if (r != PATTERN_E_END)
        return r;
    return buffer_failed(out) ? -ENOMEM : 0;
}

static int take_replace(TokenDecoderRun *run, size_t i, const char *text, size_t size) {
    Buffer *work = &run->states[i].work;
    int r;

    if (!run->patterns) {
        r = pattern_scratch_new(&run->patterns, run->account);
        if (r)
            return r;
    }
    buffer_clear(work);
    r = replace(&run->decoder->steps[i], run->patterns, text, size, work);
    return r ? r : pass_on(run, i, buffer_text(work), work->size, true);
}

static void metaspace_decode(const DecodeStep *step, const char *text, size_t size, bool first,
                             Buffer *out) {
    for (size_t at = 0; at < size; at += utf8_size(text[at])) {
        size_t n = utf8_size(text[at]);

        if (n != step->text_size || memcmp(text + at, step->text, n))
            buffer_append(out, text + at, n);
        else if (!first || step->keep_first)
            buffer_append_char(out, ' ');
    }
}

static int take_metaspace(TokenDecoderRun *run, size_t i, const char *text, size_t size) {
    DecodeState *state = &run->states[i];

    buffer_clear(&state->work);
    metaspace_decode(&run->decoder->steps[i], text, size, !state->begun, &state->work);
    state->begun = true;
    if (buffer_failed(&state->work))
        return -ENOMEM;
    return pass_on(run, i, buffer_text(&state->work), state->work.size, true);
}

/* Characters at the end are held back until it is known whether they are the end. */
static int take_strip(TokenDecoderRun *run, size_t i, const char *text, size_t size, bool begins) {
    const DecodeStep *step = &run->decoder->steps[i];
    DecodeState *state = &run->states[i];

    if (begins) {
        state->start_left = step->strip_start;
        state->held = 0;
    }
    buffer_clear(&state->work);
    for (size_t at = 0; at < size; at += utf8_size(text[at])) {
        size_t n = utf8_size(text[at]);
        bool strippable = n == step->text_size && !memcmp(text + at, step->text, n);

        if (strippable && state->start_left) {
            state->start_left--;
            continue;
        }
        state->start_left = 0;
        if (strippable && state->held < step->strip_stop) {
            state->held++;
            continue;
        }
        for (; !strippable && state->held; state->held--)
            buffer_append(&state->work, step->text, step->text_size);
        buffer_append(&state->work, text + at, n);
    }
    if (buffer_failed(&state->work))
        return -ENOMEM;
    return pass_on(run, i, buffer_text(&state->work), state->work.size, begins);
}

static int take_join(TokenDecoderRun *run, size_t i, const char *text, size_t size, bool begins) {
    bool separate = begins && run->states[i].begun;
    int r = 0;

    run->states[i].begun = true;
    if (separate)
        r = pass_on(run, i, " ", 1, true);
    return r ? r : pass_on(run, i, text, size, begins);
}

static int step_take(TokenDecoderRun *run, size_t i, const char *text, size_t size, bool begins) {
    if (i == run->decoder->n_steps) {
        buffer_append(run->out, text, size);
        return buffer_failed(run->out) ? -ENOMEM : 0;
    }
    switch (run->decoder->steps[i].kind) {
    case DECODE_BYTE_LEVEL:
        return take_byte_level(run, i, text, size);
    case DECODE_BYTE_FALLBACK:
        return take_byte_fallback(run, i, text, size);
    case DECODE_REPLACE:
        return take_replace(run, i, text, size);
    case DECODE_METASPACE:
        return take_metaspace(run, i, text, size);
    case DECODE_STRIP:
        return take_strip(run, i, text, size, begins);
    case DECODE_FUSE:
        return pass_on_fused(run, i, text, size);
    case DECODE_JOIN:
        return take_join(run, i, text, size, begins);
    }
    return -EINVAL;
}

int token_decoder_push(TokenDecoderRun *run, const char *token, size_t size, Buffer *out) {
    run->out = out;
    return step_take(run, 0, token, size, true);
}

int token_decoder_finish(TokenDecoderRun *run, Buffer *out) {
    int r = 0;

    run->out = out;
    for (size_t i = 0; i < run->decoder->n_steps && !r; i++) {
        if (run->decoder->steps[i].kind == DECODE_BYTE_LEVEL)
            r = bytes_pass_on(run, i, true);
        else if (run->decoder->steps[i].kind == DECODE_BYTE_FALLBACK)
            r = fallback_flush(run, i);
    }
    for (size_t i = 0; i < run->decoder->n_steps; i++) {
        run->states[i].begun = false;
        run->states[i].held = 0;
    }
    return r;
}

int token_decoder_bytes(const TokenDecoder *decoder, const char *token, size_t size, Buffer *out) {
    CLEANUP(pattern_scratch_free) PatternScratch *patterns = NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL, next = BUFFER_NULL;
    int r = pattern_scratch_new(&patterns, NULL);

    buffer_append(&text, token, size);
    for (size_t i = 0; i < decoder->n_steps && !r; i++) {
        const DecodeStep *step = &decoder->steps[i];
        Buffer swap = text;

        if (step->kind == DECODE_BYTE_FALLBACK && fallback_byte(text.data, text.size) >= 0) {
            buffer_append_char(out, (char)fallback_byte(text.data, text.size));
            return buffer_failed(out) ? -ENOMEM : 0;
        }
        buffer_clear(&next);
        if (step->kind == DECODE_REPLACE)
            r = replace(step, patterns, buffer_text(&text), text.size, &next);
        else if (step->kind == DECODE_METASPACE)
            metaspace_decode(step, buffer_text(&text), text.size, false, &next);
        else if (step->kind != DECODE_BYTE_LEVEL ||
                 !byte_alphabet_decode(buffer_text(&text), text.size, &next))
            continue;
        text = next;
        next = swap;
    }
    if (r)
        return r;
    buffer_append(out, buffer_text(&text), text.size);
    return buffer_failed(out) || buffer_failed(&text) ? -ENOMEM : 0;
}
