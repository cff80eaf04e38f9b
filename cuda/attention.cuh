/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Attention of few queries: a block is one item (cuda/step.h) of one KV head. Each of its warps
 * takes every fourth unit of keys, sixteen tokens at a time, and keeps a softmax of its own; they
 * meet at the end. The heads of a group, and rows beside each other, are the queries of a tile and
 * share each read.
 *
 * Scores are K Q^T and results V^T P^T, on tensor cores: tokens, then channels, are the sixteen
 * rows of a fragment, and the tile's eight queries its columns, so that no row is empty. Bytes of
 * the next sixteen tokens are on their way (cp.async) while those at hand are unpacked and used.
 * Of a side in 16 bits they come as the tile itself; of a quantized one as packed codes, which
 * become a tile of halves (cuda/kv_block.cuh), keys first, then values in the same place.
 */

#include "cuda/attention.h"
#include "cuda/fragment.cuh"
#include "cuda/kv_block.cuh"

#define ATTENTION_WARPS 4
#define ATTENTION_THREADS (ATTENTION_WARPS * CUDA_WARP)
/* Whether a warp's next tokens are on their way while it is at others: they do not fit otherwise.
 */
#define ATTENTION_IS_AHEAD(_dim) ((_dim) <= 256)
#define TILE_TOKENS CUDA_UNIT_TOKENS
#define PAGE_CHUNKS (KV_PAGE_TOKENS / TILE_TOKENS)
#define TILE_PAD 8 /* halves behind a tile's row: rows do not meet in banks */

/* Bytes of a warp's parts of shared memory. */
typedef struct CudaAttentionMemory {
    uint32_t n_stages;
    uint32_t stage[KV_SIDES], stages; /* of one; of both sides' */
    uint32_t raw[KV_SIDES];           /* a page's scales and centers */
    uint32_t tile;                    /* 0: no side is quantized */
    uint32_t meta;                    /* both sides' mul and add */
    uint32_t scores;                  /* of a page */
    uint32_t warp;                    /* all of it */
} CudaAttentionMemory;

/* Whether pages are taken whole: both sides are packed, and a block has the memory. */
static __host__ __device__ inline bool attention_is_packed(const CudaKvFormat *formats,
                                                           uint32_t padded_dim) {
    return ATTENTION_IS_AHEAD(padded_dim) && formats[KV_SIDE_K].bits != 16 &&
           formats[KV_SIDE_V].bits != 16;
}

static __host__ __device__ inline CudaAttentionMemory attention_memory(const CudaKvFormat *formats,
                                                                       uint32_t head_dim,
                                                                       uint32_t padded_dim) {
    CudaAttentionMemory m = {};
    uint32_t tile = TILE_TOKENS * (padded_dim + TILE_PAD) * 2;
    uint32_t n_tokens = attention_is_packed(formats, padded_dim) ? KV_PAGE_TOKENS : TILE_TOKENS;

    for (int side = 0; side < KV_SIDES; side++) {
        bool is_exact = formats[side].bits == 16;
        uint32_t n_vectors = side == KV_SIDE_K ? head_dim : KV_PAGE_TOKENS;

        m.stage[side] = is_exact ? tile : n_tokens * head_dim * formats[side].bits / 8;
        m.raw[side] = is_exact ? 0 : 2 * n_vectors * formats[side].meta_bytes;
        m.tile = is_exact ? m.tile : tile;
    }
    m.n_stages =
        attention_is_packed(formats, padded_dim) || !ATTENTION_IS_AHEAD(padded_dim) ? 1 : 2;
    m.stages = m.stage[KV_SIDE_K] + m.stage[KV_SIDE_V];
    m.meta = m.tile ? 2 * 2 * (padded_dim + KV_PAGE_TOKENS) : 0;
    m.scores = attention_is_packed(formats, padded_dim) ? PAGE_CHUNKS * CUDA_WARP * 16 : 0;
    m.warp = m.scores + m.n_stages * m.stages + 2 * (m.raw[KV_SIDE_K] + m.raw[KV_SIDE_V]) + m.tile +
             m.meta;
    return m;
}

/* Of the whole block: kv_scales, the warps' parts. */
static __host__ __device__ inline uint32_t attention_memory_bytes(const CudaAttentionMemory &m,
                                                                  uint32_t padded_dim) {
    uint32_t at_end =
        CUDA_TILE_QUERIES * padded_dim * 4 + 2 * ATTENTION_WARPS * CUDA_TILE_QUERIES * 4;
    uint32_t warps = ATTENTION_WARPS * m.warp;

    return KV_SCALES * 4 + (warps > at_end ? warps : at_end);
}

/* where keys and values are */

/* The head size: known to the compiler where it is not padded. */
#define HEAD_CHANNELS(_r) (IS_FULL ? DIM : (_r).a.layer.head_dim)

/* Sixteen tokens at most, of a page, a tail, or the step's own. */
typedef struct CudaChunk {
    uint32_t unit, i; /* sixteen number i of the unit */
    bool is_page;
} CudaChunk;

typedef struct CudaReader {
    const CudaAttentionArgs &a;
    const StepSequence s;
    uint32_t head, n_pages, n_tail_units, unit_end;
    const uint32_t *pages;
} CudaReader;

static __device__ inline bool chunk_next(const CudaReader &r, CudaChunk &c) {
    if (c.is_page && ++c.i < PAGE_CHUNKS)
        return true;
    c.i = 0;
    c.unit += ATTENTION_WARPS;
    c.is_page = c.unit < r.n_pages;
    return c.unit < r.unit_end;
}

/* Position of the chunk's first token, and how many tokens it has. */
static __device__ inline uint32_t chunk_position(const CudaReader &r, const CudaChunk &c,
                                                 uint32_t *n_tokensp) {
    uint32_t tail = r.n_pages * KV_PAGE_TOKENS, i = c.unit - r.n_pages;

    *n_tokensp = TILE_TOKENS;
    if (c.is_page)
        return c.unit * KV_PAGE_TOKENS + c.i * TILE_TOKENS;
    if (i < r.n_tail_units) {
        *n_tokensp = min(TILE_TOKENS, r.s.n_past - tail - i * TILE_TOKENS);
        return tail + i * TILE_TOKENS;
    }
    i -= r.n_tail_units;
    *n_tokensp = min(TILE_TOKENS, r.s.n_rows - i * TILE_TOKENS);
    return r.s.n_past + i * TILE_TOKENS;
}

/* The chunk's first token in 16 bits, and the numbers from one token to the next. */
static __device__ inline const uint16_t *exact_rows(const CudaReader &r, const CudaChunk &c,
                                                    KvSide side, uint32_t *stridep) {
    const KvLayer &layer = r.a.layer;
    uint32_t n = layer.head_dim, i = c.unit - r.n_pages;

    *stridep = n;
    if (c.is_page)
        return at<const uint16_t>(kv_layer_block(&layer, side, r.pages[c.unit], r.head)) +
               c.i * TILE_TOKENS * n;
    if (i < r.n_tail_units)
        return at<const uint16_t>(kv_layer_tail(&layer, side, r.s.slot, r.head)) +
               i * TILE_TOKENS * n;
    *stridep = layer.n_kv_heads * n;
    return r.a.own[side] +
           ((size_t)(r.s.first_row + (i - r.n_tail_units) * TILE_TOKENS) * layer.n_kv_heads +
            r.head) *
               n;
}

/* Sixteen rows to a tile; those that are not there are zeros. */
template <int DIM, bool IS_FULL>
static __device__ inline void copy_rows(const CudaReader &r, const CudaChunk &c, KvSide side,
                                        uint8_t *tile, uint32_t pitch) {
    uint32_t lane = threadIdx.x % CUDA_WARP, n = HEAD_CHANNELS(r), stride, n_tokens;
    const uint16_t *rows = exact_rows(r, c, side, &stride);

    chunk_position(r, c, &n_tokens);
    if (n % 8) {
        for (uint32_t i = lane; i < TILE_TOKENS * n; i += CUDA_WARP)
            ((uint16_t *)tile)[i / n * pitch + i % n] =
                i / n < n_tokens ? rows[(size_t)(i / n) * stride + i % n] : 0;
        return;
    }
    for (uint32_t i = lane; i < TILE_TOKENS * (n / 8); i += CUDA_WARP) {
        uint32_t row = i / (n / 8), column = i % (n / 8) * 8;

        copy_later((uint16_t *)tile + row * pitch + column,
                   rows + (size_t)(row < n_tokens ? row : 0) * stride + column, row < n_tokens);
    }
}

static __device__ inline void copy_bytes(uint8_t *to, const uint8_t *from, uint32_t n) {
    for (uint32_t i = threadIdx.x % CUDA_WARP * 16; i < n; i += CUDA_WARP * 16)
        copy_later(to + i, from + i, true);
}

/* Sends the chunk's bytes of one side on their way; of a page's first sixteen its scales too. */
template <int DIM, bool IS_FULL>
static __device__ inline void issue_side(const CudaReader &r, const CudaChunk &c, KvSide side,
                                         uint8_t *stage, uint8_t *raw, uint32_t pitch) {
    const CudaKvFormat &f = r.a.formats[side];
    uint32_t n = HEAD_CHANNELS(r), n0 = TILE_TOKENS * n * f.planes[0] / 8,
             n1 = TILE_TOKENS * n * f.planes[1] / 8;
    const uint8_t *block;

    if (f.bits == 16) {
        copy_rows<DIM, IS_FULL>(r, c, side, stage, pitch);
        return;
    }
    if (!c.is_page)
        return;
    block = at<const uint8_t>(kv_layer_block(&r.a.layer, side, r.pages[c.unit], r.head));
    copy_bytes(stage, block + c.i * n0, n0);
    if (n1)
        copy_bytes(stage + n0, block + f.plane1_offset + c.i * n1, n1);
    if (c.i == 0)
        copy_bytes(raw, block + f.scales_offset,
                   (side == KV_SIDE_K ? n : KV_PAGE_TOKENS) * f.meta_bytes * (1 + f.has_centers));
}

/* The first tokens of a first page are kept exactly; lifted as the page is. */
template <int DIM, bool IS_FULL>
static __device__ inline void put_sinks(const CudaReader &r, KvSide side, float lift, __half *tile,
                                        uint32_t pitch) {
    uint32_t n = HEAD_CHANNELS(r);
    const __half *sinks = at<const __half>(kv_layer_sink(&r.a.layer, side, r.s.sink, r.head));

    for (uint32_t i = threadIdx.x % CUDA_WARP; i < KV_SINK_TOKENS * n; i += CUDA_WARP)
        tile[i / n * pitch + i % n] = __float2half_rn(__half2float(sinks[i]) * lift);
}

/* Makes the chunk's tile of a side, where it is not what was copied. `lift` is of the page at
 * hand, and becomes 1 for 16-bit numbers. */
template <int DIM, bool IS_FULL, KvSide SIDE>
static __device__ inline const uint8_t *make_tile(const CudaReader &r, const CudaChunk &c,
                                                  const uint8_t *stage, const CudaKvMeta &meta,
                                                  float page_lift, uint8_t *tile, uint32_t pitch,
                                                  float *liftp) {
    const CudaKvFormat &f = r.a.formats[SIDE];

    *liftp = 1;
    if (f.bits == 16)
        return stage;
    __syncwarp();
    if (!c.is_page) {
        copy_rows<DIM, IS_FULL>(r, c, SIDE, tile, pitch);
        copies_commit();
        copies_wait<0>();
    } else {
        *liftp = page_lift;
        unpack_any<SIDE>(f, stage, stage + TILE_TOKENS * HEAD_CHANNELS(r) * f.planes[0] / 8,
                         HEAD_CHANNELS(r), c.i * TILE_TOKENS, meta, (__half *)tile, pitch, false);
        if (c.unit == 0 && c.i == 0 && r.a.layer.n_sinks && r.s.sink != KV_NO_SINK) {
            __syncwarp();
            put_sinks<DIM, IS_FULL>(r, SIDE, page_lift, (__half *)tile, pitch);
        }
    }
    __syncwarp();
    return tile;
}

/* queries and softmax */

/* A warp's queries as fragments, each moved by a power of two where halves could not hold it. */
template <int DIM, bool IS_BF16> struct CudaQueries {
    uint32_t b[DIM / 16][2];
    float factors[2]; /* of the scores of columns 2 (lane % 4) and the next */
    uint32_t positions[2];
};

template <int DIM, bool IS_BF16>
static __device__ inline void load_queries(CudaQueries<DIM, IS_BF16> &queries, const CudaReader &r,
                                           uint32_t first_query) {
    uint32_t lane = threadIdx.x % CUDA_WARP, n = r.a.layer.head_dim;
    uint32_t query = first_query + lane / 4, row = query / r.a.group;
    bool is_there = row < r.s.n_rows;
    const uint16_t *q =
        (const uint16_t *)r.a.q + ((size_t)(r.s.first_row + (is_there ? row : 0)) * r.a.n_heads +
                                   r.head * r.a.group + query % r.a.group) *
                                      n;
    float most = 0, lift = 1;

#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint32_t c = k * 16 + j * 8 + lane % 4 * 2;
            float2 x;

            queries.b[k][j] = is_there && c < n ? *(const uint32_t *)(q + c) : 0;
            x = bf16_pair(queries.b[k][j]);
            most = fmaxf(most, fmaxf(fabsf(x.x), fabsf(x.y)));
        }
    if (!IS_BF16) {
        most = fmaxf(most, __shfl_xor_sync(CUDA_FULL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(CUDA_FULL, most, 2));
        lift = lift_of(most);
#pragma unroll
        for (int k = 0; k < DIM / 16; k++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float2 x = bf16_pair(queries.b[k][j]);

                queries.b[k][j] = word_of(__floats2half2_rn(x.x * lift, x.y * lift));
            }
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t column = lane % 4 * 2 + j;

        queries.factors[j] = r.a.scale * 1.44269504f / __shfl_sync(CUDA_FULL, lift, column * 4);
        queries.positions[j] = r.s.n_past + (first_query + column) / r.a.group;
    }
}

/* Of the two queries that are a thread's columns. */
struct CudaSoftmax {
    float max[2], sum[2]; /* the sum over the thread's own tokens */
    float lift;           /* of what is added up */
};

/* Scores to weights, in place; returns by what the results before are to be multiplied. */
static __device__ inline void softmax_step(CudaSoftmax &m, float *s, float value_lift,
                                           float *shrink) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float max = fmaxf(s[j], s[j + 2]), base;

#pragma unroll
        for (int i = 4; i < CUDA_WARP; i *= 2)
            max = fmaxf(max, __shfl_xor_sync(CUDA_FULL, max, i));
        max = fmaxf(max, m.max[j]);
        base = max == -INFINITY ? 0 : max;
        shrink[j] = exp2f(m.max[j] - base);
        m.max[j] = max;
        s[j] = exp2f(s[j] - base);
        s[j + 2] = exp2f(s[j + 2] - base);
        m.sum[j] = m.sum[j] * shrink[j] + s[j] + s[j + 2];
        shrink[j] *= value_lift / m.lift;
    }
    m.lift = value_lift;
}

/* By what weights were too large, where that is anything. All threads of a warp call. */
template <int DIM>
static __device__ inline void shrink_results(float (*o)[4], const float *shrink) {
    if (__any_sync(CUDA_FULL, shrink[0] != 1 || shrink[1] != 1))
#pragma unroll
        for (int t = 0; t < DIM / 16; t++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[t][i] *= shrink[i % 2];
}

/* Tokens that a query does not see have no weight. */
static __device__ inline void mask_scores(float *s, const CudaReader &r, const uint32_t *positions,
                                          uint32_t first, uint32_t n_tokens) {
    uint32_t g = threadIdx.x % CUDA_WARP / 4;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t token = g + i / 2 * 8, p = first + token, q = positions[i % 2];
        bool is_seen = token < n_tokens && p <= q && (!r.a.window || p + r.a.window > q);

        s[i] = is_seen ? s[i] : -INFINITY;
    }
}

/* the end of an item */

/* Shared memory at the end: results [8][DIM], then the warps' maxima and sums [4][8]. */
template <int DIM> struct CudaEnd {
    float *results, *maxima, *sums;

    __device__ explicit CudaEnd(uint8_t *base)
        : results((float *)base), maxima(results + CUDA_TILE_QUERIES * DIM),
          sums(maxima + ATTENTION_WARPS * CUDA_TILE_QUERIES) {
    }
};

/* Adds the warps' results up, in their order; maxima[0 .. 7] and sums[0 .. 7] are then the
 * block's. */
template <int DIM>
static __device__ inline void merge_warps(const CudaEnd<DIM> &end, CudaSoftmax &m, float (*o)[4]) {
    uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    float factors[2];

    __syncthreads(); /* nobody uses tiles any more */
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
        for (int i = 4; i < CUDA_WARP; i *= 2)
            m.sum[j] += __shfl_xor_sync(CUDA_FULL, m.sum[j], i);
        if (lane < 4) {
            end.maxima[warp * CUDA_TILE_QUERIES + lane * 2 + j] = m.max[j];
            end.sums[warp * CUDA_TILE_QUERIES + lane * 2 + j] = m.sum[j];
        }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float max = -INFINITY;

        for (int w = 0; w < ATTENTION_WARPS; w++)
            max = fmaxf(max, end.maxima[w * CUDA_TILE_QUERIES + lane % 4 * 2 + j]);
        factors[j] = m.max[j] == -INFINITY ? 0 : exp2f(m.max[j] - max) / m.lift;
    }
    for (uint32_t w = 0; w < ATTENTION_WARPS; w++) {
        if (w == warp)
#pragma unroll
            for (int t = 0; t < DIM / 16; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float *to =
                        end.results + (lane % 4 * 2 + i % 2) * DIM + t * 16 + lane / 4 + i / 2 * 8;
                    float x = factors[i % 2] == 0 ? 0 : o[t][i] * factors[i % 2];

                    *to = w ? *to + x : x;
                }
        __syncthreads();
    }
    if (threadIdx.x < CUDA_TILE_QUERIES) {
        float max = -INFINITY, sum = 0;

        for (int w = 0; w < ATTENTION_WARPS; w++)
            max = fmaxf(max, end.maxima[w * CUDA_TILE_QUERIES + threadIdx.x]);
        for (int w = 0; w < ATTENTION_WARPS; w++) {
            float m_w = end.maxima[w * CUDA_TILE_QUERIES + threadIdx.x];

            sum += m_w == -INFINITY
                       ? 0
                       : end.sums[w * CUDA_TILE_QUERIES + threadIdx.x] * exp2f(m_w - max);
        }
        end.maxima[threadIdx.x] = max;
        end.sums[threadIdx.x] = sum;
    }
    __syncthreads();
}

/* Divides by the sums, undoes the transform of values, and writes. */
template <int DIM>
static __device__ inline void finish(const CudaEnd<DIM> &end, const CudaReader &r,
                                     uint32_t first_query) {
    uint32_t n = r.a.layer.head_dim, n_queries = r.s.n_rows * r.a.group - first_query;
    float *compact = end.results;

    n_queries = min(n_queries, CUDA_TILE_QUERIES);
    if (kv_layer_rotates(&r.a.layer, KV_SIDE_V)) {
        if (n != DIM) { /* rows behind each other */
            for (uint32_t q = 1; q < n_queries; q++) {
                float x[(DIM + ATTENTION_THREADS - 1) / ATTENTION_THREADS];

                for (uint32_t c = threadIdx.x, i = 0; c < n; c += blockDim.x, i++)
                    x[i] = end.results[q * DIM + c];
                __syncthreads();
                for (uint32_t c = threadIdx.x, i = 0; c < n; c += blockDim.x, i++)
                    compact[q * n + c] = x[i];
                __syncthreads();
            }
        }
        hadamard_vectors(compact, n_queries, n);
    }
    for (uint32_t i = threadIdx.x; i < n_queries * n; i += blockDim.x) {
        uint32_t q = i / n, c = i % n, query = first_query + q;
        float x = kv_layer_rotates(&r.a.layer, KV_SIDE_V) ? compact[i] : end.results[q * DIM + c];
        size_t to = ((size_t)(r.s.first_row + query / r.a.group) * r.a.n_heads +
                     r.head * r.a.group + query % r.a.group) *
                        n +
                    c;

        ((__nv_bfloat16 *)r.a.out)[to] = __float2bfloat16_rn(x / end.sums[q]);
    }
}

/* A split leaves its results for the tile's last one to be done; true for that one. */
template <int DIM>
static __device__ inline bool leave_partial(const CudaEnd<DIM> &end, const CudaReader &r,
                                            const CudaAttentionItem &item) {
    __shared__ bool is_last;
    uint32_t n = r.a.layer.head_dim, n_heads = r.a.layer.n_kv_heads;
    size_t slot = (size_t)(item.partial + item.i_split) * n_heads + r.head;
    float *partial = r.a.scratch.partials + slot * CUDA_TILE_QUERIES * n;
    float *sums = r.a.scratch.sums + slot * CUDA_TILE_QUERIES * 2;
    uint32_t *counter = r.a.scratch.counters + (size_t)item.partial * n_heads + r.head;

    for (uint32_t i = threadIdx.x; i < CUDA_TILE_QUERIES * n; i += blockDim.x)
        partial[i] = end.results[i / n * DIM + i % n];
    if (threadIdx.x < CUDA_TILE_QUERIES) {
        sums[2 * threadIdx.x] = end.maxima[threadIdx.x];
        sums[2 * threadIdx.x + 1] = end.sums[threadIdx.x];
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(counter, 1) == item.n_splits - 1;
        if (is_last)
            *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return is_last;
}

/* All splits of the tile, in their order, so that a result does not depend on who was last.
 * `factors` [n_splits, 8] is shared memory behind the results. */
template <int DIM>
static __device__ inline void merge_splits(const CudaEnd<DIM> &end, const CudaReader &r,
                                           const CudaAttentionItem &item) {
    uint32_t n = r.a.layer.head_dim, n_heads = r.a.layer.n_kv_heads, n_splits = item.n_splits;
    size_t slot = (size_t)item.partial * n_heads + r.head, stride = n_heads;
    const float *sums = r.a.scratch.sums + slot * CUDA_TILE_QUERIES * 2;
    const float *partials = r.a.scratch.partials + slot * CUDA_TILE_QUERIES * n;
    float *factors = end.sums + CUDA_TILE_QUERIES;

    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n_splits * CUDA_TILE_QUERIES; i += blockDim.x)
        factors[i] = __ldcg(
            sums +
            ((i / CUDA_TILE_QUERIES * stride) * CUDA_TILE_QUERIES + i % CUDA_TILE_QUERIES) * 2);
    __syncthreads();
    if (threadIdx.x < CUDA_TILE_QUERIES) {
        float max = -INFINITY, sum = 0;

        for (uint32_t i = 0; i < n_splits; i++)
            max = fmaxf(max, factors[i * CUDA_TILE_QUERIES + threadIdx.x]);
        for (uint32_t i = 0; i < n_splits; i++) {
            float *factor = factors + i * CUDA_TILE_QUERIES + threadIdx.x;

            *factor = *factor == -INFINITY ? 0 : exp2f(*factor - max);
            sum += *factor == 0
                       ? 0
                       : *factor *
                             __ldcg(sums + (i * stride * CUDA_TILE_QUERIES + threadIdx.x) * 2 + 1);
        }
        end.sums[threadIdx.x] = sum;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < CUDA_TILE_QUERIES * n; i += blockDim.x) {
        float x = 0;

#pragma unroll 8
        for (uint32_t k = 0; k < n_splits; k++) {
            float factor = factors[k * CUDA_TILE_QUERIES + i / n];

            x += factor == 0 ? 0
                             : __ldcg(partials + k * stride * CUDA_TILE_QUERIES * n + i) * factor;
        }
        end.results[i / n * DIM + i % n] = x;
    }
    __syncthreads();
}

/* the kernel */

/* A warp's parts of shared memory. */
struct CudaWarpMemory {
    uint8_t *stages, *raws, *tile, *scores;
    CudaKvMeta meta[KV_SIDES];

    __device__ CudaWarpMemory(uint8_t *base, const CudaAttentionMemory &m, uint32_t padded_dim) {
        scores = base;
        stages = scores + m.scores;
        raws = stages + m.n_stages * m.stages;
        tile = raws + 2 * (m.raw[KV_SIDE_K] + m.raw[KV_SIDE_V]);
        meta[KV_SIDE_K].mul = (__half *)(tile + m.tile);
        meta[KV_SIDE_K].add = meta[KV_SIDE_K].mul + padded_dim;
        meta[KV_SIDE_V].mul = meta[KV_SIDE_K].add + padded_dim;
        meta[KV_SIDE_V].add = meta[KV_SIDE_V].mul + KV_PAGE_TOKENS;
    }
};

template <int DIM, bool IS_FULL>
static __device__ inline void issue_chunk(const CudaReader &r, const CudaChunk &c, uint32_t i_chunk,
                                          const CudaAttentionMemory &m, const CudaWarpMemory &w,
                                          uint32_t pitch) {
    uint8_t *stage = w.stages + i_chunk % m.n_stages * m.stages;
    uint8_t *raw = w.raws + c.unit / ATTENTION_WARPS % 2 * (m.raw[KV_SIDE_K] + m.raw[KV_SIDE_V]);

    issue_side<DIM, IS_FULL>(r, c, KV_SIDE_K, stage, raw, pitch);
    issue_side<DIM, IS_FULL>(r, c, KV_SIDE_V, stage + m.stage[KV_SIDE_K], raw + m.raw[KV_SIDE_K],
                             pitch);
}

/* pages that are packed on both sides, whole: keys of the next one come while values are used, and
 * the other way round */

template <int DIM, bool IS_FULL>
static __device__ inline void issue_page(const CudaReader &r, uint32_t unit, KvSide side,
                                         const CudaAttentionMemory &m, const CudaWarpMemory &w) {
    const CudaKvFormat &f = r.a.formats[side];
    uint32_t n = side == KV_SIDE_K ? HEAD_CHANNELS(r) : KV_PAGE_TOKENS;

    if (unit < r.n_pages && unit < r.unit_end) {
        const uint8_t *block =
            at<const uint8_t>(kv_layer_block(&r.a.layer, side, r.pages[unit], r.head));

        copy_bytes(w.stages + (side == KV_SIDE_K ? 0 : m.stage[KV_SIDE_K]), block, m.stage[side]);
        copy_bytes(w.raws + (side == KV_SIDE_K ? 0 : m.raw[KV_SIDE_K]), block + f.scales_offset,
                   n * f.meta_bytes * (1 + f.has_centers));
    }
    copies_commit();
}

/* Whether sixteen number i of a unit has tokens that are kept exactly: there levels are scaled. */
static __device__ inline bool has_sinks(const CudaReader &r, uint32_t unit, uint32_t i) {
    return unit == 0 && i == 0 && r.a.layer.n_sinks && r.s.sink != KV_NO_SINK;
}

/* A thread's weights times the scales of its tokens, of sixteen number i of a page. */
static __device__ inline float4 scale_weights(float4 s, const CudaKvMeta &meta, uint32_t i) {
    uint32_t token = i * TILE_TOKENS + threadIdx.x % CUDA_WARP / 4;
    float low = __half2float(meta.mul[token]), high = __half2float(meta.mul[token + 8]);

    return make_float4(s.x * low, s.y * low, s.z * high, s.w * high);
}

/* Sixteen number i of a page's side to the tile. */
template <int DIM, bool IS_FULL, KvSide SIDE>
static __device__ inline void unpack_chunk(const CudaReader &r, const uint8_t *stage, uint32_t unit,
                                           uint32_t i, const CudaKvMeta &meta, float lift,
                                           uint8_t *tile) {
    const CudaKvFormat &f = r.a.formats[SIDE];
    uint32_t n = HEAD_CHANNELS(r);
    bool has_exact = has_sinks(r, unit, i);

    __syncwarp();
    unpack_any<SIDE>(f, stage + i * (TILE_TOKENS * n * f.planes[0] / 8),
                     stage + f.plane1_offset + i * (TILE_TOKENS * n * f.planes[1] / 8), n,
                     i * TILE_TOKENS, meta, (__half *)tile, DIM + TILE_PAD, !has_exact);
    if (has_exact) {
        __syncwarp();
        put_sinks<DIM, IS_FULL>(r, SIDE, lift, (__half *)tile, DIM + TILE_PAD);
    }
    __syncwarp();
}

/* Scores of a page, a thread's own four of each sixteen, to weights; returns by what the results
 * before are to be multiplied. They lie in shared memory so that code for sixteen tokens is there
 * once. */
static __device__ inline void softmax_page(CudaSoftmax &m, float4 *scores, float value_lift,
                                           float *shrink) {
    float s[PAGE_CHUNKS][4];

#pragma unroll
    for (int c = 0; c < PAGE_CHUNKS; c++)
        *(float4 *)s[c] = scores[c * CUDA_WARP];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float max = -INFINITY, base, sum = 0;

#pragma unroll
        for (int c = 0; c < PAGE_CHUNKS; c++)
            max = fmaxf(max, fmaxf(s[c][j], s[c][j + 2]));
#pragma unroll
        for (int i = 4; i < CUDA_WARP; i *= 2)
            max = fmaxf(max, __shfl_xor_sync(CUDA_FULL, max, i));
        max = fmaxf(max, m.max[j]);
        base = max == -INFINITY ? 0 : max;
        shrink[j] = exp2f(m.max[j] - base);
        m.max[j] = max;
#pragma unroll
        for (int c = 0; c < PAGE_CHUNKS; c++) {
            s[c][j] = exp2f(s[c][j] - base);
            s[c][j + 2] = exp2f(s[c][j + 2] - base);
            sum += s[c][j] + s[c][j + 2];
        }
        m.sum[j] = m.sum[j] * shrink[j] + sum;
        shrink[j] *= value_lift / m.lift;
    }
#pragma unroll
    for (int c = 0; c < PAGE_CHUNKS; c++)
        scores[c * CUDA_WARP] = *(float4 *)s[c];
    m.lift = value_lift;
}

template <int DIM, bool IS_FULL>
static __device__ inline void attend_pages(const CudaReader &r, uint32_t unit_begin,
                                           const CudaQueries<DIM, false> &queries,
                                           const CudaAttentionMemory &m, const CudaWarpMemory &w,
                                           const float *table, CudaSoftmax &softmax,
                                           float (*o)[4]) {
    constexpr uint32_t pitch = DIM + TILE_PAD;
    uint32_t lane = threadIdx.x % CUDA_WARP;
    const uint16_t *tile = (const uint16_t *)w.tile;
    const uint16_t *k_row = tile + (lane % 8 + lane / 8 % 2 * 8) * pitch + lane / 16 * 8;
    const uint16_t *v_row = tile + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8;
    bool has_levels = tile_has_levels(r.a.formats[KV_SIDE_V], KV_SIDE_V);
    float4 *scores = (float4 *)w.scores + lane;

    issue_page<DIM, IS_FULL>(r, unit_begin + threadIdx.x / CUDA_WARP, KV_SIDE_K, m, w);
    issue_page<DIM, IS_FULL>(r, unit_begin + threadIdx.x / CUDA_WARP, KV_SIDE_V, m, w);
    for (uint32_t unit = unit_begin + threadIdx.x / CUDA_WARP;
         unit < r.n_pages && unit < r.unit_end; unit += ATTENTION_WARPS) {
        float lift, shrink[2], factors[2];

        copies_wait<1>();
        __syncwarp();
        lift = lift_meta<DIM / 32>(r.a.formats[KV_SIDE_K], w.raws, table, HEAD_CHANNELS(r),
                                   w.meta[KV_SIDE_K]);
        factors[0] = queries.factors[0] / lift;
        factors[1] = queries.factors[1] / lift;
#pragma unroll 1
        for (int c = 0; c < PAGE_CHUNKS; c++) {
            float s[2][4] = {};

            unpack_chunk<DIM, IS_FULL, KV_SIDE_K>(r, w.stages, unit, c, w.meta[KV_SIDE_K], lift,
                                                  w.tile);
#pragma unroll
            for (int k = 0; k < DIM / 16; k++) {
                uint32_t a[4];

                load_fragment(a, k_row + k * 16);
                mma_16x8x16<false>(s[k % 2], a, queries.b[k]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[0][i] = (s[0][i] + s[1][i]) * factors[i % 2];
            if (r.a.window)
                mask_scores(s[0], r, queries.positions, unit * KV_PAGE_TOKENS + c * TILE_TOKENS,
                            TILE_TOKENS);
            scores[c * CUDA_WARP] = *(float4 *)s[0];
        }
        __syncwarp();
        issue_page<DIM, IS_FULL>(r, unit + ATTENTION_WARPS, KV_SIDE_K, m, w);
        copies_wait<1>();
        __syncwarp();
        lift = lift_meta<2>(r.a.formats[KV_SIDE_V], w.raws + m.raw[KV_SIDE_K], table,
                            KV_PAGE_TOKENS, w.meta[KV_SIDE_V]);
        softmax_page(softmax, scores, lift, shrink);
        shrink_results<DIM>(o, shrink);
#pragma unroll 1
        for (int c = 0; c < PAGE_CHUNKS; c++) {
            uint32_t p[2];
            float4 s;

            unpack_chunk<DIM, IS_FULL, KV_SIDE_V>(r, w.stages + m.stage[KV_SIDE_K], unit, c,
                                                  w.meta[KV_SIDE_V], lift, w.tile);
            s = scores[c * CUDA_WARP];
            if (has_levels && !has_sinks(r, unit, c))
                s = scale_weights(s, w.meta[KV_SIDE_V], c);
            p[0] = transpose_fragment(half2_pack(s.x, s.y));
            p[1] = transpose_fragment(half2_pack(s.z, s.w));
#pragma unroll
            for (int t = 0; t < DIM / 16; t++) {
                uint32_t a[4];

                load_fragment_transposed(a, v_row + t * 16);
                mma_16x8x16<false>(o[t], a, p);
            }
        }
        __syncwarp();
        issue_page<DIM, IS_FULL>(r, unit + ATTENTION_WARPS, KV_SIDE_V, m, w);
    }
    copies_wait<0>();
    __syncwarp();
}

/* Everything that a warp has of the item. */
template <int DIM, bool IS_BF16, bool IS_FULL>
static __device__ inline void attend_units(const CudaReader &r, uint32_t unit_begin,
                                           const CudaQueries<DIM, IS_BF16> &queries,
                                           const CudaAttentionMemory &m, const CudaWarpMemory &w,
                                           const float *table, CudaSoftmax &softmax,
                                           float (*o)[4]) {
    constexpr uint32_t pitch = DIM + TILE_PAD;
    uint32_t lane = threadIdx.x % CUDA_WARP, n = HEAD_CHANNELS(r);
    uint32_t k_row = lane % 8 + lane / 8 % 2 * 8, k_column = lane / 16 * 8;
    uint32_t v_row = lane % 8 + lane / 16 * 8, v_column = lane / 8 % 2 * 8;
    constexpr bool is_ahead = ATTENTION_IS_AHEAD(DIM);
    CudaChunk now = { .unit = unit_begin + threadIdx.x / CUDA_WARP, .i = 0 }, next;
    float page_lifts[KV_SIDES] = { 1, 1 };
    bool more;

    if (now.unit >= r.unit_end)
        return;
    now.is_page = now.unit < r.n_pages;
    next = now;
    if (is_ahead) {
        issue_chunk<DIM, IS_FULL>(r, now, 0, m, w, pitch);
        copies_commit();
    }
    more = chunk_next(r, next);
    for (uint32_t i_chunk = 0;; i_chunk++) {
        uint8_t *stage = w.stages + i_chunk % m.n_stages * m.stages;
        const uint8_t *raw =
            w.raws + now.unit / ATTENTION_WARPS % 2 * (m.raw[KV_SIDE_K] + m.raw[KV_SIDE_V]);
        const uint8_t *tile;
        float lift, s[2][4] = {}, shrink[2];
        uint32_t n_tokens, first = chunk_position(r, now, &n_tokens), p[2];

        __syncwarp(); /* nobody reads the stage any more */
        if (!is_ahead)
            issue_chunk<DIM, IS_FULL>(r, now, i_chunk, m, w, pitch);
        else if (more)
            issue_chunk<DIM, IS_FULL>(r, next, i_chunk + 1, m, w, pitch);
        copies_commit();
        copies_wait<is_ahead ? 1 : 0>();
        __syncwarp();
        if (now.is_page && now.i == 0) {
            if (r.a.formats[KV_SIDE_K].bits != 16)
                page_lifts[KV_SIDE_K] =
                    lift_meta<DIM / 32>(r.a.formats[KV_SIDE_K], raw, table, n, w.meta[KV_SIDE_K]);
            if (r.a.formats[KV_SIDE_V].bits != 16)
                page_lifts[KV_SIDE_V] = lift_meta<2>(r.a.formats[KV_SIDE_V], raw + m.raw[KV_SIDE_K],
                                                     table, KV_PAGE_TOKENS, w.meta[KV_SIDE_V]);
        }
        tile = make_tile<DIM, IS_FULL, KV_SIDE_K>(r, now, stage, w.meta[KV_SIDE_K],
                                                  page_lifts[KV_SIDE_K], w.tile, pitch, &lift);
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) { /* two chains of sums */
            uint32_t a[4];

            load_fragment(a, (const uint16_t *)tile + k_row * pitch + k * 16 + k_column);
            mma_16x8x16<IS_BF16>(s[k % 2], a, queries.b[k]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[0][i] = (s[0][i] + s[1][i]) * (queries.factors[i % 2] / lift);
        if (first + TILE_TOKENS > r.s.n_past || r.a.window)
            mask_scores(s[0], r, queries.positions, first, n_tokens);
        tile = make_tile<DIM, IS_FULL, KV_SIDE_V>(r, now, stage + m.stage[KV_SIDE_K],
                                                  w.meta[KV_SIDE_V], page_lifts[KV_SIDE_V], w.tile,
                                                  pitch, &lift);
        softmax_step(softmax, s[0], lift, shrink);
        p[0] = transpose_fragment(pack_pair<IS_BF16>(s[0][0], s[0][1]));
        p[1] = transpose_fragment(pack_pair<IS_BF16>(s[0][2], s[0][3]));
        shrink_results<DIM>(o, shrink);
#pragma unroll
        for (int t = 0; t < DIM / 16; t++) {
            uint32_t a[4];

            load_fragment_transposed(a, (const uint16_t *)tile + v_row * pitch + t * 16 + v_column);
            mma_16x8x16<IS_BF16>(o[t], a, p);
        }
        if (!more)
            break;
        now = next;
        more = chunk_next(r, next);
    }
    copies_wait<0>();
}

template <int DIM, bool IS_BF16, bool IS_FULL>
static __global__ void __launch_bounds__(ATTENTION_THREADS, DIM <= 128 ? 4 : 1)
    attention_kernel(const __grid_constant__ CudaAttentionArgs a, CudaAttentionMemory m) {
    extern __shared__ __align__(16) uint8_t memory[];
    const CudaAttentionItem item = a.items[blockIdx.x];
    const StepSequence s = a.step.sequences[item.i_sequence];
    uint32_t warp = threadIdx.x / CUDA_WARP, begin = item.unit_begin;
    CudaReader r = { a,
                     s,
                     blockIdx.y,
                     s.n_past / KV_PAGE_TOKENS,
                     divide_up(s.n_past % KV_PAGE_TOKENS, TILE_TOKENS),
                     item.unit_end,
                     a.step.page_indices + a.step.page_indptr[item.i_sequence] };
    float *table = (float *)memory;
    uint8_t *base = memory + KV_SCALES * 4;
    CudaWarpMemory w(base + warp * m.warp, m, DIM);
    CudaSoftmax softmax = { { -INFINITY, -INFINITY }, { 0, 0 }, 1 };
    CudaQueries<DIM, IS_BF16> queries;
    CudaEnd<DIM> end(base);
    float o[DIM / 16][4] = {};

    for (uint32_t i = threadIdx.x; i < KV_SCALES; i += blockDim.x)
        table[i] = a.scales[i];
    if (!IS_FULL) /* what is behind rows stays zeros */
        for (uint32_t i = threadIdx.x; i < ATTENTION_WARPS * m.warp / 4; i += blockDim.x)
            ((uint32_t *)base)[i] = 0;
    load_queries(queries, r, item.first_query);
    __syncthreads();
    if constexpr (!IS_BF16 && ATTENTION_IS_AHEAD(DIM)) {
        if (attention_is_packed(a.formats, DIM)) {
            attend_pages<DIM, IS_FULL>(r, begin, queries, m, w, table, softmax, o);
            begin = begin > r.n_pages ? begin : r.n_pages;
        }
    }
    attend_units<DIM, IS_BF16, IS_FULL>(r, begin, queries, m, w, table, softmax, o);
    merge_warps(end, softmax, o);
    if (item.n_splits > 1) {
        if (!leave_partial(end, r, item))
            return;
        merge_splits(end, r, item);
    }
    finish(end, r, item.first_query);
}
