/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention over every cache there is, against the definition: over the formats, shapes, windows
 * and chunkings that decide which code runs.
 */
#include "kvcache/kv_format.h"
#include "tests/unit/conformance/attention_world.h"

#include <string.h>

static void run_world(Device *d, const WorldShape *shape) {
    World w;

    world_init(&w, d, shape);
    world_run(&w);
    case_end(d);
}

/* bf16 with itself, and each of f16 and the quantized formats with each. */
static void pair_of_formats(uint32_t i, KvFormat formats[KV_SIDES]) {
    const uint32_t n = KV_FORMATS - KV_FORMAT_F16;

    formats[KV_SIDE_K] = i < n * n ? KV_FORMAT_F16 + i / n : KV_FORMAT_BF16;
    formats[KV_SIDE_V] = i < n * n ? KV_FORMAT_F16 + i % n : KV_FORMAT_BF16;
}

void check_attention_of_every_pair_of_formats(Device *d) {
    static const uint32_t dims[] = { 32, 64, 80, 96, 128 };
    const uint32_t n_pairs = (KV_FORMATS - KV_FORMAT_F16) * (KV_FORMATS - KV_FORMAT_F16) + 1;

    for (uint32_t i = 0; i < n_pairs; i += WORLD_LAYERS) {
        WorldShape shape = world_random_shape(&d->random, dims[i / WORLD_LAYERS % 5], 85);

        shape.group = 1 + shape.group % 2;
        for (uint32_t l = 0; l < WORLD_LAYERS; l++)
            pair_of_formats((i + l) % n_pairs, shape.formats[l]);
        run_world(d, &shape);
    }
}

/* Quantized caches have head_dim in multiples of 8, others in multiples of 2. */
void check_attention_of_every_head_dim(Device *d) {
    for (uint32_t n = 8; n <= KV_HEAD_DIM_MAX; n += 8 * (1 + n / 32)) {
        WorldShape shape = world_random_shape(&d->random, n, 75);

        shape.group = shape.n_kv_heads = 1;
        run_world(d, &shape);
    }
    for (uint32_t n = 2; n <= KV_HEAD_DIM_MAX; n += 2 * (1 + n / 6)) {
        WorldShape shape = world_random_shape(&d->random, n, 75);

        shape.group = shape.n_kv_heads = 1;
        for (uint32_t l = 0; l < WORLD_LAYERS; l++)
            shape.formats[l][KV_SIDE_K] = shape.formats[l][KV_SIDE_V] =
                l ? KV_FORMAT_F16 : KV_FORMAT_BF16;
        run_world(d, &shape);
    }
}

void check_attention_of_many_query_heads(Device *d) {
    static const struct {
        uint32_t group, head_dim;
    } shapes[] = { { 8, 32 }, { 32, 32 }, { 33, 32 }, { 71, 32 }, { 4, 256 } };

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        WorldShape shape = world_random_shape(&d->random, shapes[i].head_dim, 70);

        shape.n_kv_heads = 1;
        shape.group = shapes[i].group;
        run_world(d, &shape);
    }
}

/* Some steps of few rows behind a past that was put there unseen. */
void check_attention_of_a_long_past(Device *d) {
    for (uint32_t i = 0; i < 2; i++) {
        WorldShape shape = world_random_shape(&d->random, 32 << i, 200);
        uint32_t n_now[WORLD_SEQUENCES];
        World w;

        shape.windows[i] = 0;
        shape.windows[!i] = 1 + random_below(&d->random, 200);
        shape.n_tokens[0] = 1400 + random_below(&d->random, 100);
        world_init(&w, d, &shape);
        memcpy(n_now, shape.n_tokens, sizeof(n_now));
        n_now[0] -= 9 + random_below(&d->random, 64);
        n_now[1] = 1 + random_below(&d->random, n_now[1] - 1);
        n_now[2] = 0;
        world_step(&w, n_now, false);
        n_now[0] = n_now[1] = 1;
        n_now[2] = shape.n_tokens[2] - KV_PAGE_TOKENS - 1;
        world_step(&w, n_now, false);
        for (uint32_t k = 0; k < 3; k++) {
            n_now[0] = 1 + k;
            n_now[1] = w.n_done[1] < shape.n_tokens[1];
            n_now[2] = !k;
            world_step(&w, n_now, true);
        }
        case_end(d);
    }
}

void check_attention_of_hard_values(Device *d) {
    for (Fill fill = 0; fill < FILLS; fill++)
        for (uint32_t i = 0; i < 2; i++) {
            WorldShape shape = world_random_shape(&d->random, i ? 64 : 80, 100);

            shape.fill = fill;
            shape.group = shape.n_kv_heads = 1;
            run_world(d, &shape);
        }
}

/* Runs each sequence in chunks that depend on `r` and the sequence alone; together, or one after
 * another. */
static void run_unseen(World *w, Random r, uint32_t chunk_max, bool together) {
    Random randoms[WORLD_SEQUENCES];
    bool any = true;

    world_rewind(w);
    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++)
        randoms[s] = (Random){ .state = random_u64(&r) };
    while (any) {
        uint32_t n_now[WORLD_SEQUENCES] = { 0 };

        any = false;
        for (uint32_t s = 0; s < WORLD_SEQUENCES && (together || !any); s++) {
            uint32_t left = s == 2 && !w->n_done[2] ? 0 : w->shape.n_tokens[s] - w->n_done[s];

            if (!left)
                continue;
            n_now[s] = 1 + random_below(&randoms[s], chunk_max);
            n_now[s] = n_now[s] < left ? n_now[s] : left;
            any = true;
        }
        if (any)
            world_step_unseen(w, n_now);
    }
}

static void expect_the_same(World *w, float *first[WORLD_LAYERS][WORLD_SEQUENCES], uint32_t l) {
    size_t q_size = (size_t)w->shape.n_kv_heads * w->shape.group * w->shape.head_dim;

    for (uint32_t s = 0; s < WORLD_SEQUENCES; s++) {
        size_t at = s == 2 ? KV_PAGE_TOKENS * q_size : 0;
        size_t bytes = (w->shape.n_tokens[s] * q_size - at) * sizeof(float);

        if (!first[l][s]) {
            first[l][s] = host_new(w->d, 1, bytes);
            memcpy(first[l][s], w->layers[l].out[s] + at, bytes);
        }
        assert_memory_equal(first[l][s], w->layers[l].out[s] + at, bytes);
    }
}

/* Over 16-bit caches a row is the same for every chunking and batch; over quantized ones, where a
 * chunk's own tokens are exact, for every batch. Layer 0 is 16-bit here, layer 1 is quantized. */
void check_attention_rows_are_exact(Device *d) {
    static const uint32_t chunks[] = { 1, 7, 300 }, dims[] = { 32, 64, 80 };

    if (!d->ops->row_exact)
        skip();
    for (size_t i = 0; i < 2; i++) {
        WorldShape shape = world_random_shape(&d->random, dims[random_below(&d->random, 3)], 150);
        float *exact[WORLD_LAYERS][WORLD_SEQUENCES] = { 0 };
        World w;

        shape.group = 1 + shape.group % 2;
        shape.n_tokens[0] += i ? 0 : 600; /* more than a few pages */
        shape.formats[0][KV_SIDE_K] = shape.formats[0][KV_SIDE_V] = KV_FORMAT_BF16 + i % 2;
        shape.formats[1][KV_SIDE_K] =
            KV_FORMAT_8 + random_below(&d->random, KV_FORMATS - KV_FORMAT_8);
        world_init(&w, d, &shape);
        for (size_t c = 0; c < sizeof(chunks) / sizeof(*chunks); c++) {
            float *batched[WORLD_LAYERS][WORLD_SEQUENCES] = { 0 };
            Random r = { .state = random_u64(&d->random) };

            run_unseen(&w, r, chunks[c], true);
            expect_the_same(&w, exact, 0);
            expect_the_same(&w, batched, 1);
            run_unseen(&w, r, chunks[c], false);
            expect_the_same(&w, exact, 0);
            expect_the_same(&w, batched, 1);
        }
        case_end(d);
    }
}
