/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers are measured from the first to the last, and with them goes up what the next one reads of
 * the f16 model: `inputs`, the hidden states of all tokens, so that no more than one layer's are
 * kept. Of a layer, all that is measured directly shares steps: each variant, a side in a format,
 * is a sequence of its own above the layer, with an f16 cache, so that weights are read once for
 * all of them.
 *
 * A chunk of a layer has two steps. The local one has the chunk's rows once, and runs the layer
 * over them again and again: with f16, which makes the next inputs, then in each format, whose
 * cache is a store of this one layer. The upper one has the rows of every variant and runs the
 * layers above. Logits of the f16 model are computed again for each layer: keeping them would take
 * 200 KB a token.
 *
 * Sums over tokens are made by one thread, in their order.
 */
#include "server/commands/damages.h"

#include "kvcache/kv_format.h"
#include "model/kv_cache.h"
#include "server/commands/eval.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

/* Formats a level measures directly, widest first; each on both sides. The quick one takes that
 * whose damages rise the most above chance. */
#define DIRECT_MAX (DAMAGES_SEQUENCES / KV_SIDES)
static const struct {
    uint32_t n_tokens_max; /* where nobody says another */
    uint32_t n_direct;
    KvFormat direct[DIRECT_MAX];
} levels[] = {
    [DAMAGES_QUICK] = { 1024, 1, { KV_FORMAT_2 } },
    [DAMAGES_FULL] = { 4096, 3, { KV_FORMAT_4, KV_FORMAT_3, KV_FORMAT_2 } },
};

/* With one page nothing is read from where it was sealed. */
#define TOKENS_MIN (2 * KV_PAGE_TOKENS)
#define HEAD_WORK 8 /* what logits cost, in layers, for the progress bar */

/* One layer's sums over tokens. */
typedef struct LayerSums {
    double distortions[KV_SIDES][KV_FORMATS];
    double klds[KV_SIDES][KV_FORMATS], kld_squares[KV_SIDES][KV_FORMATS];
} LayerSums;

typedef struct Damages {
    Session *session;
    Profile *profile;
    const DamagesOptions *options;
    const uint32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;      /* a multiple of a page */
    uint32_t n_pages;       /* of a window */
    uint32_t n_direct, n_variants;
    const KvFormat *direct; /* [n_direct] */
    uint64_t n_work_done, n_work;

    uint32_t dim;
    size_t row_bytes;   /* of a hidden state */
    char *inputs;       /* [n_tokens] hidden states that the layer at hand reads */
    char *outputs;      /* [n_tokens] of the last layer */
    char *variants;     /* [n_variants][KV_PAGE_TOKENS] behind the layer at hand */
    char *exact, *here; /* [KV_PAGE_TOKENS] behind its attention, in f16 and in a format */
    EvalChunk reference, chunk;
    CpuTeam *team;                 /* for their rows */
    uint32_t *pages, *page_tokens; /* of the step at hand */

    KvStore upper;                        /* f16, all layers; a sequence for each variant */
    KvStore plain;                        /* f16, the layer at hand */
    KvStore narrow[KV_SIDES][KV_FORMATS]; /* the layer at hand with one side in that format */
    Profile one_layer;                    /* what of the profile is that layer's, borrowed */
    LayerSums sums;
} Damages;

static void close_store(Damages *d, KvStore *store) {
    kv_cache_close(store, d->session->ops, d->session->backend);
}

static void close_layer(Damages *d) {
    for (int side = 0; side < KV_SIDES; side++)
        for (int format = 0; format < KV_FORMATS; format++)
            close_store(d, &d->narrow[side][format]);
}

static Damages *damages_free(Damages *d) {
    close_layer(d);
    close_store(d, &d->upper);
    close_store(d, &d->plain);
    free(d->inputs);
    free(d->outputs);
    free(d->variants);
    free(d->exact);
    free(d->here);
    free(d->reference.logits);
    free(d->chunk.logits);
    free(d->pages);
    free(d->page_tokens);
    cpu_team_free(d->team);
    free(d);
    return NULL;
}
CLEANUP_DEFINE(Damages, damages_free);

/* set up */

static int open_store(Damages *d, KvStore *store, const KvShape *shape, const Profile *profile,
                      Reason *why) {
    return kv_cache_open(store, d->session->ops, d->session->backend, shape, profile, why);
}

static int open_upper(Damages *d, Reason *why) {
    KvGeometry one = d->profile->geometry;
    int r;

    r = open_store(d, &d->upper,
                   &(KvShape){ .geometry = d->profile->geometry,
                               .n_pages = d->n_variants * d->n_pages,
                               .n_tails = d->n_variants,
                               .n_sinks = d->n_variants },
                   NULL, why);
    one.n_layers = 1;
    if (!r)
        r = open_store(
            d, &d->plain,
            &(KvShape){ .geometry = one, .n_pages = d->n_pages, .n_tails = 1, .n_sinks = 1 }, NULL,
            why);
    return r ? r : session_reserve(d->session, d->n_variants * d->n_pages, why);
}

static int take_memory(Damages *d) {
    size_t chunk_bytes = KV_PAGE_TOKENS * d->row_bytes;
    size_t logits_bytes = (size_t)KV_PAGE_TOKENS * d->session->config->n_vocab * sizeof(float);

    d->inputs = malloc(d->n_tokens * d->row_bytes);
    d->outputs = malloc(d->n_tokens * d->row_bytes);
    d->variants = malloc(d->n_variants * chunk_bytes);
    d->exact = malloc(chunk_bytes);
    d->here = malloc(chunk_bytes);
    d->reference.logits = malloc(logits_bytes);
    d->chunk.logits = malloc(logits_bytes);
    d->pages = malloc((size_t)d->n_variants * d->n_pages * sizeof(*d->pages));
    d->page_tokens = malloc((size_t)d->n_variants * KV_PAGE_TOKENS * sizeof(*d->page_tokens));
    return d->inputs && d->outputs && d->variants && d->exact && d->here && d->reference.logits &&
                   d->chunk.logits && d->pages && d->page_tokens
               ? 0
               : -ENOMEM;
}

static uint32_t tokens_used(const TokenIds *tokens, const DamagesOptions *options) {
    uint32_t n_max =
        options->n_tokens_max ? options->n_tokens_max : levels[options->level].n_tokens_max;
    uint32_t n = tokens->n < n_max ? (uint32_t)tokens->n : n_max;

    return n / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
}

static int set_up(Damages *d, Reason *why) {
    uint32_t n_window = d->n_tokens < DAMAGES_WINDOW_TOKENS ? d->n_tokens : DAMAGES_WINDOW_TOKENS;
    DamagesLevel level = d->options->level;
    int r;

    d->direct = levels[level].direct;
    d->n_direct = levels[level].n_direct;
    d->n_variants = d->n_direct * KV_SIDES;
    d->n_pages = n_window / KV_PAGE_TOKENS;
    d->dim = d->session->config->dim;
    d->row_bytes = (size_t)d->dim * d->session->ops->residual_bytes;
    r = take_memory(d);
    if (r)
        return reason_set(why, r, "out of memory");
    r = cpu_team_new(&d->team, d->session->options.n_threads, why);
    return r ? r : open_upper(d, why);
}

/* hidden states */

static int put_hidden(Damages *d, const char *from, uint32_t n_rows) {
    return d->session->ops->upload(d->session->backend, decoder_hidden(d->session->decoder), from,
                                   n_rows * d->row_bytes);
}

static int get_hidden(Damages *d, char *to, uint32_t n_rows) {
    return d->session->ops->download(d->session->backend, to, decoder_hidden(d->session->decoder),
                                     n_rows * d->row_bytes);
}

static double hidden_value(const Damages *d, const char *row, uint32_t i) {
    if (d->session->ops->residual_bytes == sizeof(float))
        return ((const float *)row)[i];
    return kv_16bit_value(KV_FORMAT_BF16, ((const uint16_t *)row)[i]);
}

/* Sum over the chunk's rows of |here - exact|^2 / |exact|^2. */
static double chunk_distortion(const Damages *d) {
    double sum = 0;

    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        const char *exact = d->exact + i * d->row_bytes, *here = d->here + i * d->row_bytes;
        double error = 0, all = 0;

        for (uint32_t j = 0; j < d->dim; j++) {
            double x = hidden_value(d, exact, j), e = hidden_value(d, here, j) - x;

            error += e * e;
            all += x * x;
        }
        sum += all > 0 ? error / all : 0;
    }
    return sum;
}

/* steps */

/* A step of the chunk at token `at`, the same tokens in n_sequences. */
static int begin_step(Damages *d, uint32_t at, uint32_t n_sequences) {
    uint32_t n_past = at % DAMAGES_WINDOW_TOKENS, n_pages = n_past / KV_PAGE_TOKENS + 1;
    StepSequence sequences[DAMAGES_SEQUENCES];
    uint32_t indptr[DAMAGES_SEQUENCES + 1] = { 0 };

    for (uint32_t s = 0; s < n_sequences; s++) {
        sequences[s] = (StepSequence){ .first_row = s * KV_PAGE_TOKENS,
                                       .n_rows = KV_PAGE_TOKENS,
                                       .n_past = n_past,
                                       .slot = s,
                                       .sink = s };
        indptr[s + 1] = indptr[s] + n_pages;
        for (uint32_t i = 0; i < n_pages; i++)
            d->pages[indptr[s] + i] = s * d->n_pages + i;
        memcpy(d->page_tokens + s * KV_PAGE_TOKENS, d->tokens + at,
               KV_PAGE_TOKENS * sizeof(*d->tokens));
    }
    return decoder_begin(d->session->decoder,
                         &(StepInput){ .n_rows = n_sequences * KV_PAGE_TOKENS,
                                       .n_sequences = n_sequences,
                                       .n_logit_rows = n_sequences * KV_PAGE_TOKENS,
                                       .tokens = d->page_tokens,
                                       .sequences = sequences,
                                       .page_indptr = indptr,
                                       .page_indices = d->pages,
                                       .logit_rows = d->session->rows });
}

static int run_upper_layers(Damages *d, uint32_t first) {
    int r = 0;

    for (uint32_t l = first; !r && l < d->profile->geometry.n_layers; l++) {
        KvLayer kept = kv_store_layer(&d->upper, l);

        r = decoder_attend(d->session->decoder, l, &kept);
        if (!r)
            r = decoder_feed(d->session->decoder, l);
    }
    return r;
}

static bool is_stopped(const Damages *d) {
    return d->options->stop && *d->options->stop;
}

static void add_work(Damages *d, uint64_t work) {
    d->n_work_done += work;
    if (d->options->on_progress)
        d->options->on_progress(d->options->userdata, d->n_work_done, d->n_work);
}

/* The f16 model over all tokens: what layer `first` reads of it, and what the last one gives. */
static int run_reference(Damages *d, uint32_t first) {
    for (uint32_t at = 0; at < d->n_tokens; at += KV_PAGE_TOKENS) {
        int r = is_stopped(d) ? DAMAGES_E_STOPPED : begin_step(d, at, 1);

        for (uint32_t l = 0; !r && l < d->profile->geometry.n_layers; l++) {
            KvLayer kept = kv_store_layer(&d->upper, l);

            if (l == first)
                r = get_hidden(d, d->inputs + at * d->row_bytes, KV_PAGE_TOKENS);
            if (!r)
                r = decoder_attend(d->session->decoder, l, &kept);
            if (!r)
                r = decoder_feed(d->session->decoder, l);
        }
        if (!r)
            r = get_hidden(d, d->outputs + at * d->row_bytes, KV_PAGE_TOKENS);
        if (r)
            return r;
        add_work(d, d->profile->geometry.n_layers);
    }
    return 0;
}

/* one layer */

static bool is_direct(const Damages *d, KvFormat format) {
    for (uint32_t i = 0; i < d->n_direct; i++)
        if (d->direct[i] == format)
            return true;
    return false;
}

/* Stores of one layer for each side and format. */
static int open_layer(Damages *d, uint32_t layer, Reason *why) {
    const Profile *p = d->profile;
    size_t n = profile_moments_count(p) / p->geometry.n_layers;
    KvShape shape = { .geometry = p->geometry, .n_pages = d->n_pages, .n_tails = 1, .n_sinks = 1 };
    int r = 0;

    close_layer(d);
    shape.geometry.n_layers = 1;
    d->one_layer = (Profile){ .geometry = shape.geometry,
                              .q_moments = p->q_moments + layer * n,
                              .k_covariances = p->k_covariances + layer * n };
    for (int side = 0; !r && side < KV_SIDES; side++)
        for (int format = 0; !r && format < KV_FORMATS; format++) {
            KvPlan plan = { .formats[0] = { KV_FORMAT_F16, KV_FORMAT_F16 } };

            if (!kv_format_quantizes((KvFormat)format))
                continue;
            plan.formats[0][side] = (KvFormat)format;
            shape.plan = &plan;
            r = open_store(d, &d->narrow[side][format], &shape, &d->one_layer, why);
        }
    return r;
}

/* The layer's attention over the chunk with keys and values in `store`. */
static int attend_chunk(Damages *d, uint32_t layer, uint32_t at, const KvStore *store, char *out) {
    KvLayer kept = kv_store_layer(store, 0);
    int r = put_hidden(d, d->inputs + at * d->row_bytes, KV_PAGE_TOKENS);

    if (!r)
        r = decoder_attend(d->session->decoder, layer, &kept);
    return r ? r : get_hidden(d, out, KV_PAGE_TOKENS);
}

static int run_format(Damages *d, uint32_t layer, uint32_t at, KvSide side, KvFormat format,
                      uint32_t *i_variant) {
    int r = attend_chunk(d, layer, at, &d->narrow[side][format], d->here);

    if (r)
        return r;
    d->sums.distortions[side][format] += chunk_distortion(d);
    if (!is_direct(d, format))
        return 0;
    r = decoder_feed(d->session->decoder, layer);
    return r ? r
             : get_hidden(d, d->variants + (*i_variant)++ * KV_PAGE_TOKENS * d->row_bytes,
                          KV_PAGE_TOKENS);
}

/* The local step; variants in the order of sides, and of formats within each. */
static int run_layer(Damages *d, uint32_t layer, uint32_t at) {
    uint32_t i_variant = 0;
    int r = begin_step(d, at, 1);

    if (!r)
        r = attend_chunk(d, layer, at, &d->plain, d->exact);
    for (int side = 0; side < KV_SIDES; side++)
        for (int format = 0; !r && format < KV_FORMATS; format++)
            if (kv_format_quantizes((KvFormat)format))
                r = run_format(d, layer, at, (KvSide)side, (KvFormat)format, &i_variant);
    assert(r || i_variant == d->n_variants);
    if (!r)
        r = put_hidden(d, d->outputs + at * d->row_bytes, KV_PAGE_TOKENS);
    if (!r)
        r = eval_chunk_read(&d->reference, d->session, d->team, 0, KV_PAGE_TOKENS);
    /* At last the layer in f16 to its end: nothing reads these inputs any more. */
    if (!r)
        r = put_hidden(d, d->exact, KV_PAGE_TOKENS);
    if (!r)
        r = decoder_feed(d->session->decoder, layer);
    return r ? r : get_hidden(d, d->inputs + at * d->row_bytes, KV_PAGE_TOKENS);
}

static int add_divergences(Damages *d, uint32_t i_variant, KvSide side, KvFormat format) {
    double klds[KV_PAGE_TOKENS];
    int r =
        eval_chunk_read(&d->chunk, d->session, d->team, i_variant * KV_PAGE_TOKENS, KV_PAGE_TOKENS);

    if (r)
        return r;
    eval_chunk_divergences(&d->reference, &d->chunk, d->team, d->session->config->n_vocab, klds);
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) {
        d->sums.klds[side][format] += klds[i];
        d->sums.kld_squares[side][format] += klds[i] * klds[i];
    }
    return 0;
}

/* The upper step. */
static int compare_variants(Damages *d, uint32_t layer, uint32_t at) {
    uint32_t i_variant = 0;
    int r = begin_step(d, at, d->n_variants);

    if (!r)
        r = put_hidden(d, d->variants, d->n_variants * KV_PAGE_TOKENS);
    if (!r)
        r = run_upper_layers(d, layer + 1);
    for (int side = 0; side < KV_SIDES; side++)
        for (int format = 0; !r && format < KV_FORMATS; format++)
            if (is_direct(d, (KvFormat)format))
                r = add_divergences(d, i_variant++, (KvSide)side, (KvFormat)format);
    return r;
}

/* The measured format whose bits are nearest. */
static KvFormat nearest_direct(const Damages *d, KvFormat format) {
    int bits = (int)kv_formats[format].bits, best = INT32_MAX;
    KvFormat nearest = d->direct[0];

    for (uint32_t i = 0; i < d->n_direct; i++) {
        int distance = abs((int)kv_formats[d->direct[i]].bits - bits);

        if (distance < best) {
            best = distance;
            nearest = d->direct[i];
        }
    }
    return nearest;
}

static void keep_side(Damages *d, uint32_t layer, KvSide side) {
    double n = d->n_tokens, *damages = d->profile->damages[layer][side];
    double *errors = d->profile->damage_errors[layer][side];
    double *distortions = d->profile->distortions[layer][side];

    for (int f = 0; f < KV_FORMATS; f++) {
        double mean = d->sums.klds[side][f] / n;

        damages[f] = mean;
        errors[f] = sqrt(fmax(d->sums.kld_squares[side][f] / n - mean * mean, 0) / n);
        distortions[f] = d->sums.distortions[side][f] / n;
    }
    for (int f = 0; f < KV_FORMATS; f++) {
        KvFormat near = nearest_direct(d, (KvFormat)f);
        double ratio = distortions[near] > 0 ? distortions[f] / distortions[near] : 0;

        if (is_direct(d, (KvFormat)f) || !kv_format_quantizes((KvFormat)f))
            continue;
        damages[f] = damages[near] * ratio;
        errors[f] = errors[near] * ratio;
    }
}

static uint64_t chunk_work(const Damages *d, uint32_t layer) {
    return (uint64_t)d->n_variants * (d->profile->geometry.n_layers - layer + HEAD_WORK) +
           HEAD_WORK;
}

static int measure_layer(Damages *d, uint32_t layer, Reason *why) {
    int r = open_layer(d, layer, why);

    memset(&d->sums, 0, sizeof(d->sums));
    for (uint32_t at = 0; !r && at < d->n_tokens; at += KV_PAGE_TOKENS) {
        r = is_stopped(d) ? DAMAGES_E_STOPPED : run_layer(d, layer, at);
        if (!r)
            r = compare_variants(d, layer, at);
        if (!r)
            add_work(d, chunk_work(d, layer));
    }
    if (r)
        return r;
    keep_side(d, layer, KV_SIDE_K);
    keep_side(d, layer, KV_SIDE_V);
    d->profile->n_layers_measured = layer + 1;
    d->profile->has_damages = d->profile->has_distortions =
        layer + 1 == d->profile->geometry.n_layers;
    if (d->options->on_layer)
        d->options->on_layer(d->options->userdata, d->profile);
    return 0;
}

/* all */

/* Whether what the profile has so far was measured as it is to go on. */
static bool goes_on(const Damages *d) {
    const Profile *p = d->profile;

    if (p->has_damages || !p->n_layers_measured || p->lacks_5_bits ||
        p->n_damage_tokens != d->n_tokens)
        return false;
    for (int f = 0; f < KV_FORMATS; f++)
        if (p->damages_direct[f] != is_direct(d, (KvFormat)f))
            return false;
    return true;
}

static void begin_anew(Damages *d) {
    Profile *p = d->profile;

    p->has_damages = p->has_distortions = p->lacks_5_bits = false;
    p->n_layers_measured = 0;
    p->n_damage_tokens = d->n_tokens;
    for (int f = 0; f < KV_FORMATS; f++)
        p->damages_direct[f] = is_direct(d, (KvFormat)f);
}

static int measure(Damages *d, Reason *why) {
    uint32_t n_layers = d->profile->geometry.n_layers, first;
    uint64_t n_chunks = d->n_tokens / KV_PAGE_TOKENS;
    int r;

    if (!goes_on(d))
        begin_anew(d);
    first = d->profile->n_layers_measured;
    d->n_work = n_chunks * n_layers;
    for (uint32_t l = 0; l < n_layers; l++) {
        d->n_work += n_chunks * chunk_work(d, l);
        d->n_work_done += l < first ? n_chunks * chunk_work(d, l) : 0;
    }
    r = run_reference(d, first);
    for (uint32_t l = first; !r && l < n_layers; l++)
        r = measure_layer(d, l, why);
    return r;
}

int damages_measure(Profile *profile, Session *session, const TokenIds *tokens,
                    const DamagesOptions *options, Reason *why) {
    CLEANUP(damages_free) Damages *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return reason_set(why, -ENOMEM, "out of memory");
    d->session = session;
    d->profile = profile;
    d->options = options;
    d->tokens = tokens->ids;
    d->n_tokens = tokens_used(tokens, options);
    if (d->n_tokens < TOKENS_MIN)
        return reason_set(why, -EINVAL,
                          "too few tokens: damages are measured on %d at least, and the text has "
                          "%zu",
                          TOKENS_MIN, tokens->n);
    r = set_up(d, why);
    if (!r)
        r = measure(d, why);
    if (r < 0 && !why->text[0])
        reason_set(why, r, "the model could not be run over the text: %s", strerror(-r));
    return r;
}
