/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sampling without sorting the vocabulary.
 *
 * A greedy row is one vector maximum and a search for it. Other rows work on a copy of the logits,
 * because logprobs are of the raw ones. top_k keeps a heap of k; top_p finds its cut in a
 * histogram of mass; without either, the weights are summed where they stand. Sums are in f64, in
 * a fixed order: a row's answer is a function of the row alone.
 *
 * State: of every slot its parameters and two tables over the vocabulary, which are written only
 * where a request asks for it, so that most of their memory is never touched; of every thread of
 * the team scratch. Slots are filled on the engine's thread; a slot draws on any thread of the
 * team, once in a step.
 */

#include "cpu/sample.h"

#include "backend/uniform_draw.h"

#include <assert.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
/* Weights, from 0 to 1, by exponent and five bits of mantissa. */
#define BUCKET_SHIFT 18
#define BUCKETS ((0x3F800000 >> BUCKET_SHIFT) + 1)
/* In counts, beside the occurrences in the output: */
#define SEEN (UINT32_C(1) << 31)   /* the id is in the prompt or the output */
#define BANNED (UINT32_C(1) << 30) /* it is not drawn before min_output */
#define COUNT (BANNED - 1)

typedef struct Candidate {
    float value; /* a logit or a weight */
    uint32_t token;
} Candidate;

typedef struct Scratch {
    float *z;              /* [n_vocab] logits after bias and penalties, then weights */
    Candidate *candidates; /* [n_vocab] */
    double mass[BUCKETS];
} Scratch;

typedef struct Slot {
    SampleParams params; /* without the bias */
    float *bias;         /* [n_vocab]; all 0 unless has_bias */
    uint32_t *counts;    /* [n_vocab]; all 0 unless has_counts */
    uint32_t *mask;      /* [mask_words]; not read unless has_mask */
    bool has_bias, has_counts, has_banned, has_mask;
    uint32_t n_output, min_output;
    uint32_t drawn; /* last */
} Slot;

struct CpuSampler {
    uint32_t n_threads, n_slots, n_vocab;
    void *memory;      /* owned; what the arrays of slots and scratch lie in */
    Slot *slots;       /* [n_slots], owned */
    Scratch scratch[]; /* [n_threads] */
};

static size_t mask_words(size_t n_vocab) {
    return (n_vocab + 31) / 32;
}

static void place_arrays(CpuSampler *sampler) {
    size_t n_vocab = sampler->n_vocab;
    float *at = sampler->memory;

    for (uint32_t i = 0; i < sampler->n_threads; i++, at += 2 * n_vocab)
        sampler->scratch[i].candidates = (Candidate *)at;
    for (uint32_t i = 0; i < sampler->n_threads; i++, at += n_vocab)
        sampler->scratch[i].z = at;
    for (uint32_t i = 0; i < sampler->n_slots; i++, at += n_vocab)
        sampler->slots[i].bias = at;
    for (uint32_t i = 0; i < sampler->n_slots; i++, at += n_vocab)
        sampler->slots[i].counts = (uint32_t *)at;
    for (uint32_t i = 0; i < sampler->n_slots; i++, at += mask_words(n_vocab))
        sampler->slots[i].mask = (uint32_t *)at;
}

int cpu_sampler_new(CpuSampler **outp, uint32_t n_threads, uint32_t n_slots, uint32_t n_vocab,
                    size_t *bytesp) {
    static const SampleParams greedy = SAMPLE_PARAMS_GREEDY;
    size_t struct_bytes = sizeof(CpuSampler) + n_threads * sizeof(Scratch);
    size_t n_words =
        (3 * (size_t)n_threads + 2 * (size_t)n_slots) * n_vocab + n_slots * mask_words(n_vocab);
    CLEANUP(cpu_sampler_free) CpuSampler *sampler = calloc(1, struct_bytes);

    assert(n_threads && n_slots && n_vocab);
    if (!sampler)
        return -ENOMEM;
    sampler->n_threads = n_threads;
    sampler->n_slots = n_slots;
    sampler->n_vocab = n_vocab;
    sampler->slots = calloc(n_slots, sizeof(*sampler->slots));
    sampler->memory = calloc(n_words, sizeof(float));
    if (!sampler->slots || !sampler->memory)
        return -ENOMEM;
    place_arrays(sampler);
    for (uint32_t i = 0; i < n_slots; i++)
        sampler->slots[i].params = greedy;
    *bytesp += struct_bytes + n_slots * sizeof(*sampler->slots) + n_words * sizeof(float);
    *outp = TAKE(sampler);
    return 0;
}

CpuSampler *cpu_sampler_free(CpuSampler *sampler) {
    if (!sampler)
        return NULL;
    free(sampler->memory);
    free(sampler->slots);
    free(sampler);
    return NULL;
}

/* slots */

static bool has_penalties(const SampleParams *p) {
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static void slot_clear(Slot *slot, uint32_t n_vocab) {
    if (slot->has_bias)
        memset(slot->bias, 0, n_vocab * sizeof(*slot->bias));
    if (slot->has_counts)
        memset(slot->counts, 0, n_vocab * sizeof(*slot->counts));
    slot->has_bias = slot->has_counts = slot->has_banned = slot->has_mask = false;
}

static void slot_fill_bias(Slot *slot, const SampleParams *p, uint32_t n_vocab) {
    for (uint32_t i = 0; i < p->n_logit_bias; i++)
        if (p->logit_bias[i].token < n_vocab)
            slot->bias[p->logit_bias[i].token] = p->logit_bias[i].bias;
    slot->has_bias = p->n_logit_bias;
}

static void slot_ban(Slot *slot, const SlotState *state, uint32_t n_vocab) {
    for (uint32_t i = 0; i < state->n_banned; i++)
        if (state->banned[i] < n_vocab)
            slot->counts[state->banned[i]] |= BANNED;
    slot->has_banned = state->n_banned && state->n_output < state->min_output;
    slot->has_counts |= state->n_banned;
}

static void slot_count(Slot *slot, uint32_t token) {
    slot->counts[token] = (slot->counts[token] | SEEN) + 1;
}

static void slot_count_history(Slot *slot, const SlotState *state, uint32_t n_vocab) {
    for (uint32_t i = 0; i < state->n_prompt; i++) {
        assert(state->prompt[i] < n_vocab);
        slot->counts[state->prompt[i]] |= SEEN;
    }
    for (uint32_t i = 0; i < state->n_output; i++) {
        assert(state->output[i] < n_vocab);
        slot_count(slot, state->output[i]);
    }
    slot->has_counts = true;
}

void cpu_sampler_set(CpuSampler *sampler, uint32_t i_slot, const SlotState *state) {
    Slot *slot = &sampler->slots[i_slot];

    assert(i_slot < sampler->n_slots);
    slot_clear(slot, sampler->n_vocab);
    slot->params = *state->params;
    slot->params.logit_bias = NULL;
    slot->params.n_logit_bias = 0;
    slot->n_output = state->n_output;
    slot->min_output = state->min_output;
    slot->drawn = state->n_output ? state->output[state->n_output - 1] : 0;
    slot_fill_bias(slot, state->params, sampler->n_vocab);
    slot_ban(slot, state, sampler->n_vocab);
    if (has_penalties(&slot->params))
        slot_count_history(slot, state, sampler->n_vocab);
}

void cpu_sampler_mask(CpuSampler *sampler, uint32_t i_slot, const uint32_t *mask) {
    Slot *slot = &sampler->slots[i_slot];

    assert(i_slot < sampler->n_slots);
    slot->has_mask = mask;
    if (mask)
        memcpy(slot->mask, mask, mask_words(sampler->n_vocab) * sizeof(*mask));
}

uint32_t cpu_sampler_drawn(const CpuSampler *sampler, uint32_t slot) {
    assert(slot < sampler->n_slots);
    return sampler->slots[slot].drawn;
}

static void slot_follow(Slot *slot, uint32_t token) {
    slot->drawn = token;
    slot->n_output++;
    slot->has_banned = slot->has_banned && slot->n_output < slot->min_output;
    if (has_penalties(&slot->params))
        slot_count(slot, token);
}

/* arithmetic */

/* exp(x) for x <= 0 to about 2 units in the last place; 0 where it is denormal. Cephes' expf (S. L.
 * Moshier, netlib.org/cephes) without branches, so that loops over it become vector code. */
static inline float exp_nonpositive(float x) {
    const float round_magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float clamped = x > -104.0f ? x : -104.0f;
    float shifted = clamped * 1.44269504f + round_magic;
    float n = shifted - round_magic;
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    int32_t exponent; /* the low bits of `shifted` hold n */
    float power;

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&exponent, &shifted, sizeof(exponent));
    exponent = exponent - 0x4B400000 + 127;
    exponent = exponent > 0 ? exponent << 23 : 0;
    memcpy(&power, &exponent, sizeof(power));
    return p * power;
}

static inline float logit_clean(float z) {
    z = z > -INFINITY ? z : -INFINITY; /* false for NaN */
    return z < FLT_MAX ? z : FLT_MAX;
}

/* The largest value; NaN is passed over, -inf if there is nothing else. */
static float row_max(const float *z, uint32_t n) {
    float lanes[LANES], max = -INFINITY;
    uint32_t i = 0;

    for (int j = 0; j < LANES; j++)
        lanes[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] = z[i + (uint32_t)j] > lanes[j] ? z[i + (uint32_t)j] : lanes[j];
    for (; i < n; i++)
        lanes[0] = z[i] > lanes[0] ? z[i] : lanes[0];
    for (int j = 0; j < LANES; j++)
        max = lanes[j] > max ? lanes[j] : max;
    return max;
}

/* The lowest index that holds `value`; n if none does. */
static uint32_t row_find(const float *z, uint32_t n, float value) {
    uint32_t i = 0;
    int hits = 0;

    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++)
            hits |= z[i + (uint32_t)j] == value;
        if (hits)
            break;
    }
    while (i < n && z[i] != value)
        i++;
    return i;
}

/* w = exp((z - max) / temperature), 0 where that is below min_p; `w` may be `z`. */
static void row_weights(float *w, const float *z, uint32_t n, float max, float temperature,
                        float min_p) {
    for (uint32_t i = 0; i < n; i++) {
        float weight = exp_nonpositive((logit_clean(z[i]) - max) / temperature);

        w[i] = weight >= min_p ? weight : 0;
    }
}

static double row_sum(const float *w, uint32_t n) {
    double lanes[LANES] = { 0 }, sum = 0;
    uint32_t i = 0;

    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] += w[i + (uint32_t)j];
    for (; i < n; i++)
        lanes[0] += w[i];
    for (int j = 0; j < LANES; j++)
        sum += lanes[j];
    return sum;
}

/* heaps of candidates */

static bool ranks_before(Candidate a, Candidate b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
}

/* Restores the heap below i. The root is the first in rank, or the last if `last_at_root`. */
static inline void heap_sift(Candidate *heap, uint32_t n, uint32_t i, bool last_at_root) {
    Candidate moving = heap[i];

    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= n)
            break;
        if (child + 1 < n && ranks_before(heap[child + 1], heap[child]) != last_at_root)
            child++;
        if (ranks_before(heap[child], moving) == last_at_root)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heap_make(Candidate *heap, uint32_t n, bool last_at_root) {
    for (uint32_t i = n / 2; i-- > 0;)
        heap_sift(heap, n, i, last_at_root);
}

/* The k first in rank of z, in order; fewer where the rest is -inf. Most values lose against the
 * heap's root and cost one comparison. */
static uint32_t select_top(const float *z, uint32_t n, uint32_t k, Candidate *heap) {
    uint32_t n_heap = 0;

    for (uint32_t i = 0; i < n; i++) {
        Candidate c = { .value = logit_clean(z[i]), .token = i };

        if (n_heap < k) {
            if (c.value == -INFINITY)
                continue;
            heap[n_heap++] = c;
            if (n_heap == k)
                heap_make(heap, k, true);
        } else if (c.value > heap[0].value) {
            heap[0] = c;
            heap_sift(heap, k, 0, true);
        }
    }
    if (n_heap < k)
        heap_make(heap, n_heap, true);
    for (uint32_t last = n_heap; last > 1; last--) {
        Candidate c = heap[0];

        heap[0] = heap[last - 1];
        heap[last - 1] = c;
        heap_sift(heap, last - 1, 0, true);
    }
    return n_heap;
}

/* logprobs */

static void report_top(Candidate *heap, const float *logits, uint32_t n_vocab, int n_top,
                       double log_sum, SampleResult *result) {
    assert(n_top <= SAMPLE_TOP_LOGPROBS_MAX);
    if (n_top <= 0)
        return;
    result->n_top =
        select_top(logits, n_vocab, (uint32_t)n_top < n_vocab ? (uint32_t)n_top : n_vocab, heap);
    for (uint32_t i = 0; i < result->n_top; i++) {
        result->top_tokens[i] = heap[i].token;
        result->top_logprobs[i] = (float)(heap[i].value - log_sum);
    }
}

/* Of the raw logits; result->token is decided, so that s->z is free. */
static void report_logprobs(Scratch *s, const float *logits, uint32_t n_vocab, int n_top,
                            SampleResult *result) {
    float max = logit_clean(row_max(logits, n_vocab));
    double log_sum;

    if (max == -INFINITY) {
        result->logprob = -INFINITY;
        return;
    }
    row_weights(s->z, logits, n_vocab, max, 1, 0);
    log_sum = max + log(row_sum(s->z, n_vocab));
    result->logprob = (float)(logit_clean(logits[result->token]) - log_sum);
    report_top(s->candidates, logits, n_vocab, n_top, log_sum, result);
}

/* bias, bans, masks, penalties */

static bool is_in(const uint32_t *mask, uint32_t token) {
    return mask[token / 32] >> token % 32 & 1;
}

/* Most words of a mask leave out all of their ids, or none. */
static void leave_out(float *z, const uint32_t *mask, uint32_t n_vocab) {
    for (uint32_t first = 0; first < n_vocab; first += 32) {
        uint32_t word = mask[first / 32], n = n_vocab - first < 32 ? n_vocab - first : 32;

        for (uint32_t i = 0; word != UINT32_MAX && i < n; i++)
            z[first + i] = word >> i & 1 ? z[first + i] : -INFINITY;
    }
}

static float penalized(float z, uint32_t count, const SampleParams *p) {
    z = z > 0 ? z / p->repetition_penalty : z * p->repetition_penalty;
    if (count & COUNT)
        z -= p->frequency_penalty * (float)(count & COUNT) + p->presence_penalty;
    return logit_clean(z);
}

static void adjust_logits(float *z, const float *logits, uint32_t n_vocab, const Slot *slot) {
    for (uint32_t i = 0; i < n_vocab; i++)
        z[i] = logit_clean(logits[i]);
    for (uint32_t i = 0; slot->has_bias && i < n_vocab; i++)
        z[i] = logit_clean(z[i] + slot->bias[i]);
    for (uint32_t i = 0; slot->has_banned && i < n_vocab; i++)
        z[i] = slot->counts[i] & BANNED ? -INFINITY : z[i];
    if (has_penalties(&slot->params))
        for (uint32_t i = 0; i < n_vocab; i++)
            if (slot->counts[i] & SEEN)
                z[i] = penalized(z[i], slot->counts[i], &slot->params);
    if (slot->has_mask)
        leave_out(z, slot->mask, n_vocab);
}

/* the draw */

/* The first of `sorted` whose running sum passes u of the total. */
static uint32_t draw_sorted(const Candidate *sorted, uint32_t n, double total, double u) {
    double sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += sorted[i].value;
        if (sum > u * total)
            return sorted[i].token;
    }
    return sorted[n - 1].token; /* only rounding gets here */
}

static uint32_t draw_all(const float *w, uint32_t n, double total, double u) {
    double sum = 0;
    uint32_t last = 0;

    for (uint32_t i = 0; i < n; i++) {
        sum += w[i];
        if (sum > u * total)
            return i;
        last = w[i] > 0 ? i : last;
    }
    return last;
}

static uint32_t draw_top_k(Scratch *s, uint32_t n_vocab, float max, const SampleParams *p,
                           double u) {
    Candidate *kept = s->candidates;
    uint32_t n = select_top(s->z, n_vocab, p->top_k, kept), n_kept = 0;
    double total = 0, sum = 0;

    for (uint32_t i = 0; i < n; i++) {
        row_weights(&kept[i].value, &kept[i].value, 1, max, p->temperature, p->min_p);
        total += kept[i].value;
    }
    while (n_kept < n && kept[n_kept].value > 0 && (!n_kept || sum < p->top_p * total))
        sum += kept[n_kept++].value;
    return draw_sorted(kept, n_kept, sum, u);
}

static uint32_t bucket_of(float weight) {
    uint32_t bits;

    memcpy(&bits, &weight, sizeof(bits));
    return bits >> BUCKET_SHIFT;
}

/* The last in rank of the smallest set whose mass reaches `target`. A histogram of mass by the
 * leading bits of the weights finds the bucket it lies in; only that bucket is put in order. */
static Candidate find_cut(Scratch *s, uint32_t n_vocab, double target) {
    Candidate *heap = s->candidates, cut = { .value = 0, .token = n_vocab };
    uint32_t bucket = BUCKETS - 1, n = 0;
    double sum = 0;

    memset(s->mass, 0, sizeof(s->mass));
    for (uint32_t i = 0; i < n_vocab; i++)
        s->mass[bucket_of(s->z[i])] += s->z[i];
    while (bucket && sum + s->mass[bucket] < target)
        sum += s->mass[bucket--];
    for (uint32_t i = 0; i < n_vocab; i++)
        if (s->z[i] > 0 && bucket_of(s->z[i]) == bucket)
            heap[n++] = (Candidate){ .value = s->z[i], .token = i };
    heap_make(heap, n, false);
    while (n && (sum < target || !cut.value)) {
        cut = heap[0];
        sum += cut.value;
        heap[0] = heap[--n];
        heap_sift(heap, n, 0, false);
    }
    return cut;
}

static uint32_t draw_top_p(Scratch *s, uint32_t n_vocab, const SampleParams *p, double total,
                           double u) {
    Candidate cut = find_cut(s, n_vocab, p->top_p * total);

    for (uint32_t i = 0; i < n_vocab; i++) {
        bool kept = s->z[i] > cut.value || (s->z[i] == cut.value && i <= cut.token);

        s->z[i] = kept ? s->z[i] : 0;
    }
    return draw_all(s->z, n_vocab, row_sum(s->z, n_vocab), u);
}

static uint32_t lowest_allowed(const Slot *slot, uint32_t n_vocab) {
    uint32_t lowest_in = 0;

    for (uint32_t token = n_vocab; token--;)
        if (!slot->has_mask || is_in(slot->mask, token))
            lowest_in = token;
    for (uint32_t token = lowest_in; token < n_vocab; token++)
        if ((!slot->has_mask || is_in(slot->mask, token)) &&
            (!slot->has_banned || !(slot->counts[token] & BANNED)))
            return token;
    return lowest_in;
}

static uint32_t draw(Scratch *s, uint32_t n_vocab, const Slot *slot) {
    const SampleParams *p = &slot->params;
    float max = row_max(s->z, n_vocab);
    double u, total;

    if (max == -INFINITY)
        return lowest_allowed(slot, n_vocab);
    if (p->temperature == 0)
        return row_find(s->z, n_vocab, max);
    u = uniform_draw(p->seed, slot->n_output);
    if (p->top_k && p->top_k < n_vocab)
        return draw_top_k(s, n_vocab, max, p, u);
    row_weights(s->z, s->z, n_vocab, max, p->temperature, p->min_p);
    total = row_sum(s->z, n_vocab);
    if (p->top_p < 1)
        return draw_top_p(s, n_vocab, p, total, u);
    return draw_all(s->z, n_vocab, total, u);
}

static bool is_plain_greedy(const Slot *slot) {
    return slot->params.temperature == 0 && !slot->has_bias && !slot->has_banned &&
           !slot->has_mask && !has_penalties(&slot->params);
}

static uint32_t sample_token(Scratch *s, const float *logits, uint32_t n_vocab, const Slot *slot) {
    uint32_t token;

    if (is_plain_greedy(slot)) {
        token = row_find(logits, n_vocab, row_max(logits, n_vocab));
        return token < n_vocab ? token : 0; /* every logit is NaN */
    }
    adjust_logits(s->z, logits, n_vocab, slot);
    return draw(s, n_vocab, slot);
}

typedef struct SampleTask {
    CpuSampler *sampler;
    const float *logits;
    uint32_t n_vocab;
    const StepLogits *rows;
    SampleResult *results;
} SampleTask;

static void sample_row(void *arg, uint32_t i_row, uint32_t i_thread) {
    const SampleTask *task = arg;
    uint32_t n_vocab = task->n_vocab;
    Scratch *s = &task->sampler->scratch[i_thread];
    const float *logits = task->logits + (size_t)i_row * n_vocab;
    const StepLogits *row = &task->rows[i_row];
    SampleResult *result = &task->results[i_row];

    assert(row->slot < task->sampler->n_slots);
    result->n_top = 0;
    result->logprob = 0;
    result->token = row->target;
    if (row->target == STEP_DRAW) {
        result->token = sample_token(s, logits, n_vocab, &task->sampler->slots[row->slot]);
        slot_follow(&task->sampler->slots[row->slot], result->token);
    }
    assert(result->token < n_vocab);
    if (row->n_top_logprobs >= 0)
        report_logprobs(s, logits, n_vocab, row->n_top_logprobs, result);
}

void cpu_sample(CpuSampler *sampler, CpuTeam *team, const float *logits, uint32_t n_vocab,
                const StepLogits *rows, uint32_t n_rows, SampleResult *results) {
    SampleTask task = {
        .sampler = sampler, .logits = logits, .n_vocab = n_vocab, .rows = rows, .results = results
    };

    assert(n_vocab && n_vocab <= sampler->n_vocab);
    assert((team ? cpu_team_threads(team) : 1) <= sampler->n_threads);
    if (team)
        cpu_team_run(team, sample_row, &task, n_rows);
    for (uint32_t i = 0; !team && i < n_rows; i++)
        sample_row(&task, i, 0);
}
