/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Trellis-coded values (kvcache/value_trellis.h) by whole vectors: the search for the best codes,
 * a lane a token; codes into the words of a block; and words to the levels that they choose.
 */

#include "cpu/kv_codes.h"
#include "kvcache/value_trellis.h"

/* the search */

/* The nearest level of a subset, in units of levels: how far it is, and which of the subset. */
KV_INLINE Vf kv_trellis_error(const KvFormatInfo *info, uint32_t n_levels, uint32_t subset, Vf x,
                              Vi *choice) {
    Vf level = v_set1(info->levels[subset]);

    *choice = (Vi){ 0 };
    for (uint32_t i = subset + KV_TRELLIS_SUBSETS; i < n_levels; i += KV_TRELLIS_SUBSETS) {
        float below = info->levels[i - KV_TRELLIS_SUBSETS], above = info->levels[i];
        Vi passed = x >= 0.5f * (below + above);

        *choice -= passed; /* a mask is -1 */
        level += (Vf)((Vi)v_set1(above - below) & passed);
    }
    return x - level;
}

/* What a step of the search leaves for the way back: for each state whether the best path comes
 * from the higher of its two; for each subset the choice in it, 2 bits. */
typedef struct CpuKvTrellisStep {
    Vi ways, choices;
} CpuKvTrellisStep;

/* `costs` of the paths into each state, by one channel further. */
KV_INLINE CpuKvTrellisStep kv_trellis_step(const KvFormatInfo *info, uint32_t n_levels, Vf x,
                                           Vf costs[KV_TRELLIS_STATES]) {
    const uint32_t top = KV_TRELLIS_STATES / 2;
    Vf errors[KV_TRELLIS_SUBSETS], next[KV_TRELLIS_STATES];
    CpuKvTrellisStep step = { 0 };

    for (uint32_t s = 0; s < KV_TRELLIS_SUBSETS; s++) {
        Vi choice;

        errors[s] = kv_trellis_error(info, n_levels, s, x, &choice);
        step.choices |= choice << (int32_t)(2 * s);
    }
    for (uint32_t state = 0; state < KV_TRELLIS_STATES; state++) {
        uint32_t low = state >> 1, high = low | top;
        Vf low_error = errors[kv_trellis_subset(low, state & 1)];
        Vf high_error = errors[kv_trellis_subset(high, state & 1)];
        Vf low_cost = v_fused(low_error, low_error, costs[low]);
        Vf high_cost = v_fused(high_error, high_error, costs[high]);

        step.ways |= (high_cost < low_cost) & (1 << state);
        next[state] = v_min(high_cost, low_cost);
    }
    memcpy(costs, next, sizeof(next));
    return step;
}

KV_INLINE Vi kv_trellis_best(const Vf costs[KV_TRELLIS_STATES]) {
    Vf least = costs[0];
    Vi best = { 0 };

    for (int32_t state = 1; state < KV_TRELLIS_STATES; state++) {
        Vi less = costs[state] < least;

        best = (best & ~less) | (less & state);
        least = v_min(costs[state], least);
    }
    return best;
}

/* One run of V_LANES tokens: x[channel][token] times `units` to codes[channel][token]; `levels` are
 * those they choose. */
KV_INLINE void kv_trellis_search(const KvFormatInfo *info, uint32_t n_levels, uint32_t n_channels,
                                 const float *x, Vf units, uint8_t *codes, Vi *levels) {
    CpuKvTrellisStep steps[KV_TRELLIS_RUN];
    Vf costs[KV_TRELLIS_STATES];
    Vi state;

    costs[0] = v_set1(0);
    for (uint32_t i = 1; i < KV_TRELLIS_STATES; i++)
        costs[i] = v_set1(__builtin_inff());
    for (uint32_t c = 0; c < n_channels; c++)
        steps[c] =
            kv_trellis_step(info, n_levels, v_load(x + (size_t)c * KV_PAGE_TOKENS) * units, costs);
    state = kv_trellis_best(costs);
    for (uint32_t c = n_channels; c-- > 0;) {
        Vi bit = state & 1, from = state >> 1 | (steps[c].ways >> state & 1) << 2;
        Vi subset = (bit ^ (from & 1) ^ from >> 2) << 1 | (from >> 1 & 1);
        Vi choice = steps[c].choices >> 2 * subset & 3;

        levels[c] = choice * KV_TRELLIS_SUBSETS + subset;
        kv_store_bytes(codes + (size_t)c * KV_PAGE_TOKENS, 2 * choice + bit);
        state = from;
    }
}

/* words */

/* codes[channel][token] of a run's word `l`, two bits of each from bit `shift` of the codes on. */
KV_INLINE void kv_trellis_words(const uint8_t *codes, uint32_t l, uint32_t shift, uint32_t mask,
                                uint16_t words[KV_PAGE_TOKENS]) {
    memset(words, 0, KV_PAGE_TOKENS * sizeof(*words));
    for (uint32_t k = 0; k < KV_TRELLIS_RUN / 8; k++) {
        const uint8_t *row = codes + (size_t)(8 * k + l) * KV_PAGE_TOKENS;

        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
            words[t] |= (uint16_t)((row[t] >> shift & mask) << 2 * k);
    }
}

/* A whole run of all tokens of a page into its rows of the planes; rows are as far from each other
 * as `row_bytes` says. */
KV_INLINE void kv_trellis_pack_run(KvFormat format, const uint8_t *codes, uint8_t *low,
                                   uint8_t *high, const size_t row_bytes[2]) {
    uint16_t words[KV_PAGE_TOKENS], above[KV_PAGE_TOKENS];

    for (uint32_t l = 0; l < 8; l++) {
        kv_trellis_words(codes, l, 0, 3, words);
        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
            memcpy(low + t * row_bytes[0] + 2 * l, &words[t], sizeof(words[t]));
    }
    for (uint32_t l = 0; format == KV_FORMAT_3 && l < 4; l++) {
        kv_trellis_words(codes, l, 2, 1, words);
        kv_trellis_words(codes, l + 4, 2, 1, above);
        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++) {
            words[t] |= (uint16_t)(above[t] << 1);
            memcpy(high + t * row_bytes[1] + 2 * l, &words[t], sizeof(words[t]));
        }
    }
}

/* levels */

/* The words of one run or, in wider vectors, of two. */
#if defined(__AVX2__)
#define KV_TRELLIS_RUNS 2
#else
#define KV_TRELLIS_RUNS 1
#endif
typedef uint16_t CpuKvWords __attribute__((__vector_size__(16 * KV_TRELLIS_RUNS)));

/* Each run's words moved up by n, those of `below` coming in. */
#if defined(__AVX2__)
#define KV_WORDS_DELAY(_words, _below, _n) \
    ((CpuKvWords)_mm256_alignr_epi8((__m256i)(_words), (__m256i)(_below), 16 - 2 * (_n)))
#else
#define KV_WORDS_DELAY(_words, _below, _n)                                                \
    __builtin_shufflevector((_below), (_words), 8 - (_n), 9 - (_n), 10 - (_n), 11 - (_n), \
                            12 - (_n), 13 - (_n), 14 - (_n), 15 - (_n))
#endif

/* The high plane of the runs, channel 8 k + l at bit 2 k of word l. */
KV_INLINE CpuKvWords kv_trellis_high(const uint8_t *row) {
#if defined(__AVX2__)
    __m256i words =
        _mm256_permute4x64_epi64(_mm256_castsi128_si256(_mm_loadu_si128((const void *)row)), 0x50);

    return (CpuKvWords)_mm256_blend_epi16(words, _mm256_srli_epi16(words, 1), 0xf0);
#else
    const CpuKvWords lower = { 0xffff, 0xffff, 0xffff, 0xffff };
    uint8_t twice[16];
    CpuKvWords words;

    memcpy(twice, row, 8);
    memcpy(twice + 8, row, 8);
    memcpy(&words, twice, sizeof(words));
    return (words & lower) | (words >> 1 & ~lower);
#endif
}

/*
 * Words of KV_TRELLIS_RUNS runs, from their rows in the planes, to 16 words of levels each: channel
 * 16 a + i of a run is at bit 4 a of word i.
 *
 * The channel before 8 k + l is in the word before, or, for l = 0, two bits lower in the last one.
 */
KV_INLINE void kv_trellis_unpack_runs(KvFormat format, const uint8_t *low, const uint8_t *high,
                                      uint16_t *levels) {
    CpuKvWords words, below, subsets, even, odd;

    memcpy(&words, low, sizeof(words));
    below = words << 2;
    subsets = ((words ^ KV_WORDS_DELAY(words, below, 1) ^ KV_WORDS_DELAY(words, below, 3)) & 0x5555)
                  << 1 |
              (KV_WORDS_DELAY(words, below, 2) & 0x5555);
    even = (subsets & 0x3333) | (words & 0x2222) << 1;
    odd = (subsets >> 2 & 0x3333) | (words >> 1 & 0x4444);
    if (format == KV_FORMAT_3) {
        CpuKvWords top = kv_trellis_high(high);

        even |= (top & 0x1111) << 3;
        odd |= top << 1 & 0x8888;
    }
#if defined(__AVX2__)
    _mm256_storeu_si256((void *)levels,
                        _mm256_permute2x128_si256((__m256i)even, (__m256i)odd, 0x20));
    _mm256_storeu_si256((void *)(levels + 16),
                        _mm256_permute2x128_si256((__m256i)even, (__m256i)odd, 0x31));
#else
    memcpy(levels, &even, sizeof(even));
    memcpy(levels + 8, &odd, sizeof(odd));
#endif
}
