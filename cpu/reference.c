/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/reference.h"

#include "kvcache/hadamard.h"
#include "kvcache/key_transform.h"
#include "kvcache/kv_format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void rmsnorm(float *out, const float *in, const float *weight, uint32_t dim, float epsilon,
                    bool accumulate) {
    double squares = 0;

    for (uint32_t i = 0; i < dim; i++)
        squares += (double)in[i] * in[i];
    for (uint32_t i = 0; i < dim; i++) {
        double normed = in[i] / sqrt(squares / dim + epsilon) * weight[i];

        out[i] = (float)(accumulate ? out[i] + normed : normed);
    }
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

static double gelu_tanh(double x) {
    return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void gated(float *out, const float *gate, const float *up, uint32_t n,
                  Activation activation) {
    for (uint32_t i = 0; i < n; i++)
        out[i] =
            (float)((activation == ACTIVATION_SILU ? silu(gate[i]) : gelu_tanh(gate[i])) * up[i]);
}

static void rotate(float *x, const float *cos, const float *sin, uint32_t n) {
    for (uint32_t c = 0; c < n; c++) {
        float a = x[c], b = x[c + n];

        x[c] = a * cos[c] - b * sin[c];
        x[c + n] = b * cos[c] + a * sin[c];
    }
}

static void hadamard(float *x, uint32_t n_vectors, uint32_t n) {
    for (uint32_t i = 0; i < n_vectors; i++)
        hadamard_apply(x + (size_t)i * n, n);
}

static void transform(float *x, size_t stride, uint32_t n_vectors, const float *matrix,
                      uint32_t n) {
    double y[KV_HEAD_DIM_MAX];

    for (uint32_t i = 0; i < n_vectors; i++, x += stride) {
        key_transform_apply(y, x, matrix, n);
        for (uint32_t c = 0; c < n; c++)
            x[c] = (float)y[c];
    }
}

static void to_16bit(KvFormat format, uint16_t *out, const float *in, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u, low;

        if (format == KV_FORMAT_F16) {
            out[i] = half_nearest(in[i]);
            continue;
        }

        memcpy(&u, in + i, sizeof(u));
        low = u & 0xffff;
        out[i] = (uint16_t)(u >> 16);
        if (isnan(in[i]))
            out[i] |= 0x40;
        else if (low > 0x8000 || (low == 0x8000 && (out[i] & 1)))
            out[i]++;
    }
}

static void scores(KvFormat format, float *out, const float *queries, const uint16_t *keys,
                   const uint16_t *next, uint32_t n_queries, uint32_t n_keys, uint32_t head_dim) {
    (void)next;
    for (uint32_t i = 0; i < n_queries; i++)
        for (uint32_t j = 0; j < n_keys; j++) {
            double sum = 0;

            for (uint32_t c = 0; c < head_dim; c++)
                sum += (double)queries[i * head_dim + c] *
                       kv_16bit_value(format, keys[c * ATTENTION_BLOCK_KEYS + j]);
            out[i * ATTENTION_BLOCK_KEYS + j] = (float)sum;
        }
}

static void softmax(float *s, uint32_t low, uint32_t high, CpuSoftmaxState *state, float *out,
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

static void values(KvFormat format, float *out, const float *weights, const uint16_t *v,
                   const uint16_t *next, uint32_t n_queries, uint32_t head_dim, uint32_t low,
                   uint32_t high) {
    (void)next;
    for (uint32_t i = 0; i < n_queries; i++)
        for (uint32_t c = 0; c < head_dim; c++) {
            double sum = out[i * head_dim + c];

            for (uint32_t j = low; j < high; j++)
                sum += (double)weights[i * ATTENTION_BLOCK_KEYS + j] *
                       kv_16bit_value(format, v[j * head_dim + c]);
            out[i * head_dim + c] = (float)sum;
        }
}

static double log_sum_exp(const float *x, uint32_t n) {
    float max = -INFINITY;
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        max = fmaxf(max, x[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(x[i] - (double)max);
    return log(sum) + max;
}

static double divergence(const float *p, double p_log_sum, const float *q, double q_log_sum,
                         uint32_t n) {
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += exp(p[i] - p_log_sum) * ((p[i] - p_log_sum) - (q[i] - q_log_sum));
    return sum;
}

const CpuVectorKernels cpu_reference_kernels = {
    .rmsnorm = rmsnorm,
    .gated = gated,
    .rotate = rotate,
    .hadamard = hadamard,
    .transform = transform,
    .to_16bit = to_16bit,
    .scores = scores,
    .softmax = softmax,
    .values = values,
    .log_sum_exp = log_sum_exp,
    .divergence = divergence,
};

/* attention by the definition */

/* All keys and values one row may see, of one KV head, as f32 [position][head_dim]. */
typedef struct Context {
    float *k, *v;
} Context;

static void gather_side(const AttentionArgs *args, const StepInput *input, uint32_t i_sequence,
                        KvSide side, uint32_t head, float *out) {
    const StepSequence *s = &input->sequences[i_sequence];
    const KvLayer *layer = args->layer;
    KvFormat tail_format = kv_layer_tail_format(layer, side);
    uint32_t n = layer->head_dim;
    float *block = malloc((size_t)n * KV_PAGE_TOKENS * sizeof(*block));

    for (uint32_t p = 0; p < s->n_past + s->n_rows; p++) {
        uint32_t page = p / KV_PAGE_TOKENS, lane = p % KV_PAGE_TOKENS;

        if (p >= s->n_past) {
            DevAddr own = side == KV_SIDE_K ? args->k : args->v;
            size_t row = s->first_row + p - s->n_past;

            for (uint32_t c = 0; c < n; c++)
                out[(size_t)p * n + c] = kv_16bit_value(
                    tail_format,
                    ((const uint16_t *)(uintptr_t)own)[(row * layer->n_kv_heads + head) * n + c]);
            continue;
        }
        if (lane == 0) {
            bool sealed = page < s->n_past / KV_PAGE_TOKENS;
            DevAddr at = sealed
                             ? kv_layer_block(layer, side, step_page(input, i_sequence, page), head)
                             : kv_layer_tail(layer, side, s->slot, head);

            kv_block_to_f32(sealed ? layer->sides[side].format : tail_format, side, n,
                            (const void *)(uintptr_t)at, block);
        }
        for (uint32_t c = 0; c < n; c++)
            out[(size_t)p * n + c] = side == KV_SIDE_K ? block[(size_t)c * KV_PAGE_TOKENS + lane]
                                                       : block[(size_t)lane * n + c];
    }
    free(block);
}

/* A quantized first page's first tokens are read from the sinks. */
static void gather_sinks(const AttentionArgs *args, const StepSequence *s, KvSide side,
                         uint32_t head, float *out) {
    const KvLayer *layer = args->layer;
    uint32_t n = layer->head_dim;
    const uint16_t *sinks;

    if (s->n_past < KV_PAGE_TOKENS || !layer->n_sinks || s->sink == KV_NO_SINK ||
        !kv_layer_quantizes(layer, side))
        return;
    sinks = (const uint16_t *)(uintptr_t)kv_layer_sink(layer, side, s->sink, head);
    for (uint32_t j = 0; j < KV_SINK_TOKENS; j++)
        for (uint32_t c = 0; c < n; c++)
            out[(size_t)j * n + c] =
                kv_16bit_value(KV_FORMAT_F16, side == KV_SIDE_K ? sinks[c * KV_SINK_TOKENS + j]
                                                                : sinks[j * n + c]);
}

static void attend_row(const AttentionArgs *args, const StepSequence *s, uint32_t r,
                       uint32_t q_head, const Context *context, double *weights) {
    uint32_t n = args->layer->head_dim, position = s->n_past + r;
    uint32_t oldest = args->window && position >= args->window ? position - args->window + 1 : 0;
    size_t at = ((size_t)(s->first_row + r) * args->n_heads + q_head) * n;
    const float *q = (const float *)(uintptr_t)args->q + at;
    float *out = (float *)(uintptr_t)args->out + at;
    double max = -INFINITY, sum = 0;

    for (uint32_t p = oldest; p <= position; p++) {
        weights[p] = 0;
        for (uint32_t c = 0; c < n; c++)
            weights[p] += (double)q[c] * context->k[(size_t)p * n + c] * args->scale;
        max = fmax(max, weights[p]);
    }
    for (uint32_t p = oldest; p <= position; p++)
        sum += weights[p] = exp(weights[p] - max);
    for (uint32_t c = 0; c < n; c++) {
        double mean = 0;

        for (uint32_t p = oldest; p <= position; p++)
            mean += weights[p] / sum * context->v[(size_t)p * n + c];
        out[c] = (float)mean;
    }
    if (kv_layer_rotates(args->layer, KV_SIDE_V))
        hadamard_apply(out, n);
}

static void attend_head(const AttentionArgs *args, const StepInput *input, uint32_t i_sequence,
                        uint32_t head) {
    const StepSequence *s = &input->sequences[i_sequence];
    size_t n = s->n_past + s->n_rows, head_dim = args->layer->head_dim;
    uint32_t group = args->n_heads / args->layer->n_kv_heads;
    Context context = { .k = malloc(n * head_dim * sizeof(float)),
                        .v = malloc(n * head_dim * sizeof(float)) };
    double *weights = malloc(n * sizeof(*weights));

    gather_side(args, input, i_sequence, KV_SIDE_K, head, context.k);
    gather_side(args, input, i_sequence, KV_SIDE_V, head, context.v);
    gather_sinks(args, s, KV_SIDE_K, head, context.k);
    gather_sinks(args, s, KV_SIDE_V, head, context.v);
    for (uint32_t r = 0; r < s->n_rows; r++)
        for (uint32_t g = 0; g < group; g++)
            attend_row(args, s, r, head * group + g, &context, weights);
    free(weights);
    free(context.k);
    free(context.v);
}

void cpu_reference_attention(const AttentionArgs *args, const StepInput *input) {
    for (uint32_t i = 0; i < input->n_sequences; i++)
        for (uint32_t h = 0; h < args->layer->n_kv_heads; h++)
            attend_head(args, input, i, h);
}
