/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/fake_quantizers.h"

#include "kvcache/hadamard.h"
#include "kvcache/kv_format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GGML_BLOCK 32
#define KIVI_GROUP 32
#define OSCAR_BITS 2
#define HEADQ_SHARE 8 /* one direction in 8 is corrected */
#define HEADQ_BITS 4

static float half(float x) {
    return half_value(half_nearest(x));
}

/* parts */

/* n values, `stride` apart, to 2^bits steps over `clip` of their range; scale and zero in 16 bits.
 */
static void affine(float *x, uint32_t n, uint32_t stride, uint32_t bits, float clip) {
    float low = x[0], high = x[0], top = (float)((1u << bits) - 1), step;

    for (uint32_t i = 1; i < n; i++) {
        low = fminf(low, x[i * stride]);
        high = fmaxf(high, x[i * stride]);
    }
    step = half((high - low) * clip / top);
    low = half(low + (high - low) * 0.5f * (1 - clip));
    for (uint32_t i = 0; i < n; i++) {
        float code = step > 0 ? rintf((x[i * stride] - low) / step) : 0;

        x[i * stride] = low + step * fminf(fmaxf(code, 0), top);
    }
}

static float norm_of(const float *x, uint32_t n) {
    float squares = 0;

    for (uint32_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    return sqrtf(squares);
}

/* Lloyd and Max's levels for a normal density of deviation 1: the upper half, which the lower
 * mirrors. */
static const float lloyd_levels[][8] = {
    [2] = { 0.4528f, 1.5104f },
    [3] = { 0.2451f, 0.7560f, 1.3439f, 2.1520f },
    [4] = { 0.1284f, 0.3880f, 0.6568f, 0.9423f, 1.2562f, 1.6180f, 2.0690f, 2.7326f },
};

static float nearest_level(uint32_t bits, float x) {
    const float *levels = lloyd_levels[bits];
    uint32_t i = 0;

    while (i + 1 < 1u << (bits - 1) && fabsf(x) > (levels[i] + levels[i + 1]) / 2)
        i++;
    return copysignf(levels[i], x);
}

/* A token to the nearest of those levels, its norm kept (16 bits). */
static void lloyd(uint32_t bits, float *x, uint32_t n) {
    float norm = norm_of(x, n), units = sqrtf((float)n) / norm, rounded;

    if (!(norm > 0))
        return;
    for (uint32_t i = 0; i < n; i++)
        x[i] = nearest_level(bits, x[i] * units);
    rounded = norm_of(x, n);
    for (uint32_t i = 0; i < n; i++)
        x[i] *= half(norm) / rounded;
}

static void hadamard_tokens(float *x, uint32_t n, uint32_t d) {
    for (uint32_t t = 0; t < n; t++)
        hadamard_apply(x + (size_t)t * d, d);
}

/* y = B x and back, of one token */
static void project(const float *basis, uint32_t n_rows, const float *x, float *y, uint32_t d) {
    for (uint32_t i = 0; i < n_rows; i++) {
        y[i] = 0;
        for (uint32_t c = 0; c < d; c++)
            y[i] += basis[(size_t)i * d + c] * x[c];
    }
}

static void expand(const float *basis, uint32_t n_rows, const float *y, float *x, uint32_t d) {
    memset(x, 0, d * sizeof(*x));
    for (uint32_t i = 0; i < n_rows; i++)
        for (uint32_t c = 0; c < d; c++)
            x[c] += basis[(size_t)i * d + c] * y[i];
}

/* fp8 e4m3 without scales, as vLLM's cache has it where none are given */

static void fp8(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    (void)bits;
    for (size_t i = 0; i < (size_t)n * d; i++) {
        float a = fminf(fabsf(x[i]), 448), step;

        step = ldexpf(1, (a >= 0x1p-6f ? ilogbf(a) : -6) - 3);
        x[i] = copysignf(fminf(rintf(a / step) * step, 448), x[i]);
    }
}

/* ggml's blocks of 32 channels; llama.cpp rotates what it quantizes (Hadamard) */

static void q8_0(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    (void)bits;
    for (float *b = x; b < x + (size_t)n * d; b += GGML_BLOCK) {
        float largest = 0, step;

        for (uint32_t i = 0; i < GGML_BLOCK; i++)
            largest = fmaxf(largest, fabsf(b[i]));
        step = half(largest / 127);
        for (uint32_t i = 0; i < GGML_BLOCK; i++)
            b[i] = step > 0 ? roundf(b[i] / step) * step : 0;
    }
}

static void q4_0(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    (void)bits;
    hadamard_tokens(x, n, d);
    for (float *b = x; b < x + (size_t)n * d; b += GGML_BLOCK) {
        float largest = 0, step;

        for (uint32_t i = 0; i < GGML_BLOCK; i++)
            largest = fabsf(b[i]) > fabsf(largest) ? b[i] : largest;
        step = half(largest / -8);
        for (uint32_t i = 0; i < GGML_BLOCK; i++)
            b[i] = step != 0 ? (fminf(fmaxf(floorf(b[i] / step + 8.5f), 0), 15) - 8) * step : 0;
    }
    hadamard_tokens(x, n, d);
}

/* KIVI (arXiv 2402.02750): keys per channel over 32 tokens, values per token over 32 channels */

static void kivi_k(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    for (uint32_t t = 0; t < n; t += KIVI_GROUP)
        for (uint32_t c = 0; c < d; c++)
            affine(x + (size_t)t * d + c, KIVI_GROUP, d, bits, 1);
}

static void kivi_v(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    for (size_t i = 0; i < (size_t)n * d; i += KIVI_GROUP)
        affine(x + i, KIVI_GROUP, 1, bits, 1);
}

/* TurboQuant (arXiv 2504.19874) as in vLLM: rotated; keys on Lloyd-Max levels with their norm,
 * values with scale and zero */

static void turbo_k(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    hadamard_tokens(x, n, d);
    for (uint32_t t = 0; t < n; t++)
        lloyd(bits, x + (size_t)t * d, d);
    hadamard_tokens(x, n, d);
}

static void turbo_v(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    (void)head;
    hadamard_tokens(x, n, d);
    for (uint32_t t = 0; t < n; t++)
        affine(x + (size_t)t * d, d, 1, bits, 1);
    hadamard_tokens(x, n, d);
}

/* OSCAR (arXiv 2605.17757): eigenvectors, then Hadamard; two bits a token-wise, clipped step. (Its
 * permutation changes nothing where a token is one group.) */

static void oscar(const float *basis, float clip, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    float y[KV_HEAD_DIM_MAX];

    for (uint32_t t = 0; t < n; t++) {
        project(basis, d, x + (size_t)t * d, y, d);
        hadamard_apply(y, d);
        affine(y, d, 1, bits, clip);
        hadamard_apply(y, d);
        expand(basis, d, y, x + (size_t)t * d, d);
    }
}

static void oscar_k(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    oscar(head->basis[KV_SIDE_K], head->clip[KV_SIDE_K], bits, x, n, d);
}

static void oscar_v(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    oscar(head->basis[KV_SIDE_V], head->clip[KV_SIDE_V], bits, x, n, d);
}

void fake_fit_clip(FakeHead *head, KvSide side, const float *x, uint32_t n, uint32_t d) {
    size_t size = (size_t)n * d;
    float *tried = malloc(size * sizeof(*tried));
    double least = INFINITY;

    if (!tried)
        abort();
    for (float clip = 1; clip > 0.45f; clip -= 0.05f) {
        double error = 0;

        memcpy(tried, x, size * sizeof(*tried));
        oscar(head->basis[side], clip, OSCAR_BITS, tried, n, d);
        for (size_t i = 0; i < size; i++)
            error += (double)(tried[i] - x[i]) * (tried[i] - x[i]);
        if (error < least) {
            least = error;
            head->clip[side] = clip;
        }
    }
    free(tried);
}

/*
 * HeadQ (arXiv 2605.03562): what a first code left of the keys' scores, in the directions that
 * queries have most of. The first code is two bits a channel of a rotated page, the correction four
 * bits a direction with one scale a token.
 */
static void headq_k(const FakeHead *head, uint32_t bits, float *x, uint32_t n, uint32_t d) {
    uint32_t rank = d / HEADQ_SHARE;
    float *rest = malloc((size_t)n * d * sizeof(*rest));

    if (!rest)
        abort();
    memcpy(rest, x, (size_t)n * d * sizeof(*rest));
    hadamard_tokens(x, n, d);
    for (uint32_t c = 0; c < d; c++)
        affine(x + c, n, d, bits, 1);
    hadamard_tokens(x, n, d);
    for (uint32_t t = 0; t < n; t++) {
        float side[KV_HEAD_DIM_MAX], correction[KV_HEAD_DIM_MAX], largest = 0, step;
        const float top = (1u << (HEADQ_BITS - 1)) - 1;

        for (uint32_t c = 0; c < d; c++)
            correction[c] = rest[(size_t)t * d + c] - x[(size_t)t * d + c];
        project(head->basis[KV_SIDE_K], rank, correction, side, d);
        for (uint32_t i = 0; i < rank; i++)
            largest = fmaxf(largest, fabsf(side[i]));
        step = half(largest / top);
        for (uint32_t i = 0; i < rank; i++)
            side[i] = step > 0 ? rintf(side[i] / step) * step : 0;
        expand(head->basis[KV_SIDE_K], rank, side, correction, d);
        for (uint32_t c = 0; c < d; c++)
            x[(size_t)t * d + c] += correction[c];
    }
    free(rest);
}

/* the table */

/* A scale and a zero of 16 bits: of a token, or of 32 or 64 elements. */
#define PAIR_BITS 32.0
#define PER_32 (PAIR_BITS / 32)
#define PER_PAGE (PAIR_BITS / KV_PAGE_TOKENS)
#define HEADQ_TOKEN_BITS 16.0
#define HEADQ_ELEMENT_BITS (PER_PAGE + (double)HEADQ_BITS / HEADQ_SHARE)

const FakeMethod fake_methods[] = {
    { .name = "fp8 e4m3", .quantize = { fp8, fp8 }, .bits = { 8, 8 }, .group = 1 },
    { .name = "ggml q8_0",
      .quantize = { q8_0, q8_0 },
      .bits = { 8, 8 },
      .element_meta_bits = { 0.5, 0.5 },
      .group = 1 },
    { .name = "ggml q4_0+H",
      .quantize = { q4_0, q4_0 },
      .bits = { 4, 4 },
      .element_meta_bits = { 0.5, 0.5 },
      .group = 1 },
    { .name = "KIVI-4",
      .quantize = { kivi_k, kivi_v },
      .bits = { 4, 4 },
      .element_meta_bits = { PER_32, PER_32 },
      .n_last = 128,
      .group = KIVI_GROUP },
    { .name = "KIVI-2",
      .quantize = { kivi_k, kivi_v },
      .bits = { 2, 2 },
      .element_meta_bits = { PER_32, PER_32 },
      .n_last = 128,
      .group = KIVI_GROUP },
    { .name = "TurboQuant-4",
      .quantize = { turbo_k, turbo_v },
      .bits = { 4, 4 },
      .token_meta_bits = { 16, PAIR_BITS },
      .group = 1 },
    { .name = "TurboQuant-3",
      .quantize = { turbo_k, turbo_v },
      .bits = { 3, 3 },
      .token_meta_bits = { 16, PAIR_BITS },
      .group = 1 },
    { .name = "OSCAR",
      .quantize = { oscar_k, oscar_v },
      .bits = { 2, 2 },
      .token_meta_bits = { PAIR_BITS, PAIR_BITS },
      .n_first = 64,
      .n_last = 256,
      .group = 1 },
    { .name = "OSCAR, K alone",
      .quantize = { oscar_k, NULL },
      .bits = { 2, 16 },
      .token_meta_bits = { PAIR_BITS, 0 },
      .n_first = 64,
      .n_last = 256,
      .group = 1 },
    { .name = "HeadQ, K alone",
      .quantize = { headq_k, NULL },
      .bits = { 2, 16 },
      .token_meta_bits = { HEADQ_TOKEN_BITS, 0 },
      .element_meta_bits = { HEADQ_ELEMENT_BITS, 0 },
      .n_first = KV_SINK_TOKENS,
      .group = KV_PAGE_TOKENS },
};
const uint32_t n_fake_methods = sizeof(fake_methods) / sizeof(fake_methods[0]);

double fake_bits(const FakeMethod *m, uint32_t head_dim) {
    double bits = 0;

    for (KvSide side = 0; side < KV_SIDES; side++)
        bits += m->bits[side] + m->element_meta_bits[side] + m->token_meta_bits[side] / head_dim;
    return bits / KV_SIDES;
}

/* eigenvectors */

/* The rotation of rows and columns p and q of a, and of rows p and q of v, that makes a[p][q] 0. */
static void jacobi_rotate(float *a, float *v, uint32_t n, uint32_t p, uint32_t q) {
    double apq = a[(size_t)p * n + q], theta, t, c, s;

    if (apq == 0)
        return;
    theta = (a[(size_t)q * n + q] - a[(size_t)p * n + p]) / (2 * apq);
    t = copysign(1, theta) / (fabs(theta) + sqrt(theta * theta + 1));
    c = 1 / sqrt(t * t + 1);
    s = t * c;
    for (uint32_t k = 0; k < n; k++) {
        double x = a[(size_t)k * n + p], y = a[(size_t)k * n + q];

        a[(size_t)k * n + p] = (float)(c * x - s * y);
        a[(size_t)k * n + q] = (float)(s * x + c * y);
    }
    for (uint32_t k = 0; k < n; k++) {
        double x = a[(size_t)p * n + k], y = a[(size_t)q * n + k];
        double vx = v[(size_t)p * n + k], vy = v[(size_t)q * n + k];

        a[(size_t)p * n + k] = (float)(c * x - s * y);
        a[(size_t)q * n + k] = (float)(s * x + c * y);
        v[(size_t)p * n + k] = (float)(c * vx - s * vy);
        v[(size_t)q * n + k] = (float)(s * vx + c * vy);
    }
}

static void swap_rows(float *v, uint32_t n, uint32_t i, uint32_t k) {
    for (uint32_t c = 0; c < n; c++) {
        float x = v[(size_t)i * n + c];

        v[(size_t)i * n + c] = v[(size_t)k * n + c];
        v[(size_t)k * n + c] = x;
    }
}

void fake_eigenvectors(float *a, uint32_t n, float *rows) {
    enum { SWEEPS = 12 };

    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            rows[(size_t)i * n + k] = i == k;
    for (uint32_t sweep = 0; sweep < SWEEPS; sweep++)
        for (uint32_t p = 0; p < n; p++)
            for (uint32_t q = p + 1; q < n; q++)
                jacobi_rotate(a, rows, n, p, q);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = i;
        float value = a[(size_t)i * n + i];

        for (uint32_t k = i + 1; k < n; k++)
            best = a[(size_t)k * n + k] > a[(size_t)best * n + best] ? k : best;
        swap_rows(rows, n, i, best);
        a[(size_t)i * n + i] = a[(size_t)best * n + best];
        a[(size_t)best * n + best] = value;
    }
}
