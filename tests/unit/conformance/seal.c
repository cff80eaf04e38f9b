/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/conformance/seal.h"

#include "kvcache/value_trellis.h"
#include "util/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS KV_PAGE_TOKENS
#define INPUT_MAX 65504.0f

/* NaN counts as 0, what is too large as the largest. */
static float clean(float x) {
    return isnan(x) ? 0 : fminf(fmaxf(x, -INPUT_MAX), INPUT_MAX);
}

/* uniform steps */

typedef struct Steps {
    float scale, center;
    uint32_t bits;
} Steps;

/* Steps that span low .. high. */
static Steps steps_of(KvFormat format, float low, float high) {
    uint32_t bits = kv_formats[format].bits;
    float n_steps = (float)((1u << bits) - 1), middle = low + (high - low) * 0.5f;
    Steps s = { .bits = bits };

    if (kv_formats[format].meta_bytes == 1) {
        /* The center is a whole number of half steps, at most 127 of them. */
        s.scale = kv_scales[kv_scale_ceil(fmaxf((high - low) / n_steps, fabsf(middle) / 63))];
        s.center = s.scale > 0 ? rintf(middle / (s.scale * 0.5f)) * (s.scale * 0.5f) : 0;
    } else {
        s.center = half_value(half_nearest(middle));
        s.scale = half_value(half_ceil(fmaxf(high - s.center, s.center - low) * 2 / n_steps));
    }
    return s;
}

/* How many steps x is above the lowest one, by a fused multiply and add; within their range. */
static float steps_up(const Steps *s, float x) {
    float middle = (float)(1u << (s->bits - 1)) - 0.5f, top = (float)((1u << s->bits) - 1);
    float inverse = s->scale > 0 ? 1 / s->scale : 0;

    return fminf(fmaxf(fmaf(x - s->center, inverse, middle), 0), top);
}

static float code_of(const Steps *s, float x) {
    return rintf(steps_up(s, x));
}

static float value_of(const Steps *s, float code) {
    return fmaf(s->scale, code - ((float)(1u << (s->bits - 1)) - 0.5f), s->center);
}

/* keys */

static Steps channel_steps(KvFormat format, uint32_t head_dim, const float *x,
                           const Rounding *rounding) {
    float low = INFINITY, high = -INFINITY, cut;

    for (uint32_t t = 0; t < TOKENS; t++) {
        low = fminf(low, x[(size_t)t * head_dim]);
        high = fmaxf(high, x[(size_t)t * head_dim]);
    }
    cut = (high - low) * 0.5f * (1 - kv_key_range(format, !rounding->is_plain));
    return steps_of(format, low + cut, high - cut);
}

/* A token's channels in rounding order; the error of each moves those to come (fused). */
static void seal_key_simply(const Steps *steps, uint32_t head_dim, float *x,
                            const Rounding *rounding) {
    const uint32_t *order = rounding_order(rounding);

    for (uint32_t i = 0; i < head_dim; i++) {
        const Steps *s = &steps[order[i]];
        float rounded = value_of(s, code_of(s, x[order[i]])), error = x[order[i]] - rounded;

        for (uint32_t j = i + 1; !rounding->is_plain && j < head_dim; j++)
            x[order[j]] = fmaf(error, -rounding_feed(rounding, i)[j], x[order[j]]);
        x[order[i]] = rounded;
    }
}

/* A partial rounding: channels behind are what codes stand for, those to come as they were moved.
 */
typedef struct KeyPath {
    float cost;
    float x[KV_HEAD_DIM_MAX]; /* in rounding order */
} KeyPath;

/* A way on from a path, and the bits by which ways compare. */
typedef struct KeyWay {
    uint32_t key;
    float value;
} KeyWay;

static KeyWay key_way(const Steps *s, const KeyPath *path, uint32_t i, float weight,
                      uint32_t number) {
    float top = (float)((1u << s->bits) - 1), x = path->x[i];
    float near = code_of(s, x), code = near, error, cost;
    KeyWay way;

    if (number >= ROUNDING_PATHS_MAX)
        code += steps_up(s, x) >= near ? 1 : -1;
    if (code < 0 || code > top) {
        cost = INFINITY;
    } else {
        error = x - value_of(s, code);
        cost = fmaf(error * error, weight, path->cost);
    }
    way.value = value_of(s, fminf(fmaxf(code, 0), top));
    memcpy(&way.key, &cost, sizeof(way.key));
    way.key = (way.key & ~7u) | number;
    return way;
}

static int by_key(const void *a, const void *b) {
    const KeyWay *x = a, *y = b;

    return (x->key > y->key) - (x->key < y->key);
}

/* `path` behind its channel i, which took `value`. */
static void go_on(KeyPath *path, uint32_t i, float value, uint32_t key, const float *feed,
                  uint32_t n) {
    float error = path->x[i] - value;

    key &= ~7u;
    memcpy(&path->cost, &key, sizeof(key));
    path->x[i] = value;
    for (uint32_t j = i + 1; j < n; j++)
        path->x[j] = fmaf(error, -feed[j], path->x[j]);
}

/* The same, keeping the best paths; whole ones here. */
static void seal_key_ahead(const Steps *steps, uint32_t head_dim, float *x,
                           const Rounding *rounding) {
    static KeyPath paths[ROUNDING_PATHS_MAX], next[ROUNDING_PATHS_MAX];
    const uint32_t *order = rounding_order(rounding);

    for (uint32_t p = 0; p < ROUNDING_PATHS_MAX; p++) {
        paths[p].cost = p ? INFINITY : 0;
        for (uint32_t i = 0; i < head_dim; i++)
            paths[p].x[i] = x[order[i]];
    }
    for (uint32_t i = 0; i < head_dim; i++) {
        KeyWay ways[2 * ROUNDING_PATHS_MAX];

        for (uint32_t w = 0; w < 2 * ROUNDING_PATHS_MAX; w++)
            ways[w] = key_way(&steps[order[i]], &paths[w % ROUNDING_PATHS_MAX], i,
                              rounding_weights(rounding)[i], w);
        qsort(ways, 2 * ROUNDING_PATHS_MAX, sizeof(*ways), by_key);
        for (uint32_t p = 0; p < ROUNDING_PATHS_MAX; p++) {
            next[p] = paths[ways[p].key % ROUNDING_PATHS_MAX];
            go_on(&next[p], i, ways[p].value, ways[p].key, rounding_feed(rounding, i), head_dim);
        }
        memcpy(paths, next, sizeof(paths));
    }
    for (uint32_t i = 0; i < head_dim; i++)
        x[order[i]] = paths[0].x[i];
}

static void seal_key(const Steps *steps, uint32_t head_dim, float *x, const Rounding *rounding) {
    if (rounding->n_paths > 1)
        seal_key_ahead(steps, head_dim, x, rounding);
    else
        seal_key_simply(steps, head_dim, x, rounding);
}

static void seal_keys(KvFormat format, uint32_t head_dim, float *x, const Rounding *rounding) {
    Steps steps[KV_HEAD_DIM_MAX];

    for (uint32_t c = 0; c < head_dim; c++) /* scales are from the values as they came */
        steps[c] = channel_steps(format, head_dim, x + c, rounding);
    for (uint32_t t = 0; t < TOKENS; t++)
        seal_key(steps, head_dim, x + (size_t)t * head_dim, rounding);
}

/* values */

static void seal_value_uniform(KvFormat format, uint32_t head_dim, float *x) {
    float low = INFINITY, high = -INFINITY, cut;
    Steps s;

    for (uint32_t c = 0; c < head_dim; c++) {
        low = fminf(low, x[c]);
        high = fmaxf(high, x[c]);
    }
    cut = (high - low) * 0.5f * (1 - kv_value_range(format));
    s = steps_of(format, low + cut, high - cut);
    for (uint32_t c = 0; c < head_dim; c++)
        x[c] = value_of(&s, code_of(&s, x[c]));
}

static float nearest_level(const KvFormatInfo *info, float x) {
    uint32_t i = 0;

    while (i + 1 < info->n_levels && x >= 0.5f * (float)(info->levels[i] + info->levels[i + 1]))
        i++;
    return info->levels[i];
}

/* A path through the trellis, as far as it has come. */
typedef struct Path {
    float cost;
    uint8_t levels[KV_TRELLIS_RUN];
} Path;

/* The level that a subset has nearest to x. */
static uint8_t nearest_of_subset(const KvFormatInfo *info, uint32_t subset, float x) {
    uint32_t i = subset;

    while (i + 4 < info->n_levels && x >= 0.5f * (float)(info->levels[i] + info->levels[i + 4]))
        i += 4;
    return (uint8_t)i;
}

static Path extended(const KvFormatInfo *info, const Path *path, uint32_t n, uint32_t state,
                     uint32_t coded_bit, float x) {
    Path longer = *path;
    uint8_t i = nearest_of_subset(info, kv_trellis_subset(state, coded_bit), x);
    float error = x - (float)info->levels[i];

    longer.levels[n] = i;
    longer.cost = fmaf(error, error, path->cost);
    return longer;
}

/* A run of n channels, in units of levels, to the levels of the best path. Whole paths are kept
 * here, one for each state. */
static void best_path(const KvFormatInfo *info, uint32_t n, float *x) {
    Path paths[KV_TRELLIS_STATES], next[KV_TRELLIS_STATES];
    uint32_t best = 0;

    for (uint32_t state = 0; state < KV_TRELLIS_STATES; state++)
        paths[state] = (Path){ .cost = state ? INFINITY : 0 };
    for (uint32_t c = 0; c < n; c++) {
        for (uint32_t state = 0; state < KV_TRELLIS_STATES; state++)
            next[state].cost = INFINITY;
        for (uint32_t state = 0; state < KV_TRELLIS_STATES; state++)
            for (uint32_t bit = 0; bit < 2; bit++) {
                Path path = extended(info, &paths[state], c, state, bit, x[c]);
                uint32_t to = kv_trellis_next(state, bit);

                if (path.cost < next[to].cost)
                    next[to] = path;
            }
        memcpy(paths, next, sizeof(paths));
    }
    for (uint32_t state = 1; state < KV_TRELLIS_STATES; state++)
        if (paths[state].cost < paths[best].cost)
            best = state;
    for (uint32_t c = 0; c < n; c++)
        x[c] = info->levels[paths[best].levels[c]];
}

/* Levels of the token by its own deviation, then the scale with <v, scale * levels> = <v, v>; both
 * sums in the order of channels, fused. */
static void seal_value_levels(KvFormat format, uint32_t head_dim, float *x) {
    const KvFormatInfo *info = &kv_formats[format];
    float squares = 0, products = 0, deviation, unit, scale, levels[KV_HEAD_DIM_MAX];

    for (uint32_t c = 0; c < head_dim; c++)
        squares = fmaf(x[c], x[c], squares);
    deviation = sqrtf(squares / (float)head_dim);
    unit = info->levels_per_sigma * (deviation > 0 ? 1 / deviation : 0);
    for (uint32_t c = 0; c < head_dim; c++)
        levels[c] = x[c] * unit;
    for (uint32_t c = 0; c < head_dim; c += KV_TRELLIS_RUN)
        if (kv_format_has_trellis(format, KV_SIDE_V))
            best_path(info, head_dim - c < KV_TRELLIS_RUN ? head_dim - c : KV_TRELLIS_RUN,
                      levels + c);
    for (uint32_t c = 0; c < head_dim; c++) {
        if (!kv_format_has_trellis(format, KV_SIDE_V))
            levels[c] = nearest_level(info, levels[c]);
        products = fmaf(x[c], levels[c], products);
    }
    scale = products > 0 ? kv_scales[kv_scale_nearest(squares / products)] : 0;
    for (uint32_t c = 0; c < head_dim; c++)
        x[c] = levels[c] * scale;
}

void sealed_values(KvFormat format, KvSide side, uint32_t head_dim, float *x,
                   const Rounding *rounding) {
    for (size_t i = 0; i < (size_t)TOKENS * head_dim; i++)
        x[i] = clean(x[i]);
    if (side == KV_SIDE_K)
        seal_keys(format, head_dim, x, rounding);
    for (uint32_t t = 0; side == KV_SIDE_V && t < TOKENS; t++)
        if (kv_format_has_centers(format, side))
            seal_value_uniform(format, head_dim, x + (size_t)t * head_dim);
        else
            seal_value_levels(format, head_dim, x + (size_t)t * head_dim);
}
