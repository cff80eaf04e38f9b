/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State: the ring of inputs, the results, events that say when the GPU is done with either. Runs on
 * the engine's thread.
 *
 * Attention is cut so that the GPU is full to the end: of items of several sizes, those are taken
 * with which all rounds of as many blocks as there are at once take least. A tile of more than one
 * item leaves partial results, which its last item puts together.
 */
#include "cuda/step.h"

#include "cuda/status.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPLIT_UNITS_MIN 4 /* a warp has one at least */
#define ALIGN_BYTES 256

static uint32_t divide_up(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

static size_t aligned(size_t n) {
    return (n + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

/* memory */

static uint32_t items_at_once(const CudaStep *step) {
    uint32_t n = step->n_sm * CUDA_BLOCKS_PER_SM / step->reserve.geometry.n_kv_heads;

    return n ? n : 1;
}

/* Places the arrays in device memory; with base 0 it only counts. */
static size_t place(CudaStep *step, uint8_t *base) {
    size_t n_rows = step->reserve.max_rows, n_sequences = step->reserve.max_sequences, at = 0;

    step->view.tokens = (const uint32_t *)(void *)(base + at);
    at += aligned(n_rows * sizeof(uint32_t));
    step->view.sequences = (const StepSequence *)(void *)(base + at);
    at += aligned(n_sequences * sizeof(StepSequence));
    step->view.page_indptr = (const uint32_t *)(void *)(base + at);
    at += aligned((n_sequences + 1) * sizeof(uint32_t));
    step->view.page_indices = (const uint32_t *)(void *)(base + at);
    at += aligned(step->reserve.max_pages * sizeof(uint32_t));
    step->view.logit_rows = (const StepLogits *)(void *)(base + at);
    at += aligned(n_rows * sizeof(StepLogits));
    step->view.seals = (const uint32_t *)(void *)(base + at);
    at += aligned(step->max_seals * 2 * sizeof(uint32_t));
    for (uint32_t i = 0; i < step->n_windows; i++) {
        step->plans[i].items = (const CudaAttentionItem *)(void *)(base + at);
        at += aligned(step->max_items * sizeof(CudaAttentionItem));
    }
    return at;
}

int cuda_step_init(CudaStep *step, CudaMemory *memory, const ReserveArgs *reserve, uint32_t n_sm,
                   bool has_tiles, size_t *bytesp) {
    size_t results_bytes = reserve->max_rows * sizeof(SampleResult), device_bytes;
    uint32_t n_tiles;
    int r;

    if (reserve->n_windows > CUDA_WINDOWS_MAX)
        return -EINVAL;
    *step =
        (CudaStep){ .memory = memory, .reserve = *reserve, .n_sm = n_sm, .has_tiles = has_tiles };
    step->group = reserve->n_heads / reserve->geometry.n_kv_heads;
    step->reserve.windows = NULL;
    step->n_windows = reserve->n_windows;
    for (uint32_t i = 0; i < reserve->n_windows; i++)
        step->plans[i].window = reserve->windows[i];
    n_tiles =
        divide_up(reserve->max_rows * step->group, CUDA_TILE_QUERIES) + reserve->max_sequences;
    step->max_partials = 2 * CUDA_ROUNDS_MAX * items_at_once(step);
    step->max_items = n_tiles + step->max_partials;
    step->max_seals = reserve->max_rows / KV_PAGE_TOKENS + reserve->max_sequences;
    device_bytes = place(step, NULL);
    step->pinned_bytes = device_bytes;
    r = cuda_memory_take(memory, (void **)&step->device, device_bytes);
    if (!r)
        r = cuda_memory_take(memory, (void **)&step->results, results_bytes);
    if (!r)
        r = cuda_status(cudaMallocHost((void **)&step->pinned, CUDA_STEP_RING * device_bytes));
    if (!r)
        r = cuda_status(
            cudaMallocHost((void **)&step->results_host, STEPS_IN_FLIGHT_MAX * results_bytes));
    for (int i = 0; !r && i < CUDA_STEP_RING; i++)
        r = cuda_status(cudaEventCreateWithFlags(&step->input_used[i], cudaEventDisableTiming));
    for (int i = 0; !r && i < STEPS_IN_FLIGHT_MAX; i++)
        r = cuda_status(cudaEventCreateWithFlags(&step->ended[i], cudaEventDisableTiming));
    if (r) {
        cuda_step_deinit(step);
        return r;
    }
    place(step, step->device);
    *bytesp += (1 + CUDA_STEP_RING) * device_bytes + (1 + STEPS_IN_FLIGHT_MAX) * results_bytes;
    return 0;
}

void cuda_step_deinit(CudaStep *step) {
    cuda_memory_give(step->memory, step->device);
    cuda_memory_give(step->memory, step->results);
    cudaFreeHost(step->pinned);
    cudaFreeHost(step->results_host);
    for (int i = 0; i < CUDA_STEP_RING; i++)
        if (step->input_used[i])
            cudaEventDestroy(step->input_used[i]);
    for (int i = 0; i < STEPS_IN_FLIGHT_MAX; i++)
        if (step->ended[i])
            cudaEventDestroy(step->ended[i]);
    *step = (CudaStep){ .pinned = NULL };
}

/* attention */

/* Units of the keys that queries of rows first_row .. last_row see. */
typedef struct Units {
    uint32_t begin, end;
} Units;

static Units units_of(const StepSequence *s, uint32_t window, uint32_t first_row,
                      uint32_t last_row) {
    uint32_t n_pages = s->n_past / KV_PAGE_TOKENS, n_tail = s->n_past % KV_PAGE_TOKENS;
    uint32_t n_tail_units = divide_up(n_tail, CUDA_UNIT_TOKENS), position = s->n_past + first_row;
    uint32_t oldest = window && position >= window ? position - window + 1 : 0;
    Units u = { .end = n_pages + n_tail_units + last_row / CUDA_UNIT_TOKENS + 1 };

    if (oldest >= s->n_past)
        u.begin = n_pages + n_tail_units + (oldest - s->n_past) / CUDA_UNIT_TOKENS;
    else if (oldest >= n_pages * KV_PAGE_TOKENS)
        u.begin = n_pages + (oldest - n_pages * KV_PAGE_TOKENS) / CUDA_UNIT_TOKENS;
    else
        u.begin = oldest / KV_PAGE_TOKENS;
    return u;
}

/* Whether the sequence's rows are cut into large tiles. */
static bool is_tiled(const CudaStep *step, const StepSequence *s) {
    return step->has_tiles && s->n_rows * step->group >= CUDA_PREFILL_QUERIES / 2;
}

typedef struct Cut {
    const CudaStep *step;
    const StepInput *input;
    CudaAttentionItem *items;
    uint32_t window, units_per_item, n_items, n_partials;
} Cut;

static Units tile_units(const Cut *cut, uint32_t i_sequence, uint32_t first_query,
                        uint32_t n_queries) {
    uint32_t group = cut->step->group;

    return units_of(&cut->input->sequences[i_sequence], cut->window, first_query / group,
                    (first_query + n_queries - 1) / group);
}

static uint32_t split(uint32_t n_units, uint32_t units_per_item) {
    uint32_t n = divide_up(n_units, units_per_item);

    return n < CUDA_SPLITS_MAX ? n : CUDA_SPLITS_MAX;
}

static void cut_tile(Cut *cut, uint32_t i_sequence, uint32_t first_query, uint32_t n_queries) {
    Units u = tile_units(cut, i_sequence, first_query, n_queries);
    uint32_t n = u.end - u.begin, n_splits = split(n, cut->units_per_item);

    if (n_splits > 1 && cut->n_partials + n_splits > cut->step->max_partials)
        n_splits = 1;
    for (uint32_t i = 0; i < n_splits; i++)
        cut->items[cut->n_items++] = (CudaAttentionItem){
            .i_sequence = i_sequence,
            .first_query = first_query,
            .unit_begin = u.begin + (uint32_t)((uint64_t)n * i / n_splits),
            .unit_end = u.begin + (uint32_t)((uint64_t)n * (i + 1) / n_splits),
            .i_split = i,
            .n_splits = n_splits,
            .partial = cut->n_partials,
        };
    cut->n_partials += n_splits > 1 ? n_splits : 0;
}

/* Calls `fn` for every tile of the sequences that are not cut into large ones. */
static void for_small_tiles(Cut *cut, void (*fn)(Cut *cut, uint32_t i_sequence,
                                                 uint32_t first_query, uint32_t n_queries)) {
    for (uint32_t i = 0; i < cut->input->n_sequences; i++) {
        const StepSequence *s = &cut->input->sequences[i];
        uint32_t n_queries = s->n_rows * cut->step->group;

        for (uint32_t q = 0; !is_tiled(cut->step, s) && q < n_queries; q += CUDA_TILE_QUERIES)
            fn(cut, i, q, n_queries - q < CUDA_TILE_QUERIES ? n_queries - q : CUDA_TILE_QUERIES);
    }
}

static void count_tile(Cut *cut, uint32_t i_sequence, uint32_t first_query, uint32_t n_queries) {
    Units u = tile_units(cut, i_sequence, first_query, n_queries);

    cut->n_items += u.end - u.begin;
}

/* Items of units_per_item, and in n_partials the most units that one has. */
static void try_tile(Cut *cut, uint32_t i_sequence, uint32_t first_query, uint32_t n_queries) {
    Units u = tile_units(cut, i_sequence, first_query, n_queries);
    uint32_t n = split(u.end - u.begin, cut->units_per_item);
    uint32_t most = divide_up(u.end - u.begin, n);

    cut->n_items += n;
    cut->n_partials = most > cut->n_partials ? most : cut->n_partials;
}

#define WARPS 4      /* of a block, which share an item's units */
#define ITEM_UNITS 2 /* that beginning and ending an item costs a warp */

/* The size of items with which the step is done first. */
static uint32_t choose_units(Cut cut) {
    uint32_t at_once = items_at_once(cut.step), best = UINT32_MAX;
    uint64_t best_cost = UINT64_MAX;

    for_small_tiles(&cut, count_tile);
    for (uint32_t rounds = 1; rounds <= CUDA_ROUNDS_MAX; rounds++) {
        Cut attempt = { .step = cut.step, .input = cut.input, .window = cut.window };
        uint64_t cost;

        attempt.units_per_item = divide_up(cut.n_items, at_once * rounds);
        if (attempt.units_per_item < SPLIT_UNITS_MIN)
            attempt.units_per_item = SPLIT_UNITS_MIN;
        for_small_tiles(&attempt, try_tile);
        cost = (uint64_t)divide_up(attempt.n_items, at_once) *
               (divide_up(attempt.n_partials, WARPS) + ITEM_UNITS);
        if (cost < best_cost) {
            best_cost = cost;
            best = attempt.units_per_item;
        }
    }
    return best;
}

/* The items of few queries, then the tiles of many. */
static void cut_attention(CudaStep *step, CudaPlan *plan, const StepInput *input,
                          CudaAttentionItem *items) {
    Cut cut = { .step = step, .input = input, .items = items, .window = plan->window };

    cut.units_per_item = choose_units(cut);
    for_small_tiles(&cut, cut_tile);
    plan->n_items = cut.n_items;
    cut.units_per_item = UINT32_MAX / 2;
    /* The longest first: they would be waited for at the end. */
    for (uint32_t i = 0; i < input->n_sequences; i++) {
        uint32_t n_queries = input->sequences[i].n_rows * step->group;

        for (uint32_t q = divide_up(n_queries, CUDA_PREFILL_QUERIES);
             is_tiled(step, &input->sequences[i]) && q-- > 0;) {
            uint32_t first = q * CUDA_PREFILL_QUERIES, left = n_queries - first;

            cut_tile(&cut, i, first, left < CUDA_PREFILL_QUERIES ? left : CUDA_PREFILL_QUERIES);
        }
    }
    plan->n_tiles = cut.n_items - plan->n_items;
    assert(cut.n_items <= step->max_items);
}

const CudaPlan *cuda_step_plan(const CudaStep *step, uint32_t window) {
    for (uint32_t i = 0; i < step->n_windows; i++)
        if (step->plans[i].window == window)
            return &step->plans[i];
    return NULL;
}

/* steps */

/* Pages that the step fills: (sequence, page) each. */
static uint32_t list_seals(const StepInput *input, uint32_t *seals) {
    uint32_t n = 0;

    for (uint32_t i = 0; i < input->n_sequences; i++) {
        const StepSequence *s = &input->sequences[i];

        for (uint32_t page = s->n_past / KV_PAGE_TOKENS;
             page < (s->n_past + s->n_rows) / KV_PAGE_TOKENS; page++) {
            seals[2 * n] = i;
            seals[2 * n++ + 1] = page;
        }
    }
    return n;
}

/* Packs an array behind those before, for its place on the device. */
static void pack(CudaPieces *pieces, uint8_t **atp, const void *device, const void *from,
                 size_t n_bytes) {
    if (!n_bytes)
        return;
    if (*atp != from)
        memcpy(*atp, from, n_bytes);
    pieces->pieces[pieces->n++] = (CudaPiece){ .to = (uint32_t *)(uintptr_t)device,
                                               .from = (const uint32_t *)(void *)*atp,
                                               .n_words = (uint32_t)(n_bytes / sizeof(uint32_t)) };
    *atp += aligned(n_bytes);
}

int cuda_step_set(CudaStep *step, cudaStream_t stream, const StepInput *input) {
    uint32_t n_pages = input->page_indptr[input->n_sequences], i_ring = step->turn % CUDA_STEP_RING;
    uint8_t *at = step->pinned + i_ring * step->pinned_bytes;
    CudaPieces pieces = { .n = 0 };
    int r;

    assert(step->n_ended - step->n_waited < STEPS_IN_FLIGHT_MAX);
    assert(input->n_rows && input->n_rows <= step->reserve.max_rows);
    assert(input->n_sequences <= step->reserve.max_sequences);
    assert(n_pages <= step->reserve.max_pages && input->n_logit_rows <= input->n_rows);
    r = cuda_status(cudaEventSynchronize(step->input_used[i_ring]));
    if (r)
        return r;
    step->turn++;
    step->view.n_rows = input->n_rows;
    step->view.n_sequences = input->n_sequences;
    step->view.n_logit_rows = input->n_logit_rows;
    pack(&pieces, &at, step->view.tokens, input->tokens, input->n_rows * sizeof(uint32_t));
    pack(&pieces, &at, step->view.sequences, input->sequences,
         input->n_sequences * sizeof(StepSequence));
    pack(&pieces, &at, step->view.page_indptr, input->page_indptr,
         (input->n_sequences + 1) * sizeof(uint32_t));
    pack(&pieces, &at, step->view.page_indices, input->page_indices, n_pages * sizeof(uint32_t));
    pack(&pieces, &at, step->view.logit_rows, input->logit_rows,
         input->n_logit_rows * sizeof(StepLogits));
    step->n_seals = list_seals(input, (uint32_t *)(void *)at);
    pack(&pieces, &at, step->view.seals, at, step->n_seals * 2 * sizeof(uint32_t));
    for (uint32_t i = 0; i < step->n_windows; i++) {
        CudaPlan *plan = &step->plans[i];

        cut_attention(step, plan, input, (CudaAttentionItem *)(void *)at);
        pack(&pieces, &at, plan->items, at,
             (plan->n_items + plan->n_tiles) * sizeof(CudaAttentionItem));
    }
    r = cuda_step_scatter(stream, &pieces);
    return r ? r : cuda_status(cudaEventRecord(step->input_used[i_ring], stream));
}

int cuda_step_end(CudaStep *step, cudaStream_t stream) {
    uint32_t turn = step->n_ended++ % STEPS_IN_FLIGHT_MAX;
    int r = 0;

    if (step->view.n_logit_rows)
        r = cuda_status(cudaMemcpyAsync(
            step->results_host + (size_t)turn * step->reserve.max_rows, step->results,
            step->view.n_logit_rows * sizeof(SampleResult), cudaMemcpyDeviceToHost, stream));
    return r ? r : cuda_status(cudaEventRecord(step->ended[turn], stream));
}

int cuda_step_wait(CudaStep *step, const SampleResult **resultsp) {
    uint32_t turn = step->n_waited++ % STEPS_IN_FLIGHT_MAX;

    assert(step->n_waited <= step->n_ended);
    *resultsp = step->results_host + (size_t)turn * step->reserve.max_rows;
    return cuda_status(cudaEventSynchronize(step->ended[turn]));
}
