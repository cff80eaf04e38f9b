/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The inner loops of a matrix product: one source (matmul_kernels.c), compiled per instruction set,
 * one table each. Pure functions of their arguments; no threads, no allocation.
 */

#include "cpu/cpu_backend.h"
#include "cpu/weight_layout.h"

/* Of 32 activations in fixed point: x = scale * q, |q| <= 32767. NaN: they were not finite. */
typedef struct CpuFixedScale {
    float scale;
    float sum; /* scale * (sum of q): what a weight's min is multiplied by */
} CpuFixedScale;

/*
 * Tokens in fixed point, arranged for the tiles that will read them: n_tokens are dealt evenly to
 * n_tiles; the tile that begins at token t lies at index t * n_cols of `fixed` and is
 * [n_cols / 32][tokens of the tile][32], and at index t * n_cols / 32 of `scales`, likewise.
 */
typedef struct CpuFixedTiles {
    uint32_t n_tokens, n_tiles;
    int16_t *fixed;
    CpuFixedScale *scales;
} CpuFixedTiles;

/* The first token of a tile; of tile n_tiles, n_tokens. */
static inline uint32_t tile_token(const CpuFixedTiles *tiles, uint32_t i_tile) {
    return (uint32_t)((uint64_t)tiles->n_tokens * i_tile / tiles->n_tiles);
}

/* A range of rows times a range of token tiles. Block formats read `tiles`, others `in`. */
typedef struct CpuProductArgs {
    const Weight *weight;
    const CpuFixedTiles *tiles;
    const float *in;   /* [n_tokens, n_cols] */
    const float *bias; /* [n_rows] or NULL */
    float *out;        /* [n_tokens, n_rows] */
    bool accumulate;
    uint32_t group_begin, group_end; /* of rows */
    uint32_t tile_begin, tile_end;
} CpuProductArgs;

typedef struct CpuMatmulKernels {
    uint32_t tile_tokens_max;
    /* Fills tile i_tile from in [n_tokens, n_cols], n_cols a multiple of 32. */
    void (*fix)(const CpuFixedTiles *tiles, uint32_t i_tile, const float *in, uint32_t n_cols);
    void (*product[WEIGHT_FORMATS])(const CpuProductArgs *args);
} CpuMatmulKernels;

extern const CpuMatmulKernels cpu_matmul_kernels_baseline; /* 4 lanes: SSE2, NEON, or plain C */
#if defined(__x86_64__)
extern const CpuMatmulKernels cpu_matmul_kernels_avx2;
extern const CpuMatmulKernels cpu_matmul_kernels_avx512;
extern const CpuMatmulKernels cpu_matmul_kernels_avx512_vnni;
#endif
