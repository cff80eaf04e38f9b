/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The vector kernels of norms, rotation, gating and attention: one source (vector_kernels.c),
 * compiled per instruction set, one table each. Pure functions of their arguments; no threads, no
 * allocation. The readable versions are in cpu/reference.h.
 */

#include "backend/activation.h"
#include "kvcache/kv_layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ATTENTION_BLOCK_KEYS 64

/* Running softmax of one query over blocks of keys (arXiv 1805.02867, as in FlashAttention). */
typedef struct CpuSoftmaxState {
    float max; /* of the scores so far; -inf before any */
    float sum; /* of exp(score - max) */
} CpuSoftmaxState;

typedef struct CpuVectorKernels {
    /* out[i] = in[i] * weight[i] / sqrt(mean(in^2) + epsilon); out may be in. Where `accumulate`,
     * out[i] += that, and out is not in. */
    void (*rmsnorm)(float *out, const float *in, const float *weight, uint32_t dim, float epsilon,
                    bool accumulate);
    /* out = activation(gate) * up; out may be gate */
    void (*gated)(float *out, const float *gate, const float *up, uint32_t n,
                  Activation activation);
    /* one head, in place: (x[c], x[c + n]) turned by (cos[c], sin[c]) for c < n */
    void (*rotate)(float *x, const float *cos, const float *sin, uint32_t n);
    /* hadamard_apply (kvcache/hadamard.h) to each of x [n_vectors][n], with the same result */
    void (*hadamard)(float *x, uint32_t n_vectors, uint32_t n);
    /* key_transform_apply (kvcache/key_transform.h), in place, to n_vectors of n <=
     * KV_HEAD_DIM_MAX, each `stride` floats behind the one before */
    void (*transform)(float *x, size_t stride, uint32_t n_vectors, const float *matrix, uint32_t n);
    /* to bf16 or f16, rounded to nearest even; NaN stays NaN, and f16 ends at +-65504 */
    void (*to_16bit)(KvFormat format, uint16_t *out, const float *in, uint32_t n);

    /* scores[i][j] = sum_c queries[i][c] * keys[c][j] for j < n_keys, anything for the others; keys
     * of `format`, bf16 or f16, [head_dim][64]. Meanwhile the block of the same size at `next`, if
     * not NULL, is brought into the processor's cache. */
    void (*scores)(KvFormat format, float *scores, const float *queries, const uint16_t *keys,
                   const uint16_t *next, uint32_t n_queries, uint32_t n_keys, uint32_t head_dim);
    /* One query's block: scores[64] become weights exp(score - max) for low <= j < high and 0
     * elsewhere; the state takes the block in; out[head_dim] is scaled to the new maximum. */
    void (*softmax)(float *scores, uint32_t low, uint32_t high, CpuSoftmaxState *state, float *out,
                    uint32_t head_dim);
    /* out[i][c] += sum_{low <= j < high} weights[i][j] * values[j][c]; values of `format`
     * [64][head_dim]; `next` as for scores */
    void (*values)(KvFormat format, float *out, const float *weights, const uint16_t *values,
                   const uint16_t *next, uint32_t n_queries, uint32_t head_dim, uint32_t low,
                   uint32_t high);

    /* log sum_i exp(x[i]) */
    double (*log_sum_exp)(const float *x, uint32_t n);
    /* Kullback-Leibler divergence of softmax(q) from softmax(p), in nats, given their log sums */
    double (*divergence)(const float *p, double p_log_sum, const float *q, double q_log_sum,
                         uint32_t n);
} CpuVectorKernels;

extern const CpuVectorKernels cpu_vector_kernels_baseline; /* 4 lanes: SSE2, NEON, or plain C */
#if defined(__x86_64__)
extern const CpuVectorKernels cpu_vector_kernels_avx2;
extern const CpuVectorKernels cpu_vector_kernels_avx512;
#endif
