/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Attention of a tile, some 32 (row, query head) pairs that share the keys of one KV head, over
 * one segment of 8 blocks of 64 keys; and where those blocks are. Private to cpu/attention.c. Pure
 * functions of their arguments, run by any thread of the team.
 */

#include "backend/ops.h"
#include "cpu/kv_kernels.h"
#include "cpu/vector_kernels.h"

#define SEGMENT_BLOCKS 8
#define TILE_QUERIES 32 /* of a tile, or one row of a larger group of query heads */

/* One step at one layer; what is planned for all layers of a window looks at the input, the shape
 * and the window alone. */
typedef struct AttentionStep {
    const VectorKernels *kernels;
    const KvKernels *kv_kernels;
    const KvLayer *layer;
    const StepInput *input;
    DevAddr k, v; /* the step's own, as in AttentionArgs */
    uint32_t head_dim, n_kv_heads, window;
    uint16_t *extra_blocks;      /* [extra][n_kv_heads][2 sides][64 * head_dim] */
    const uint32_t *extra_first; /* [n_sequences] */
    const AttentionArgs *args;
    uint32_t group; /* query heads a KV head serves */
} AttentionStep;

/* Block `i` of keys and values of a sequence and KV head. */
typedef struct BlockRef {
    uint32_t i_sequence, i, head;
} BlockRef;

typedef struct Tile {
    uint32_t i_sequence;
    uint32_t first, end;                /* rows of the sequence: first <= r < end */
    uint32_t first_segment, n_segments; /* that it sees any keys of */
} Tile;

/* Softmax-weighted sums of values over some of the keys, not yet normalized. */
typedef struct TilePart {
    float *out;           /* [n_queries][head_dim] */
    SoftmaxState *states; /* [n_queries] */
} TilePart;

typedef struct TileScratch {
    KvScratch *kv;
    float *queries; /* [queries of a tile][head_dim], times the scale of scores */
    float *scores;  /* [queries of a tile][64] */
    TilePart part, total;
} TileScratch;

/* blocks */

/* Blocks a sequence of the step touches beyond the one its tail lies in. */
uint32_t step_extra_blocks(const StepSequence *s);
/* Where one side of it is: page, tail or extra block. */
uint16_t *step_block(const AttentionStep *step, BlockRef block, KvSide side);
/* Puts the step's own tokens of one sequence and KV head into tail lanes and extra blocks. */
void step_stage(const AttentionStep *step, uint32_t i_sequence, uint32_t head);

/* tiles */

static inline uint32_t tile_queries(const AttentionStep *step, const Tile *tile) {
    return (tile->end - tile->first) * step->group;
}

void tile_find_segments(const AttentionStep *step, Tile *tile);
/* Fills scratch->queries. */
void tile_load(const AttentionStep *step, const Tile *tile, uint32_t head,
               const TileScratch *scratch);
/* The first block of a segment. */
BlockRef tile_block(const AttentionStep *step, const Tile *tile, uint32_t head, uint32_t segment);
/* Asks the processor for a block. */
void tile_prefetch(const AttentionStep *step, BlockRef block);
/* One segment from scratch into `part`; its first block should have been asked for, and `next`, if
 * not NULL, will have been. Stages the token of a sequence that has only one. */
void tile_segment(const AttentionStep *step, const Tile *tile, uint32_t head, uint32_t segment,
                  const BlockRef *next, const TileScratch *scratch, TilePart part);
void tile_reset(TilePart part, uint32_t n_queries, uint32_t head_dim);
/* Takes a finished segment into the total of those before it. */
void tile_merge(TilePart total, TilePart part, uint32_t n_queries, uint32_t head_dim);
/* Normalizes and writes the tile's rows. */
void tile_store(const AttentionStep *step, const Tile *tile, uint32_t head, TilePart total);
