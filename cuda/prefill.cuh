/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A block is a tile of 64 queries (rows times heads of a group) of one KV head; each warp has 16 of
 * them. Keys come in blocks of 64: sealed pages, the tail, then the step's own rows. All warps use
 * a block's tile of keys and of values, while the next block's bytes are on their way, to the other
 * tiles, or to where codes were that have been unpacked (cuda/kv_block.cuh).
 */

#include "cuda/fragment.cuh"
#include "cuda/kv_block.cuh"
#include "cuda/prefill.h"

#define PREFILL_WARPS 4
#define PREFILL_THREADS (PREFILL_WARPS * CUDA_WARP)
#define BLOCK_TOKENS KV_PAGE_TOKENS
#define PREFILL_PAD 8 /* halves behind a row of a tile */

/* Bytes of the parts of shared memory, in this order. */
typedef struct CudaPrefillMemory {
    uint32_t tile;             /* of one side; two sides, two stages */
    uint32_t packed[KV_SIDES]; /* a page's codes */
    uint32_t raw[KV_SIDES];    /* its scales and centers */
    uint32_t meta;             /* both sides' mul and add, kv_scales, lifts */
    uint32_t queries;          /* where they do not fit registers */
    uint32_t total;
} CudaPrefillMemory;

static __host__ __device__ inline CudaPrefillMemory prefill_memory(const CudaKvFormat *formats,
                                                                   uint32_t head_dim,
                                                                   uint32_t padded_dim) {
    CudaPrefillMemory m = {};
    uint32_t at_end = CUDA_PREFILL_QUERIES * padded_dim * 4;

    m.tile = BLOCK_TOKENS * (padded_dim + PREFILL_PAD) * 2;
    for (int side = 0; side < KV_SIDES; side++) {
        bool is_exact = formats[side].bits == 16;
        uint32_t n_vectors = side == KV_SIDE_K ? head_dim : KV_PAGE_TOKENS;

        m.packed[side] = is_exact ? 0 : BLOCK_TOKENS * head_dim * formats[side].bits / 8;
        m.raw[side] = is_exact ? 0 : 2 * n_vectors * formats[side].meta_bytes;
    }
    m.meta = 2 * 2 * (padded_dim + KV_PAGE_TOKENS) + KV_SCALES * 4 + 16;
    m.queries = padded_dim > 128 ? CUDA_PREFILL_QUERIES * (padded_dim + PREFILL_PAD) * 2 : 0;
    m.total = 4 * m.tile + m.packed[0] + m.packed[1] + m.raw[0] + m.raw[1] + m.meta + m.queries;
    m.total = m.total > at_end ? m.total : at_end;
    return m;
}

/* What a block of threads knows of its tile. */
struct CudaTile {
    const CudaAttentionArgs &a;
    const CudaPrefillMemory &m;
    StepSequence s;
    const uint32_t *pages;
    uint32_t head, first_query, n_queries, n_pages, n_tail; /* n_tail: tokens */
    uint8_t *memory;
    uint32_t row, column; /* of the first 16 bytes that a thread copies of a tile */

    __device__ uint16_t *tile(uint32_t stage, int side) const {
        return (uint16_t *)(memory + (2 * stage + side) * m.tile);
    }
    __device__ uint8_t *packed(int side) const {
        return memory + 4 * m.tile + side * m.packed[0];
    }
    __device__ uint8_t *raw(int side) const {
        return memory + 4 * m.tile + m.packed[0] + m.packed[1] + side * m.raw[0];
    }
    __device__ __half *meta() const {
        return (__half *)(memory + 4 * m.tile + m.packed[0] + m.packed[1] + m.raw[0] + m.raw[1]);
    }
    __device__ uint16_t *queries() const {
        return (uint16_t *)((uint8_t *)meta() + m.meta);
    }
    __device__ bool is_packed(uint32_t block, int side) const {
        return block < n_pages && a.formats[side].bits != 16;
    }
    /* Of a block's first token. */
    __device__ uint32_t position(uint32_t block) const {
        return block <= n_pages && (block < n_pages || n_tail)
                   ? block * BLOCK_TOKENS
                   : s.n_past + (block - n_pages - (n_tail > 0)) * BLOCK_TOKENS;
    }
    __device__ uint32_t n_tokens(uint32_t block) const {
        uint32_t end = position(block) < s.n_past ? s.n_past : s.n_past + s.n_rows;

        return min(BLOCK_TOKENS, end - position(block));
    }
};

/* The first token in 16 bits, and the numbers from one to the next. */
static __device__ inline const uint16_t *block_rows(const CudaTile &t, uint32_t block, KvSide side,
                                                    uint32_t *stridep) {
    const KvLayer &layer = t.a.layer;
    uint32_t n = layer.head_dim;

    *stridep = n;
    if (block < t.n_pages)
        return at<const uint16_t>(kv_layer_block(&layer, side, t.pages[block], t.head));
    if (t.position(block) < t.s.n_past)
        return at<const uint16_t>(kv_layer_tail(&layer, side, t.s.slot, t.head));
    *stridep = layer.n_kv_heads * n;
    return t.a.own[side] +
           ((size_t)(t.s.first_row + t.position(block) - t.s.n_past) * layer.n_kv_heads + t.head) *
               n;
}

static __device__ inline void issue_rows(const CudaTile &t, uint32_t block, KvSide side,
                                         uint16_t *tile, uint32_t pitch) {
    uint32_t n = t.a.layer.head_dim, per_row = n / 8, n_tokens = t.n_tokens(block), stride;
    const uint16_t *rows = block_rows(t, block, side, &stride);

    for (uint32_t row = t.row, column = t.column; row < BLOCK_TOKENS;) {
        copy_later(tile + row * pitch + column * 8,
                   rows + (size_t)(row < n_tokens ? row : 0) * stride + column * 8, row < n_tokens);
        row += PREFILL_THREADS / per_row;
        column += PREFILL_THREADS % per_row;
        if (column >= per_row) {
            column -= per_row;
            row++;
        }
    }
}

static __device__ inline void issue_bytes(uint8_t *to, const uint8_t *from, uint32_t n) {
    for (uint32_t i = threadIdx.x * 16; i < n; i += PREFILL_THREADS * 16)
        copy_later(to + i, from + i, true);
}

static __device__ inline void issue_block(const CudaTile &t, uint32_t block, uint32_t stage,
                                          uint32_t pitch) {
    for (int i = 0; i < KV_SIDES; i++) {
        KvSide side = (KvSide)i;

        if (t.is_packed(block, side)) {
            const uint8_t *from =
                at<const uint8_t>(kv_layer_block(&t.a.layer, side, t.pages[block], t.head));

            issue_bytes(t.packed(side), from, t.m.packed[side]);
            issue_bytes(t.raw(side), from + t.a.formats[side].scales_offset,
                        t.m.raw[side] / (t.a.formats[side].has_centers ? 1 : 2));
        } else {
            issue_rows(t, block, side, t.tile(stage, side), pitch);
        }
    }
    copies_commit();
}

/* A side of a page, by half of the warps: its scales, its codes, its sinks. */
template <int DIM, KvSide SIDE>
static __device__ inline void unpack_side(const CudaTile &t, uint32_t block, uint32_t stage,
                                          float *lifts, uint32_t warp) {
    constexpr uint32_t padded_dim = DIM;
    const CudaKvFormat &f = t.a.formats[SIDE];
    __half *base = t.meta() + (SIDE == KV_SIDE_K ? 0 : 2 * padded_dim);
    uint32_t n = t.a.layer.head_dim, n_vectors = SIDE == KV_SIDE_K ? padded_dim : KV_PAGE_TOKENS;
    CudaKvMeta meta = { base, base + n_vectors };
    const float *table = (const float *)(t.meta() + 2 * (padded_dim + KV_PAGE_TOKENS));
    __half *tile = (__half *)t.tile(stage, SIDE);
    uint32_t pitch = padded_dim + PREFILL_PAD;

    if (warp == 0) {
        float lift =
            lift_meta < SIDE == KV_SIDE_K
                ? DIM / 32
                : 2 > (f, t.raw(SIDE), table, SIDE == KV_SIDE_K ? n : KV_PAGE_TOKENS, meta);

        if (threadIdx.x % CUDA_WARP == 0)
            lifts[SIDE] = lift;
    }
    asm volatile("bar.sync %0, 64;\n" ::"r"(1 + SIDE)); /* the two warps of the side */
    for (uint32_t i = warp; i < BLOCK_TOKENS / 16; i += PREFILL_WARPS / KV_SIDES)
        unpack_any<SIDE>(f, t.packed(SIDE) + i * (2 * n * f.planes[0]),
                         t.packed(SIDE) + f.plane1_offset + i * (2 * n * f.planes[1]), n, i * 16,
                         meta, tile + i * 16 * pitch, pitch, false);
    if (block == 0 && t.a.layer.n_sinks && t.s.sink != KV_NO_SINK && warp == 0) {
        const __half *sinks = at<const __half>(kv_layer_sink(&t.a.layer, SIDE, t.s.sink, t.head));

        __syncwarp(); /* it has unpacked the first sixteen itself */
        for (uint32_t i = threadIdx.x % CUDA_WARP; i < KV_SINK_TOKENS * n; i += CUDA_WARP)
            tile[i / n * pitch + i % n] = __float2half_rn(__half2float(sinks[i]) * lifts[SIDE]);
    }
}

/* Makes the tiles of a block whose bytes have come, and says how they are lifted. */
template <int DIM>
static __device__ inline void make_tiles(const CudaTile &t, uint32_t block, uint32_t stage,
                                         float *lifts) {
    uint32_t warp = threadIdx.x / CUDA_WARP;

    if (!t.is_packed(block, KV_SIDE_K) && !t.is_packed(block, KV_SIDE_V))
        return;
    if (warp < PREFILL_WARPS / 2 && t.is_packed(block, KV_SIDE_K))
        unpack_side<DIM, KV_SIDE_K>(t, block, stage, lifts, warp);
    if (warp >= PREFILL_WARPS / 2 && t.is_packed(block, KV_SIDE_V))
        unpack_side<DIM, KV_SIDE_V>(t, block, stage, lifts, warp - PREFILL_WARPS / 2);
    __syncthreads();
}

/* queries */

/* A warp's sixteen: fragments in registers, or in shared memory where those do not fit. */
template <int DIM> struct CudaTileQueries {
    uint32_t a[DIM <= 128 ? DIM / 16 : 1][4];
    float factors[2]; /* of the scores of rows lane / 4 and 8 below */
    uint32_t positions[2];
    const uint16_t *shared;

    __device__ void fragment(int k, uint32_t *out) const {
        if (DIM <= 128) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] = a[DIM <= 128 ? k : 0][i];
        } else {
            load_fragment(out, shared + k * 16);
        }
    }
};

/* Two numbers of query row `i` (0, or 1 for 8 below), 0 beyond what there is. */
static __device__ inline uint32_t query_pair(const CudaTile &t, uint32_t query, uint32_t c) {
    uint32_t n = t.a.layer.head_dim, q = t.first_query + query;

    if (query >= t.n_queries || c >= n)
        return 0;
    return *(const uint32_t *)((const uint16_t *)t.a.q +
                               ((size_t)(t.s.first_row + q / t.a.group) * t.a.n_heads +
                                t.head * t.a.group + q % t.a.group) *
                                   n +
                               c);
}

template <int DIM, bool IS_BF16>
static __device__ inline void load_tile_queries(CudaTileQueries<DIM> &queries, const CudaTile &t) {
    constexpr uint32_t pitch = DIM + PREFILL_PAD;
    uint32_t lane = threadIdx.x % CUDA_WARP, first = threadIdx.x / CUDA_WARP * 16;
    uint16_t *shared = t.queries() + first * pitch;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t query = first + lane / 4 + i * 8;
        float most = 0, lift = 1;

        for (uint32_t c = lane % 4 * 2; !IS_BF16 && c < DIM; c += 8) {
            float2 x = bf16_pair(query_pair(t, query, c));

            most = fmaxf(most, fmaxf(fabsf(x.x), fabsf(x.y)));
        }
        if (!IS_BF16) {
            most = fmaxf(most, __shfl_xor_sync(CUDA_FULL, most, 1));
            most = fmaxf(most, __shfl_xor_sync(CUDA_FULL, most, 2));
            lift = lift_of(most);
        }
#pragma unroll
        for (int k = 0; k < DIM / 8; k++) {
            uint32_t pair = query_pair(t, query, k * 8 + lane % 4 * 2);

            if (!IS_BF16)
                pair = half2_pack(bf16_pair(pair).x * lift, bf16_pair(pair).y * lift);
            if (DIM <= 128)
                queries.a[DIM <= 128 ? k / 2 : 0][i + k % 2 * 2] = pair;
            else
                *(uint32_t *)(shared + (lane / 4 + i * 8) * pitch + k * 8 + lane % 4 * 2) = pair;
        }
        queries.factors[i] = t.a.scale * 1.44269504f / lift;
        queries.positions[i] = t.s.n_past + (t.first_query + query) / t.a.group;
    }
    queries.shared = shared + (lane % 8 + lane / 8 % 2 * 8) * pitch + lane / 16 * 8;
    __syncwarp();
}

/* a block of keys */

template <int DIM> struct CudaTileState {
    float o[DIM / 8][4];
    float max[2], sum[2], lift;
};

template <int DIM, bool IS_BF16>
static __device__ inline void score_block(const CudaTileQueries<DIM> &queries, const uint16_t *keys,
                                          float (*s)[4]) {
    constexpr uint32_t pitch = DIM + PREFILL_PAD;
    uint32_t lane = threadIdx.x % CUDA_WARP;
    const uint16_t *row = keys + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8;

#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t a[4];

        queries.fragment(k, a);
#pragma unroll
        for (int j = 0; j < BLOCK_TOKENS / 16; j++) {
            uint32_t b[4];

            load_fragment(b, row + j * 16 * pitch + k * 16);
            mma_16x8x16<IS_BF16>(s[2 * j], a, b);
            mma_16x8x16<IS_BF16>(s[2 * j + 1], a, b + 2);
        }
    }
}

template <int DIM>
static __device__ inline void mask_block(const CudaTileQueries<DIM> &queries, const CudaTile &t,
                                         uint32_t first, uint32_t n_tokens, float (*s)[4]) {
    uint32_t column = threadIdx.x % 4 * 2;

#pragma unroll
    for (int j = 0; j < BLOCK_TOKENS / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t token = j * 8 + column + i % 2, p = first + token,
                     q = queries.positions[i / 2];
            bool is_seen = token < n_tokens && p <= q && (!t.a.window || p + t.a.window > q);

            s[j][i] = is_seen ? s[j][i] : -INFINITY;
        }
}

/* Scores to weights; what was added up so far shrinks. */
template <int DIM>
static __device__ inline void weigh_block(CudaTileState<DIM> &state, float value_lift,
                                          float (*s)[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float max = state.max[i], base, shrink, sum = 0;

#pragma unroll
        for (int j = 0; j < BLOCK_TOKENS / 8; j++)
            max = fmaxf(max, fmaxf(s[j][2 * i], s[j][2 * i + 1]));
        max = fmaxf(max, __shfl_xor_sync(CUDA_FULL, max, 1));
        max = fmaxf(max, __shfl_xor_sync(CUDA_FULL, max, 2));
        base = max == -INFINITY ? 0 : max;
        shrink = exp2f(state.max[i] - base);
        state.max[i] = max;
#pragma unroll
        for (int j = 0; j < BLOCK_TOKENS / 8; j++) {
            s[j][2 * i] = exp2f(s[j][2 * i] - base);
            s[j][2 * i + 1] = exp2f(s[j][2 * i + 1] - base);
            sum += s[j][2 * i] + s[j][2 * i + 1];
        }
        state.sum[i] = state.sum[i] * shrink + sum;
        shrink *= value_lift / state.lift;
#pragma unroll
        for (int c = 0; c < DIM / 8; c++) {
            state.o[c][2 * i] *= shrink;
            state.o[c][2 * i + 1] *= shrink;
        }
    }
    state.lift = value_lift;
}

template <int DIM, bool IS_BF16>
static __device__ inline void add_values(CudaTileState<DIM> &state, const uint16_t *values,
                                         const float (*s)[4]) {
    constexpr uint32_t pitch = DIM + PREFILL_PAD;
    uint32_t lane = threadIdx.x % CUDA_WARP;
    const uint16_t *row = values + (lane % 8 + lane / 8 % 2 * 8) * pitch + lane / 16 * 8;

#pragma unroll
    for (int j = 0; j < BLOCK_TOKENS / 16; j++) {
        uint32_t a[4] = { pack_pair<IS_BF16>(s[2 * j][0], s[2 * j][1]),
                          pack_pair<IS_BF16>(s[2 * j][2], s[2 * j][3]),
                          pack_pair<IS_BF16>(s[2 * j + 1][0], s[2 * j + 1][1]),
                          pack_pair<IS_BF16>(s[2 * j + 1][2], s[2 * j + 1][3]) };

#pragma unroll
        for (int c = 0; c < DIM / 16; c++) {
            uint32_t b[4];

            load_fragment_transposed(b, row + j * 16 * pitch + c * 16);
            mma_16x8x16<IS_BF16>(state.o[2 * c], a, b);
            mma_16x8x16<IS_BF16>(state.o[2 * c + 1], a, b + 2);
        }
    }
}

/* the end */

template <int DIM>
static __device__ inline void finish_tile(const CudaTile &t, CudaTileState<DIM> &state) {
    uint32_t lane = threadIdx.x % CUDA_WARP, first = threadIdx.x / CUDA_WARP * 16;
    uint32_t n = t.a.layer.head_dim;
    float *results = (float *)t.memory; /* [64][n] */

    __syncthreads(); /* nobody uses tiles any more */
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = state.sum[i], factor;

        sum += __shfl_xor_sync(CUDA_FULL, sum, 1);
        sum += __shfl_xor_sync(CUDA_FULL, sum, 2);
        factor = 1 / (sum * state.lift);
#pragma unroll
        for (int c = 0; c < DIM / 8; c++) {
            uint32_t channel = c * 8 + lane % 4 * 2;

            if (channel < n) {
                float *to = results + (size_t)(first + lane / 4 + i * 8) * n + channel;

                to[0] = state.o[c][2 * i] * factor;
                to[1] = state.o[c][2 * i + 1] * factor;
            }
        }
    }
    __syncthreads();
    if (kv_layer_rotates(&t.a.layer, KV_SIDE_V))
        hadamard_vectors(results, t.n_queries, n);
    for (uint32_t i = threadIdx.x; i < t.n_queries * (n / 2); i += blockDim.x) {
        uint32_t q = t.first_query + i / (n / 2), c = i % (n / 2) * 2;
        float2 x = *(const float2 *)(results + (size_t)(i / (n / 2)) * n + c);
        size_t to = ((size_t)(t.s.first_row + q / t.a.group) * t.a.n_heads + t.head * t.a.group +
                     q % t.a.group) *
                        n +
                    c;

        *(uint32_t *)((uint16_t *)t.a.out + to) = bf16_pack(x.x, x.y);
    }
}

/* Blocks of keys that the tile's queries see, begin .. end - 1. */
static __device__ inline void tile_blocks(const CudaTile &t, uint32_t *beginp, uint32_t *endp) {
    uint32_t first = t.s.n_past + t.first_query / t.a.group;
    uint32_t last = t.s.n_past + (t.first_query + t.n_queries - 1) / t.a.group;
    uint32_t oldest = t.a.window && first >= t.a.window ? first - t.a.window + 1 : 0;
    uint32_t before_own = t.n_pages + (t.n_tail > 0);

    *endp = before_own + (last - t.s.n_past) / BLOCK_TOKENS + 1;
    *beginp = oldest >= t.s.n_past ? before_own + (oldest - t.s.n_past) / BLOCK_TOKENS
                                   : oldest / BLOCK_TOKENS;
}

template <int DIM, bool IS_BF16>
static __global__ void __launch_bounds__(PREFILL_THREADS)
    prefill_kernel(const __grid_constant__ CudaAttentionArgs a,
                   const __grid_constant__ CudaPrefillMemory m) {
    extern __shared__ __align__(16) uint8_t memory[];
    const CudaAttentionItem item = a.items[a.n_items + blockIdx.x];
    const StepSequence s = a.step.sequences[item.i_sequence];
    uint32_t per_row = a.layer.head_dim / 8, pitch = DIM + PREFILL_PAD, begin, end;
    CudaTile t = { a,
                   m,
                   s,
                   a.step.page_indices + a.step.page_indptr[item.i_sequence],
                   blockIdx.y,
                   item.first_query,
                   min(CUDA_PREFILL_QUERIES, s.n_rows * a.group - item.first_query),
                   s.n_past / KV_PAGE_TOKENS,
                   s.n_past % KV_PAGE_TOKENS,
                   memory,
                   threadIdx.x / per_row,
                   threadIdx.x % per_row };
    float *table = (float *)(t.meta() + 2 * (DIM + KV_PAGE_TOKENS)), *lifts = table + KV_SCALES;
    CudaTileQueries<DIM> queries;
    CudaTileState<DIM> state = { {}, { -INFINITY, -INFINITY }, { 0, 0 }, 1 };

    for (uint32_t i = threadIdx.x; i < KV_SCALES; i += blockDim.x)
        table[i] = a.scales[i];
    if (a.layer.head_dim != DIM) /* what is behind rows stays zeros */
        for (uint32_t i = threadIdx.x; i < m.tile; i += blockDim.x)
            ((uint32_t *)memory)[i] = 0;
    tile_blocks(t, &begin, &end);
    __syncthreads();
    issue_block(t, begin, begin % 2, pitch);
    load_tile_queries<DIM, IS_BF16>(queries, t);
    for (uint32_t block = begin; block < end; block++) {
        uint32_t stage = block % 2, first = t.position(block), n_tokens = t.n_tokens(block);
        float scores[BLOCK_TOKENS / 8][4] = {}, lift[KV_SIDES];

        copies_wait<0>();
        __syncthreads(); /* the bytes are there, and the other tiles are free */
        make_tiles<DIM>(t, block, stage, lifts);
        if (block + 1 < end)
            issue_block(t, block + 1, stage ^ 1, pitch);
        for (int side = 0; side < KV_SIDES; side++)
            lift[side] = t.is_packed(block, side) ? lifts[side] : 1;
        score_block<DIM, IS_BF16>(queries, t.tile(stage, KV_SIDE_K), scores);
#pragma unroll
        for (int j = 0; j < BLOCK_TOKENS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                scores[j][i] *= queries.factors[i / 2] / lift[KV_SIDE_K];
        if (n_tokens < BLOCK_TOKENS || a.window ||
            first + BLOCK_TOKENS - 1 > s.n_past + item.first_query / a.group)
            mask_block(queries, t, first, n_tokens, scores);
        weigh_block(state, lift[KV_SIDE_V], scores);
        add_values<DIM, IS_BF16>(state, t.tile(stage, KV_SIDE_V), scores);
    }
    finish_tile(t, state);
}
