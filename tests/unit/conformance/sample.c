/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sampling against a plain reading of backend/sample.h: a distribution computed with a full sort in
 * double, which draws are compared with by chi-square.
 */
#include "tests/unit/conformance/conformance.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 64
#define VOCAB_MAX 50000
#define MASK_WORDS ((VOCAB_MAX + 31) / 32)

/* A slot's state and what a row asks of it, in one. */
typedef struct Ask {
    SampleParams params;
    const uint32_t *prompt, *output, *banned;
    const uint32_t *mask; /* [MASK_WORDS]; NULL: none */
    uint32_t n_prompt, n_output, n_banned, min_output;
    uint32_t target; /* STEP_DRAW, or an id */
    int n_top_logprobs;
} Ask;

#define ASK_GREEDY                                                                 \
    {                                                                              \
        .params = SAMPLE_PARAMS_GREEDY, .target = STEP_DRAW, .n_top_logprobs = -1, \
        .min_output = UINT32_MAX                                                   \
    }

static void set_slot(Device *d, uint32_t slot, const Ask *ask) {
    SlotState state = { .params = &ask->params,
                        .prompt = ask->prompt,
                        .output = ask->output,
                        .banned = ask->banned,
                        .n_prompt = ask->n_prompt,
                        .n_output = ask->n_output,
                        .n_banned = ask->n_banned,
                        .min_output = ask->min_output };

    assert_int_equal(d->ops->slot_set(d->backend, slot, &state), 0);
}

static void set_mask(Device *d, uint32_t slot, const Ask *ask) {
    if (ask->mask)
        assert_int_equal(d->ops->slot_mask(d->backend, slot, ask->mask), 0);
}

/* A step of one row for each of n slots, in an order that is not theirs. */
static void begin_slots(Device *d, const uint32_t *tokens, const Ask *asks, uint32_t n) {
    StepSequence sequences[SLOTS];
    StepLogits rows[SLOTS];
    uint32_t indptr[SLOTS + 1], pages[SLOTS];
    StepInput input = { .n_rows = n,
                        .n_sequences = n,
                        .n_logit_rows = n,
                        .tokens = tokens,
                        .sequences = sequences,
                        .page_indptr = indptr,
                        .page_indices = pages,
                        .logit_rows = rows };

    for (uint32_t i = 0; i <= n; i++)
        indptr[i] = i;
    for (uint32_t i = 0; i < n; i++) {
        sequences[i] =
            (StepSequence){ .first_row = i, .n_rows = 1, .slot = n - 1 - i, .sink = KV_NO_SINK };
        pages[i] = i;
        rows[i] = (StepLogits){ .row = n - 1 - i,
                                .slot = i,
                                .target = asks[i].target,
                                .n_top_logprobs = asks[i].n_top_logprobs };
    }
    assert_int_equal(d->ops->step_begin(d->backend, &input), 0);
}

/* Row i of logits [n, n_vocab] for slot i, in one or two calls of the op. */
static void sample_slots(Device *d, const float *logits, uint32_t n_vocab, uint32_t n,
                         SampleResult *results) {
    DevAddr device = device_put(d, logits, (size_t)n * n_vocab * sizeof(*logits));
    uint32_t cut = random_below(&d->random, n);
    const SampleResult *got;

    if (cut)
        assert_int_equal(
            d->ops->sample(
                d->backend,
                &(SampleArgs){ .logits = device, .first = 0, .n_rows = cut, .n_vocab = n_vocab }),
            0);
    assert_int_equal(
        d->ops->sample(d->backend,
                       &(SampleArgs){ .logits = device + (size_t)cut * n_vocab * sizeof(*logits),
                                      .first = cut,
                                      .n_rows = n - cut,
                                      .n_vocab = n_vocab }),
        0);
    assert_int_equal(d->ops->step_end(d->backend), 0);
    assert_int_equal(d->ops->step_wait(d->backend, &got), 0);
    memcpy(results, got, n * sizeof(*results));
    for (uint32_t i = 0; i < n; i++)
        assert_true(results[i].token < n_vocab);
}

/* Slots of these states, and one step of them. Masks come before it begins, or after. */
static void sample(Device *d, const float *logits, uint32_t n_vocab, const Ask *asks, uint32_t n,
                   SampleResult *results) {
    static const uint32_t tokens[SLOTS];

    for (uint32_t i = 0; i < n; i++)
        set_slot(d, i, &asks[i]);
    for (uint32_t i = 0; i < n; i += 2)
        set_mask(d, i, &asks[i]);
    begin_slots(d, tokens, asks, n);
    for (uint32_t i = 1; i < n; i += 2)
        set_mask(d, i, &asks[i]);
    sample_slots(d, logits, n_vocab, n, results);
}

static float *random_logits(Device *d, uint32_t n_rows, uint32_t n_vocab, float scale) {
    float *z = host_normals(d, (size_t)n_rows * n_vocab);

    for (size_t i = 0; i < (size_t)n_rows * n_vocab; i++)
        z[i] *= scale;
    return z;
}

/* the reference */

typedef struct Entry {
    double z;
    uint32_t token;
} Entry;

static int entry_order(const void *a, const void *b) {
    const Entry *x = a, *y = b;

    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

static uint32_t count_of(uint32_t token, const uint32_t *tokens, uint32_t n) {
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i++)
        count += tokens[i] == token;
    return count;
}

static bool is_in(const uint32_t *mask, uint32_t token) {
    return mask[token / 32] >> token % 32 & 1;
}

/* A mask that leaves in about one id of `rarity` below n, and at least one. */
static uint32_t *random_mask(Device *d, uint32_t n, uint32_t rarity) {
    uint32_t *mask = host_new(d, MASK_WORDS, sizeof(*mask)), always = random_below(&d->random, n);

    for (uint32_t i = 0; i < n; i++)
        if (i == always || !random_below(&d->random, rarity))
            mask[i / 32] |= UINT32_C(1) << i % 32;
    return mask;
}

/* Logits after bias, bans, masks and penalties. */
static double penalized(float logit, uint32_t token, const Ask *ask) {
    const SampleParams *p = &ask->params;
    uint32_t in_output = count_of(token, ask->output, ask->n_output);
    double z = logit;

    for (uint32_t i = 0; i < p->n_logit_bias; i++)
        z += p->logit_bias[i].token == token ? p->logit_bias[i].bias : 0;
    if (ask->n_output < ask->min_output && count_of(token, ask->banned, ask->n_banned))
        z = -INFINITY;
    if (ask->mask && !is_in(ask->mask, token))
        z = -INFINITY;
    if (in_output || count_of(token, ask->prompt, ask->n_prompt))
        z = z > 0 ? z / p->repetition_penalty : z * p->repetition_penalty;
    return z - (double)p->frequency_penalty * in_output - (in_output ? p->presence_penalty : 0);
}

/* probabilities [n]: of every token to be drawn. */
static void reference_distribution(Device *d, const float *logits, uint32_t n, const Ask *ask,
                                   double *probabilities) {
    const SampleParams *p = &ask->params;
    Entry *sorted = host_new(d, n, sizeof(*sorted));
    double *weights = host_new(d, n, sizeof(*weights)), total = 0, sum = 0;
    uint32_t n_kept = 0;

    for (uint32_t t = 0; t < n; t++)
        sorted[t] = (Entry){ penalized(logits[t], t, ask), t };
    qsort(sorted, n, sizeof(*sorted), entry_order);
    for (uint32_t i = 0; i < n; i++)
        weights[i] = exp((sorted[i].z - sorted[0].z) / p->temperature);
    while (n_kept < n && weights[n_kept] > 0 && weights[n_kept] >= p->min_p &&
           (!p->top_k || n_kept < p->top_k))
        total += weights[n_kept++];
    for (uint32_t i = 0; i < n_kept; i++) {
        if (sum >= p->top_p * total)
            n_kept = i;
        else
            sum += weights[i];
    }
    memset(probabilities, 0, n * sizeof(*probabilities));
    for (uint32_t i = 0; i < n_kept; i++)
        probabilities[sorted[i].token] = weights[i] / sum;
}

/* checks */

void check_sample_takes_the_largest(Device *d) {
    static const uint32_t sizes[] = { 1, 2, 15, 16, 17, 100, 1000, VOCAB_MAX };

    reserve_rows(d, SLOTS, 32, VOCAB_MAX);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        uint32_t n = sizes[i], n_slots = n > 1000 ? 3 : 9, a[9], b[9];
        float *z = random_logits(d, n_slots, n, 1);
        SampleResult results[9];
        Ask asks[9];

        for (uint32_t s = 0; s < n_slots; s++) {
            a[s] = random_below(&d->random, n);
            b[s] = random_below(&d->random, n);
            z[(size_t)s * n + a[s]] = z[(size_t)s * n + b[s]] = s == 1 ? 3e38f : 100;
            asks[s] = (Ask)ASK_GREEDY;
        }
        sample(d, z, n, asks, n_slots, results);
        for (uint32_t s = 0; s < n_slots; s++) /* of equal ones the first */
            assert_int_equal(results[s].token, a[s] < b[s] ? a[s] : b[s]);
        case_end(d);
    }
}

/* Random penalties, biases and bans on a vocabulary so small that they meet. */
static void make_hard(Device *d, Ask *ask, uint32_t n_vocab) {
    Random *r = &d->random;
    uint32_t *tokens = host_new(d, 80, sizeof(*tokens));
    LogitBias *bias = host_new(d, 3, sizeof(*bias));

    for (uint32_t i = 0; i < 80; i++)
        tokens[i] = random_below(r, n_vocab);
    for (uint32_t i = 0; i < 3; i++) /* three ids that differ */
        bias[i] = (LogitBias){ (tokens[70] + i * (n_vocab / 3)) % n_vocab, 2 * random_normal(r) };
    *ask = (Ask){ .params = { .temperature = 1,
                              .top_p = 1,
                              .repetition_penalty = 0.5f + (float)random_uniform(r) * 1.5f,
                              .presence_penalty = 4 * (float)random_uniform(r) - 2,
                              .frequency_penalty = (float)random_uniform(r) - 0.5f,
                              .logit_bias = bias,
                              .n_logit_bias = 3 },
                  .prompt = tokens,
                  .output = tokens + 20,
                  .banned = tokens + 60,
                  .n_prompt = random_below(r, 21),
                  .n_output = random_below(r, 41),
                  .n_banned = random_below(r, 5),
                  .min_output = random_below(r, 2) ? 41 : 0,
                  .target = STEP_DRAW,
                  .n_top_logprobs = -1 };
}

/* Chi-square of the draws; tokens expected fewer than 5 times are one class. The bound is 6
 * standard deviations above the mean of the statistic. */
static void expect_distribution(const Device *d, const uint32_t *counts,
                                const double *probabilities, uint32_t n, uint32_t n_draws) {
    double chi2 = 0, rare_expected = 0, rare_count = 0, n_classes = 0, bound;

    for (uint32_t t = 0; t < n; t++) {
        double expected = probabilities[t] * n_draws;

        if (probabilities[t] == 0 && counts[t])
            fail_msg("%s: token %u must not be drawn", d->subject->name, t);
        if (expected < 5) {
            rare_expected += expected;
            rare_count += counts[t];
            continue;
        }
        chi2 += (counts[t] - expected) * (counts[t] - expected) / expected;
        n_classes++;
    }
    if (rare_expected >= 5) {
        chi2 += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
        n_classes++;
    }
    bound = n_classes - 1 + 6 * sqrt(2 * n_classes) + 6;
    if (n_classes > 1 && !(chi2 < bound))
        fail_msg("%s: chi-square %g of %g classes, bound %g", d->subject->name, chi2, n_classes,
                 bound);
}

/* All slots draw from the same logits, with seeds of their own. */
static void check_draws(Device *d, const Ask *ask, uint32_t n_vocab) {
    enum { ROUNDS = 30 };
    float *row = random_logits(d, 1, n_vocab, 2), *z = host_new(d, SLOTS * (size_t)n_vocab, 4);
    double *probabilities = host_new(d, n_vocab, sizeof(*probabilities));
    uint32_t *counts = host_new(d, n_vocab, sizeof(*counts));
    SampleResult results[SLOTS];
    Ask asks[SLOTS];

    for (uint32_t s = 0; s < SLOTS; s++)
        memcpy(z + (size_t)s * n_vocab, row, n_vocab * sizeof(*row));
    reference_distribution(d, row, n_vocab, ask, probabilities);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t s = 0; s < SLOTS; s++) {
            asks[s] = *ask;
            asks[s].params.seed = random_u64(&d->random);
        }
        sample(d, z, n_vocab, asks, SLOTS, results);
        for (uint32_t s = 0; s < SLOTS; s++)
            counts[results[s].token]++;
    }
    expect_distribution(d, counts, probabilities, n_vocab, ROUNDS * SLOTS);
    case_end(d);
}

void check_sample_draws_by_the_distribution(Device *d) {
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
        bool is_hard;
    } cases[] = {
        { 1, 1, 0, 0, false },          { 0.3f, 1, 0, 0, false },       { 2.5f, 1, 0, 0, true },
        { 1, 0.9f, 0, 0, false },       { 1, 0.3f, 0, 0, true },        { 1, 1, 0.1f, 0, false },
        { 1, 1, 0, 7, true },           { 1, 1, 0, 100000, false },     { 0.8f, 0.8f, 0, 12, true },
        { 1, 0.95f, 0.05f, 40, false }, { 1.2f, 0.7f, 0.02f, 0, true },
    };

    reserve_rows(d, SLOTS, 32, 300);
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(*cases); i++) {
        uint32_t n_vocab = 20 + random_below(&d->random, 100);
        Ask ask = ASK_GREEDY;

        if (cases[i / 2].is_hard)
            make_hard(d, &ask, n_vocab);
        ask.params.temperature = cases[i / 2].temperature;
        ask.params.top_p = cases[i / 2].top_p;
        ask.params.min_p = cases[i / 2].min_p;
        ask.params.top_k = cases[i / 2].top_k;
        if (i % 2) {
            ask.mask = random_mask(d, n_vocab, 2 + random_below(&d->random, 8));
            ask.n_banned = 0; /* with few ids left in, all of them may be banned */
        }
        check_draws(d, &ask, n_vocab);
    }
}

/* Of the raw logits, whatever is drawn. */
static void expect_logprobs(Device *d, const float *z, uint32_t n, const Ask *ask,
                            const SampleResult *r) {
    Entry *sorted = host_new(d, n, sizeof(*sorted));
    double sum = 0;

    for (uint32_t t = 0; t < n; t++)
        sorted[t] = (Entry){ z[t], t };
    qsort(sorted, n, sizeof(*sorted), entry_order);
    for (uint32_t t = 0; t < n; t++)
        sum += exp(sorted[t].z - sorted[0].z);
    sum = sorted[0].z + log(sum);
    if (ask->target != STEP_DRAW)
        assert_int_equal(r->token, ask->target);
    assert_true(fabs(r->logprob - (z[r->token] - sum)) < 2e-6 * (1 + fabs(z[r->token] - sum)));
    assert_int_equal(r->n_top, (uint32_t)ask->n_top_logprobs < n ? ask->n_top_logprobs : (int)n);
    for (uint32_t i = 0; i < r->n_top; i++) {
        assert_int_equal(r->top_tokens[i], sorted[i].token);
        assert_true(fabs(r->top_logprobs[i] - (sorted[i].z - sum)) < 2e-5);
        if (r->top_tokens[i] == r->token)
            assert_true(r->top_logprobs[i] == r->logprob);
    }
}

void check_sample_logprobs(Device *d) {
    static const uint32_t sizes[] = { 1, 3, 20, 333, VOCAB_MAX };
    enum { N = 6 };

    reserve_rows(d, SLOTS, 32, VOCAB_MAX);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        uint32_t n = sizes[i];
        float *z = random_logits(d, N, n, 4);
        SampleResult results[N];
        Ask asks[N];

        for (size_t t = 0; t < (size_t)N * n; t += 7) /* ties */
            z[t] = (float)(int)z[t];
        for (uint32_t s = 0; s < N; s++) {
            make_hard(d, &asks[s], n);
            asks[s].params.n_logit_bias = n < 3 ? 0 : 3;
            asks[s].n_top_logprobs = (int)s * SAMPLE_TOP_LOGPROBS_MAX / (N - 1);
            asks[s].target = s % 2 ? random_below(&d->random, n) : STEP_DRAW;
        }
        sample(d, z, n, asks, N, results);
        for (uint32_t s = 0; s < N; s++)
            expect_logprobs(d, z + (size_t)s * n, n, &asks[s], &results[s]);
        case_end(d);
    }
}

/* Greedy rows take the best id that is left in; logprobs are of all ids. */
static void expect_best_in(const float *z, uint32_t n, const uint32_t *mask, uint32_t token) {
    assert_true(is_in(mask, token));
    for (uint32_t t = 0; t < n; t++)
        assert_true(!is_in(mask, t) || z[t] < z[token] || (z[t] == z[token] && t >= token));
}

void check_sample_stays_in_masks(Device *d) {
    static const uint32_t sizes[] = { 1, 31, 32, 33, 1000, 49152, VOCAB_MAX };
    static const uint32_t rarities[] = { 1, 3, 100, 1u << 31 };
    enum { N = 4 };

    reserve_rows(d, SLOTS, 32, VOCAB_MAX);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        uint32_t n = sizes[i];
        float *z = random_logits(d, N, n, 4);
        SampleResult results[N];
        Ask asks[N];

        for (uint32_t s = 0; s < N; s++) {
            asks[s] = (Ask)ASK_GREEDY;
            asks[s].mask = random_mask(d, n, rarities[s]);
            asks[s].n_top_logprobs = 5;
        }
        sample(d, z, n, asks, N, results);
        for (uint32_t s = 0; s < N; s++) {
            expect_best_in(z + (size_t)s * n, n, asks[s].mask, results[s].token);
            expect_logprobs(d, z + (size_t)s * n, n, &asks[s], &results[s]);
        }
        case_end(d);
    }
}

/* A mask with a few ids, all of them banned, of logit -inf, or not: one of those that are left in
 * is drawn whatever else holds, the lowest where nothing tells them apart. */
void check_sample_with_nothing_but_a_mask(Device *d) {
    enum { N = 1000, LOW = 300, HIGH = 700 };
    static const uint32_t both[] = { LOW, HIGH };
    static const struct {
        uint32_t n_banned;
        bool is_dead;
        uint32_t expected;
    } cases[] = {
        { 2, false, LOW }, { 1, false, HIGH }, { 0, true, LOW }, { 1, true, HIGH }, { 2, true, LOW }
    };
    enum { N_CASES = sizeof(cases) / sizeof(*cases) };
    uint32_t *mask = host_new(d, MASK_WORDS, sizeof(*mask));
    float *z;
    SampleResult results[2 * N_CASES];
    Ask asks[2 * N_CASES];

    reserve_rows(d, SLOTS, 32, VOCAB_MAX);
    z = random_logits(d, 2 * N_CASES, N, 1);
    mask[LOW / 32] |= UINT32_C(1) << LOW % 32;
    mask[HIGH / 32] |= UINT32_C(1) << HIGH % 32;
    for (uint32_t s = 0; s < 2 * N_CASES; s++) {
        asks[s] = (Ask)ASK_GREEDY;
        asks[s].mask = mask;
        asks[s].params.temperature = s % 2 ? 1 : 0;
        asks[s].banned = both;
        asks[s].n_banned = cases[s / 2].n_banned;
        z[s * N + LOW] = z[s * N + HIGH] = cases[s / 2].is_dead ? -INFINITY : 1;
    }
    sample(d, z, N, asks, 2 * N_CASES, results);
    for (uint32_t s = 0; s < 2 * N_CASES; s++)
        assert_int_equal(results[s].token, cases[s / 2].expected);
    /* and it can be taken off */
    assert_int_equal(d->ops->slot_mask(d->backend, 0, NULL), 0);
    begin_slots(d, (const uint32_t[1]){ 0 }, asks, 1);
    z[5] = 100;
    sample_slots(d, z, N, 1, results);
    assert_int_equal(results[0].token, 5);
    case_end(d);
}

/* Whatever a slot drew by itself, it stands as one filled with all of that would; and what it drew
 * is what the next step embeds for it. */
void check_sample_follows_what_it_draws(Device *d) {
    enum { N = 30, STEPS = 50, DIM = 32 };
    Ask asks[2]; /* slot 0 follows, slot 1 is filled for every step */
    uint32_t output[STEPS + 1] = { 0 }, tokens[2] = { 0 };
    Matrix table = matrix_new(d, WEIGHT_F32, N, DIM, false);
    DevAddr rows = residual_new(d, 2 * DIM);
    SampleResult results[2];

    reserve_rows(d, SLOTS, DIM, N);
    make_hard(d, &asks[0], N);
    asks[0].params.seed = random_u64(&d->random);
    asks[0].min_output = STEPS / 2;
    asks[0].n_output = 0;
    asks[0].n_banned = 2;
    asks[1] = asks[0];
    asks[1].output = output;
    set_slot(d, 0, &asks[0]);
    for (uint32_t i = 0; i < STEPS; i++) {
        float *z = random_logits(d, 2, N, 1), *embedded;
        const float *row;

        for (uint32_t k = 0; k < asks[0].n_banned; k++) /* they would be drawn at once */
            z[asks[0].banned[k]] += 8;
        memcpy(z + N, z, N * sizeof(*z));
        asks[1].n_output = i;
        set_slot(d, 1, &asks[1]);
        tokens[1] = i ? STEP_TOKEN_DRAWN : 0; /* row 1 is slot 0's */
        begin_slots(d, tokens, asks, 2);
        assert_int_equal(
            d->ops->embed(d->backend,
                          &(EmbedArgs){ .out = rows, .table = table.weight, .scale = 1 }),
            0);
        sample_slots(d, z, N, 2, results);
        assert_int_equal(results[0].token, results[1].token);
        embedded = residual_get(d, rows + DIM * d->ops->residual_bytes, DIM);
        row = table.values + (size_t)(i ? output[i - 1] : 0) * DIM;
        for (uint32_t c = 0; c < DIM; c++)
            assert_true(fabsf(embedded[c] - row[c]) <=
                        (float)d->subject->tolerance->rounding * fabsf(row[c]));
        output[i] = results[0].token;
        assert_true(i >= asks[0].min_output ||
                    !count_of(output[i], asks[0].banned, asks[0].n_banned));
    }
    case_end(d);
}

/* The same seed and position draw the same token, alone or among others. */
void check_sample_draws_alike_alone(Device *d) {
    enum { N = 3000, BATCH = 20 };
    float *z;
    SampleResult together[BATCH], alone;
    Ask asks[BATCH];
    uint32_t n_different = 0;

    reserve_rows(d, SLOTS, 32, N);
    z = random_logits(d, BATCH, N, 1);
    for (uint32_t s = 0; s < BATCH; s++) {
        make_hard(d, &asks[s], N);
        asks[s].params.top_p = s % 3 ? 1 : 0.9f;
        asks[s].params.top_k = s % 4 ? 0 : 200;
        asks[s].params.seed = random_u64(&d->random);
        asks[s].n_top_logprobs = 3;
    }
    sample(d, z, N, asks, BATCH, together);
    for (uint32_t s = 0; s < BATCH; s++) {
        sample(d, z + (size_t)s * N, N, &asks[s], 1, &alone);
        assert_int_equal(alone.token, together[s].token);
        if (d->ops->row_exact)
            assert_memory_equal(&alone.logprob, &together[s].logprob, sizeof(alone.logprob));
        asks[s].params.seed ^= s % 2 ? 1 : UINT64_C(1) << 40; /* both halves count */
        sample(d, z + (size_t)s * N, N, &asks[s], 1, &alone);
        n_different += alone.token != together[s].token;
    }
    assert_true(n_different > BATCH * 3 / 4);
    case_end(d);
}
