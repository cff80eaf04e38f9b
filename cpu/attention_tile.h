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
typedef struct CpuAttentionStep {
    const CpuVectorKernels *kernels;
    const CpuKvKernels *kv_kernels;
    const KvLayer *layer;
    const StepInput *input;
    DevAddr k, v; /* the step's own, as in AttentionArgs */
    uint32_t head_dim, n_kv_heads, window;
    uint16_t *extra_blocks;      /* [extra][n_kv_heads][2 sides][64 * head_dim] */
    const uint32_t *extra_first; /* [n_sequences] */
    const AttentionArgs *args;
    uint32_t group; /* query heads a KV head serves */
} CpuAttentionStep;

/* Block `i` of keys and values of a sequence and KV head. */
typedef struct CpuBlockRef {
    uint32_t i_sequence, i, head;
} CpuBlockRef;

typedef struct CpuTile {
    uint32_t i_sequence;
    uint32_t first, end;                /* rows of the sequence: first <= r < end */
    uint32_t first_segment, n_segments; /* that it sees any keys of */
} CpuTile;

/* Softmax-weighted sums of values over some of the keys, not yet normalized. */
typedef struct CpuTilePart {
    float *out;              /* [n_queries][head_dim] */
    CpuSoftmaxState *states; /* [n_queries] */
} CpuTilePart;

typedef struct CpuTileScratch {
    CpuKvScratch *kv;
    float *queries; /* [queries of a tile][head_dim], times the scale of scores */
    float *scores;  /* [queries of a tile][64] */
    CpuTilePart part, total;
} CpuTileScratch;

/* blocks */

/* Blocks a sequence of the step touches beyond the one its tail lies in. */
uint32_t cpu_attention_extra_blocks(const StepSequence *s);
/* Where one side of it is: page, tail or extra block. */
uint16_t *cpu_attention_block(const CpuAttentionStep *step, CpuBlockRef block, KvSide side);
/* Puts the step's own tokens of one sequence and KV head into tail lanes and extra blocks. */
void cpu_attention_stage(const CpuAttentionStep *step, uint32_t i_sequence, uint32_t head);

/* tiles */

static inline uint32_t tile_queries(const CpuAttentionStep *step, const CpuTile *tile) {
    return (tile->end - tile->first) * step->group;
}

void cpu_tile_find_segments(const CpuAttentionStep *step, CpuTile *tile);
/* Fills scratch->queries. */
void cpu_tile_load(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                   const CpuTileScratch *scratch);
/* The first block of a segment. */
CpuBlockRef cpu_tile_block(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                           uint32_t segment);
/* Asks the processor for a block. */
void cpu_tile_prefetch(const CpuAttentionStep *step, CpuBlockRef block);
/* One segment from scratch into `part`; its first block should have been asked for, and `next`, if
 * not NULL, will have been. Stages the token of a sequence that has only one. */
void cpu_tile_segment(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                      uint32_t segment, const CpuBlockRef *next, const CpuTileScratch *scratch,
                      CpuTilePart part);
void cpu_tile_reset(CpuTilePart part, uint32_t n_queries, uint32_t head_dim);
/* Takes a finished segment into the total of those before it. */
void cpu_tile_merge(CpuTilePart total, CpuTilePart part, uint32_t n_queries, uint32_t head_dim);
/* Normalizes and writes the tile's rows. */
void cpu_tile_store(const CpuAttentionStep *step, const CpuTile *tile, uint32_t head,
                    CpuTilePart total);
