/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Cuts a product into tasks for the team; the arithmetic is in matmul_kernels.c.
 *
 * Tokens are taken in chunks that keep the workspace small and its fixed point numbers in the
 * cores' own caches. Within a chunk the rows of all parts, one after the other, are cut into
 * tasks of about TASK_BYTES of weights: long enough to stream and to outweigh the claim of a task,
 * short enough to even out threads of unequal speed. When rows are too few for the team, tokens
 * are cut as well. None of it shows in the result.
 */

#include "cpu/matmul.h"

#include "cpu/matmul_kernels.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_TOKENS 192 /* a multiple of every tile */
#define TOKEN_CUT 24     /* likewise; the least that is worth cutting tokens for */
#define TASK_BYTES (24u << 10)
#define UNIT_GROUPS 2               /* rows are cut at multiples of this many groups: a tile */
#define FIX_ALONE_VALUES (8u << 10) /* fewer activations are not worth waking the team for */
#define FIX_TASK_VALUES (4u << 10)

struct Matmul {
    Team *team; /* borrowed */
    const MatmulKernels *kernels;
    uint32_t n_cols_max;
    void *workspace;    /* owned: fixed, then scales */
    int16_t *fixed;     /* [CHUNK_TOKENS, n_cols] of the op that runs */
    FixedScale *scales; /* [CHUNK_TOKENS, n_cols / 32] */
};

/* One chunk of tokens of one op. */
typedef struct Chunk {
    const Matmul *matmul;
    const MatmulArgs *args;
    uint32_t n_cols;
    uint32_t i_token, n_tokens;
    uint32_t n_units;      /* of all parts */
    uint32_t n_row_tasks;  /* the units are dealt evenly to these */
    uint32_t n_token_cuts; /* times these */
    uint32_t tokens_per_cut;
    uint32_t tokens_per_fix;
} Chunk;

static const MatmulKernels *kernels_of(CpuIsa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case CPU_ISA_AVX512_VNNI:
        return &matmul_kernels_avx512_vnni;
    case CPU_ISA_AVX512:
        return &matmul_kernels_avx512;
    case CPU_ISA_AVX2:
        return &matmul_kernels_avx2;
#endif
    default:
        return &matmul_kernels_baseline;
    }
}

int matmul_new(Matmul **outp, Team *team, CpuIsa isa, Reason *why) {
    if (!cpu_isa_available(isa))
        return reason_set(why, -ENOTSUP, "this processor does not run %s", cpu_isa_name(isa));
    Matmul *matmul = calloc(1, sizeof(*matmul));
    if (!matmul)
        return reason_set(why, -ENOMEM, "no memory for matrix products");
    matmul->team = team;
    matmul->kernels = kernels_of(isa);
    *outp = matmul;
    return 0;
}

Matmul *matmul_free(Matmul *matmul) {
    if (matmul) {
        free(matmul->workspace);
        free(matmul);
    }
    return NULL;
}

int matmul_reserve(Matmul *matmul, uint32_t n_cols, Reason *why) {
    if (n_cols <= matmul->n_cols_max)
        return 0;
    /* Whole runs, so that both arrays are whole cache lines. */
    size_t n_runs = ((size_t)n_cols - 1) / QUANT_COLS + 1;
    size_t fixed_bytes = CHUNK_TOKENS * n_runs * QUANT_COLS * sizeof(int16_t);
    size_t scales_bytes = CHUNK_TOKENS * n_runs * sizeof(FixedScale);
    void *workspace = aligned_alloc(WEIGHT_ALIGN_BYTES, fixed_bytes + scales_bytes);
    if (!workspace)
        return reason_set(why, -ENOMEM, "no memory for %zu bytes of workspace of matrix products",
                          fixed_bytes + scales_bytes);
    free(matmul->workspace);
    matmul->workspace = workspace;
    matmul->fixed = workspace;
    matmul->scales = (FixedScale *)(void *)((uint8_t *)workspace + fixed_bytes);
    matmul->n_cols_max = n_cols;
    return 0;
}

static const float *floats_at(DevAddr address) {
    return (const float *)(uintptr_t)address;
}

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static uint32_t divide_up(uint32_t a, uint32_t b) {
    return a / b + (a % b != 0);
}

/* Tokens i_task * tokens_per_fix on, to fixed point. */
static void fix_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    (void)i_thread;
    const Chunk *chunk = arg;
    const Matmul *matmul = chunk->matmul;
    const float *in = floats_at(chunk->args->in) + (size_t)chunk->i_token * chunk->n_cols;
    uint32_t end = min_u32((i_task + 1) * chunk->tokens_per_fix, chunk->n_tokens);
    for (uint32_t i = i_task * chunk->tokens_per_fix; i < end; i++)
        matmul->kernels->fix(matmul->fixed + (size_t)i * chunk->n_cols,
                             matmul->scales + (size_t)i * (chunk->n_cols / QUANT_COLS),
                             in + (size_t)i * chunk->n_cols, chunk->n_cols);
}

static void chunk_fix(Chunk *chunk) {
    bool alone = (size_t)chunk->n_tokens * chunk->n_cols < FIX_ALONE_VALUES;
    chunk->tokens_per_fix = alone ? chunk->n_tokens : max_u32(1, FIX_TASK_VALUES / chunk->n_cols);
    team_run(chunk->matmul->team, fix_task, chunk,
             divide_up(chunk->n_tokens, chunk->tokens_per_fix));
}

static uint32_t part_units(const MatmulPart *part) {
    return divide_up(part->weight->n_groups, UNIT_GROUPS);
}

/* Units unit_begin .. unit_end - 1 of one part, for some of the chunk's tokens. */
static void part_product(const Chunk *chunk, const MatmulPart *part, uint32_t unit_begin,
                         uint32_t unit_end, uint32_t token_begin, uint32_t token_end) {
    const Matmul *matmul = chunk->matmul;
    const Weight *weight = part->weight;
    ProductArgs args = {
        .weight = weight,
        .in = floats_at(chunk->args->in) + (size_t)chunk->i_token * weight->n_cols,
        .fixed = matmul->fixed,
        .scales = matmul->scales,
        .bias = part->bias ? floats_at(part->bias) : NULL,
        .out = (float *)(uintptr_t)part->out + (size_t)chunk->i_token * weight->n_rows,
        .accumulate = part->accumulate,
        .group_begin = unit_begin * UNIT_GROUPS,
        .group_end = min_u32(unit_end * UNIT_GROUPS, weight->n_groups),
        .token_begin = token_begin,
        .token_end = token_end,
    };
    matmul->kernels->product[weight->format](&args);
}

static void product_task(void *arg, uint32_t i_task, uint32_t i_thread) {
    (void)i_thread;
    const Chunk *chunk = arg;
    uint32_t i_row_task = i_task / chunk->n_token_cuts, i_cut = i_task % chunk->n_token_cuts;
    uint32_t begin = (uint32_t)((uint64_t)chunk->n_units * i_row_task / chunk->n_row_tasks);
    uint32_t end = (uint32_t)((uint64_t)chunk->n_units * (i_row_task + 1) / chunk->n_row_tasks);
    uint32_t token_begin = i_cut * chunk->tokens_per_cut;
    uint32_t token_end = min_u32(token_begin + chunk->tokens_per_cut, chunk->n_tokens);

    uint32_t part_begin = 0;
    for (uint32_t i = 0; i < chunk->args->n_parts; i++) {
        const MatmulPart *part = &chunk->args->parts[i];
        uint32_t part_end = part_begin + part_units(part);
        if (begin < part_end && end > part_begin)
            part_product(chunk, part, max_u32(begin, part_begin) - part_begin,
                         min_u32(end, part_end) - part_begin, token_begin, token_end);
        part_begin = part_end;
    }
}

/* Chooses the tasks; their number is a multiple of the team's where there is enough to share. */
static void chunk_cut(Chunk *chunk) {
    uint32_t n_threads = team_threads(chunk->matmul->team);
    size_t weights_bytes = 0;
    for (uint32_t i = 0; i < chunk->args->n_parts; i++) {
        chunk->n_units += part_units(&chunk->args->parts[i]);
        weights_bytes += chunk->args->parts[i].weight->data_bytes;
    }
    size_t tasks_wanted = weights_bytes / TASK_BYTES / n_threads * n_threads;
    if (tasks_wanted < n_threads)
        tasks_wanted = n_threads;
    chunk->n_row_tasks = tasks_wanted < chunk->n_units ? (uint32_t)tasks_wanted : chunk->n_units;

    chunk->n_token_cuts = 1;
    if (chunk->n_row_tasks < 2 * n_threads)
        chunk->n_token_cuts = min_u32(divide_up(2 * n_threads, chunk->n_row_tasks),
                                      divide_up(chunk->n_tokens, TOKEN_CUT));
    chunk->tokens_per_cut =
        divide_up(divide_up(chunk->n_tokens, chunk->n_token_cuts), TOKEN_CUT) * TOKEN_CUT;
    chunk->n_token_cuts = divide_up(chunk->n_tokens, chunk->tokens_per_cut);
}

int matmul_run(Matmul *matmul, const MatmulArgs *args) {
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
        Chunk chunk = {
            .matmul = matmul,
            .args = args,
            .n_cols = n_cols,
            .i_token = i,
            .n_tokens = min_u32(CHUNK_TOKENS, args->n_tokens - i),
        };
        chunk_cut(&chunk);
        if (any_block)
            chunk_fix(&chunk);
        team_run(matmul->team, product_task, &chunk, chunk.n_row_tasks * chunk.n_token_cuts);
    }
    return 0;
}
