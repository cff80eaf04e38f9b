/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's life and loop: take mail, apply cancellations, step, tell who ended. It sleeps on
 * its inbox when nothing runs or waits, and only then.
 *
 * The last event of a sequence is sent after its pages are back and the gauges say so, because
 * with it the request is the receiver's, who may look at either.
 */

#include "server/engine/engine_state.h"

#include "model/identity.h"
#include "model/kv_cache.h"
#include "util/clock.h"
#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define CANNOT_FIT "the request needs more tokens than the KV cache or the model can hold"
#define BAD_PROMPT "the prompt is empty or holds a token that the model does not have"

#define LOST "the device that runs the model was lost; the server ends, to be started again"

/* Where max_waiting_tokens is not given: as many as fill the cache this often. */
#define WAITING_CACHES_MAX 16

/* making */

static void find_ends(Engine *e) {
    Reason doubt = REASON_NULL;

    end_of_turn_find(&e->ends, e->options.tokenizer, checkpoint_generation(e->options.checkpoint),
                     &doubt);
    if (!doubt.text[0])
        return;
    log_line(LOG_LEVEL_WARNING, "the end of answers is in doubt", "reason=\"%s\"", doubt.text);
    reason_log_origin(&doubt);
}

static KvShape cache_shape(const Engine *e) {
    return (KvShape){ .geometry = decoder_kv_geometry(checkpoint_config(e->options.checkpoint)),
                      .plan = e->options.plan,
                      .n_pages = e->ledger.n_pages,
                      .n_tails = e->ledger.n_tails,
                      .n_sinks = e->ledger.n_sinks };
}

/* The cache comes last, from what weights and scratch have left: it alone can be smaller. */
static int make_store(Engine *e, Reason *why) {
    const EngineOptions *o = &e->options;
    KvShape shape = cache_shape(e);
    int r;

    r = kv_store_layout(&e->store, &shape);
    if (r)
        return reason_set(why, r, "the KV cache cannot be laid out");
    r = decoder_reserve(e->decoder, o->max_num_seqs, e->n_step_pages_max, why);
    e->options.weights_are_made = true;
    if (!r)
        r = engine_plan(&e->options, &e->ledger, why);
    if (r)
        return r;
    e->ledger.weights_bytes = decoder_weight_bytes(e->decoder);
    e->ledger.workspace_bytes = decoder_workspace_bytes(e->decoder);
    shape = cache_shape(e);
    return kv_cache_open(&e->store, o->ops, o->backend, &shape, o->profile, why);
}

static int make_prefixes(Engine *e, Reason *why) {
    const EngineOptions *o = &e->options;
    int r;

    if (!o->prefix_caching)
        return 0;
    model_identity(o->checkpoint, e->identity);
    if (o->profile)
        e->profile_hash = profile_hash(o->profile);
    r = prefix_index_init(&e->prefixes, e->ledger.n_pages);
    e->page_holders = calloc(e->ledger.n_pages, sizeof(*e->page_holders));
    if (!e->page_holders)
        r = -ENOMEM;
    return r ? reason_set(why, r, "no memory for the index of prefixes") : 0;
}

static int make_cache(Engine *e, Reason *why) {
    const EngineOptions *o = &e->options;
    int r;

    r = make_store(e, why);
    if (r)
        return r;
    r = make_prefixes(e, why);
    if (r)
        return r;
    r = page_pool_init(&e->pool, e->ledger.n_pages, e->ledger.n_tails, e->ledger.n_sinks,
                       o->prefix_caching ? &e->prefixes : NULL);
    return r ? reason_set(why, r, "no memory for the book of KV pages") : 0;
}

static int make_launches(Engine *e) {
    for (uint32_t i = 0; i < e->options.steps_in_flight; i++) {
        EngineLaunch *launch = &e->launches[i];

        launch->members = calloc(e->options.max_num_seqs, sizeof(*launch->members));
        launch->rows = calloc(e->options.max_batched_tokens, sizeof(*launch->rows));
        if (!launch->members || !launch->rows)
            return -ENOMEM;
    }
    return 0;
}

static int make_step_arrays(Engine *e, Reason *why) {
    size_t n_seqs = e->options.max_num_seqs;

    e->running = calloc(n_seqs, sizeof(*e->running));
    e->view_running = calloc(n_seqs, sizeof(*e->view_running));
    e->view_waiting = calloc(n_seqs, 2 * sizeof(*e->view_waiting));
    e->waiting_in_view = calloc(n_seqs, 2 * sizeof(*e->waiting_in_view));
    e->view_clients = calloc(n_seqs, 2 * sizeof(*e->view_clients));
    e->clients_in_view = calloc(n_seqs, 2 * sizeof(*e->clients_in_view));
    e->view_newcomers = calloc(n_seqs, sizeof(*e->view_newcomers));
    e->items = calloc(n_seqs, 2 * sizeof(*e->items));
    e->admitted = calloc(n_seqs, sizeof(*e->admitted));
    e->by_client = calloc(n_seqs, sizeof(*e->by_client));
    e->step_sequences = calloc(n_seqs, sizeof(*e->step_sequences));
    e->page_indptr = calloc(n_seqs + 1, sizeof(*e->page_indptr));
    e->page_indices = calloc(e->n_step_pages_max, sizeof(*e->page_indices));
    e->tokens = calloc(e->options.max_batched_tokens, sizeof(*e->tokens));
    e->logit_rows = calloc(e->options.max_batched_tokens, sizeof(*e->logit_rows));
    if (!e->running || !e->view_running || !e->view_waiting || !e->waiting_in_view ||
        !e->view_clients || !e->clients_in_view || !e->view_newcomers || !e->items ||
        !e->admitted || !e->by_client || !e->step_sequences || !e->page_indptr ||
        !e->page_indices || !e->tokens || !e->logit_rows || make_launches(e))
        return reason_set(why, -ENOMEM,
                          "no memory for the engine; lower max_num_seqs or max_batched_tokens");
    return 0;
}

static uint32_t logit_rows_max(const EngineOptions *o) {
    uint32_t n = o->max_num_seqs > ENGINE_SCORE_ROWS ? o->max_num_seqs : ENGINE_SCORE_ROWS;

    return n < o->max_batched_tokens ? n : o->max_batched_tokens;
}

int engine_new(Engine **outp, const EngineOptions *options, Reason *why) {
    CLEANUP(engine_free) Engine *e = calloc(1, sizeof(*e));
    DecoderLimits limits;
    int r;

    if (!e)
        return reason_set(why, -ENOMEM, "no memory for the engine");
    e->options = *options;
    list_init(&e->ended);
    list_init(&e->stop_message);
    engine_queue_init(e);
    r = engine_plan(&e->options, &e->ledger, why);
    if (r)
        return r;
    e->n_logit_rows_max = logit_rows_max(&e->options);
    if (__builtin_mul_overflow(e->options.max_num_seqs,
                               e->options.max_model_len / KV_PAGE_TOKENS + 1, &e->n_step_pages_max))
        return reason_set(why, -EOVERFLOW, "max_num_seqs is too large for sequences this long");
    r = mailbox_init(&e->inbox, NULL, NULL);
    if (r)
        return reason_set(why, r, "no memory for the engine's mailbox");
    e->has_inbox = true;
    e->n_vocab = checkpoint_config(options->checkpoint)->n_vocab;
    e->row_cost = row_cost_of_model(checkpoint_config(options->checkpoint));
    find_ends(e);
    limits = (DecoderLimits){ .max_batched_tokens = e->options.max_batched_tokens,
                              .max_logit_rows = e->n_logit_rows_max };
    r = decoder_new(&e->decoder, options->ops, options->backend, options->checkpoint, &limits, why);
    if (!r)
        r = make_cache(e, why);
    if (!r)
        r = make_step_arrays(e, why);
    if (r)
        return r;
    wait_quota_init(&e->quota, e->options.max_waiting_requests,
                    e->options.max_waiting_tokens ? e->options.max_waiting_tokens
                                                  : WAITING_CACHES_MAX * e->ledger.kv_tokens);
    *outp = TAKE(e);
    return 0;
}

static bool has_work(const Engine *e) {
    return e->n_running || e->n_waiting || e->n_in_flight;
}

Engine *engine_free(Engine *e) {
    if (!e)
        return NULL;
    assert(!e->has_thread && !has_work(e) && list_is_empty(&e->ended));
    for (uint32_t i = 0; i < STEPS_IN_FLIGHT_MAX; i++) {
        free(e->launches[i].members);
        free(e->launches[i].rows);
    }
    free(e->logit_rows);
    free(e->tokens);
    free(e->page_indices);
    free(e->page_indptr);
    free(e->step_sequences);
    free(e->by_client);
    free(e->admitted);
    free(e->items);
    free(e->view_newcomers);
    free(e->clients_in_view);
    free(e->view_clients);
    free(e->waiting_in_view);
    free(e->view_waiting);
    free(e->view_running);
    free(e->running);
    page_pool_deinit(&e->pool);
    free(e->page_holders);
    prefix_index_deinit(&e->prefixes);
    kv_cache_close(&e->store, e->options.ops, e->options.backend);
    decoder_free(e->decoder);
    mask_pool_free(e->masks);
    if (e->has_inbox)
        mailbox_deinit(&e->inbox);
    free(e);
    return NULL;
}

/* ending sequences */

static void update_gauges(Engine *e) {
    atomic_store_explicit(&e->stats.n_running, e->n_running, memory_order_relaxed);
    atomic_store_explicit(&e->stats.n_waiting, e->n_waiting, memory_order_relaxed);
    atomic_store_explicit(&e->stats.pages_used, page_pool_used(&e->pool), memory_order_relaxed);
}

/* Takes the ended ones out of those that run, and their pages back. */
static void collect_finished(Engine *e) {
    uint32_t n_left = 0;

    for (uint32_t i = 0; i < e->n_running; i++) {
        Sequence *s = e->running[i];

        if (s->finish == FINISH_NONE) {
            e->running[n_left++] = s;
            continue;
        }
        sequence_release(s, &e->pool);
        engine_queue_end_running(e, s);
        list_push_back(&e->ended, &s->link);
    }
    if (n_left < e->n_running)
        engine_step_forget_finished(e);
    e->n_running = n_left;
}

static void tell_finished(Engine *e) {
    uint64_t now_ns = clock_ns();
    List *link;

    collect_finished(e);
    update_gauges(e);
    while ((link = list_pop_front(&e->ended))) {
        Sequence *s = container_of(link, Sequence, link);
        EngineEvent *event = sequence_last_event(s, now_ns);

        sequence_free(s);
        engine_unreserve_request(e, event->request);
        mailbox_send(e->options.events, &event->link);
    }
}

/* Walks through everything only when something was cancelled since it last did. A request that was
 * cancelled before it arrived has been turned away by receive(). */
static void cancel_marked(Engine *e, bool all) {
    if (!atomic_exchange(&e->n_cancels, 0) && !all)
        return;
    for (uint32_t i = 0; i < e->n_running; i++)
        if (all || atomic_load_explicit(&e->running[i]->request->cancelled, memory_order_relaxed))
            sequence_finish(e->running[i], FINISH_CANCELLED, NULL);
    engine_queue_cancel_waiting(e, all, &e->ended);
}

/* mail */

static const char *find_fault(const Engine *e, const EngineRequest *request) {
    if (!request->n_prompt)
        return BAD_PROMPT;
    for (uint32_t i = 0; i < request->n_prompt; i++)
        if (request->prompt[i] >= e->n_vocab)
            return BAD_PROMPT;
    if (!request->max_tokens && request->n_prompt_logprobs < 0)
        return "max_tokens is 0 and no prompt logprobs are asked for";
    if ((uint64_t)request->n_prompt + request->max_tokens > engine_max_sequence_tokens(e))
        return CANNOT_FIT;
    return NULL;
}

/* The server refuses such requests with better words; one that came through ends here. */
static void reject(Engine *e, EngineRequest *request, FinishReason reason, const char *error) {
    EngineEvent *event = TAKE(request->last_event);

    event->request = request;
    event->stop_token = TOKEN_NONE;
    event->finish = reason;
    event->error = error;
    event->event_ns = clock_ns();
    engine_unreserve_request(e, request);
    mailbox_send(e->options.events, &event->link);
}

static int enqueue(Engine *e, EngineRequest *request) {
    CLEANUP(sequence_free) Sequence *s = NULL;
    int r;

    r = sequence_new(&s, request, e->options.tokenizer, e->ends.ids, e->ends.n_ids);
    if (r)
        return r;
    r = engine_queue_add(e, s);
    if (r) {
        s->request = NULL; /* stays the caller's */
        return r;
    }
    s = NULL; /* the queue's */
    return 0;
}

static void receive(Engine *e, EngineRequest *request) {
    const char *fault = find_fault(e, request);

    if (atomic_load_explicit(&request->cancelled, memory_order_relaxed))
        reject(e, request, FINISH_CANCELLED, NULL);
    else if (atomic_load(&e->lost))
        reject(e, request, FINISH_ERROR, LOST);
    else if (fault)
        reject(e, request, FINISH_ERROR, fault);
    else if (enqueue(e, request))
        reject(e, request, FINISH_NO_MEMORY, NULL);
}

static void take_mail(Engine *e) {
    bool idle = !has_work(e) && atomic_load(&e->stop) == ENGINE_STOP_NOT;
    List mail = LIST_INIT(mail), *link;

    if (idle)
        mailbox_wait(&e->inbox, &mail);
    else
        mailbox_take(&e->inbox, &mail);
    while ((link = list_pop_front(&mail)))
        if (link != &e->stop_message)
            receive(e, container_of(link, EngineRequest, link));
}

/* Nothing that runs or waits can go on. */
static void end_all_lost(Engine *e) {
    log_line(LOG_LEVEL_ERROR, "the device that runs the model was lost", "device=%s",
             e->options.ops->name);
    for (uint32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->finish == FINISH_NONE || e->running[i]->finish == FINISH_ERROR)
            sequence_finish(e->running[i], FINISH_ERROR, LOST);
    engine_queue_fail_waiting(e, LOST, &e->ended);
}

/* What waited in this step tells how long others will. */
static void step(Engine *e) {
    bool waited = e->n_waiting != 0;
    uint64_t begin_ns = waited ? clock_ns() : 0;

    e->n_tokens_begun = 0;
    if (engine_step(e) == -ENODEV) {
        atomic_store(&e->lost, true);
        end_all_lost(e);
    }
    if (waited)
        wait_quota_observe(&e->quota, e->n_tokens_begun, (double)(clock_ns() - begin_ns) * 1e-9);
}

static void *engine_main(void *arg) {
    Engine *e = arg;

    for (;;) {
        take_mail(e);
        cancel_marked(e, atomic_load(&e->stop) == ENGINE_STOP_CANCEL);
        tell_finished(e);
        if (has_work(e)) {
            step(e);
            tell_finished(e);
        } else if (atomic_load(&e->stop) != ENGINE_STOP_NOT) {
            return NULL;
        }
    }
}

/* the other threads' side */

int engine_start(Engine *e) {
    int r;

    assert(!e->has_thread);
    r = pthread_create(&e->thread, NULL, engine_main, e);
    if (r)
        return -r;
    e->has_thread = true;
    pthread_setname_np(e->thread, "engine");
    return 0;
}

void engine_stop(Engine *e, bool drain) {
    List mail = LIST_INIT(mail), *link;

    if (e->has_thread) {
        atomic_store(&e->stop, drain ? ENGINE_STOP_DRAIN : ENGINE_STOP_CANCEL);
        mailbox_send(&e->inbox, &e->stop_message);
        pthread_join(e->thread, NULL);
        e->has_thread = false;
    }
    /* What came too late, or was never looked at because the engine did not start. */
    mailbox_take(&e->inbox, &mail);
    while ((link = list_pop_front(&mail)))
        if (link != &e->stop_message)
            reject(e, container_of(link, EngineRequest, link), FINISH_CANCELLED, NULL);
}

Hash128 engine_salt(const Engine *e, const char *salt, size_t size) {
    return e->options.prefix_caching ? prefix_index_salt(&e->prefixes, salt, size)
                                     : (Hash128){ .low = 0 };
}

void engine_submit(Engine *e, EngineRequest *request) {
    mailbox_send(&e->inbox, &request->link);
}

/* Whoever sees the count sees the mark. */
void engine_cancel(Engine *e, EngineRequest *request) {
    atomic_store_explicit(&request->cancelled, true, memory_order_relaxed);
    atomic_fetch_add(&e->n_cancels, 1);
}

/* what may wait */

int engine_reserve(Engine *e, uint32_t n_sequences, uint64_t n_tokens, EngineWait *wait) {
    WaitQuota *q = &e->quota;
    int r = wait_quota_reserve(q, n_sequences, n_tokens);
    bool of_tokens = r == WAIT_QUOTA_E_TOKENS || r == WAIT_QUOTA_E_TOKENS_NEVER;

    if (!r)
        return 0;
    *wait = (EngineWait){ .limit_name = of_tokens ? "max_waiting_tokens" : "max_waiting_requests",
                          .limit = of_tokens ? q->n_tokens_max : q->n_sequences_max,
                          .used = of_tokens ? q->n_tokens : q->n_sequences,
                          .asked = of_tokens ? n_tokens : n_sequences,
                          .wait_s = wait_quota_estimate_s(q) };
    if (r == WAIT_QUOTA_E_TOKENS_NEVER || r == WAIT_QUOTA_E_SEQUENCES_NEVER)
        return ENGINE_E_NEVER;
    return of_tokens ? ENGINE_E_TOKENS : ENGINE_E_REQUESTS;
}

void engine_unreserve(Engine *e, uint32_t n_sequences, uint64_t n_tokens) {
    wait_quota_give_back(&e->quota, n_sequences, n_tokens);
}

void engine_unreserve_request(Engine *e, EngineRequest *request) {
    if (!request->reserved)
        return;
    request->reserved = false;
    wait_quota_give_back(&e->quota, 1, request->n_prompt);
}

double engine_wait_estimate_s(const Engine *e) {
    return wait_quota_estimate_s(&e->quota);
}

bool engine_is_lost(const Engine *e) {
    return atomic_load(&e->lost);
}

const Ledger *engine_ledger(const Engine *e) {
    return &e->ledger;
}

EngineStats *engine_stats(Engine *e) {
    return &e->stats;
}

const EndOfTurn *engine_ends(const Engine *e) {
    return &e->ends;
}

uint32_t engine_max_model_len(const Engine *e) {
    return e->options.max_model_len;
}

uint32_t engine_n_layers(const Engine *e) {
    return e->store.geometry.n_layers;
}

uint32_t engine_max_sequence_tokens(const Engine *e) {
    return e->ledger.kv_tokens < e->options.max_model_len ? (uint32_t)e->ledger.kv_tokens
                                                          : e->options.max_model_len;
}

uint64_t engine_prefix_tokens(const Engine *e, uint64_t n_prompt) {
    return e->options.prefix_caching ? n_prompt / KV_PAGE_TOKENS * KV_PAGE_TOKENS : 0;
}
