/* SPDX-License-Identifier: Apache-2.0 */
#include "text/normalizer.h"

#include "util/utf8.h"

#include <errno.h>
#include <utf8proc.h>

#define CHARACTERS_PER_POLL 16384

static void step_deinit(NormalizeStep *step) {
    text_pattern_free(step->pattern);
    free(step->text);
}

void normalizer_deinit(Normalizer *normalizer) {
    for (size_t i = 0; i < normalizer->n_steps; i++)
        step_deinit(&normalizer->steps[i]);
    free(normalizer->steps);
    *normalizer = (Normalizer){ .steps = NULL };
}

int normalizer_add(Normalizer *normalizer, NormalizeStep step) {
    NormalizeStep *steps =
        reallocarray(normalizer->steps, normalizer->n_steps + 1, sizeof(*normalizer->steps));

    if (!steps) {
        step_deinit(&step);
        return -ENOMEM;
    }
    steps[normalizer->n_steps++] = step;
    normalizer->steps = steps;
    return 0;
}

void normalizer_scratch_deinit(NormalizerScratch *scratch) {
    buffer_deinit(&scratch->a);
    buffer_deinit(&scratch->b);
}

static int replace(const NormalizeStep *step, PatternScratch *patterns, const char *text,
                   size_t size, Buffer *out) {
    PatternMatches matches = PATTERN_MATCHES_INIT(step->pattern, patterns, text, size);
    size_t done = 0;
    int r;

    while (!(r = pattern_matches_next(&matches))) {
        buffer_append(out, text + done, matches.start - done);
        buffer_append(out, step->text, step->text_size);
        done = matches.end;
    }
    buffer_append(out, text + done, size - done);
    return r == PATTERN_E_END ? 0 : r;
}

/* U+0130 is the one character whose lower case is two. */
static int lowercase(const char *text, size_t size, Buffer *out) {
    size_t n = 0;

    for (size_t at = 0; at < size; at += utf8_size(text[at])) {
        uint32_t cp = utf8_decode(text + at);
        char lower[4];

        if (!(++n % CHARACTERS_PER_POLL) && account_is_closed(out->account))
            return -ECANCELED;
        if (cp == 0x130)
            buffer_append_text(out, "i\xcc\x87");
        else
            buffer_append(out, lower, utf8_encode((uint32_t)utf8proc_tolower((int32_t)cp), lower));
    }
    return 0;
}

static int step_run(const NormalizeStep *step, PatternScratch *patterns, const char *text,
                    size_t size, Buffer *out) {
    switch (step->kind) {
    case NORMALIZE_UNICODE:
        return unicode_normalize(step->form, text, size, out);
    case NORMALIZE_PREPEND:
        if (size)
            buffer_append(out, step->text, step->text_size);
        buffer_append(out, text, size);
        return 0;
    case NORMALIZE_REPLACE:
        return replace(step, patterns, text, size, out);
    case NORMALIZE_LOWERCASE:
        return lowercase(text, size, out);
    }
    return -EINVAL;
}

int normalizer_run(const Normalizer *normalizer, NormalizerScratch *scratch,
                   PatternScratch *patterns, const char **textp, size_t *sizep) {
    Buffer *out = &scratch->a;

    for (size_t i = 0; i < normalizer->n_steps; i++) {
        int r;

        buffer_clear(out);
        buffer_reserve(out, *sizep);
        r = step_run(&normalizer->steps[i], patterns, *textp, *sizep, out);
        if (r || buffer_failed(out))
            return r ? r : -ENOMEM;
        *textp = buffer_text(out);
        *sizep = out->size;
        out = out == &scratch->a ? &scratch->b : &scratch->a;
    }
    return 0;
}
