/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backend takes against what the ledger says, purpose by purpose and to the byte, and that
 * no step takes any. The program is linked with every allocating call wrapped; the op table's own
 * calls are wrapped as well, and say for what purpose the allocations within them are.
 */
#include "kvcache/prefix_index.h"
#include "server/engine/engine.h"
#include "tests/unit/tiny_model.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

typedef enum Purpose {
    PURPOSE_NONE, /* not a backend's */
    PURPOSE_WEIGHTS,
    PURPOSE_VECTORS,
    PURPOSE_WORKSPACE,
    PURPOSE_CACHE,
    PURPOSE_SCRATCH,
    PURPOSE_INDEX,
    PURPOSE_STEP,
    PURPOSES
} Purpose;

/* what is allocated */

typedef struct Block {
    void *address;
    size_t size;
    Purpose purpose;
} Block;

#define BLOCKS_MAX 4096

static struct {
    pthread_mutex_t lock;
    Block blocks[BLOCKS_MAX]; /* [n_blocks], of those with a purpose */
    size_t n_blocks;
    size_t live[PURPOSES];      /* bytes */
    atomic_uint n_step_takings; /* allocations within ops of steps */
} book = { .lock = PTHREAD_MUTEX_INITIALIZER };

static atomic_int purpose;            /* of the op that runs */
static _Thread_local bool is_clients; /* the thread does not belong to the engine */

static void *note(void *address, size_t size) {
    Purpose now = atomic_load(&purpose);

    if (!address || now == PURPOSE_NONE || (now == PURPOSE_STEP && is_clients))
        return address;
    if (now == PURPOSE_STEP)
        atomic_fetch_add(&book.n_step_takings, 1);
    pthread_mutex_lock(&book.lock);
    assert_true(book.n_blocks < BLOCKS_MAX);
    book.blocks[book.n_blocks++] = (Block){ address, size, now };
    book.live[now] += size;
    pthread_mutex_unlock(&book.lock);
    return address;
}

static void strike_out(const void *address) {
    pthread_mutex_lock(&book.lock);
    for (size_t i = 0; i < book.n_blocks; i++)
        if (book.blocks[i].address == address) {
            book.live[book.blocks[i].purpose] -= book.blocks[i].size;
            book.blocks[i] = book.blocks[--book.n_blocks];
            break;
        }
    pthread_mutex_unlock(&book.lock);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *address, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
int __real_posix_memalign(void **outp, size_t align, size_t size);
void __real_free(void *address);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *address, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
int __wrap_posix_memalign(void **outp, size_t align, size_t size);
void __wrap_free(void *address);

void *__wrap_malloc(size_t size) {
    return note(__real_malloc(size), size);
}

void *__wrap_calloc(size_t n, size_t size) {
    return note(__real_calloc(n, size), n * size);
}

void *__wrap_realloc(void *address, size_t size) {
    if (address)
        strike_out(address);
    return note(__real_realloc(address, size), size);
}

void *__wrap_aligned_alloc(size_t align, size_t size) {
    return note(__real_aligned_alloc(align, size), size);
}

int __wrap_posix_memalign(void **outp, size_t align, size_t size) {
    int r = __real_posix_memalign(outp, align, size);

    if (!r)
        note(*outp, size);
    return r;
}

void __wrap_free(void *address) {
    if (address)
        strike_out(address);
    __real_free(address);
}

/* the CPU's ops, each with its purpose */

static int told_memory_new(Backend *backend, DevAddr *outp, size_t size_bytes, const char *name,
                           Reason *why) {
    int r;

    atomic_store(&purpose, !strcmp(name, "workspace")      ? PURPOSE_WORKSPACE
                           : !strcmp(name, "the KV cache") ? PURPOSE_CACHE
                                                           : PURPOSE_VECTORS);
    r = cpu_ops.memory_new(backend, outp, size_bytes, name, why);
    atomic_store(&purpose, PURPOSE_NONE);
    return r;
}

static int told_weights_new(Backend *backend, Weight *outs[], const WeightSource *sources,
                            uint32_t n_sources, Reason *why) {
    int r;

    atomic_store(&purpose, PURPOSE_WEIGHTS);
    r = cpu_ops.weights_new(backend, outs, sources, n_sources, why);
    atomic_store(&purpose, PURPOSE_NONE);
    return r;
}

static int told_reserve(Backend *backend, const ReserveArgs *args, size_t *bytesp, Reason *why) {
    int r;

    atomic_store(&purpose, PURPOSE_SCRATCH);
    r = cpu_ops.reserve(backend, args, bytesp, why);
    atomic_store(&purpose, PURPOSE_NONE);
    return r;
}

#define TOLD_STEP(_op, _Args)                                    \
    static int told_##_op(Backend *backend, const _Args *args) { \
        int r;                                                   \
                                                                 \
        atomic_store(&purpose, PURPOSE_STEP);                    \
        r = cpu_ops._op(backend, args);                          \
        atomic_store(&purpose, PURPOSE_NONE);                    \
        return r;                                                \
    }

TOLD_STEP(embed, EmbedArgs)
TOLD_STEP(rmsnorm, RmsnormArgs)
TOLD_STEP(matmul, MatmulArgs)
TOLD_STEP(rope_table, RopeTableArgs)
TOLD_STEP(rope, RopeArgs)
TOLD_STEP(attention, AttentionArgs)
TOLD_STEP(gated, GatedArgs)
TOLD_STEP(gather_rows, GatherRowsArgs)
TOLD_STEP(sample, SampleArgs)

static BackendOps told_ops(void) {
    BackendOps ops = cpu_ops;

    ops.memory_new = told_memory_new;
    ops.weights_new = told_weights_new;
    ops.reserve = told_reserve;
    ops.embed = told_embed;
    ops.rmsnorm = told_rmsnorm;
    ops.matmul = told_matmul;
    ops.rope_table = told_rope_table;
    ops.rope = told_rope;
    ops.attention = told_attention;
    ops.gated = told_gated;
    ops.gather_rows = told_gather_rows;
    ops.sample = told_sample;
    return ops;
}

/* an engine of everything that takes memory */

typedef struct Bench {
    BackendOps ops;
    Backend *backend; /* of its own: what others reserved is not in the way */
    KvPlan plan;      /* of several widths, so that regions differ */
    Mailbox events;
    Engine *engine;
} Bench;

static Bench *bench_new(void) {
    Bench *bench = calloc(1, sizeof(*bench));
    EngineOptions options = { .checkpoint = model.checkpoint,
                              .tokenizer = model.tokenizer,
                              .kv_tokens = 64 * 40,
                              .prefix_caching = true,
                              .max_num_seqs = 5,
                              .max_batched_tokens = 100 };
    static const KvFormat formats[] = { KV_FORMAT_4, KV_FORMAT_2, KV_FORMAT_3 };
    Reason why = REASON_NULL;

    assert_non_null(bench);
    for (uint32_t i = 0; i < KV_LAYERS_MAX * KV_SIDES; i++)
        bench->plan.formats[i / KV_SIDES][i % KV_SIDES] = formats[i % 3];
    bench->ops = told_ops();
    assert_int_equal(mailbox_init(&bench->events, NULL, NULL), 0);
    assert_int_equal(cpu_backend_new(&bench->backend, &(CpuBackendOptions){ .n_threads = 3 }, &why),
                     0);
    options.ops = &bench->ops;
    options.backend = bench->backend;
    options.plan = &bench->plan;
    options.events = &bench->events;
    if (engine_new(&bench->engine, &options, &why))
        fail_msg("%s", why.text);
    return bench;
}

static void bench_free(Bench *bench) {
    engine_stop(bench->engine, true);
    engine_free(bench->engine);
    bench->ops.free(bench->backend);
    mailbox_deinit(&bench->events);
    free(bench);
}

static size_t live_of_all(void) {
    size_t sum = 0;

    for (Purpose i = 0; i < PURPOSES; i++)
        sum += book.live[i];
    return sum;
}

static void test_the_ledger_is_what_the_backend_took(void **state) {
    Bench *bench = bench_new();
    const Ledger *l = engine_ledger(bench->engine);

    (void)state;
    assert_int_equal(l->weights_bytes, book.live[PURPOSE_WEIGHTS] + book.live[PURPOSE_VECTORS]);
    assert_int_equal(l->workspace_bytes, book.live[PURPOSE_WORKSPACE] + book.live[PURPOSE_SCRATCH]);
    assert_true(book.live[PURPOSE_SCRATCH] > 0);
    assert_int_equal(l->kv_bytes, book.live[PURPOSE_CACHE]);
    assert_true(l->sinks_bytes && l->roundings_bytes && l->transforms_bytes);
    assert_int_equal(l->kv_bytes, l->pages_bytes + l->tails_bytes + l->sinks_bytes +
                                      l->roundings_bytes + l->transforms_bytes + l->padding_bytes);
    assert_int_equal(live_of_all(), l->weights_bytes + l->workspace_bytes + l->kv_bytes);
    bench_free(bench);
    assert_int_equal(live_of_all(), 0);
}

static void test_the_index_takes_what_it_says(void **state) {
    (void)state;
    for (uint32_t n_pages = 1; n_pages < 3000; n_pages = n_pages * 3 + 1) {
        PrefixIndex index;
        int r;

        atomic_store(&purpose, PURPOSE_INDEX);
        r = prefix_index_init(&index, n_pages);
        atomic_store(&purpose, PURPOSE_NONE);
        assert_int_equal(r, 0);
        assert_int_equal(book.live[PURPOSE_INDEX], prefix_index_bytes(n_pages));
        prefix_index_deinit(&index);
        assert_int_equal(book.live[PURPOSE_INDEX], 0);
    }
}

/* steps */

#define N_REQUESTS 12

/* Every way to sample, short prompts and long, alone and in company. */
static EngineRequest *request_new(uint32_t i) {
    static uint32_t prompt[400];
    static const LogitBias bias = { .token = 7, .bias = 2 };
    EngineRequest *request = engine_request_new();

    assert_non_null(request);
    if (i == 0) /* the engine reads it from then on */
        for (uint32_t k = 0; k < 400; k++)
            prompt[k] = 2 + k * k % 500;
    request->prompt = prompt;
    request->n_prompt = i % 3 ? 1 + i : 130 + 20 * i;
    request->max_tokens = 20;
    request->ignore_eos = true;
    request->params.temperature = i % 2 ? 1 : 0;
    request->params.top_p = i % 4 == 1 ? 0.8f : 1;
    request->params.top_k = i % 5 == 3 ? 20 : 0;
    request->params.repetition_penalty = i % 4 ? 1 : 1.2f;
    request->params.logit_bias = i % 6 == 2 ? &bias : NULL;
    request->params.n_logit_bias = i % 6 == 2;
    request->n_top_logprobs = (int)(i % 4) - 1;
    request->n_prompt_logprobs = i % 6 ? -1 : 3;
    return request;
}

static void take_events(Bench *bench, uint32_t *n_endedp) {
    List mail = LIST_INIT(mail), *link;

    mailbox_wait(&bench->events, &mail);
    while ((link = list_pop_front(&mail))) {
        EngineEvent *event = container_of(link, EngineEvent, link);

        if (event->finish != FINISH_NONE) {
            assert_int_equal(event->finish, FINISH_LENGTH);
            engine_request_free(event->request);
            ++*n_endedp;
        }
        engine_event_free(event);
    }
}

static void test_no_step_takes_memory(void **state) {
    Bench *bench = bench_new();
    size_t before = live_of_all();
    uint32_t n_ended = 0;

    (void)state;
    is_clients = true;
    assert_int_equal(engine_start(bench->engine), 0);
    for (uint32_t i = 0; i < N_REQUESTS; i++)
        engine_submit(bench->engine, request_new(i));
    while (n_ended < N_REQUESTS)
        take_events(bench, &n_ended);
    engine_stop(bench->engine, true);
    is_clients = false;
    assert_int_equal(atomic_load(&book.n_step_takings), 0);
    assert_int_equal(live_of_all(), before);
    bench_free(bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_ledger_is_what_the_backend_took),
        cmocka_unit_test(test_the_index_takes_what_it_says),
        cmocka_unit_test(test_no_step_takes_memory),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
