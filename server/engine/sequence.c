/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a token means, in this order: an EOS id, a stop token, a stop string that its text
 * completes, the length. Tokens that end a sequence are part of its output but their text is not,
 * unless include_stop_text asks for it.
 *
 * The event of a step is filled in place. The last one was made with the request, so that a
 * sequence can end, and say so, without memory.
 */

#include "server/engine/sequence.h"

#include "util/integer.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_TOKENS_MIN 32 /* room made for at first */
#define NO_NEXT_TOKEN "no token of the model can go on within the grammar from here"
#define TEXT_STATE_BYTES 1024 /* about what a text stream and a stop matcher take */

/* life */

/* The ids that end this request, which is what min_tokens bans. */
static int list_banned(Sequence *s) {
    const EngineRequest *request = s->request;
    uint32_t n_eos = request->ignore_eos ? 0 : s->n_eos;

    if (!request->min_tokens || n_eos + request->n_stop_tokens == 0)
        return 0;
    s->banned = calloc((size_t)n_eos + request->n_stop_tokens, sizeof(*s->banned));
    if (!s->banned)
        return -ENOMEM;
    for (uint32_t i = 0; i < n_eos; i++)
        s->banned[s->n_banned++] = s->eos[i];
    for (uint32_t i = 0; i < request->n_stop_tokens; i++)
        s->banned[s->n_banned++] = request->stop_tokens[i];
    return 0;
}

static int make_prompt_logprobs(Sequence *s) {
    EngineRequest *request = s->request;

    if (engine_request_charge(request, request->n_prompt * sizeof(*s->prompt_logprobs)))
        return -ENOMEM;
    s->prompt_logprobs = calloc(request->n_prompt, sizeof(*s->prompt_logprobs));
    if (!s->prompt_logprobs)
        return -ENOMEM;
    s->prompt_logprobs[0] = (TokenLogprob){ .token = request->prompt[0], .logprob = NAN };
    s->n_scored = 1;
    return 0;
}

/* What finds the text of tokens, and the end of it. */
static int make_text_state(Sequence *s) {
    int r = text_stream_new(&s->stream, s->tokenizer, s->request->skip_special_tokens);

    if (!r) {
        text_stream_keep(s->stream, s->request->kept_tokens, s->request->n_kept_tokens);
        r = stop_matcher_init(&s->stops, s->request->stops);
    }
    return r ? r : list_banned(s);
}

int sequence_start(Sequence *s) {
    size_t n_pages_max = sequence_n_max(s->request) / KV_PAGE_TOKENS + 1;

    if (s->pages)
        return 0;
    if (engine_request_charge(s->request, TEXT_STATE_BYTES + n_pages_max * sizeof(*s->pages)))
        return -ENOMEM;
    if (make_text_state(s) || (s->request->n_prompt_logprobs >= 0 && make_prompt_logprobs(s)))
        return -ENOMEM;
    s->pages = calloc(n_pages_max, sizeof(*s->pages));
    return s->pages ? 0 : -ENOMEM;
}

static int add_output(Sequence *s, uint32_t token) {
    uint32_t n_max = s->n_output_max ? s->n_output_max : OUTPUT_TOKENS_MIN;
    uint32_t *output = s->output;

    if (s->n_output == s->n_output_max) {
        if (s->n_output_max)
            n_max = s->request->max_tokens / 2 > n_max ? 2 * n_max : s->request->max_tokens;
        if (engine_request_charge(s->request, (n_max - s->n_output_max) * sizeof(*output)))
            return -ENOMEM;
        output = realloc(output, n_max * sizeof(*output));
        if (!output)
            return -ENOMEM;
        s->output = output;
        s->n_output_max = n_max;
    }
    output[s->n_output++] = token;
    return 0;
}

_Static_assert(sizeof(EngineRequest) + sizeof(EngineEvent) + sizeof(Sequence) <
                   ENGINE_REQUEST_BYTES,
               "a request, its last event, its sequence, and what the allocator adds");

int sequence_new(Sequence **outp, EngineRequest *request, const Tokenizer *tokenizer,
                 const uint32_t *eos, uint32_t n_eos) {
    Sequence *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    list_init(&s->link);
    s->tokenizer = tokenizer;
    s->eos = eos;
    s->n_eos = n_eos;
    s->request = request;
    s->mask = TAKE(request->mask);
    *outp = s;
    return 0;
}

Sequence *sequence_free(Sequence *s) {
    if (!s)
        return NULL;
    assert(!s->request && !s->n_pages && !s->has_slot);
    mask_work_free(s->mask);
    text_stream_free(s->stream);
    stop_matcher_deinit(&s->stops);
    free(s->banned);
    free(s->output);
    free(s->pages);
    free(s->prompt_logprobs);
    engine_event_free(s->event);
    free(s);
    return NULL;
}

/* tokens and pages */

uint32_t sequence_n_known(const Sequence *s) {
    return s->request->n_prompt + s->n_drawn;
}

uint32_t sequence_token(const Sequence *s, uint32_t i) {
    const EngineRequest *request = s->request;

    assert(i < request->n_prompt + s->n_output);
    return i < request->n_prompt ? request->prompt[i] : s->output[i - request->n_prompt];
}

/* The last token of the output is never fed back. */
uint32_t sequence_n_max(const EngineRequest *request) {
    uint32_t n_max;

    if (__builtin_add_overflow(request->n_prompt, request->max_tokens ? request->max_tokens - 1 : 0,
                               &n_max))
        return UINT32_MAX;
    return n_max;
}

/* Whether its next token cannot be drawn, since what may come is not known: the one before is in
 * flight, or its mask is being made. */
static bool waits_for_mask(const Sequence *s) {
    return s->mask && (s->mask_waits || s->n_drawn != s->n_output);
}

/* One whose last token is drawn, or in flight, has no more rows; nor has one that waits for its
 * mask, for now. */
SchedulerSequence sequence_view(const Sequence *s) {
    uint32_t n_max = sequence_n_max(s->request);
    uint32_t n_known = waits_for_mask(s) ? s->n_computed : sequence_n_known(s);

    return (SchedulerSequence){ .n_known = min_u32(n_known, n_max),
                                .n_computed = s->n_computed,
                                .n_max = n_max,
                                .n_pages = s->n_pages };
}

void sequence_take(Sequence *s, PagePool *pool, uint32_t n_pages) {
    int r = s->has_slot ? 0 : page_pool_take_tail(pool, &s->slot);

    assert(!r);
    s->has_slot = true;
    r = page_pool_take(pool, n_pages, s->pages + s->n_pages);
    assert(!r);
    s->n_pages += n_pages;
}

void sequence_release(Sequence *s, PagePool *pool) {
    page_pool_release(pool, s->pages, s->n_pages);
    if (s->has_slot)
        page_pool_release_tail(pool, s->slot);
    s->has_slot = false;
    s->n_pages = s->n_computed = s->n_collected = 0;
}

/* rows */

bool sequence_wants_score(const Sequence *s, uint32_t i) {
    return s->prompt_logprobs && i + 1 < s->request->n_prompt && i + 1 >= s->n_scored;
}

bool sequence_wants_token(const Sequence *s, uint32_t i) {
    return s->n_drawn < s->request->max_tokens && i + 1 == sequence_n_known(s);
}

StepLogits sequence_score_row(const Sequence *s, uint32_t row, uint32_t i) {
    return (StepLogits){ .row = row,
                         .slot = s->slot,
                         .target = s->request->prompt[i + 1],
                         .n_top_logprobs = s->request->n_prompt_logprobs };
}

StepLogits sequence_draw_row(Sequence *s, uint32_t row) {
    s->n_drawn++;
    return (StepLogits){ .row = row,
                         .slot = s->slot,
                         .target = STEP_DRAW,
                         .n_top_logprobs = s->request->n_top_logprobs };
}

uint32_t sequence_token_source(const Sequence *s, uint32_t i) {
    return s->n_drawn && i + 1 == sequence_n_known(s) ? STEP_TOKEN_DRAWN | s->slot
                                                      : sequence_token(s, i);
}

SlotState sequence_slot_state(const Sequence *s) {
    const EngineRequest *request = s->request;

    assert(s->n_drawn == s->n_output);
    return (SlotState){ .params = &request->params,
                        .prompt = request->prompt,
                        .output = s->output,
                        .banned = s->banned,
                        .n_prompt = request->n_prompt,
                        .n_output = s->n_output,
                        .n_banned = s->n_banned,
                        .min_output = request->min_tokens };
}

static TokenLogprob logprob_of(const SampleResult *result) {
    TokenLogprob logprob = { .token = result->token,
                             .logprob = result->logprob,
                             .n_top = result->n_top };

    memcpy(logprob.top_tokens, result->top_tokens, result->n_top * sizeof(uint32_t));
    memcpy(logprob.top_logprobs, result->top_logprobs, result->n_top * sizeof(float));
    return logprob;
}

void sequence_scored(Sequence *s, uint32_t i, const SampleResult *result) {
    s->prompt_logprobs[i + 1] = logprob_of(result);
    s->n_scored = i + 2;
}

/* the meaning of a token */

static bool is_one_of(uint32_t token, const uint32_t *tokens, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

/* The text a token makes certain, and the stop string it completes. An id the tokenizer does not
 * know (models pad their vocabularies) has no text. */
static int take_text(Sequence *s, uint32_t token, EngineEvent *event) {
    const EngineRequest *request = s->request;
    CLEANUP(buffer_deinit) Buffer piece = BUFFER_NULL;
    uint32_t found;
    int r;

    r = text_stream_push(s->stream, token, &piece);
    if (r && r != -ERANGE)
        return r;
    found = stop_matcher_push(&s->stops, buffer_text(&piece), piece.size,
                              s->n_output >= request->min_tokens, request->include_stop_text,
                              &event->text);
    if (found != STOP_NONE) {
        event->stop_text = request->stops->stops[found].text;
        s->finish = FINISH_STOP;
    }
    return buffer_failed(&piece) || stop_matcher_failed(&s->stops) ? -ENOMEM : 0;
}

static void decide(Sequence *s, uint32_t token, EngineEvent *event) {
    const EngineRequest *request = s->request;
    /* Within a grammar it comes against ignore_eos where nothing else can. */
    bool is_eos = (!request->ignore_eos || s->mask) && is_one_of(token, s->eos, s->n_eos);
    bool is_stop = is_one_of(token, request->stop_tokens, request->n_stop_tokens);

    event->stop_token = TOKEN_NONE;
    if (is_eos || is_stop) { /* not drawn before min_tokens: banned */
        s->finish = FINISH_STOP;
        event->stop_token = is_eos ? TOKEN_NONE : token;
    }
    if ((s->finish == FINISH_NONE || request->include_stop_text) && take_text(s, token, event))
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
    if (s->finish == FINISH_NONE && s->n_output == request->max_tokens)
        s->finish = FINISH_LENGTH;
}

/* Room in an event for so many tokens. */
static int reserve_tokens(EngineEvent *event, uint32_t n) {
    event->tokens = malloc(n * sizeof(*event->tokens));
    return event->tokens ? 0 : -ENOMEM;
}

static int add_token(Sequence *s, const SampleResult *result, EngineEvent *event) {
    if (reserve_tokens(event, 1))
        return -ENOMEM;
    event->tokens[0] = result->token;
    event->n_tokens = 1;
    if (s->request->n_top_logprobs < 0)
        return 0;
    event->logprobs = malloc(sizeof(*event->logprobs));
    if (!event->logprobs)
        return -ENOMEM;
    event->logprobs[0] = logprob_of(result);
    return 0;
}

static void describe(const Sequence *s, EngineEvent *event, uint64_t now_ns) {
    event->n_output = s->n_output;
    event->admitted_ns = s->admitted_ns;
    event->first_token_ns = s->first_token_ns;
    event->event_ns = now_ns;
    event->n_cached = s->n_cached;
}

/* Prompt logprobs go with the first event after the prompt is complete. */
static void attach_prompt_logprobs(Sequence *s, EngineEvent *event) {
    if (!s->prompt_logprobs || s->n_scored < s->request->n_prompt)
        return;
    event->prompt_logprobs = TAKE(s->prompt_logprobs);
    event->n_prompt_logprobs = s->request->n_prompt;
}

void sequence_sampled(Sequence *s, const SampleResult *result, uint64_t now_ns,
                      EngineEvent **eventp) {
    EngineEvent *event = calloc(1, sizeof(*event));

    *eventp = NULL;
    if (!event || add_token(s, result, event) || add_output(s, result->token)) {
        engine_event_free(event);
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
        return;
    }
    if (!s->first_token_ns)
        s->first_token_ns = now_ns;
    decide(s, result->token, event);
    if (buffer_failed(&event->text))
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
    attach_prompt_logprobs(s, event);
    describe(s, event, now_ns);
    event->request = s->request;
    if (s->finish == FINISH_NONE)
        *eventp = event;
    else
        s->event = event;
}

/* masks */

/* Forced tokens have no logprobs; and must have their places in the pages that are held. */
static uint32_t forced_max(const Sequence *s) {
    uint32_t n_known = sequence_n_known(s), n_places = s->n_pages * KV_PAGE_TOKENS;

    if (s->request->n_top_logprobs >= 0 || n_places <= n_known)
        return 0;
    return min_u32(min_u32(n_places - n_known, MASK_FORCED_MAX),
                   s->request->max_tokens - s->n_output);
}

void sequence_begin_mask(Sequence *s, MaskPool *pool) {
    assert(!s->mask_waits && s->n_output);
    s->mask->token = s->output[s->n_output - 1];
    s->mask->n_forced_max = forced_max(s);
    s->mask_waits = true;
    mask_pool_begin(pool, s->mask);
}

/* Those before one that ends it, and that one. */
static int add_forced(Sequence *s, EngineEvent *event) {
    if (reserve_tokens(event, s->mask->n_forced))
        return -ENOMEM;
    for (uint32_t i = 0; i < s->mask->n_forced && s->finish == FINISH_NONE; i++) {
        if (add_output(s, s->mask->forced[i]))
            return -ENOMEM;
        s->n_drawn++;
        event->tokens[event->n_tokens++] = s->mask->forced[i];
        decide(s, s->mask->forced[i], event);
    }
    return buffer_failed(&event->text) ? -ENOMEM : 0;
}

static void take_forced(Sequence *s, uint64_t now_ns, EngineEvent **eventp) {
    EngineEvent *event = calloc(1, sizeof(*event));

    if (!event || add_forced(s, event)) {
        engine_event_free(event);
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
        return;
    }
    describe(s, event, now_ns);
    event->request = s->request;
    if (s->finish == FINISH_NONE)
        *eventp = event;
    else
        s->event = event;
}

void sequence_take_mask(Sequence *s, uint64_t now_ns, uint32_t *n_forcedp, EngineEvent **eventp) {
    uint32_t n_before;

    *eventp = NULL;
    *n_forcedp = 0;
    s->mask_waits = false;
    if (s->mask->result == -ENOMEM || s->mask->result == -ECANCELED)
        sequence_finish(s, FINISH_NO_MEMORY, NULL);
    else if (s->mask->result)
        sequence_finish(s, FINISH_ERROR, NO_NEXT_TOKEN);
    if (s->finish != FINISH_NONE || !s->mask->n_forced)
        return;
    n_before = s->n_output;
    take_forced(s, now_ns, eventp);
    *n_forcedp = s->n_output - n_before;
}

void sequence_finish(Sequence *s, FinishReason reason, const char *error) {
    /* An account that is closed refuses because nobody waits any more. */
    if (reason == FINISH_NO_MEMORY && s->request && account_is_closed(s->request->account))
        reason = FINISH_CANCELLED;
    if (s->finish != FINISH_NONE && reason < FINISH_NO_MEMORY)
        return;
    s->finish = reason;
    s->error = error;
}

EngineEvent *sequence_last_event(Sequence *s, uint64_t now_ns) {
    EngineEvent *event = s->event ? TAKE(s->event) : TAKE(s->request->last_event);

    if (s->stream && !event->stop_text) {
        stop_matcher_flush(&s->stops, &event->text);
        text_stream_finish(s->stream, &event->text);
    }
    if (!event->n_tokens)
        event->stop_token = TOKEN_NONE;
    attach_prompt_logprobs(s, event);
    describe(s, event, now_ns);
    event->finish = s->finish;
    event->error = s->error;
    event->request = TAKE(s->request);
    return event;
}
