/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Cuts a product into tasks for the team; the arithmetic is in matmul_kernels.c.
 *
 * Tokens are taken in chunks that keep the workspace small and its fixed point numbers in the
 * cores' own caches. Within a chunk the rows of all parts, one after the other, are cut into
 * tasks of about TASK_BYTES of weights read (once a tile of tokens): long enough to stream, which
 * decides the speed of decoding, and short enough to even out threads of unequal speed. When rows
 * are too few for the team, tokens are cut as well. None of it shows in the result.
 */

#include "cpu/matmul.h"

#include "cpu/matmul_kernels.h"
#include "util/integer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_TOKENS 192 /* a multiple of every tile */
#define CUT_TILES 4      /* the least that is worth cutting tokens for */
#define TASK_BYTES (256u << 10)
#define FIX_ALONE_VALUES (8u << 10) /* fewer activations are not worth waking the team for */
#define FIX_TASK_VALUES (4u << 10)

struct CpuMatmul {
    CpuTeam *team; /* borrowed */
    const CpuMatmulKernels *kernels;
    uint32_t n_cols_max;
    void *workspace;       /* owned: fixed, then scales */
    int16_t *fixed;        /* [CHUNK_TOKENS, n_cols] of the op that runs */
    CpuFixedScale *scales; /* [CHUNK_TOKENS, n_cols / 32] */
};

/* One chunk of tokens of one op. */
typedef struct Chunk {
    const CpuMatmul *matmul;
    const MatmulArgs *args;
    uint32_t i_token; /* the first */
    uint32_t n_cols;
    CpuFixedTiles tiles;
    uint32_t tiles_per_fix; /* of a task that turns tokens to fixed point */
    uint32_t n_groups;      /* of all parts' rows */
    uint32_t n_row_tasks;   /* groups are dealt evenly to these, */
    uint32_t n_token_cuts;  /* times these, to which tiles are */
} Chunk;

static const CpuMatmulKernels *kernels_of(CpuIsa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case CPU_ISA_AVX512_VNNI:
        return &cpu_matmul_kernels_avx512_vnni;
    case CPU_ISA_AVX512:
        return &cpu_matmul_kernels_avx512;
    case CPU_ISA_AVX2:
        return &cpu_matmul_kernels_avx2;
#endif
    default:
        return &cpu_matmul_kernels_baseline;
    }
}

int cpu_matmul_new(CpuMatmul **outp, CpuTeam *team, CpuIsa isa, Reason *why) {
    if (!cpu_isa_available(isa))
        return reason_set(why, -ENOTSUP, "this processor does not run %s", cpu_isa_name(isa));
    CpuMatmul *matmul = calloc(1, sizeof(*matmul));
    if (!matmul)
        return reason_set(why, -ENOMEM, "no memory for matrix products");
    matmul->team = team;
    matmul->kernels = kernels_of(isa);
    *outp = matmul;
    return 0;
}

CpuMatmul *cpu_matmul_free(CpuMatmul *matmul) {
    if (matmul) {
        free(matmul->workspace);
        free(matmul);
    }
    return NULL;
}

int cpu_matmul_reserve(CpuMatmul *matmul, uint32_t n_cols, size_t *bytesp, Reason *why) {
    assert(n_cols);
    free(matmul->workspace);
    matmul->workspace = NULL;
    matmul->n_cols_max = 0;
    /* Whole runs, so that both arrays are whole cache lines. */
    size_t n_runs = ((size_t)n_cols - 1) / RUN_COLS + 1;
    size_t fixed_bytes = CHUNK_TOKENS * n_runs * RUN_COLS * sizeof(int16_t);
    size_t scales_bytes = CHUNK_TOKENS * n_runs * sizeof(CpuFixedScale);
    matmul->workspace = aligned_alloc(WEIGHT_ALIGN_BYTES, fixed_bytes + scales_bytes);
    if (!matmul->workspace)
        return reason_set(why, -ENOMEM, "no memory for %zu bytes of workspace of matrix products",
                          fixed_bytes + scales_bytes);
    matmul->fixed = matmul->workspace;
    matmul->scales = (CpuFixedScale *)(void *)((uint8_t *)matmul->workspace + fixed_bytes);
    matmul->n_cols_max = n_cols;
    *bytesp += fixed_bytes + scales_bytes;
    return 0;
}

static const float *floats_at(DevAddr address) {
    return (const float *)(uintptr_t)address;
}

static uint32_t divide_up(uint32_t a, uint32_t b) {
    return a / b + (a % b != 0);
}

static const float *chunk_in(const Chunk *chunk) {
    return floats_at(chunk->args->in) + (size_t)chunk->i_token * chunk->n_cols;
}

static void fix_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    (void)i_thread;
    const Chunk *chunk = arg;
    uint32_t begin = i_task * chunk->tiles_per_fix;
    uint32_t end = min_u32(begin + chunk->tiles_per_fix, chunk->tiles.n_tiles);
    for (uint32_t i = begin; i < end; i++)
        chunk->matmul->kernels->fix(&chunk->tiles, i, chunk_in(chunk), chunk->n_cols);
}

/* The chunk's tokens to fixed point. */
static void chunk_fix(Chunk *chunk) {
    const CpuFixedTiles *tiles = &chunk->tiles;
    size_t n_values = (size_t)tiles->n_tokens * chunk->n_cols;
    size_t n_tasks = n_values < FIX_ALONE_VALUES ? 1 : n_values / FIX_TASK_VALUES;
    chunk->tiles_per_fix = divide_up(tiles->n_tiles, min_u32((uint32_t)n_tasks, tiles->n_tiles));
    cpu_team_run(chunk->matmul->team, fix_task, chunk,
                 divide_up(tiles->n_tiles, chunk->tiles_per_fix));
}

/* Share i of n, when `total` is dealt evenly: where it begins, and where share i - 1 ended. */
static uint32_t share_begin(uint32_t total, uint32_t i, uint32_t n) {
    return (uint32_t)((uint64_t)total * i / n);
}

static void product_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    (void)i_thread;
    const Chunk *chunk = arg;
    const CpuMatmul *matmul = chunk->matmul;
    uint32_t i_row_task = i_task / chunk->n_token_cuts, i_cut = i_task % chunk->n_token_cuts;
    uint32_t begin = share_begin(chunk->n_groups, i_row_task, chunk->n_row_tasks);
    uint32_t end = share_begin(chunk->n_groups, i_row_task + 1, chunk->n_row_tasks);

    uint32_t part_begin = 0, part_end;
    for (uint32_t i = 0; i < chunk->args->n_parts; i++, part_begin = part_end) {
        const MatmulPart *part = &chunk->args->parts[i];
        const Weight *weight = part->weight;
        part_end = part_begin + weight->n_groups;
        if (begin >= part_end || end <= part_begin)
            continue;
        CpuProductArgs args = {
            .weight = weight,
            .tiles = &chunk->tiles,
            .in = chunk_in(chunk),
            .bias = part->bias ? floats_at(part->bias) : NULL,
            .out = (float *)(uintptr_t)part->out + (size_t)chunk->i_token * weight->n_rows,
            .accumulate = part->accumulate,
            .group_begin = max_u32(begin, part_begin) - part_begin,
            .group_end = min_u32(end, part_end) - part_begin,
            .tile_begin = share_begin(chunk->tiles.n_tiles, i_cut, chunk->n_token_cuts),
            .tile_end = share_begin(chunk->tiles.n_tiles, i_cut + 1, chunk->n_token_cuts),
        };
        matmul->kernels->product[weight->format](&args);
    }
}

/* Chooses the tasks; their number is a multiple of the team's where there is enough to share. */
static void chunk_cut(Chunk *chunk) {
    uint32_t n_threads = cpu_team_threads(chunk->matmul->team);
    size_t weights_bytes = 0;
    for (uint32_t i = 0; i < chunk->args->n_parts; i++) {
        chunk->n_groups += chunk->args->parts[i].weight->n_groups;
        weights_bytes += chunk->args->parts[i].weight->data_bytes;
    }
    size_t n_tasks = weights_bytes * chunk->tiles.n_tiles / TASK_BYTES / n_threads * n_threads;
    if (n_tasks < n_threads)
        n_tasks = n_threads;
    chunk->n_row_tasks = n_tasks < chunk->n_groups ? (uint32_t)n_tasks : chunk->n_groups;
    chunk->n_token_cuts = 1;
    if (chunk->n_row_tasks < 2 * n_threads)
        chunk->n_token_cuts = min_u32(divide_up(2 * n_threads, chunk->n_row_tasks),
                                      divide_up(chunk->tiles.n_tiles, CUT_TILES));
}

int cpu_matmul_run(CpuMatmul *matmul, const MatmulArgs *args) {
    if (args->n_tokens == 0 || args->n_parts == 0)
        return 0;
    uint32_t n_cols = args->parts[0].weight->n_cols;
    bool any_block = false;
    for (uint32_t i = 0; i < args->n_parts; i++) {
        if (args->parts[i].weight->n_cols != n_cols)
            return -EINVAL;
        any_block = any_block || format_is_block(args->parts[i].weight->format);
    }
    if (n_cols > matmul->n_cols_max)
        return -EINVAL;

    for (uint32_t i = 0; i < args->n_tokens; i += CHUNK_TOKENS) {
        uint32_t n_tokens = min_u32(CHUNK_TOKENS, args->n_tokens - i);
        Chunk chunk = {
            .matmul = matmul,
            .args = args,
            .i_token = i,
            .n_cols = n_cols,
            .tiles = {
                .n_tokens = n_tokens,
                .n_tiles = divide_up(n_tokens, matmul->kernels->tile_tokens_max),
                .fixed = matmul->fixed,
                .scales = matmul->scales,
            },
        };
        chunk_cut(&chunk);
        if (any_block)
            chunk_fix(&chunk);
        cpu_team_run(matmul->team, product_task, &chunk, chunk.n_row_tasks * chunk.n_token_cuts);
    }
    return 0;
}
