/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiled once per instruction set with VECTOR_KERNELS naming the table (cpu/meson.build).
 *
 * Every output element is one chain of multiply-adds in a fixed order (channels rising for scores,
 * tokens rising for values), whatever the tile around it: that is what makes a row's result
 * independent of the batch and of the chunking.
 */
#include "cpu/vector_kernels.h"

#include "cpu/vector.h"
#include "kvcache/hadamard.h"
#include "kvcache/kv_format.h"

#include <assert.h>
#include <math.h>

#define CACHE_LINE_BYTES 64
#define QUERIES_TILE 4 /* with V_BLOCK vectors each they fill the registers */

static Vi lane_index(void) {
    int32_t lanes[V_LANES];
    Vi v;

    for (int32_t i = 0; i < V_LANES; i++)
        lanes[i] = i;
    memcpy(&v, lanes, sizeof(v));
    return v;
}

static void rmsnorm(float *out, const float *in, const float *weight, uint32_t dim, float epsilon,
                    bool accumulate) {
    Vf squares = { 0 };
    float sum = 0, scale;
    uint32_t i;

    for (i = 0; i + V_LANES <= dim; i += V_LANES)
        squares = v_fma(v_load(in + i), v_load(in + i), squares);
    for (; i < dim; i++)
        sum += in[i] * in[i];
    scale = 1 / sqrtf((v_sum(squares) + sum) / (float)dim + epsilon);
    for (i = 0; i + V_LANES <= dim; i += V_LANES) {
        Vf normed = v_load(in + i) * scale * v_load(weight + i);

        v_store(out + i, accumulate ? v_load(out + i) + normed : normed);
    }
    for (; i < dim; i++) {
        float normed = in[i] * scale * weight[i];

        out[i] = accumulate ? out[i] + normed : normed;
    }
}

/* Both activations are x / (1 + exp(-y)): y is x, or, since (1 + tanh(z)) / 2 = 1 / (1 + exp(-2z)),
 * twice what the tanh is of. */
static inline __attribute__((__always_inline__)) Vf activated(Vf x, Activation activation) {
    const float linear = 1.5957691216f, cubic = linear * 0.044715f; /* 2 sqrt(2 / pi) */
    Vf y = activation == ACTIVATION_SILU ? x : x * v_fma(x * x, v_set1(cubic), v_set1(linear));

    return x / (1 + v_exp(-y));
}

static inline __attribute__((__always_inline__)) void gated_by(float *out, const float *gate,
                                                               const float *up, uint32_t n,
                                                               Activation activation) {
    uint32_t i;

    for (i = 0; i + V_LANES <= n; i += V_LANES)
        v_store(out + i, activated(v_load(gate + i), activation) * v_load(up + i));
    if (i < n) {
        Vf g = { 0 }, u = { 0 };

        memcpy(&g, gate + i, (n - i) * sizeof(float));
        memcpy(&u, up + i, (n - i) * sizeof(float));
        g = activated(g, activation) * u;
        memcpy(out + i, &g, (n - i) * sizeof(float));
    }
}

static void gated(float *out, const float *gate, const float *up, uint32_t n,
                  Activation activation) {
    if (activation == ACTIVATION_SILU)
        gated_by(out, gate, up, n, ACTIVATION_SILU);
    else
        gated_by(out, gate, up, n, ACTIVATION_GELU_TANH);
}

static void rotate(float *x, const float *cos, const float *sin, uint32_t n) {
    uint32_t i;

    for (i = 0; i + V_LANES <= n; i += V_LANES) {
        Vf a = v_load(x + i), b = v_load(x + n + i), c = v_load(cos + i), s = v_load(sin + i);

        v_store(x + i, a * c - b * s);
        v_store(x + n + i, b * c + a * s);
    }
    for (; i < n; i++) {
        float a = x[i], b = x[n + i];

        x[i] = a * cos[i] - b * sin[i];
        x[n + i] = b * cos[i] + a * sin[i];
    }
}

/* A vector with lanes i and i ^ _half swapped; _half is a constant. */
#define SWAP4(_i, _half) \
    (_i) ^ (_half), ((_i) + 1) ^ (_half), ((_i) + 2) ^ (_half), ((_i) + 3) ^ (_half)
#if V_LANES == 4
#define swapped(_x, _half) __builtin_shufflevector(_x, _x, SWAP4(0, _half))
#elif V_LANES == 8
#define swapped(_x, _half) __builtin_shufflevector(_x, _x, SWAP4(0, _half), SWAP4(4, _half))
#else
#define swapped(_x, _half)                                                             \
    __builtin_shufflevector(_x, _x, SWAP4(0, _half), SWAP4(4, _half), SWAP4(8, _half), \
                            SWAP4(12, _half))
#endif

/* The upper of two lanes that a stage joins changes its sign. */
static Vf upper_negated(Vf x, int32_t half) {
    Vi upper = (lane_index() & half) != 0;

    return (Vf)((Vi)x ^ (upper & INT32_MIN));
}

/* The transform's stages half = 1, 2, 4, ... that stay within a vector. */
static Vf hadamard_lanes(Vf x) {
    x = swapped(x, 1) + upper_negated(x, 1);
    x = swapped(x, 2) + upper_negated(x, 2);
#if V_LANES > 4
    x = swapped(x, 4) + upper_negated(x, 4);
#endif
#if V_LANES > 8
    x = swapped(x, 8) + upper_negated(x, 8);
#endif
    return x;
}

static void hadamard(float *x, uint32_t n_vectors, uint32_t n) {
    uint32_t block = hadamard_block(n);
    float scale = (float)(1 / sqrt((double)block));

    if (block < V_LANES) {
        for (uint32_t i = 0; i < n_vectors; i++)
            hadamard_apply(x + (size_t)i * n, n);
        return;
    }
    for (size_t first = 0; first < (size_t)n_vectors * n; first += block) {
        float *b = x + first;

        for (uint32_t i = 0; i < block; i += V_LANES)
            v_store(b + i, hadamard_lanes(v_load(b + i)));
        for (uint32_t half = V_LANES; half < block; half *= 2)
            for (uint32_t i = 0; i < block; i += 2 * half)
                for (uint32_t j = i; j < i + half; j += V_LANES) {
                    Vf low = v_load(b + j), high = v_load(b + j + half);

                    v_store(b + j, low + high);
                    v_store(b + j + half, low - high);
                }
        for (uint32_t i = 0; i < block; i += V_LANES)
            v_store(b + i, v_load(b + i) * scale);
    }
}

/* Channels of the output that one pass over the inputs makes; each has its own sum, so how many
 * vectors or channels are made at once does not show in a result. */
#define TRANSFORM_VECTORS 4
#define TRANSFORM_BLOCK 2 /* vectors of channels */
#define TRANSFORM_BLOCK_ALONE 8

static inline __attribute__((__always_inline__)) void transform_tile(float *out, size_t stride,
                                                                     const float *in,
                                                                     const float *matrix,
                                                                     uint32_t n, uint32_t n_vectors,
                                                                     uint32_t n_blocks) {
    Vf sums[TRANSFORM_VECTORS][TRANSFORM_BLOCK_ALONE] = { 0 };

    for (uint32_t c = 0; c < n; c++)
        for (uint32_t b = 0; b < n_blocks; b++) {
            Vf m = v_load(matrix + (size_t)c * n + b * V_LANES);

            for (uint32_t i = 0; i < n_vectors; i++)
                sums[i][b] = v_fma(v_set1(in[i * n + c]), m, sums[i][b]);
        }
    for (uint32_t i = 0; i < n_vectors; i++)
        for (uint32_t b = 0; b < n_blocks; b++)
            v_store(out + i * stride + b * V_LANES, sums[i][b]);
}

/* Channels that do not fill a vector. */
static void transform_rest(float *out, size_t stride, const float *in, const float *matrix,
                           uint32_t n, uint32_t n_vectors, uint32_t first) {
    for (uint32_t i = 0; i < n_vectors; i++)
        for (uint32_t k = first; k < n; k++) {
            Vf sum = { 0 };

            for (uint32_t c = 0; c < n; c++)
                sum = v_fma(v_set1(in[i * n + c]), v_set1(matrix[(size_t)c * n + k]), sum);
            out[i * stride + k] = sum[0];
        }
}

static inline __attribute__((__always_inline__)) void transform_group(
    float *out, size_t stride, const float *in, const float *matrix, uint32_t n, uint32_t n_vectors,
    uint32_t n_blocks) {
    uint32_t k = 0;

    for (; k + n_blocks * V_LANES <= n; k += n_blocks * V_LANES)
        transform_tile(out + k, stride, in, matrix + k, n, n_vectors, n_blocks);
    for (; k + V_LANES <= n; k += V_LANES)
        transform_tile(out + k, stride, in, matrix + k, n, n_vectors, 1);
    if (k < n)
        transform_rest(out, stride, in, matrix, n, n_vectors, k);
}

static void transform(float *x, size_t stride, uint32_t n_vectors, const float *matrix,
                      uint32_t n) {
    float in[TRANSFORM_VECTORS * KV_HEAD_DIM_MAX];

    while (n_vectors) {
        uint32_t n_now = n_vectors < TRANSFORM_VECTORS ? 1 : TRANSFORM_VECTORS;

        for (uint32_t i = 0; i < n_now; i++)
            memcpy(in + (size_t)i * n, x + i * stride, n * sizeof(*in));
        if (n_now == 1)
            transform_group(x, stride, in, matrix, n, 1, TRANSFORM_BLOCK_ALONE);
        else
            transform_group(x, stride, in, matrix, n, TRANSFORM_VECTORS, TRANSFORM_BLOCK);
        x += n_now * stride;
        n_vectors -= n_now;
    }
}

static void to_bf16(uint16_t *out, const float *in, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;

        memcpy(&u, in + i, sizeof(u));
        if ((u & 0x7fffffff) > 0x7f800000)
            u |= 0x00400000; /* a quiet NaN that rounding cannot turn into infinity */
        else
            u += 0x7fff + ((u >> 16) & 1);
        out[i] = (uint16_t)(u >> 16);
    }
}

static void to_f16(uint16_t *out, const float *in, uint32_t n) {
    uint32_t i = 0;

#if defined(__AVX2__)
    for (; i + V_LANES <= n; i += V_LANES) {
        Vf x = v_max(v_set1(-65504), v_min(v_set1(65504), v_load(in + i)));

#if defined(__AVX512F__)
        _mm256_storeu_si256((void *)(out + i),
                            _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#else
        _mm_storeu_si128((void *)(out + i), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#endif
    }
#endif
    for (; i < n; i++)
        out[i] = half_nearest(in[i]);
}

static void to_16bit(KvFormat format, uint16_t *out, const float *in, uint32_t n) {
    if (format == KV_FORMAT_F16)
        to_f16(out, in, n);
    else
        to_bf16(out, in, n);
}

static inline __attribute__((__always_inline__)) Vf load_16bit(KvFormat format, const uint16_t *p) {
    return format == KV_FORMAT_F16 ? v_load_f16(p) : v_load_bf16(p);
}

/* A row of n 16-bit numbers of the block to come: spread over the work on this one, its lines come
 * in at the pace at which memory gives them. */
static inline void prefetch_row(const uint16_t *next, uint32_t row, uint32_t n) {
    const char *line = (const char *)(next + (size_t)row * n);

    for (size_t at = 0; at < n * sizeof(*next); at += CACHE_LINE_BYTES)
        __builtin_prefetch(line + at);
}

/* The rows that a loop from low to high does not come by. */
static inline __attribute__((__always_inline__)) void prefetch_other_rows(const uint16_t *next,
                                                                          uint32_t low,
                                                                          uint32_t high,
                                                                          uint32_t n) {
    for (uint32_t row = 0; row < low; row++)
        prefetch_row(next, row, n);
    for (uint32_t row = high; row < ATTENTION_BLOCK_KEYS; row++)
        prefetch_row(next, row, n);
}

/* Scores of `n` queries against n_vectors vectors of keys; format and both constant after
 * inlining. */
static inline __attribute__((__always_inline__)) void scores_tile(
    KvFormat format, float *scores, const float *queries, const uint16_t *keys,
    const uint16_t *next, uint32_t n, uint32_t n_vectors, uint32_t head_dim) {
    Vf sums[QUERIES_TILE][V_BLOCK] = { 0 };

    for (uint32_t c = 0; c < head_dim; c++) {
        const uint16_t *row = keys + c * ATTENTION_BLOCK_KEYS;

        if (next)
            prefetch_row(next, c, ATTENTION_BLOCK_KEYS);
        for (uint32_t b = 0; b < n_vectors; b++) {
            Vf k = load_16bit(format, row + b * V_LANES);

            for (uint32_t i = 0; i < n; i++)
                sums[i][b] = v_fma(v_set1(queries[i * head_dim + c]), k, sums[i][b]);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            v_store(scores + i * ATTENTION_BLOCK_KEYS + b * V_LANES, sums[i][b]);
}

static inline __attribute__((__always_inline__)) void scores_group(
    KvFormat format, float *scores, const float *queries, const uint16_t *keys,
    const uint16_t *next, uint32_t n, uint32_t n_vectors, uint32_t head_dim) {
    switch (n) {
    case 1:
        scores_tile(format, scores, queries, keys, next, 1, n_vectors, head_dim);
        break;
    case 2:
        scores_tile(format, scores, queries, keys, next, 2, n_vectors, head_dim);
        break;
    case 3:
        scores_tile(format, scores, queries, keys, next, 3, n_vectors, head_dim);
        break;
    default:
        scores_tile(format, scores, queries, keys, next, QUERIES_TILE, n_vectors, head_dim);
        break;
    }
}

static inline __attribute__((__always_inline__)) void scores_of(
    KvFormat format, float *out, const float *queries, const uint16_t *keys, const uint16_t *next,
    uint32_t n_queries, uint32_t n_keys, uint32_t head_dim) {
    const uint32_t tile_keys = V_BLOCK * V_LANES;

    for (uint32_t i = 0; i < n_queries; i += QUERIES_TILE)
        for (uint32_t j = 0; j < n_keys; j += tile_keys, next = NULL) {
            const float *q = queries + (size_t)i * head_dim;
            float *s = out + (size_t)i * ATTENTION_BLOCK_KEYS + j;

            if (n_keys - j <= tile_keys / 2)
                scores_group(format, s, q, keys + j, next, n_queries - i, V_BLOCK / 2, head_dim);
            else
                scores_group(format, s, q, keys + j, next, n_queries - i, V_BLOCK, head_dim);
        }
}

static void scores(KvFormat format, float *out, const float *queries, const uint16_t *keys,
                   const uint16_t *next, uint32_t n_queries, uint32_t n_keys, uint32_t head_dim) {
    if (format == KV_FORMAT_F16)
        scores_of(KV_FORMAT_F16, out, queries, keys, next, n_queries, n_keys, head_dim);
    else
        scores_of(KV_FORMAT_BF16, out, queries, keys, next, n_queries, n_keys, head_dim);
}

/* Lanes outside of low .. high - 1 get no weight. */
static void hide_lanes(float *scores, uint32_t low, uint32_t high) {
    const Vi index = lane_index();

    for (int32_t j = 0; j < ATTENTION_BLOCK_KEYS; j += V_LANES) {
        Vi seen = (index + j >= (int32_t)low) & (index + j < (int32_t)high);

        v_store(scores + j, v_select(seen, v_load(scores + j), v_set1(-INFINITY)));
    }
}

static void scale_in_place(float *x, float factor, uint32_t n) {
    uint32_t i;

    for (i = 0; i + V_LANES <= n; i += V_LANES)
        v_store(x + i, v_load(x + i) * factor);
    for (; i < n; i++)
        x[i] *= factor;
}

static void softmax(float *scores, uint32_t low, uint32_t high, CpuSoftmaxState *state, float *out,
                    uint32_t head_dim) {
    Vf max = v_set1(-INFINITY), sum = { 0 };
    float new_max;

    if (low > 0 || high < ATTENTION_BLOCK_KEYS)
        hide_lanes(scores, low, high);
    for (uint32_t j = 0; j < ATTENTION_BLOCK_KEYS; j += V_LANES)
        max = v_max(v_load(scores + j), max); /* a NaN score loses here and reaches the sum below */
    new_max = v_max_lane(max);
    new_max = new_max > state->max ? new_max : state->max;
    if (new_max == -INFINITY) {
        memset(scores, 0, ATTENTION_BLOCK_KEYS * sizeof(*scores));
        return;
    }
    for (uint32_t j = 0; j < ATTENTION_BLOCK_KEYS; j += V_LANES) {
        Vf w = v_exp(v_load(scores + j) - new_max);

        v_store(scores + j, w);
        sum += w;
    }
    if (new_max != state->max) {
        float shift = v_exp(v_set1(state->max - new_max))[0];

        state->sum *= shift;
        scale_in_place(out, shift, head_dim);
        state->max = new_max;
    }
    state->sum += v_sum(sum);
}

static inline __attribute__((__always_inline__)) void values_tile(
    KvFormat format, float *out, const float *weights, const uint16_t *values, const uint16_t *next,
    uint32_t n, uint32_t n_vectors, uint32_t head_dim, uint32_t low, uint32_t high) {
    Vf sums[QUERIES_TILE][V_BLOCK];

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            sums[i][b] = v_load(out + (size_t)i * head_dim + b * V_LANES);
    if (next)
        prefetch_other_rows(next, low, high, head_dim);
    for (uint32_t j = low; j < high; j++) {
        if (next)
            prefetch_row(next, j, head_dim);
        for (uint32_t b = 0; b < n_vectors; b++) {
            Vf v = load_16bit(format, values + (size_t)j * head_dim + b * V_LANES);

            for (uint32_t i = 0; i < n; i++)
                sums[i][b] = v_fma(v_set1(weights[i * ATTENTION_BLOCK_KEYS + j]), v, sums[i][b]);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n_vectors; b++)
            v_store(out + (size_t)i * head_dim + b * V_LANES, sums[i][b]);
}

/* Channels that do not fill a vector. */
static void values_rest(KvFormat format, float *out, const float *weights, const uint16_t *values,
                        uint32_t n, uint32_t first, uint32_t head_dim, uint32_t low,
                        uint32_t high) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = first; c < head_dim; c++) {
            float sum = out[(size_t)i * head_dim + c];

            for (uint32_t j = low; j < high; j++) {
                float v = kv_16bit_value(format, values[(size_t)j * head_dim + c]);

                sum =
                    v_fma(v_set1(weights[i * ATTENTION_BLOCK_KEYS + j]), v_set1(v), v_set1(sum))[0];
            }
            out[(size_t)i * head_dim + c] = sum;
        }
}

static inline __attribute__((__always_inline__)) void values_group(
    KvFormat format, float *out, const float *weights, const uint16_t *values, const uint16_t *next,
    uint32_t n, uint32_t head_dim, uint32_t low, uint32_t high) {
    uint32_t c = 0;

    for (; c + V_BLOCK * V_LANES <= head_dim; c += V_BLOCK * V_LANES, next = NULL)
        values_tile(format, out + c, weights, values + c, next, n, V_BLOCK, head_dim, low, high);
    for (; c + V_LANES <= head_dim; c += V_LANES, next = NULL)
        values_tile(format, out + c, weights, values + c, next, n, 1, head_dim, low, high);
    if (c < head_dim)
        values_rest(format, out, weights, values, n, c, head_dim, low, high);
}

static inline __attribute__((__always_inline__)) void values_of(
    KvFormat format, float *out, const float *weights, const uint16_t *values, const uint16_t *next,
    uint32_t n_queries, uint32_t head_dim, uint32_t low, uint32_t high) {
    for (uint32_t i = 0; i < n_queries; i += QUERIES_TILE, next = NULL) {
        float *o = out + (size_t)i * head_dim;
        const float *w = weights + (size_t)i * ATTENTION_BLOCK_KEYS;

        switch (n_queries - i) {
        case 1:
            values_group(format, o, w, values, next, 1, head_dim, low, high);
            break;
        case 2:
            values_group(format, o, w, values, next, 2, head_dim, low, high);
            break;
        case 3:
            values_group(format, o, w, values, next, 3, head_dim, low, high);
            break;
        default:
            values_group(format, o, w, values, next, QUERIES_TILE, head_dim, low, high);
            break;
        }
    }
}

static void values(KvFormat format, float *out, const float *weights, const uint16_t *v,
                   const uint16_t *next, uint32_t n_queries, uint32_t head_dim, uint32_t low,
                   uint32_t high) {
    if (format == KV_FORMAT_F16)
        values_of(KV_FORMAT_F16, out, weights, v, next, n_queries, head_dim, low, high);
    else
        values_of(KV_FORMAT_BF16, out, weights, v, next, n_queries, head_dim, low, high);
}

/* Sums over SUM_BLOCK terms are f32, sums of sums are double. */
#define SUM_BLOCK 1024

static double log_sum_exp(const float *x, uint32_t n) {
    float max = -INFINITY;
    double total = 0;

    for (uint32_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t first = 0; first < n; first += SUM_BLOCK) {
        uint32_t end = n - first < SUM_BLOCK ? n : first + SUM_BLOCK, i = first;
        Vf sum = { 0 };

        for (; i + V_LANES <= end; i += V_LANES)
            sum += v_exp(v_load(x + i) - max);
        for (; i < end; i++)
            total += exp((double)x[i] - max);
        total += v_sum(sum);
    }
    return log(total) + max;
}

static double divergence(const float *p, double p_log_sum, const float *q, double q_log_sum,
                         uint32_t n) {
    const float p_log = (float)p_log_sum, shift = (float)(p_log_sum - q_log_sum);
    double total = 0;

    for (uint32_t first = 0; first < n; first += SUM_BLOCK) {
        uint32_t end = n - first < SUM_BLOCK ? n : first + SUM_BLOCK, i = first;
        Vf sum = { 0 };

        for (; i + V_LANES <= end; i += V_LANES) {
            Vf a = v_load(p + i);

            sum = v_fma(v_exp(a - p_log), a - v_load(q + i) - shift, sum);
        }
        for (; i < end; i++)
            total += exp((double)p[i] - p_log_sum) * ((double)p[i] - q[i] - shift);
        total += v_sum(sum);
    }
    return total;
}

const CpuVectorKernels VECTOR_KERNELS = {
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
