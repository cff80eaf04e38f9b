/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The step at hand on the GPU: its input, and what attention is cut into.
 *
 * step_begin packs the input into one of a ring of pinned buffers, from where one kernel puts every
 * array where it always lies: so a replayed graph finds it. Results lie in device memory until
 * step_end, which sends them to pinned memory by turns. All of it is taken once, at reserve.
 */

#include "backend/ops.h"
#include "cuda/memory.h"

#include <cuda_runtime_api.h>

#define CUDA_STEP_RING (STEPS_IN_FLIGHT_MAX + 1)
#define CUDA_TILE_QUERIES 8     /* of one item of attention: rows times the heads of a group */
#define CUDA_UNIT_TOKENS 16     /* of a tail or a step's own tokens */
#define CUDA_WINDOWS_MAX 8      /* distinct ones */
#define CUDA_BLOCKS_PER_SM 3    /* of attention, at once */
#define CUDA_SPLITS_MAX 256     /* of a tile */
#define CUDA_ROUNDS_MAX 6       /* of as many items as there are at once */
#define CUDA_PREFILL_QUERIES 64 /* of a tile that many rows share */

/* Some of the keys for some of the queries of a sequence, for every KV head. The keys that a
 * sequence has are units: its sealed pages, then its tail in sixteens, then its own tokens. */
typedef struct CudaAttentionItem {
    uint32_t i_sequence;
    uint32_t
        first_query; /* query i is row i / group of the sequence, head i % group of the group */
    uint32_t unit_begin, unit_end;
    uint32_t i_split, n_splits; /* of the tile */
    uint32_t partial;           /* slot of the tile's first split; one after the other */
    uint32_t padding;
} CudaAttentionItem;

/* What kernels take of a step, by value. All pointers are of the device. */
typedef struct CudaStepView {
    uint32_t n_rows, n_sequences, n_logit_rows;
    const uint32_t *tokens;        /* [n_rows] */
    const StepSequence *sequences; /* [n_sequences] */
    const uint32_t *page_indptr;   /* [n_sequences + 1] */
    const uint32_t *page_indices;
    const StepLogits *logit_rows; /* [n_logit_rows] */
    const uint32_t *seals;        /* [n_seals, 2] i_sequence and page of those that it fills */
} CudaStepView;

/* How attention is cut for one window. */
typedef struct CudaPlan {
    uint32_t window;
    uint32_t n_items;               /* of few queries each */
    uint32_t n_tiles;               /* of CUDA_PREFILL_QUERIES each, one split */
    const CudaAttentionItem *items; /* device, [n_items], then [n_tiles] */
} CudaPlan;

typedef struct CudaStep {
    CudaMemory *memory;  /* borrowed */
    ReserveArgs reserve; /* windows: NULL */
    uint32_t n_sm, group;
    bool has_tiles; /* many rows of a sequence are tiles */
    CudaStepView view;
    uint32_t n_seals;
    uint32_t n_windows;
    CudaPlan plans[CUDA_WINDOWS_MAX];
    uint32_t turn, n_ended, n_waited;
    uint32_t max_items, max_partials, max_seals;

    uint8_t *pinned; /* [CUDA_STEP_RING] of pinned_bytes */
    size_t pinned_bytes;
    uint8_t *device;            /* the arrays of `view` and of `plans` */
    SampleResult *results;      /* device, [max_rows] of the step at hand */
    SampleResult *results_host; /* pinned, [STEPS_IN_FLIGHT_MAX, max_rows] */
    cudaEvent_t input_used[CUDA_STEP_RING], ended[STEPS_IN_FLIGHT_MAX];
} CudaStep;

#ifdef __cplusplus
extern "C" {
#endif

/* Adds device and pinned bytes to *bytesp. Error: nothing is held. */
int cuda_step_init(CudaStep *step, CudaMemory *memory, const ReserveArgs *reserve, uint32_t n_sm,
                   bool has_tiles, size_t *bytesp);
void cuda_step_deinit(CudaStep *step);

/* Sends the input on its way, and cuts attention. */
int cuda_step_set(CudaStep *step, cudaStream_t stream, const StepInput *input);
int cuda_step_end(CudaStep *step, cudaStream_t stream);
int cuda_step_wait(CudaStep *step, const SampleResult **resultsp);
/* The plan for a window that was reserved; NULL for another. */
const CudaPlan *cuda_step_plan(const CudaStep *step, uint32_t window);

/* Words of one array, from a pinned buffer to where it lies. */
typedef struct CudaPiece {
    uint32_t *to;
    const uint32_t *from;
    uint32_t n_words;
} CudaPiece;

#define CUDA_PIECES_MAX (6 + CUDA_WINDOWS_MAX)

typedef struct CudaPieces {
    CudaPiece pieces[CUDA_PIECES_MAX];
    uint32_t n;
} CudaPieces;

int cuda_step_scatter(cudaStream_t stream, const CudaPieces *pieces);

#ifdef __cplusplus
}
#endif
