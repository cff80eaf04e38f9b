/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A block draws or scores one row. Logits after bias, bans and penalties ("z") are made anew each
 * time they are read, since logprobs are of the raw ones. Warps share a list of numbers in pieces
 * that follow each other, so that order by id is order by warp.
 *
 * top_k and top_p are cuts in the order of z: the cut is found by halving the range of its bits,
 * with a count or a sum of the list each time. That list is those whose weight is worth mentioning,
 * put together in shared memory, in order; the whole row where they do not reach.
 */

#include "backend/uniform_draw.h"
#include "cuda/device.cuh"
#include "cuda/sampler.h"

#include <float.h>
#include <math.h>

#define SAMPLE_THREADS 1024
#define SAMPLE_WARPS (SAMPLE_THREADS / CUDA_WARP)
#define SAMPLE_LIST_MAX 4096
#define SAMPLE_WORTH 1e-5f /* of a weight, where the largest is 1 */
/* In counts, beside the occurrences in the output: */
#define SLOT_SEEN (1u << 31)   /* the id is in the prompt or the output */
#define SLOT_BANNED (1u << 30) /* it is not drawn before min_output */
#define SLOT_COUNT (SLOT_BANNED - 1)

/* What a block works with. */
struct CudaRow {
    const float *logits;
    const float *bias;
    const uint32_t *counts;
    const uint32_t *mask;
    CudaSlot slot;
    uint32_t n;
    bool is_banned; /* bans hold */
    float max;      /* of z */
};

struct CudaSampleMemory {
    double sums[SAMPLE_WARPS];
    uint32_t counts[SAMPLE_WARPS];
    float values[SAMPLE_WARPS];
    uint32_t ids[SAMPLE_WARPS];
    uint32_t token;
    float z[SAMPLE_LIST_MAX]; /* the list, in the order of ids */
    uint32_t z_ids[SAMPLE_LIST_MAX];
};

static __device__ inline float logit_clean(float z) {
    z = z > -INFINITY ? z : -INFINITY; /* false for NaN */
    return z < FLT_MAX ? z : FLT_MAX;
}

static __device__ inline bool is_left_out(const CudaRow &row, uint32_t i) {
    return row.slot.has_mask && !(row.mask[i / 32] >> i % 32 & 1);
}

static __device__ inline float row_z(const CudaRow &row, uint32_t i) {
    float z = logit_clean(row.logits[i]);

    if (is_left_out(row, i))
        return -INFINITY;
    if (row.slot.has_bias)
        z = logit_clean(z + row.bias[i]);
    if (row.is_banned || row.slot.has_penalties) {
        uint32_t count = row.counts[i];

        if (row.is_banned && count & SLOT_BANNED)
            z = -INFINITY;
        if (row.slot.has_penalties && count & SLOT_SEEN) {
            z = z > 0 ? z / row.slot.repetition_penalty : z * row.slot.repetition_penalty;
            if (count & SLOT_COUNT)
                z -= row.slot.frequency_penalty * (float)(count & SLOT_COUNT) +
                     row.slot.presence_penalty;
            z = logit_clean(z);
        }
    }
    return z;
}

/* What z is drawn with, 0 to 1. */
static __device__ inline float row_weight(const CudaRow &row, float z) {
    float w = expf((z - row.max) / row.slot.temperature);

    return w >= row.slot.min_p ? w : 0;
}

/* Numbers in the order of floats. */
static __device__ inline uint32_t order_of(float z) {
    uint32_t bits = __float_as_uint(z);

    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* sums over the block, the same in every thread */

static __device__ inline double block_total(CudaSampleMemory &m, double x) {
    double total = 0;

#pragma unroll
    for (int i = 16; i; i /= 2)
        x += __shfl_xor_sync(CUDA_FULL, x, i);
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0)
        m.sums[threadIdx.x / CUDA_WARP] = x;
    __syncthreads();
    for (uint32_t w = 0; w < SAMPLE_WARPS; w++)
        total += m.sums[w];
    return total;
}

static __device__ inline uint32_t block_count(CudaSampleMemory &m, uint32_t n) {
    uint32_t total = 0;

    n = __reduce_add_sync(CUDA_FULL, n);
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0)
        m.counts[threadIdx.x / CUDA_WARP] = n;
    __syncthreads();
    for (uint32_t w = 0; w < SAMPLE_WARPS; w++)
        total += m.counts[w];
    return total;
}

/* The largest value, of equal ones the one of the lowest id; id UINT32_MAX: there is none. */
static __device__ inline void block_best(CudaSampleMemory &m, float &value, uint32_t &id) {
#pragma unroll
    for (int i = 16; i; i /= 2) {
        float v = __shfl_xor_sync(CUDA_FULL, value, i);
        uint32_t k = __shfl_xor_sync(CUDA_FULL, id, i);

        if (v > value || (v == value && k < id)) {
            value = v;
            id = k;
        }
    }
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0) {
        m.values[threadIdx.x / CUDA_WARP] = value;
        m.ids[threadIdx.x / CUDA_WARP] = id;
    }
    __syncthreads();
    for (uint32_t w = 0; w < SAMPLE_WARPS; w++)
        if (m.values[w] > value || (m.values[w] == value && m.ids[w] < id)) {
            value = m.values[w];
            id = m.ids[w];
        }
}

/* lists: the whole row, or that in shared memory */

struct CudaWholeList {
    const CudaRow &row;
    uint32_t n;

    __device__ float z(uint32_t i) const {
        return row_z(row, i);
    }
    __device__ uint32_t id(uint32_t i) const {
        return i;
    }
};

struct CudaShortList {
    const CudaSampleMemory &m;
    uint32_t n;

    __device__ float z(uint32_t i) const {
        return m.z[i];
    }
    __device__ uint32_t id(uint32_t i) const {
        return m.z_ids[i];
    }
};

/* Those above `order` are kept, and of those at it the first `n_ties`. */
struct CudaCut {
    uint32_t order, n_ties;
};

template <class List>
static __device__ inline uint32_t count_from(CudaSampleMemory &m, const List &list,
                                             uint32_t order) {
    uint32_t n = 0;

    for (uint32_t i = threadIdx.x; i < list.n; i += blockDim.x)
        n += order_of(list.z(i)) >= order;
    return block_count(m, n);
}

/* Mass from `order` on, of what `cut` keeps; ties of the cut count as n_ties. */
template <class List>
static __device__ inline double mass_from(CudaSampleMemory &m, const CudaRow &row, const List &list,
                                          const CudaCut &cut, uint32_t order) {
    double sum = 0, tie = 0;

    for (uint32_t i = threadIdx.x; i < list.n; i += blockDim.x) {
        float z = list.z(i);
        uint32_t o = order_of(z);

        if (o >= order && o > cut.order)
            sum += row_weight(row, z);
        if (o >= order && o == cut.order)
            tie = row_weight(row, z);
    }
    sum = block_total(m, sum);
    if (!cut.n_ties)
        return sum;
#pragma unroll
    for (int i = 16; i; i /= 2)
        tie = fmax(tie, __shfl_xor_sync(CUDA_FULL, tie, i));
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0)
        m.sums[threadIdx.x / CUDA_WARP] = tie;
    __syncthreads();
    for (uint32_t w = 0; w < SAMPLE_WARPS; w++)
        tie = fmax(tie, m.sums[w]);
    return sum + cut.n_ties * tie;
}

/* The k largest. */
template <class List>
static __device__ inline CudaCut cut_count(CudaSampleMemory &m, const List &list, uint32_t k) {
    uint32_t order = 0;
    CudaCut cut;

    for (uint32_t bit = 1u << 31; bit; bit /= 2)
        if (count_from(m, list, order | bit) >= k)
            order |= bit;
    cut.order = order;
    cut.n_ties = k - (order == UINT32_MAX ? 0 : count_from(m, list, order + 1));
    return cut;
}

/* The smallest set of the largest whose mass reaches `target`, of what `cut` keeps. */
template <class List>
static __device__ inline CudaCut cut_mass(CudaSampleMemory &m, const CudaRow &row, const List &list,
                                          const CudaCut &cut, double target) {
    uint32_t order = 0, n_ties;
    double above, tie;

    for (uint32_t bit = 1u << 31; bit; bit /= 2)
        if (mass_from(m, row, list, cut, order | bit) >= target)
            order |= bit;
    above = mass_from(m, row, list, cut, order + 1);
    tie = row_weight(row, __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order));
    n_ties = tie > 0 ? (uint32_t)fmin(ceil((target - above) / tie), 4e9) : 0;
    n_ties = n_ties ? n_ties : 1;
    if (order == cut.order)
        n_ties = min(n_ties, cut.n_ties);
    return CudaCut{ order, n_ties };
}

/* the draw */

/* A warp's piece of a list of n. */
static __device__ inline uint32_t piece_begin(uint32_t n, uint32_t warp) {
    return (uint32_t)((uint64_t)n * warp / SAMPLE_WARPS);
}

/* The weight of entry i if it is kept; `ties` is how many ties come before the warp's 32. */
template <class List>
static __device__ inline double kept_weight(const CudaRow &row, const List &list,
                                            const CudaCut &cut, uint32_t i, uint32_t end,
                                            uint32_t *tiesp) {
    float z = i < end ? list.z(i) : -INFINITY;
    uint32_t o = i < end ? order_of(z) : 0;
    uint32_t tied = __ballot_sync(CUDA_FULL, i < end && o == cut.order);
    uint32_t rank = *tiesp + __popc(tied & ((1u << threadIdx.x % CUDA_WARP) - 1));
    bool is_kept = i < end && (o > cut.order || (o == cut.order && rank < cut.n_ties));

    *tiesp += __popc(tied);
    return is_kept ? (double)row_weight(row, z) : 0;
}

template <class List>
static __device__ inline double walk_piece(const CudaRow &row, const List &list, const CudaCut &cut,
                                           uint32_t warp, uint32_t ties, double target,
                                           uint32_t *idp) {
    uint32_t lane = threadIdx.x % CUDA_WARP, end = piece_begin(list.n, warp + 1);
    double before = 0;

    for (uint32_t first = piece_begin(list.n, warp); first < end; first += CUDA_WARP) {
        double w = kept_weight(row, list, cut, first + lane, end, &ties), running = w;
        uint32_t passed;

#pragma unroll
        for (int i = 1; i < CUDA_WARP; i *= 2) {
            double x = __shfl_up_sync(CUDA_FULL, running, i);

            running += (int)lane >= i ? x : 0;
        }
        passed = __ballot_sync(CUDA_FULL, w > 0 && before + running > target);
        if (passed) {
            *idp = list.id(first + __ffs((int)passed) - 1);
            return target;
        }
        passed = __ballot_sync(CUDA_FULL, w > 0);
        if (passed) /* the last one, where rounding gets past all */
            *idp = list.id(first + 31 - __clz((int)passed));
        before += __shfl_sync(CUDA_FULL, running, 31);
    }
    return before;
}

/* Draws from what the cut keeps, in the order of ids. */
template <class List>
static __device__ inline uint32_t draw_from(CudaSampleMemory &m, const CudaRow &row,
                                            const List &list, const CudaCut &cut, double u) {
    uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, n = 0, ties = 0,
             id = 0;
    uint32_t end = piece_begin(list.n, warp + 1), chosen = 0;
    double sum = 0, total = 0, target, before = 0;

    for (uint32_t i = piece_begin(list.n, warp) + lane; i < end; i += CUDA_WARP)
        n += order_of(list.z(i)) == cut.order;
    block_count(m, n);
    for (uint32_t w = 0; w < warp; w++)
        ties += m.counts[w];
    n = ties;
    for (uint32_t first = piece_begin(list.n, warp); first < end; first += CUDA_WARP)
        sum += kept_weight(row, list, cut, first + lane, end, &n);
    total = block_total(m, sum);
    target = u * total;
    for (uint32_t w = 0; w < SAMPLE_WARPS; w++) {
        if (m.sums[w] > 0)
            chosen = w;
        if (m.sums[w] > 0 && before + m.sums[w] > target)
            break;
        before += m.sums[w];
    }
    if (warp == chosen) {
        before = 0;
        for (uint32_t w = 0; w < chosen; w++)
            before += m.sums[w];
        walk_piece(row, list, cut, warp, ties, target - before, &id);
        if (lane == 0)
            m.token = id;
    }
    __syncthreads();
    return m.token;
}

template <class List>
static __device__ inline uint32_t draw_cut(CudaSampleMemory &m, const CudaRow &row,
                                           const List &list, double u) {
    CudaCut cut = { 0, 0 };

    if (row.slot.top_k && row.slot.top_k < row.n)
        cut = cut_count(m, list, row.slot.top_k);
    if (row.slot.top_p < 1)
        cut = cut_mass(m, row, list, cut, row.slot.top_p * mass_from(m, row, list, cut, 0));
    return draw_from(m, row, list, cut, u);
}

/* Fills the list with what is worth mentioning; false if it does not hold the answer. */
static __device__ inline bool make_list(CudaSampleMemory &m, const CudaRow &row, uint32_t *np) {
    uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, n = 0, to = 0, total;
    uint32_t begin = piece_begin(row.n, warp), end = piece_begin(row.n, warp + 1);
    bool has_top_k = row.slot.top_k && row.slot.top_k < row.n;
    double listed = 0, all = 0;

    for (uint32_t i = begin + lane; i < end; i += CUDA_WARP) {
        float w = row_weight(row, row_z(row, i));

        n += w >= SAMPLE_WORTH;
        listed += w >= SAMPLE_WORTH ? w : 0;
        all += w;
    }
    listed = block_total(m, listed);
    all = block_total(m, all);
    total = block_count(m, n);
    *np = total;
    if (total > SAMPLE_LIST_MAX ||
        (has_top_k ? total < row.slot.top_k : listed < row.slot.top_p * all))
        return false;
    for (uint32_t w = 0; w < warp; w++)
        to += m.counts[w];
    for (uint32_t first = begin; first < end; first += CUDA_WARP) {
        float z = first + lane < end ? row_z(row, first + lane) : -INFINITY;
        bool is_worth = first + lane < end && row_weight(row, z) >= SAMPLE_WORTH;
        uint32_t chosen = __ballot_sync(CUDA_FULL, is_worth);

        if (is_worth) {
            m.z[to + __popc(chosen & ((1u << lane) - 1))] = z;
            m.z_ids[to + __popc(chosen & ((1u << lane) - 1))] = first + lane;
        }
        to += __popc(chosen);
    }
    __syncthreads();
    return true;
}

/* The lowest id that is neither banned nor left out; where there is none, the lowest that is not
 * left out; else 0. */
static __device__ inline uint32_t lowest_allowed(CudaSampleMemory &m, const CudaRow &row) {
    float value = 0;
    uint32_t id = UINT32_MAX;

    for (uint32_t i = threadIdx.x; i < row.n; i += blockDim.x)
        if (!is_left_out(row, i) && (!row.is_banned || !(row.counts[i] & SLOT_BANNED)))
            id = min(id, i);
    block_best(m, value, id);
    if (id != UINT32_MAX || !row.slot.has_mask)
        return id == UINT32_MAX ? 0 : id;
    value = 0;
    for (uint32_t i = threadIdx.x; i < row.n; i += blockDim.x)
        if (!is_left_out(row, i))
            id = min(id, i);
    block_best(m, value, id);
    return id == UINT32_MAX ? 0 : id;
}

static __device__ inline uint32_t draw(CudaSampleMemory &m, CudaRow &row) {
    float max = -INFINITY;
    uint32_t id = UINT32_MAX, n;
    double u;

    for (uint32_t i = threadIdx.x; i < row.n; i += blockDim.x) {
        float z = row_z(row, i);

        if (z > max) {
            max = z;
            id = i;
        }
    }
    block_best(m, max, id);
    if (id == UINT32_MAX)
        return lowest_allowed(m, row);
    if (row.slot.temperature == 0)
        return id;
    row.max = max;
    u = uniform_draw(row.slot.seed, row.slot.n_output);
    if ((row.slot.top_k && row.slot.top_k < row.n) || row.slot.top_p < 1) {
        if (make_list(m, row, &n))
            return draw_cut(m, row, CudaShortList{ m, n }, u);
        return draw_cut(m, row, CudaWholeList{ row, row.n }, u);
    }
    return draw_from(m, row, CudaWholeList{ row, row.n }, CudaCut{ 0, 0 }, u);
}

/* logprobs */

/* Of the raw logits. */
static __device__ inline void report(CudaSampleMemory &m, const CudaRow &row, int n_top,
                                     SampleResult *result) {
    float max = -INFINITY;
    uint32_t id = UINT32_MAX, n_listed = 0;
    double sum = 0;

    for (uint32_t i = threadIdx.x; i < row.n; i += blockDim.x) {
        float z = logit_clean(row.logits[i]);

        if (z > max) {
            max = z;
            id = i;
        }
    }
    block_best(m, max, id);
    if (id == UINT32_MAX) {
        result->logprob = -INFINITY;
        return;
    }
    for (uint32_t i = threadIdx.x; i < row.n; i += blockDim.x)
        sum += (double)expf(logit_clean(row.logits[i]) - max);
    sum = (double)max + log(block_total(m, sum));
    if (threadIdx.x == 0)
        result->logprob = (float)((double)logit_clean(row.logits[result->token]) - sum);
    for (; (int)n_listed < n_top && id != UINT32_MAX; n_listed++) {
        float last = max;
        uint32_t last_id = id;

        if (threadIdx.x == 0) {
            result->top_tokens[n_listed] = id;
            result->top_logprobs[n_listed] = (float)((double)max - sum);
        }
        max = -INFINITY;
        id = UINT32_MAX;
        for (uint32_t i = threadIdx.x; i < row.n; i += blockDim.x) {
            float z = logit_clean(row.logits[i]);

            if ((z < last || (z == last && i > last_id)) && z > max) {
                max = z;
                id = i;
            }
        }
        block_best(m, max, id);
    }
    if (threadIdx.x == 0)
        result->n_top = n_listed;
}

/* The slot has drawn the token. */
static __device__ inline void slot_follow(const CudaSlots &slots, uint32_t i_slot, uint32_t token) {
    CudaSlot *slot = slots.slots + i_slot;
    uint32_t *count = slots.counts + (size_t)i_slot * slots.n_vocab + token;

    slots.drawn[i_slot] = token;
    slot->n_output++;
    if (slot->has_penalties)
        *count = (*count | SLOT_SEEN) + 1;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_kernel(CudaSampleArgs args) {
    __shared__ CudaSampleMemory m;
    const StepLogits ask = args.rows[blockIdx.x];
    size_t table = (size_t)ask.slot * args.slots.n_vocab;
    SampleResult *result = args.results + blockIdx.x;
    CudaRow row = { args.logits + (size_t)blockIdx.x * args.n_vocab,
                    args.slots.bias + table,
                    args.slots.counts + table,
                    args.slots.masks + (size_t)ask.slot * cuda_mask_words(args.slots.n_vocab),
                    args.slots.slots[ask.slot],
                    args.n_vocab,
                    false,
                    0 };
    uint32_t token = ask.target;

    row.is_banned = row.slot.has_banned && row.slot.n_output < row.slot.min_output;
    if (ask.target == STEP_DRAW)
        token = draw(m, row);
    __syncthreads(); /* the slot has been read */
    if (threadIdx.x == 0) {
        result->token = token;
        result->logprob = 0;
        result->n_top = 0;
        if (ask.target == STEP_DRAW)
            slot_follow(args.slots, ask.slot, token);
    }
    __syncthreads();
    if (ask.n_top_logprobs >= 0)
        report(m, row, ask.n_top_logprobs, result);
}

/* slots */

static __global__ void slot_put_kernel(CudaSlots slots, uint32_t i_slot, CudaSlot state,
                                       uint32_t drawn) {
    slots.slots[i_slot] = state;
    slots.drawn[i_slot] = drawn;
}

static __global__ void slot_mask_kernel(CudaSlots slots, uint32_t i_slot, const uint32_t *mask) {
    uint32_t n_words = cuda_mask_words(slots.n_vocab);

    for (uint32_t i = threadIdx.x; mask && i < n_words; i += blockDim.x)
        slots.masks[(size_t)i_slot * n_words + i] = mask[i];
    if (threadIdx.x == 0)
        slots.slots[i_slot].has_mask = mask != NULL;
}

static __global__ void slot_list_kernel(CudaSlots slots, uint32_t i_slot, CudaSlotList kind,
                                        const uint32_t *list, uint32_t n) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, token;
    float *bias = slots.bias + (size_t)i_slot * slots.n_vocab;
    uint32_t *counts = slots.counts + (size_t)i_slot * slots.n_vocab;

    if (i >= n)
        return;
    token = list[kind == CUDA_SLOT_BIAS ? 2 * i : i];
    if (token >= slots.n_vocab)
        return;
    switch (kind) {
    case CUDA_SLOT_BIAS:
        bias[token] = __uint_as_float(list[2 * i + 1]);
        break;
    case CUDA_SLOT_BANNED:
        atomicOr(counts + token, SLOT_BANNED);
        break;
    case CUDA_SLOT_OUTPUT:
        atomicAdd(counts + token, 1);
        atomicOr(counts + token, SLOT_SEEN);
        break;
    default:
        atomicOr(counts + token, SLOT_SEEN);
        break;
    }
}
