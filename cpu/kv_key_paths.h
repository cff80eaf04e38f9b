/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Compensated rounding that looks ahead (kvcache/rounding.h), a lane a token: the best partial
 * roundings, called paths, are carried from channel to channel, each with the channels to come as
 * its own errors have moved them.
 *
 * A channel gives each path two ways on, the step nearest to its value and the next one on the
 * value's side. A way's key is its cost as bits, the lowest ones replaced by the way's number: so
 * no two are equal, and whole numbers sort them.
 */

#include "cpu/kv_codes.h"
#include "cpu/kv_kernels.h"

#define KEY_PATHS ROUNDING_PATHS_MAX
#define KEY_WAYS (2 * KEY_PATHS)
#define KEY_WAY_FAR KEY_PATHS /* way p is near, way p + KEY_WAY_FAR far, both from path p */
#define KEY_WAY_MASK (KEY_WAYS - 1)

_Static_assert(KEY_PATHS == 4, "the sorting below is for 4");

/* A channel's steps. */
typedef struct CpuKeySteps {
    Vf scale, inverse, center;
    float middle, top; /* codes run from 0 to top; `middle` stands for the center */
} CpuKeySteps;

/* The codes a path may go on by, as floats. */
typedef struct CpuKeyWays {
    Vf near, far;
    Vi is_outside; /* there is no such far code, and it stands for the near one */
} CpuKeyWays;

KV_INLINE CpuKeyWays kv_key_ways(const CpuKeySteps *s, Vf x) {
    const Vf magic = v_set1(12582912.0f); /* 1.5 * 2^23 leaves no fraction bits */
    Vf steps = v_fused(x - s->center, s->inverse, v_set1(s->middle)), far;
    CpuKeyWays ways;

    steps = v_min(v_max(steps, v_set1(0)), v_set1(s->top));
    ways.near = (steps + magic) - magic;
    far = ways.near + v_select(steps >= ways.near, v_set1(1), v_set1(-1));
    ways.is_outside = (far < v_set1(0)) | (far > v_set1(s->top));
    ways.far = v_select(ways.is_outside, ways.near, far);
    return ways;
}

/* By how much a code misses. */
KV_INLINE Vf kv_key_error(const CpuKeySteps *s, Vf x, Vf code) {
    return x - v_fused(s->scale, code - s->middle, s->center);
}

/* What orders the way of that number. */
KV_INLINE Vi kv_key_of(Vf cost, uint32_t way) {
    return ((Vi)cost & ~KEY_WAY_MASK) | (int32_t)way;
}

KV_INLINE void kv_key_sort_two(Vi *a, Vi *b) {
    Vi low = v_min_i32(*a, *b);

    *b = v_max_i32(*a, *b);
    *a = low;
}

/* Four keys that rise and then fall, or fall and then rise, to rising ones. */
KV_INLINE void kv_key_merge_four(Vi *k) {
    kv_key_sort_two(&k[0], &k[2]);
    kv_key_sort_two(&k[1], &k[3]);
    kv_key_sort_two(&k[0], &k[1]);
    kv_key_sort_two(&k[2], &k[3]);
}

KV_INLINE void kv_key_sort_four(Vi *k) {
    kv_key_sort_two(&k[0], &k[1]);
    kv_key_sort_two(&k[2], &k[3]);
    kv_key_sort_two(&k[0], &k[2]);
    kv_key_sort_two(&k[1], &k[3]);
    kv_key_sort_two(&k[1], &k[2]);
}

/* The least KEY_PATHS of the keys, rising, to their front. */
KV_INLINE void kv_key_best(Vi keys[KEY_WAYS]) {
    kv_key_sort_four(keys);
    kv_key_sort_four(keys + KEY_PATHS);
    for (uint32_t p = 0; p < KEY_PATHS; p++)
        keys[p] = v_min_i32(keys[p], keys[KEY_WAYS - 1 - p]);
    kv_key_merge_four(keys);
}

/* The lanes' choice among the four paths. */
KV_INLINE Vi kv_key_choose(const Vi from[KEY_PATHS], Vi path) {
    Vf odd = (Vf)(-(path & 1)), low, high;

    low = v_select((Vi)odd, (Vf)from[1], (Vf)from[0]);
    high = v_select((Vi)odd, (Vf)from[3], (Vf)from[2]);
    return (Vi)v_select(-(path >> 1 & 1), high, low);
}

/* One channel further. Where x is [path] a lane is a token; in memory quads are the tokens' and a
 * quad's lanes its paths, which one permutation puts into their parents' places: x[i] are those of
 * channel i, n channels from this one on. */
KV_INLINE void kv_key_step(const CpuKeySteps *steps, float weight, const float *feed, uint32_t n,
                           Vf (*x)[KEY_PATHS], Vf costs[KEY_PATHS], Vi ways[KEY_PATHS],
                           Vi codes[KEY_PATHS]) {
    Vf here[KEY_PATHS], errors[KEY_PATHS];
    Vi keys[KEY_WAYS], parents[KEY_PATHS];

    memcpy(here, x[0], sizeof(here));
    v_transpose_quads(here);
    for (uint32_t p = 0; p < KEY_PATHS; p++) {
        CpuKeyWays on = kv_key_ways(steps, here[p]);
        Vf near = kv_key_error(steps, here[p], on.near), far = kv_key_error(steps, here[p], on.far);
        Vf far_cost = v_fused(far * far, v_set1(weight), costs[p]);

        keys[p] = kv_key_of(v_fused(near * near, v_set1(weight), costs[p]), p);
        keys[p + KEY_WAY_FAR] =
            kv_key_of(v_select(on.is_outside, v_set1(__builtin_inff()), far_cost), p + KEY_WAY_FAR);
    }
    kv_key_best(keys);
    for (uint32_t p = 0; p < KEY_PATHS; p++) {
        ways[p] = keys[p] & KEY_WAY_MASK;
        costs[p] = (Vf)(keys[p] & ~KEY_WAY_MASK);
    }
    memcpy(parents, ways, sizeof(parents));
    v_transpose_quads((Vf *)parents);
    for (uint32_t p = 0; p < KEY_PATHS; p++)
        here[p] = v_permute_quads(x[0][p], parents[p]);
    v_transpose_quads(here);
    for (uint32_t p = 0; p < KEY_PATHS; p++) {
        CpuKeyWays on = kv_key_ways(steps, here[p]);
        Vf code = v_select(ways[p] >= KEY_WAY_FAR, on.far, on.near);

        codes[p] = __builtin_convertvector(code, Vi);
        errors[p] = -kv_key_error(steps, here[p], code);
    }
    v_transpose_quads(errors);
    for (uint32_t j = 1; j < n; j++) {
        Vf factor = v_set1(feed[j]);

        for (uint32_t v = 0; v < KEY_PATHS; v++)
            x[j][v] = v_fused(errors[v], factor, v_permute_quads(x[j][v], parents[v]));
    }
}

/* The codes of V_LANES tokens from token `t` on, from s->x into s->codes. */
KV_INLINE void kv_key_search(uint32_t bits, const Rounding *r, uint32_t t, CpuKvScratch *s) {
    const uint32_t *order = rounding_order(r), n = r->n_channels;
    Vf(*x)[KEY_PATHS] = (void *)s->paths;
    Vi(*taken)[KEY_PATHS] = (void *)s->taken; /* a code, and its way above it */
    Vf costs[KEY_PATHS];
    Vi path = { 0 }; /* the best one */

    for (uint32_t p = 0; p < KEY_PATHS; p++)
        costs[p] = v_set1(p ? __builtin_inff() : 0);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t v = 0; v < KEY_PATHS; v++)
            x[i][v] = v_permute_quads(v_load(s->x[order[i]] + t), v_set1_i32((int32_t)v));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t c = order[i];
        CpuKeySteps steps = {
            .scale = v_set1(s->scales[c]),
            .inverse = v_set1(kv_inverse(s->scales[c])),
            .center = v_set1(s->offsets[c]),
            .middle = (float)(1u << (bits - 1)) - 0.5f,
            .top = (float)((1u << bits) - 1),
        };
        Vi ways[KEY_PATHS], codes[KEY_PATHS];

        kv_key_step(&steps, rounding_weights(r)[i], rounding_feed(r, i) + i, n - i, x + i, costs,
                    ways, codes);
        for (uint32_t p = 0; p < KEY_PATHS; p++)
            taken[i][p] = codes[p] | ways[p] << 8;
    }
    for (uint32_t i = n; i-- > 0;) {
        Vi step = kv_key_choose(taken[i], path);

        kv_store_bytes(s->codes + (size_t)order[i] * KV_PAGE_TOKENS + t, step & 255);
        path = step >> 8 & (KEY_PATHS - 1);
    }
}
