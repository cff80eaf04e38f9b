/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;

    memcpy(&f, &u, sizeof(f));
    return f;
}

static void rmsnorm(float *out, const float *in, const float *weight, uint32_t dim, float epsilon) {
    double squares = 0;

    for (uint32_t i = 0; i < dim; i++)
        squares += (double)in[i] * in[i];
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (float)(in[i] / sqrt(squares / dim + epsilon) * weight[i]);
}

static void gated(float *out, const float *gate, const float *up, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

static void rotate(float *x, const float *cos, const float *sin, uint32_t n) {
    for (uint32_t c = 0; c < n; c++) {
        float a = x[c], b = x[c + n];

        x[c] = a * cos[c] - b * sin[c];
        x[c + n] = b * cos[c] + a * sin[c];
    }
}

static void to_bf16(uint16_t *out, const float *in, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u, low;

        memcpy(&u, in + i, sizeof(u));
        low = u & 0xffff;
        out[i] = (uint16_t)(u >> 16);
        if (isnan(in[i]))
            out[i] |= 0x40;
        else if (low > 0x8000 || (low == 0x8000 && (out[i] & 1)))
            out[i]++;
    }
}

static void scores(float *out, const float *queries, const uint16_t *keys, uint32_t n_queries,
                   uint32_t head_dim) {
    for (uint32_t i = 0; i < n_queries; i++)
        for (uint32_t j = 0; j < ATTENTION_BLOCK_KEYS; j++) {
            double sum = 0;

            for (uint32_t c = 0; c < head_dim; c++)
                sum += (double)queries[i * head_dim + c] *
                       from_bf16(keys[c * ATTENTION_BLOCK_KEYS + j]);
            out[i * ATTENTION_BLOCK_KEYS + j] = (float)sum;
        }
}

static void softmax(float *s, uint32_t low, uint32_t high, SoftmaxState *state, float *out,
                    uint32_t head_dim) {
    float max = state->max;
    double shift, sum = 0;

    for (uint32_t j = low; j < high; j++)
        max = fmaxf(max, s[j]);
    for (uint32_t j = 0; j < ATTENTION_BLOCK_KEYS; j++) {
        s[j] = j < low || j >= high ? 0 : (float)exp((double)s[j] - max);
        sum += s[j];
    }
    if (max == -INFINITY)
        return;
    shift = exp((double)state->max - max);
    state->max = max;
    state->sum = (float)(state->sum * shift + sum);
    for (uint32_t c = 0; c < head_dim; c++)
        out[c] = (float)(out[c] * shift);
}

static void values(float *out, const float *weights, const uint16_t *v, uint32_t n_queries,
                   uint32_t head_dim, uint32_t low, uint32_t high) {
    for (uint32_t i = 0; i < n_queries; i++)
        for (uint32_t c = 0; c < head_dim; c++) {
            double sum = out[i * head_dim + c];

            for (uint32_t j = low; j < high; j++)
                sum +=
                    (double)weights[i * ATTENTION_BLOCK_KEYS + j] * from_bf16(v[j * head_dim + c]);
            out[i * head_dim + c] = (float)sum;
        }
}

const VectorKernels reference_kernels = {
    .rmsnorm = rmsnorm,
    .gated = gated,
    .rotate = rotate,
    .to_bf16 = to_bf16,
    .scores = scores,
    .softmax = softmax,
    .values = values,
};

/* attention by the definition */

/* Channel `c` of the key or value of the token at `position`: from its page, the tail, or the
 * step's own rows. */
static float cached(const AttentionArgs *args, const StepSequence *s, KvSide side,
                    uint32_t position, uint32_t head, uint32_t c) {
    const KvGeometry *g = &args->store->geometry;
    uint32_t page = position / KV_PAGE_TOKENS, lane = position % KV_PAGE_TOKENS;
    const uint16_t *block;

    if (position >= s->n_past) {
        uint32_t row = s->i_token + position - s->n_past;
        const uint16_t *own = (const uint16_t *)(uintptr_t)(side == KV_SIDE_K ? args->k : args->v);

        return from_bf16(own[((size_t)row * g->n_kv_heads + head) * g->head_dim + c]);
    }
    if (page < s->n_past / KV_PAGE_TOKENS)
        block = (const uint16_t *)(uintptr_t)kv_store_block(args->store, args->layer, side,
                                                            s->pages[page], head);
    else
        block = (const uint16_t *)(uintptr_t)kv_store_tail(args->store, args->layer, side, s->tail,
                                                           head);
    return from_bf16(side == KV_SIDE_K ? block[(size_t)c * KV_PAGE_TOKENS + lane]
                                       : block[(size_t)lane * g->head_dim + c]);
}

static double score(const AttentionArgs *args, const StepSequence *s, const float *q,
                    uint32_t position, uint32_t head) {
    double sum = 0;

    for (uint32_t c = 0; c < args->store->geometry.head_dim; c++)
        sum += (double)q[c] * cached(args, s, KV_SIDE_K, position, head, c);
    return sum * args->scale;
}

static void attend_row(const AttentionArgs *args, const StepSequence *s, uint32_t r,
                       uint32_t q_head) {
    const KvGeometry *g = &args->store->geometry;
    uint32_t head = q_head / (args->n_heads / g->n_kv_heads);
    uint32_t position = s->n_past + r;
    uint32_t oldest = args->window && position >= args->window ? position - args->window + 1 : 0;
    size_t at = ((size_t)(s->i_token + r) * args->n_heads + q_head) * g->head_dim;
    const float *q = (const float *)(uintptr_t)args->q + at;
    float *out = (float *)(uintptr_t)args->out + at;
    double max = -INFINITY, sum = 0;

    for (uint32_t p = oldest; p <= position; p++)
        max = fmax(max, score(args, s, q, p, head));
    for (uint32_t p = oldest; p <= position; p++)
        sum += exp(score(args, s, q, p, head) - max);
    for (uint32_t c = 0; c < g->head_dim; c++) {
        double mean = 0;

        for (uint32_t p = oldest; p <= position; p++)
            mean += exp(score(args, s, q, p, head) - max) / sum *
                    cached(args, s, KV_SIDE_V, p, head, c);
        out[c] = (float)mean;
    }
}

void reference_attention(const AttentionArgs *args) {
    for (uint32_t i = 0; i < args->batch->n_sequences; i++)
        for (uint32_t r = 0; r < args->batch->sequences[i].n_tokens; r++)
            for (uint32_t h = 0; h < args->n_heads; h++)
                attend_row(args, &args->batch->sequences[i], r, h);
}
