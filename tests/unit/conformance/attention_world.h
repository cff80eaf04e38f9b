/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Conversations in a cache of two layers, each of formats and a window of its own, to run a
 * subject's attention on, step by step, in any chunking; and what a reader of the cache must see.
 *
 * The third sequence shares the first page with the first one, as the prefix cache has it. What lay
 * in the store before are NaNs: nobody may be touched by what another sequence left.
 */

#include "kvcache/rounding.h"
#include "tests/unit/conformance/conformance.h"

#define WORLD_LAYERS 2
#define WORLD_SEQUENCES 3

/* What keys and values are made of. */
typedef enum Fill {
    FILL_NORMAL,
    FILL_LOUD,     /* queries that lean on one key */
    FILL_ZEROS,    /* keys */
    FILL_EQUAL,    /* all tokens of a sequence */
    FILL_SPIKES,   /* one channel at the largest half float, others small */
    FILL_DENORMAL, /* of half floats */
    FILL_LARGE,    /* all at the ends of half floats */
    FILLS
} Fill;

typedef struct WorldShape {
    uint32_t n_kv_heads, group, head_dim;
    KvFormat formats[WORLD_LAYERS][KV_SIDES];
    uint32_t windows[WORLD_LAYERS];
    uint32_t n_tokens[WORLD_SEQUENCES]; /* more than 64 for the third */
    Fill fill;
    bool is_compensated; /* the first head's keys are rounded by a moment of queries */
} WorldShape;

/* One layer's tokens, [n_tokens, heads, head_dim] each. */
typedef struct WorldLayer {
    float *q[WORLD_SEQUENCES];
    uint16_t *bits[KV_SIDES][WORLD_SEQUENCES]; /* keys and values as the op takes them */
    float *exact[KV_SIDES][WORLD_SEQUENCES];   /* the same as numbers */
    float *sealed[KV_SIDES][WORLD_SEQUENCES];  /* whole pages, after sealing */
    float *out[WORLD_SEQUENCES];               /* attention's, of rows that attended */
    Rounding **roundings;                      /* [n_kv_heads]; NULL: nothing is quantized */
} WorldLayer;

typedef struct World {
    Device *d;
    WorldShape shape;
    KvStore store;
    WorldLayer layers[WORLD_LAYERS];
    uint32_t slots[WORLD_SEQUENCES], sinks[WORLD_SEQUENCES];
    uint32_t *pages[WORLD_SEQUENCES];
    uint32_t n_done[WORLD_SEQUENCES];
    DevAddr q, k, v, out; /* of a step */
} World;

/* A random shape, formats, windows and lengths up to n_tokens_max (at least 65). */
WorldShape world_random_shape(Random *r, uint32_t head_dim, uint32_t n_tokens_max);

void world_init(World *w, Device *d, const WorldShape *shape);
/* The cache as it was in the beginning. */
void world_rewind(World *w);

/* Runs n_now more tokens of each sequence, in one step. If `attends`, every row is compared with
 * the definition. */
void world_step(World *w, const uint32_t n_now[WORLD_SEQUENCES], bool attends);
/* The same without comparing. */
void world_step_unseen(World *w, const uint32_t n_now[WORLD_SEQUENCES]);
/* To the end, in chunks of random sizes. */
void world_run(World *w);
