/* SPDX-License-Identifier: Apache-2.0 */

/*
 * `kvasird eval` with other people's quantizers beside ours: the same model, tokens, chunks and
 * reference, in one table. Theirs are faked over an f16 cache by standing between the decoder and
 * the attention op: what a method quantizes token by token is changed before attention sees it,
 * what it keeps exact for a while is changed when it is that old, up to a chunk later.
 *
 * Usage: eval_baselines --model PATH --text FILE [--max-tokens N] [--window W]
 *                       [--kv SPEC | --plain SPEC | --weights SPEC]...
 *   --kv       a spec of ours, with moments measured on the built-in text
 *   --plain    the same, without: keys are rounded to the nearest step
 *   --weights  the same with moments made of the weights alone, without a text
 * Column "logits" is ||logits - reference|| / ||reference||.
 * Keys and values that OSCAR and HeadQ learn from are those of the built-in text, too.
 */

#include "tests/bench/fake_quantizers.h"
#include "tests/bench/weight_moments.h"

#include "cpu/cpu_backend.h"
#include "kvcache/kv_format.h"
#include "kvcache/kv_spec.h"
#include "server/commands/eval.h"
#include "server/commands/profile_store.h"
#include "server/commands/text_tokens.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS_MAX 64
#define WINDOW_TOKENS 2048
#define LEARN_TOKENS 2048 /* of the built-in text */
#define FIT_TOKENS 512    /* of those, for clipping */

typedef enum Moments { MOMENTS_MEASURED, MOMENTS_NONE, MOMENTS_OF_WEIGHTS } Moments;

/* A run, of ours or of theirs. */
typedef struct Run {
    char name[64];
    const char *spec;
    Moments moments;
    const FakeMethod *method; /* NULL: ours */
    uint32_t *n_done;         /* [n_layers]: tokens that are quantized already; owned */
} Run;

typedef struct Tool {
    const char *model_path, *text_path;
    size_t n_tokens_max;
    uint32_t window;
    Session session;
    KvGeometry geometry;
    Profile *measured, *of_weights;
    FakeHead *heads;        /* [n_layers][n_kv_heads] */
    float *bases[KV_SIDES]; /* [n_layers][n_kv_heads][d][d] */
    Run runs[RUNS_MAX];
    EvalRun evals[RUNS_MAX];
    uint32_t n_runs;
    uint32_t n_rows, n_past; /* of the step at hand, which is of one sequence */
    const KvStore *learning; /* outputs of attention over this store are summed up in bases[V] */
} Tool;

static Tool tool; /* the op table has no place for a pointer of ours */

static void fail(const char *text) {
    fprintf(stderr, "eval_baselines: %s\n", text[0] ? text : "out of memory");
    exit(1);
}

static void check(int r, const Reason *why) {
    if (r)
        fail(why->text);
}

static void *new_array(size_t n, size_t size) {
    void *p = calloc(n, size);

    if (!p)
        fail("");
    return p;
}

/* values in and out */

/* Where channel c of a cached token lies. */
static uint16_t *cached(const KvStore *store, uint32_t layer, KvSide side, uint32_t head,
                        uint32_t token, uint32_t c) {
    /* Pages of a session's cache are numbered in order. */
    KvLayer kept = kv_store_layer(store, layer);
    uint16_t *block =
        (uint16_t *)(uintptr_t)kv_layer_block(&kept, side, token / KV_PAGE_TOKENS, head);
    uint32_t t = token % KV_PAGE_TOKENS;

    return side == KV_SIDE_K ? block + (size_t)c * KV_PAGE_TOKENS + t
                             : block + (size_t)t * store->geometry.head_dim + c;
}

static void read_cached(const KvStore *store, uint32_t layer, KvSide side, uint32_t head,
                        uint32_t first, uint32_t n, float *x) {
    uint32_t d = store->geometry.head_dim;

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t c = 0; c < d; c++)
            x[(size_t)t * d + c] = half_value(*cached(store, layer, side, head, first + t, c));
}

static void write_cached(const KvStore *store, uint32_t layer, KvSide side, uint32_t head,
                         uint32_t first, uint32_t n, const float *x) {
    uint32_t d = store->geometry.head_dim;

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t c = 0; c < d; c++)
            *cached(store, layer, side, head, first + t, c) = half_nearest(x[(size_t)t * d + c]);
}

/* their methods */

static const FakeHead *head_of(uint32_t layer, uint32_t head) {
    return &tool.heads[(size_t)layer * tool.geometry.n_kv_heads + head];
}

/* Which layer of the store it is, or n_layers if it is none of it. */
static uint32_t layer_of(const KvStore *store, const KvLayer *layer) {
    uint32_t l = 0;

    while (l < tool.geometry.n_layers &&
           kv_store_layer(store, l).sides[KV_SIDE_K].pages != layer->sides[KV_SIDE_K].pages)
        l++;
    return l;
}

/* The step's own tokens, before anything sees them. */
static void quantize_step(const FakeMethod *m, const AttentionArgs *args, uint32_t layer,
                          KvSide side) {
    uint32_t d = tool.geometry.head_dim, n_heads = tool.geometry.n_kv_heads;
    uint16_t *own = (uint16_t *)(uintptr_t)(side == KV_SIDE_K ? args->k : args->v);
    float x[KV_HEAD_DIM_MAX];

    for (uint32_t i = 0; i < tool.n_rows * n_heads; i++) {
        for (uint32_t c = 0; c < d; c++)
            x[c] = half_value(own[(size_t)i * d + c]);
        m->quantize[side](head_of(layer, i % n_heads), m->bits[side], x, 1, d);
        for (uint32_t c = 0; c < d; c++)
            own[(size_t)i * d + c] = half_nearest(x[c]);
    }
}

/* Cached tokens from `first` on that have become old enough; whole groups are looked at. */
static void quantize_old(const FakeMethod *m, const KvStore *store, uint32_t layer, KvSide side,
                         uint32_t first, uint32_t end) {
    uint32_t d = tool.geometry.head_dim, start = first / m->group * m->group, n = end - start;
    CLEANUP(free) float *x = new_array((size_t)n * d, sizeof(*x));

    for (uint32_t head = 0; head < tool.geometry.n_kv_heads; head++) {
        read_cached(store, layer, side, head, start, n, x);
        for (uint32_t t = 0; t < n; t += m->group)
            m->quantize[side](head_of(layer, head), m->bits[side], x + (size_t)t * d, m->group, d);
        write_cached(store, layer, side, head, first, end - first, x + (size_t)(first - start) * d);
    }
}

static void fake(Run *run, const KvStore *store, uint32_t layer, const AttentionArgs *args) {
    const FakeMethod *m = run->method;
    uint32_t n_past = tool.n_past, *done = &run->n_done[layer], end;
    bool at_once = m->group == 1 && !m->n_last && !m->n_first;

    if (!n_past)
        *done = m->n_first;
    end = n_past > m->n_last ? (n_past - m->n_last) / m->group * m->group : 0;
    for (KvSide side = 0; side < KV_SIDES; side++) {
        if (m->quantize[side] && at_once)
            quantize_step(m, args, layer, side);
        else if (m->quantize[side] && end > *done)
            quantize_old(m, store, layer, side, *done, end);
    }
    if (end > *done)
        *done = end;
}

/* Second moments of what attention gives, which are those of values as it weighs them. */
static void learn_outputs(const AttentionArgs *args, uint32_t layer) {
    uint32_t d = tool.geometry.head_dim, group = args->n_heads / tool.geometry.n_kv_heads;
    const float *out = (const float *)(uintptr_t)args->out;

    for (uint32_t i = 0; i < tool.n_rows * args->n_heads; i++) {
        const float *o = out + (size_t)i * d;
        uint32_t head = i % args->n_heads / group;
        float *m =
            tool.bases[KV_SIDE_V] + ((size_t)layer * tool.geometry.n_kv_heads + head) * d * d;

        for (uint32_t a = 0; a < d; a++)
            for (uint32_t b = 0; b < d; b++)
                m[(size_t)a * d + b] += o[a] * o[b];
    }
}

static int step_begin(Backend *backend, const StepInput *input) {
    tool.n_rows = input->n_rows;
    tool.n_past = input->sequences[0].n_past;
    return cpu_ops.step_begin(backend, input);
}

static int attention(Backend *backend, const AttentionArgs *args) {
    uint32_t n_layers = tool.geometry.n_layers, layer;
    int r;

    for (uint32_t i = 0; i < tool.n_runs; i++) {
        const KvStore *store = tool.evals[i].cache.store;

        layer = store && tool.runs[i].method ? layer_of(store, args->layer) : n_layers;
        if (layer < n_layers)
            fake(&tool.runs[i], store, layer, args);
    }
    r = cpu_ops.attention(backend, args);
    layer = tool.learning ? layer_of(tool.learning, args->layer) : n_layers;
    if (!r && layer < n_layers)
        learn_outputs(args, layer);
    return r;
}

/* what they learn */

static void fit_clips(const KvStore *store) {
    uint32_t d = tool.geometry.head_dim;
    CLEANUP(free) float *x = new_array((size_t)FIT_TOKENS * d, sizeof(*x));

    for (uint32_t layer = 0; layer < tool.geometry.n_layers; layer++)
        for (uint32_t head = 0; head < tool.geometry.n_kv_heads; head++)
            for (KvSide side = 0; side < KV_SIDES; side++) {
                size_t i = (size_t)layer * tool.geometry.n_kv_heads + head;
                CLEANUP(free) float *moment = new_array((size_t)d * d, sizeof(*moment));
                float *basis = tool.bases[side] + i * d * d;

                memcpy(moment, basis, (size_t)d * d * sizeof(*moment));
                fake_eigenvectors(moment, d, basis);
                tool.heads[i].basis[side] = basis;
                read_cached(store, layer, side, head, KV_PAGE_TOKENS, FIT_TOKENS, x);
                fake_fit_clip(&tool.heads[i], side, x, FIT_TOKENS, d);
            }
}

static void learn(void) {
    CLEANUP(session_cache_deinit) SessionCache cache = SESSION_CACHE_NULL;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    size_t n_moments = profile_moments_count(tool.measured);
    KvPlan plan;
    Reason why = REASON_NULL;

    tool.heads =
        new_array((size_t)tool.geometry.n_layers * tool.geometry.n_kv_heads, sizeof(*tool.heads));
    for (KvSide side = 0; side < KV_SIDES; side++)
        tool.bases[side] = new_array(n_moments, sizeof(float));
    memcpy(tool.bases[KV_SIDE_K], tool.measured->q_moments, n_moments * sizeof(float));
    check(text_tokens_read(&tokens, tool.model_path, NULL, LEARN_TOKENS, &why), &why);
    check(kv_spec_parse(&plan, "f16", tool.geometry.n_layers, &why), &why);
    check(session_cache_init(&cache, &tool.session, LEARN_TOKENS, &plan, NULL, &why), &why);
    if (tokens.n < FIT_TOKENS + 2 * KV_PAGE_TOKENS)
        fail("the built-in text is too short in this model's tokens");
    tool.learning = cache.store;
    for (size_t i = 0; i + KV_PAGE_TOKENS <= tokens.n && i < LEARN_TOKENS; i += KV_PAGE_TOKENS)
        check(session_step(&cache, tokens.ids + i, KV_PAGE_TOKENS), &why);
    tool.learning = NULL;
    fit_clips(cache.store);
}

/* runs */

static void add_run(Run run) {
    if (tool.n_runs == RUNS_MAX)
        fail("too many runs");
    tool.runs[tool.n_runs++] = run;
}

static void add_spec(const char *spec, Moments moments, const char *remark) {
    Run run = { .spec = spec, .moments = moments };

    snprintf(run.name, sizeof(run.name), "%s%s", spec, remark);
    add_run(run);
}

static void open_runs(void) {
    const Profile *const profiles[] = { tool.measured, NULL, tool.of_weights };

    for (uint32_t i = 0; i < tool.n_runs; i++) {
        Run *run = &tool.runs[i];
        Reason why = REASON_NULL;
        KvPlan plan;

        check(kv_spec_parse(&plan, run->spec, tool.geometry.n_layers, &why), &why);
        check(session_cache_init(&tool.evals[i].cache, &tool.session, tool.window, &plan,
                                 profiles[run->moments], &why),
              &why);
        tool.evals[i].name = run->name;
        run->n_done = new_array(tool.geometry.n_layers, sizeof(*run->n_done));
    }
}

static void show_progress(void *userdata, uint64_t n_done, uint64_t n_all) {
    (void)userdata;
    fprintf(stderr, "\r%llu of %llu tokens%s", (unsigned long long)n_done,
            (unsigned long long)n_all, n_done == n_all ? "\n" : "");
}

static double bits_of(uint32_t i) {
    const FakeMethod *m = tool.runs[i].method;

    return m ? fake_bits(m, tool.geometry.head_dim) : kv_store_bits(tool.evals[i].cache.store);
}

/* With what is exact in a window counted in. */
static double bits_with_exact(uint32_t i) {
    const FakeMethod *m = tool.runs[i].method;
    double bits = bits_of(i);

    if (!m)
        return eval_bits_with_tails(tool.evals[i].cache.store, tool.window);
    return bits + (16 - bits) * (m->n_first + m->n_last) / tool.window;
}

static void print_table(void) {
    printf("%llu tokens in windows of %u, chunks of %d\n",
           (unsigned long long)tool.evals[0].stats.n_tokens, tool.window, KV_PAGE_TOKENS);
    printf("%-22s %7s %7s %9s %9s %9s %9s %8s %8s\n", "kv", "bits", "+exact", "ppl", "KLD", "+-",
           "p99", "top-1", "logits");
    for (uint32_t i = 0; i < tool.n_runs; i++) {
        EvalStats *s = &tool.evals[i].stats;

        printf("%-22s %7.3f %7.3f %9.6g %9.6f %9.6f %9.6f %7.2f%% %7.2f%%\n", tool.runs[i].name,
               bits_of(i), bits_with_exact(i), eval_perplexity(s), eval_kld(s), eval_kld_error(s),
               eval_kld_percentile(s, 0.99), 100 * eval_same_top(s), 100 * eval_logit_error(s));
    }
}

static void read_arguments(int argc, char **argv) {
    static const struct option options[] = {
        { "model", required_argument, NULL, 'm' },      { "text", required_argument, NULL, 't' },
        { "max-tokens", required_argument, NULL, 'n' }, { "window", required_argument, NULL, 'w' },
        { "kv", required_argument, NULL, 'k' },         { "plain", required_argument, NULL, 'p' },
        { "weights", required_argument, NULL, 'q' },    { 0 },
    };
    int c;

    tool.window = WINDOW_TOKENS;
    tool.n_tokens_max = SIZE_MAX;
    add_spec("f16", MOMENTS_NONE, "");
    add_spec("bf16", MOMENTS_NONE, "");
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (c) {
        case 'm':
            tool.model_path = optarg;
            break;
        case 't':
            tool.text_path = optarg;
            break;
        case 'n':
            tool.n_tokens_max = strtoull(optarg, NULL, 10);
            break;
        case 'w':
            tool.window = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'k':
            add_spec(optarg, MOMENTS_MEASURED, "");
            break;
        case 'p':
            add_spec(optarg, MOMENTS_NONE, ", plain");
            break;
        case 'q':
            add_spec(optarg, MOMENTS_OF_WEIGHTS, ", of weights");
            break;
        default:
            exit(2);
        }
    if (optind != argc || !tool.model_path || !tool.text_path || !tool.window)
        fail("give --model PATH and --text FILE; the head of eval_baselines.c says what else");
}

int main(int argc, char **argv) {
    BackendOps ops = cpu_ops;
    CLEANUP(token_ids_deinit) TokenIds tokens = TOKEN_IDS_NULL;
    Reason why = REASON_NULL;

    read_arguments(argc, argv);
    for (uint32_t i = 0; i < n_fake_methods; i++) {
        Run run = { .spec = "f16", .moments = MOMENTS_NONE, .method = &fake_methods[i] };

        snprintf(run.name, sizeof(run.name), "%s", fake_methods[i].name);
        add_run(run);
    }
    ops.step_begin = step_begin;
    ops.attention = attention;
    check(session_init(&tool.session,
                       &(SessionOptions){ .model_path = tool.model_path,
                                          .ops = &ops,
                                          .max_step_tokens = KV_PAGE_TOKENS,
                                          .max_logit_rows = KV_PAGE_TOKENS },
                       &why),
          &why);
    tool.geometry = decoder_kv_geometry(tool.session.config);
    if (tool.geometry.head_dim % 32)
        fail("ggml's and KIVI's groups of 32 channels need a head_dim that is a multiple of 32");
    check(profile_measure(&tool.measured,
                          &(ProfileStoreOptions){ .model_path = tool.model_path,
                                                  .time_ms_max = UINT64_MAX / 2 },
                          &why),
          &why);
    check(weight_moments(&tool.of_weights, tool.session.checkpoint, tool.window, &why), &why);
    check(text_tokens_read(&tokens, tool.model_path, tool.text_path, tool.window, &why), &why);
    learn();
    open_runs();
    if (tokens.n > tool.n_tokens_max)
        tokens.n = tool.n_tokens_max;
    if (tokens.n < tool.window)
        fail("the text is shorter than a window");
    check(eval_run(&tool.session, tool.evals, tool.n_runs, tokens.ids, tokens.n, tool.window,
                   show_progress, NULL),
          &why);
    print_table();
    return 0;
}
