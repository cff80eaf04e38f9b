/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: a queue of calls, each with a copy of its arguments and of all that they point to, and a
 * list of deliveries. Three threads meet: the caller's, the worker, which alone calls the inner
 * backend while calls are queued, and the messenger, which delivers.
 */
#include "tests/unit/async_backend.h"

#include "util/clock.h"
#include "util/list.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* No address of a program on x86-64 or aarch64 has this bit. */
#define DISGUISE (UINT64_C(1) << 63)
#define MATMUL_PARTS_MAX 8
#define GONE 0xa5

typedef int (*CallFn)(Backend *backend, void *args);

/* What is to be done. */
typedef struct Call {
    List link;
    CallFn run;
    bool of_step;  /* skipped once a call of its step has failed */
    void *lent[6]; /* owned; what the arguments point to */
    size_t lent_bytes[6];
    uint32_t n_lent;
    size_t args_bytes;
    _Alignas(16) unsigned char args[];
} Call;

/* The results of a step that has ended. */
typedef struct Delivery {
    List link;
    SampleResult *results; /* [n_results], owned */
    uint32_t n_results, turn;
    int error;
} Delivery;

struct Backend {
    AsyncBackendOptions options;
    const BackendOps *inner;
    pthread_t worker, messenger;
    bool has_worker, has_messenger;

    pthread_mutex_t lock;               /* of all below, down to the worker's own */
    pthread_cond_t called, ended, news; /* for the worker, the messenger, the caller */
    List calls, deliveries;
    uint64_t n_calls, n_done;
    uint64_t random, idle_ns;
    Delivery *delivered[STEPS_IN_FLIGHT_MAX]; /* owned; by turn */
    bool stopping;
    bool lost;

    /* the caller's thread */
    uint32_t n_waited, n_vocab;
    Delivery *shown; /* owned: its results are the caller's for now */

    /* the worker's */
    int step_error;
    uint32_t n_logit_rows, n_ended;
};

/* chance */

static uint64_t draw(Backend *b) {
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random >> 11;
}

/* Once in `rarity` times, for up to us_max. Holds the lock but while it sleeps. */
static void linger(Backend *b, uint32_t rarity, uint32_t us_max) {
    uint64_t us;

    if (!b->options.lingers || draw(b) % rarity)
        return;
    us = draw(b) % us_max;
    pthread_mutex_unlock(&b->lock);
    usleep((useconds_t)us);
    pthread_mutex_lock(&b->lock);
}

/* addresses */

static DevAddr disguised(DevAddr address) {
    assert(!(address & DISGUISE));
    return address | DISGUISE;
}

static DevAddr real(DevAddr address) {
    assert(!address || address & DISGUISE);
    return address & ~DISGUISE;
}

static void reveal(DevAddr *address) {
    *address = real(*address);
}

static void reveal_layer(KvLayer *layer) {
    for (int side = 0; side < KV_SIDES; side++) {
        reveal(&layer->sides[side].pages);
        reveal(&layer->sides[side].tails);
        reveal(&layer->sides[side].sinks);
    }
    reveal(&layer->roundings);
    reveal(&layer->transforms);
}

/* calls */

static Call *call_new(CallFn run, const void *args, size_t args_bytes) {
    Call *call = calloc(1, sizeof(*call) + args_bytes);

    assert(call);
    call->run = run;
    call->args_bytes = args_bytes;
    if (args_bytes)
        memcpy(call->args, args, args_bytes);
    return call;
}

static Call *step_call_new(CallFn run, const void *args, size_t args_bytes) {
    Call *call = call_new(run, args, args_bytes);

    call->of_step = true;
    return call;
}

/* A copy that lives as long as the call. */
static void *lend(Call *call, const void *from, size_t n, size_t each_bytes) {
    void *copy = malloc(n * each_bytes + 1);

    assert(copy && call->n_lent < sizeof(call->lent) / sizeof(*call->lent));
    if (n)
        memcpy(copy, from, n * each_bytes);
    call->lent_bytes[call->n_lent] = n * each_bytes;
    call->lent[call->n_lent++] = copy;
    return copy;
}

static void spoil(void *memory, size_t size_bytes) {
    memset(memory, GONE, size_bytes);
    __asm__ volatile("" ::"r"(memory) : "memory"); /* a store before free() is a store */
}

static void call_free(Call *call) {
    for (uint32_t i = 0; i < call->n_lent; i++) {
        spoil(call->lent[i], call->lent_bytes[i]);
        free(call->lent[i]);
    }
    spoil(call->args, call->args_bytes);
    free(call);
}

static int put(Backend *b, Call *call) {
    int r;

    pthread_mutex_lock(&b->lock);
    r = b->lost ? -ENODEV : 0;
    if (list_is_empty(&b->calls))
        pthread_cond_signal(&b->called);
    list_push_back(&b->calls, &call->link);
    b->n_calls++;
    pthread_mutex_unlock(&b->lock);
    return r;
}

static int put_step(Backend *b, CallFn run, const void *args, size_t args_bytes) {
    return put(b, step_call_new(run, args, args_bytes));
}

static int wait_done(Backend *b) {
    int r;

    pthread_mutex_lock(&b->lock);
    while (b->n_done < b->n_calls)
        pthread_cond_wait(&b->news, &b->lock);
    r = b->lost ? -ENODEV : 0;
    pthread_mutex_unlock(&b->lock);
    return r;
}

/* results */

static Delivery *delivery_free(Delivery *delivery) {
    if (!delivery)
        return NULL;
    spoil(delivery->results, delivery->n_results * sizeof(*delivery->results));
    free(delivery->results);
    free(delivery);
    return NULL;
}

/* The worker's: of the step at hand, or what became of it. */
static void send_results(Backend *b) {
    Delivery *delivery = calloc(1, sizeof(*delivery));
    const SampleResult *results = NULL;
    int r = b->step_error;

    assert(delivery);
    if (!r)
        r = b->inner->step_end(b->options.backend);
    if (!r)
        r = b->inner->step_wait(b->options.backend, &results);
    delivery->turn = b->n_ended++;
    delivery->error = r;
    delivery->n_results = b->n_logit_rows;
    delivery->results = calloc(b->n_logit_rows + 1, sizeof(*delivery->results));
    assert(delivery->results);
    if (!r)
        memcpy(delivery->results, results, b->n_logit_rows * sizeof(*results));
    pthread_mutex_lock(&b->lock);
    list_push_back(&b->deliveries, &delivery->link);
    pthread_cond_signal(&b->ended);
    pthread_mutex_unlock(&b->lock);
}

/* One of those that wait, the newer as often as the older. Holds the lock. */
static void deliver_one(Backend *b) {
    List *link;

    linger(b, 2, 400);
    link = list_pop_front(&b->deliveries);
    if (!list_is_empty(&b->deliveries) && draw(b) % 2) {
        List *newer = list_pop_front(&b->deliveries);

        list_push_front(&b->deliveries, link);
        link = newer;
    }
    b->delivered[container_of(link, Delivery, link)->turn % STEPS_IN_FLIGHT_MAX] =
        container_of(link, Delivery, link);
    pthread_cond_signal(&b->news);
}

static void *messenger_main(void *arg) {
    Backend *b = arg;

    pthread_mutex_lock(&b->lock);
    for (;;) {
        while (list_is_empty(&b->deliveries) && !b->stopping)
            pthread_cond_wait(&b->ended, &b->lock);
        if (list_is_empty(&b->deliveries))
            break;
        deliver_one(b);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* the worker */

static int run_call(Backend *b, Call *call) {
    int r;

    if (call->of_step && b->step_error)
        return 0;
    r = call->run(b, call->args);
    if (r && call->of_step)
        b->step_error = r;
    return r;
}

static void *worker_main(void *arg) {
    Backend *b = arg;

    pthread_mutex_lock(&b->lock);
    for (;;) {
        uint64_t idle_from_ns = clock_ns();
        Call *call;
        int r;

        while (list_is_empty(&b->calls) && !b->stopping)
            pthread_cond_wait(&b->called, &b->lock);
        if (list_is_empty(&b->calls))
            break;
        b->idle_ns += clock_ns() - idle_from_ns;
        linger(b, 32, 200);
        call = container_of(list_pop_front(&b->calls), Call, link);
        pthread_mutex_unlock(&b->lock);
        r = run_call(b, call);
        call_free(call);
        pthread_mutex_lock(&b->lock);
        b->lost = b->lost || r == -ENODEV;
        b->n_done++;
        if (b->n_done == b->n_calls)
            pthread_cond_signal(&b->news);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* memory */

static int async_memory_new(Backend *b, DevAddr *outp, size_t size_bytes, const char *purpose,
                            Reason *why) {
    DevAddr address;
    int r;

    wait_done(b);
    r = b->inner->memory_new(b->options.backend, &address, size_bytes, purpose, why);
    if (!r)
        *outp = disguised(address);
    return r;
}

static void async_memory_free(Backend *b, DevAddr address) {
    wait_done(b);
    b->inner->memory_free(b->options.backend, real(address));
}

static int async_memory_info(Backend *b, MemoryInfo *info) {
    wait_done(b);
    return b->inner->memory_info(b->options.backend, info);
}

typedef struct Transfer {
    DevAddr device;
    void *host;
    size_t size_bytes;
} Transfer;

static int run_upload(Backend *b, void *arg) {
    const Transfer *t = arg;

    return b->inner->upload(b->options.backend, real(t->device), t->host, t->size_bytes);
}

static int async_upload(Backend *b, DevAddr to, const void *from, size_t size_bytes) {
    Call *call = call_new(run_upload, &(Transfer){ .device = to, .size_bytes = size_bytes },
                          sizeof(Transfer));

    ((Transfer *)(void *)call->args)->host = lend(call, from, 1, size_bytes);
    return put(b, call);
}

static int async_download(Backend *b, void *to, DevAddr from, size_t size_bytes) {
    int r = wait_done(b);

    return r ? r : b->inner->download(b->options.backend, to, real(from), size_bytes);
}

static int async_weights_new(Backend *b, Weight *outs[], const WeightSource *sources,
                             uint32_t n_sources, Reason *why) {
    wait_done(b);
    return b->inner->weights_new(b->options.backend, outs, sources, n_sources, why);
}

static Weight *async_weight_free(Backend *b, Weight *weight) {
    wait_done(b);
    return b->inner->weight_free(b->options.backend, weight);
}

/* slots and steps */

typedef struct SlotCall {
    uint32_t slot;
    SlotState state;
    SampleParams params;
} SlotCall;

static int run_slot_set(Backend *b, void *arg) {
    SlotCall *s = arg;

    s->state.params = &s->params;
    return b->inner->slot_set(b->options.backend, s->slot, &s->state);
}

static int async_slot_set(Backend *b, uint32_t slot, const SlotState *state) {
    SlotCall args = { .slot = slot, .state = *state, .params = *state->params };
    Call *call = call_new(run_slot_set, &args, sizeof(args));
    SlotCall *s = (SlotCall *)(void *)call->args;

    s->params.logit_bias = lend(call, args.params.logit_bias, args.params.n_logit_bias,
                                sizeof(*args.params.logit_bias));
    s->state.prompt = lend(call, state->prompt, state->n_prompt, sizeof(*state->prompt));
    s->state.output = lend(call, state->output, state->n_output, sizeof(*state->output));
    s->state.banned = lend(call, state->banned, state->n_banned, sizeof(*state->banned));
    return put(b, call);
}

typedef struct MaskCall {
    uint32_t slot;
    uint32_t *mask;
} MaskCall;

static int run_slot_mask(Backend *b, void *arg) {
    const MaskCall *m = arg;

    return b->inner->slot_mask(b->options.backend, m->slot, m->mask);
}

static int async_slot_mask(Backend *b, uint32_t slot, const uint32_t *mask) {
    MaskCall args = { .slot = slot };
    Call *call = call_new(run_slot_mask, &args, sizeof(args));

    if (mask)
        ((MaskCall *)(void *)call->args)->mask =
            lend(call, mask, (b->n_vocab + 31) / 32, sizeof(*mask));
    return put(b, call);
}

static int run_step_begin(Backend *b, void *arg) {
    const StepInput *input = arg;

    b->n_logit_rows = input->n_logit_rows;
    b->step_error = b->inner->step_begin(b->options.backend, input);
    return b->step_error;
}

static int async_step_begin(Backend *b, const StepInput *input) {
    Call *call = call_new(run_step_begin, input, sizeof(*input));
    StepInput *lent = (StepInput *)(void *)call->args;

    b->shown = delivery_free(b->shown);
    lent->tokens = lend(call, input->tokens, input->n_rows, sizeof(*input->tokens));
    lent->sequences = lend(call, input->sequences, input->n_sequences, sizeof(*input->sequences));
    lent->page_indptr =
        lend(call, input->page_indptr, input->n_sequences + 1, sizeof(*input->page_indptr));
    lent->page_indices = lend(call, input->page_indices, input->page_indptr[input->n_sequences],
                              sizeof(*input->page_indices));
    lent->logit_rows =
        lend(call, input->logit_rows, input->n_logit_rows, sizeof(*input->logit_rows));
    return put(b, call);
}

static int run_step_end(Backend *b, void *arg) {
    (void)arg;
    send_results(b);
    return b->step_error;
}

static int async_step_end(Backend *b) {
    return put(b, call_new(run_step_end, NULL, 0));
}

static int async_step_wait(Backend *b, const SampleResult **resultsp) {
    Delivery **place = &b->delivered[b->n_waited++ % STEPS_IN_FLIGHT_MAX];

    b->shown = delivery_free(b->shown);
    pthread_mutex_lock(&b->lock);
    while (!*place)
        pthread_cond_wait(&b->news, &b->lock);
    b->shown = *place;
    *place = NULL;
    pthread_mutex_unlock(&b->lock);
    *resultsp = b->shown->results;
    return b->shown->error;
}

/* Steps that nobody waited for are forgotten. */
static int async_reserve(Backend *b, const ReserveArgs *args, size_t *bytesp, Reason *why) {
    const SampleResult *results;

    wait_done(b);
    while (b->n_waited != b->n_ended)
        async_step_wait(b, &results);
    b->n_vocab = args->n_vocab;
    return b->inner->reserve(b->options.backend, args, bytesp, why);
}

static int async_sync(Backend *b) {
    return wait_done(b);
}

/* ops */

#define ASYNC_OP(_op, _Args, ...)                           \
    static int run_##_op(Backend *b, void *arg) {           \
        _Args *args = arg;                                  \
                                                            \
        __VA_ARGS__                                         \
        return b->inner->_op(b->options.backend, args);     \
    }                                                       \
                                                            \
    static int async_##_op(Backend *b, const _Args *args) { \
        return put_step(b, run_##_op, args, sizeof(*args)); \
    }

ASYNC_OP(embed, EmbedArgs, reveal(&args->out);)
ASYNC_OP(rmsnorm, RmsnormArgs, reveal(&args->out); reveal(&args->in); reveal(&args->weight);)
ASYNC_OP(rope_table, RopeTableArgs, reveal(&args->out); reveal(&args->inv_freq);)
ASYNC_OP(gated, GatedArgs, reveal(&args->out); reveal(&args->gate); reveal(&args->up);)
ASYNC_OP(moments, MomentsArgs, reveal(&args->out); reveal(&args->q);)
ASYNC_OP(covariances, CovariancesArgs, reveal(&args->out); reveal(&args->k);)
ASYNC_OP(gather_rows, GatherRowsArgs, reveal(&args->out); reveal(&args->in);)
ASYNC_OP(sample, SampleArgs, reveal(&args->logits);)

typedef struct MatmulCall {
    MatmulArgs args;
    MatmulPart parts[MATMUL_PARTS_MAX];
} MatmulCall;

static int run_matmul(Backend *b, void *arg) {
    MatmulCall *m = arg;

    reveal(&m->args.in);
    for (uint32_t i = 0; i < m->args.n_parts; i++) {
        reveal(&m->parts[i].bias);
        reveal(&m->parts[i].out);
    }
    m->args.parts = m->parts;
    return b->inner->matmul(b->options.backend, &m->args);
}

static int async_matmul(Backend *b, const MatmulArgs *args) {
    MatmulCall m = { .args = *args };

    assert(args->n_parts <= MATMUL_PARTS_MAX);
    memcpy(m.parts, args->parts, args->n_parts * sizeof(*m.parts));
    return put_step(b, run_matmul, &m, sizeof(m));
}

typedef struct RopeCall {
    RopeArgs args;
    KvLayer layer;
} RopeCall;

static int run_rope(Backend *b, void *arg) {
    RopeCall *c = arg;

    reveal(&c->args.q);
    reveal(&c->args.k);
    reveal(&c->args.v);
    reveal(&c->args.k_out);
    reveal(&c->args.v_out);
    reveal(&c->args.table);
    reveal_layer(&c->layer);
    c->args.layer = &c->layer;
    return b->inner->rope(b->options.backend, &c->args);
}

static int async_rope(Backend *b, const RopeArgs *args) {
    return put_step(b, run_rope, &(RopeCall){ .args = *args, .layer = *args->layer },
                    sizeof(RopeCall));
}

typedef struct AttentionCall {
    AttentionArgs args;
    KvLayer layer;
} AttentionCall;

static int run_attention(Backend *b, void *arg) {
    AttentionCall *c = arg;

    reveal(&c->args.out);
    reveal(&c->args.q);
    reveal(&c->args.k);
    reveal(&c->args.v);
    reveal_layer(&c->layer);
    c->args.layer = &c->layer;
    return b->inner->attention(b->options.backend, &c->args);
}

static int async_attention(Backend *b, const AttentionArgs *args) {
    return put_step(b, run_attention, &(AttentionCall){ .args = *args, .layer = *args->layer },
                    sizeof(AttentionCall));
}

/* life */

static Backend *async_free(Backend *b) {
    List *link;

    if (!b)
        return NULL;
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_cond_signal(&b->called);
    pthread_cond_signal(&b->ended);
    pthread_mutex_unlock(&b->lock);
    if (b->has_worker)
        pthread_join(b->worker, NULL);
    if (b->has_messenger)
        pthread_join(b->messenger, NULL);
    while ((link = list_pop_front(&b->deliveries)))
        delivery_free(container_of(link, Delivery, link));
    for (uint32_t i = 0; i < STEPS_IN_FLIGHT_MAX; i++)
        delivery_free(b->delivered[i]);
    delivery_free(b->shown);
    b->inner->free(b->options.backend);
    pthread_cond_destroy(&b->called);
    pthread_cond_destroy(&b->ended);
    pthread_cond_destroy(&b->news);
    pthread_mutex_destroy(&b->lock);
    free(b);
    return NULL;
}

int async_backend_new(Backend **outp, const AsyncBackendOptions *options, Reason *why) {
    Backend *b = calloc(1, sizeof(*b));
    int r;

    if (!b) {
        options->ops->free(options->backend);
        return reason_set(why, -ENOMEM, "out of memory");
    }
    b->options = *options;
    b->inner = options->ops;
    b->random = options->seed | 1;
    list_init(&b->calls);
    list_init(&b->deliveries);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->called, NULL);
    pthread_cond_init(&b->ended, NULL);
    pthread_cond_init(&b->news, NULL);
    r = pthread_create(&b->worker, NULL, worker_main, b);
    b->has_worker = !r;
    if (!r)
        r = pthread_create(&b->messenger, NULL, messenger_main, b);
    b->has_messenger = b->has_worker && !r;
    if (r) {
        async_free(b);
        return reason_set(why, -r, "a thread of the asynchronous backend does not start");
    }
    *outp = b;
    return 0;
}

uint64_t async_backend_idle_ns(Backend *b) {
    uint64_t idle_ns;

    pthread_mutex_lock(&b->lock);
    idle_ns = b->idle_ns;
    b->idle_ns = 0;
    pthread_mutex_unlock(&b->lock);
    return idle_ns;
}

BackendOps async_backend_ops(const BackendOps *inner) {
    return (BackendOps){ .name = "async",
                         .act_bytes = inner->act_bytes,
                         .residual_bytes = inner->residual_bytes,
                         .row_exact = inner->row_exact,
                         .rounding_paths = inner->rounding_paths,
                         .is_async = true,
                         .free = async_free,
                         .memory_new = async_memory_new,
                         .memory_free = async_memory_free,
                         .memory_info = async_memory_info,
                         .upload = async_upload,
                         .download = async_download,
                         .weights_new = async_weights_new,
                         .weight_free = async_weight_free,
                         .weight_bytes = inner->weight_bytes,
                         .reserve = async_reserve,
                         .slot_set = async_slot_set,
                         .slot_mask = async_slot_mask,
                         .step_begin = async_step_begin,
                         .embed = async_embed,
                         .rmsnorm = async_rmsnorm,
                         .matmul = async_matmul,
                         .rope_table = async_rope_table,
                         .rope = async_rope,
                         .attention = async_attention,
                         .gated = async_gated,
                         .moments = async_moments,
                         .covariances = async_covariances,
                         .gather_rows = async_gather_rows,
                         .sample = async_sample,
                         .step_end = async_step_end,
                         .step_wait = async_step_wait,
                         .sync = async_sync };
}
