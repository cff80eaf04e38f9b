/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The op table: the one seam between the decoder (model/) and a backend (cpu/, cuda/).
 *
 * A backend implements this table and nothing else. Calls are made by one thread at a time, and
 * take effect in the order in which they are made, as on a stream of a device, however many of them
 * are still to be done when a call returns. Structs and arrays in the arguments are borrowed for
 * the call. Nothing allocates but memory_new, weights_new and reserve, and each says how much it
 * took.
 *
 * A step is step_begin, which takes all that the host has to say of it (backend/step.h); ops on
 * device addresses, which a backend may only enqueue; step_end, which sends what was sampled on its
 * way; and step_wait for that. The next step may begin before this one is waited for, since it can
 * name what slots drew: STEPS_IN_FLIGHT_MAX at most have begun and are not waited for. "The step"
 * below is the one begun last. One that does not end is over when the next begins; nobody waits for
 * it.
 *
 * Activations are of one type of the backend's, `act_bytes` each; "act" below. What layers add to,
 * the residual stream, is of another, which may be the same, `residual_bytes` each; "residual".
 *
 * A row's result depends on that row's input alone, never on how many rows share the step or how
 * they were chunked: to the bit where the backend is `row_exact`, else to its rounding.
 *
 * Errors: 0 or -errno, of this call or of one before it that was still to be done: a step's come
 * with its step_wait at the latest, and end with it. A step that failed leaves the cache of its
 * sequences undefined. -ENODEV: the device is lost, with all that it held; no later call will
 * succeed but those that free.
 */

#include "backend/activation.h"
#include "backend/sample.h"
#include "backend/step.h"
#include "backend/weight_format.h"
#include "kvcache/kv_layer.h"
#include "util/dev_addr.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_ALIGN_BYTES 64 /* of what memory_new gives */

typedef struct Backend Backend; /* worker team or device stream; each backend defines its own */
typedef struct Weight Weight;   /* a weight matrix in the backend's own arrangement */

/* op arguments */

typedef struct WeightSource {
    const char *name; /* of the tensor, for errors; borrowed for the call */
    WeightFormat format;
    uint32_t n_rows, n_cols;
    const void *data;          /* [n_rows] rows of weight_row_bytes; borrowed until weight_free: a
                                  backend may use it in place or keep its own copy */
    const uint32_t *row_order; /* NULL, or [n_rows]: row r of the matrix is stored as row
                                  row_order[r]; borrowed for the call */
} WeightSource;

/* The table's rows of the step's tokens, times `scale`. */
typedef struct EmbedArgs {
    DevAddr out;         /* residual [rows of the step, n_cols] */
    const Weight *table; /* [n_vocab, n_cols] */
    float scale;         /* usually 1 */
} EmbedArgs;

typedef struct RmsnormArgs {
    DevAddr out;      /* act [n_rows, dim], may be `in` where that is act; residual [n_rows, dim]
                         where `accumulate` */
    DevAddr in;       /* act [n_rows, dim], or residual where in_residual */
    bool in_residual; /* `in` is of the residual stream */
    bool accumulate;  /* out += instead of out =; not with in_residual */
    DevAddr weight;   /* f32 [dim] */
    uint32_t n_rows, dim;
    float epsilon;
} RmsnormArgs;

typedef struct MatmulPart {
    const Weight *weight; /* [n_out, n_in] */
    DevAddr bias;         /* f32 [n_out] or 0 */
    DevAddr out;          /* act [n_tokens, n_out]; f32 where MatmulArgs.out_f32; else residual
                             where `accumulate` */
    bool accumulate;      /* out += instead of out = */
} MatmulPart;

/* out_p = in · weight_pᵀ + bias_p, for every part: products that share their input are one op. */
typedef struct MatmulArgs {
    DevAddr in; /* act [n_tokens, n_in] */
    uint32_t n_tokens;
    uint32_t n_parts;
    const MatmulPart *parts; /* [n_parts] */
    bool out_f32;            /* logits */
} MatmulArgs;

/* cos and sin of every row's rotation, once a step for each set of frequencies that layers have:
 * angle = position * inv_freq, in f32. */
typedef struct RopeTableArgs {
    DevAddr out;      /* f32 [rows of the step, 2, n_freqs]: cosines, then sines, times `scale` */
    DevAddr inv_freq; /* f32 [n_freqs] */
    uint32_t n_freqs; /* half of the rotated channels */
    float scale;      /* attention factor (yarn), else 1 */
} RopeTableArgs;

/* Rotates queries in place; rotates keys and rounds keys and values to what the layer's tails are.
 * Channel c pairs with c + n_freqs (the Hugging Face order); channels from 2 n_freqs on pass
 * through. Where the cache transforms a side (kv_layer_rotates), that comes before the rounding:
 * keys, and the queries of their KV head, by the layer's transforms (kvcache/key_transform.h),
 * values by the Hadamard transform. */
typedef struct RopeArgs {
    DevAddr q;     /* act [n_tokens, n_heads, head_dim], in place */
    DevAddr k, v;  /* act [n_tokens, n_kv_heads, head_dim] */
    DevAddr k_out; /* kv_layer_tail_format() [n_tokens, n_kv_heads, head_dim] */
    DevAddr v_out; /* the same */
    DevAddr table; /* from rope_table */
    uint32_t n_tokens, n_heads, n_kv_heads, head_dim, n_freqs;
    const KvLayer *layer; /* what it is kept as */
} RopeArgs;

/* Causal attention of the step's rows: over the sequence's sealed pages, its tail as it was before
 * the step, and the step's own keys and values, exactly. Undoes the Hadamard transform of values.
 * The cache then holds the step's keys and values: they are in tails, a tail that filled is sealed
 * into its page, and a first page's sinks are kept. */
typedef struct AttentionArgs {
    DevAddr out;  /* act [n_tokens, n_heads, head_dim]; 0: nothing attends, the cache only holds */
    DevAddr q;    /* act [n_tokens, n_heads, head_dim] */
    DevAddr k, v; /* kv_layer_tail_format() [n_tokens, n_kv_heads, head_dim], rotated */
    const KvLayer *layer;
    uint32_t n_heads;
    uint32_t window; /* a row at position p sees p - window + 1 .. p; 0: everything. One of those
                        that `reserve` was told of */
    float scale;     /* of the scores, usually head_dim^-1/2 */
} AttentionArgs;

/* out[h] += sum over rows and the query heads of KV head h of q q^T: what profiles are made of. */
typedef struct MomentsArgs {
    DevAddr out; /* f32 [n_kv_heads, head_dim, head_dim] */
    DevAddr q;   /* act [n_tokens, n_heads, head_dim] */
    uint32_t n_tokens, n_heads, n_kv_heads, head_dim;
} MomentsArgs;

/* out[h] += sum over rows of (k - m) (k - m)^T, m the mean over the row's page: profiles have them
 * as well. The step is one sequence's and begins where a page does; rows of a page that the step
 * does not fill are left out. */
typedef struct CovariancesArgs {
    DevAddr out;     /* f32 [n_kv_heads, head_dim, head_dim] */
    DevAddr k;       /* `format` [n_tokens, n_kv_heads, head_dim], as rope gives them */
    KvFormat format; /* bf16 or f16 */
    uint32_t n_tokens, n_kv_heads, head_dim;
} CovariancesArgs;

typedef struct GatedArgs {
    DevAddr out;      /* act [n_tokens, dim]; may be `gate` */
    DevAddr gate, up; /* act [n_tokens, dim]; out = activation(gate) * up */
    uint32_t n_tokens, dim;
    Activation activation;
} GatedArgs;

/* Rows logit_rows[first .. first + n_rows - 1] of the step. */
typedef struct GatherRowsArgs {
    DevAddr out; /* residual [n_rows, dim] */
    DevAddr in;  /* residual [rows of the step, dim] */
    uint32_t first, n_rows, dim;
} GatherRowsArgs;

/* Draws, or scores, what logit_rows[first .. first + n_rows - 1] of the step ask for. A slot that
 * draws follows: rows of later steps may be what it drew. Results come with step_wait. */
typedef struct SampleArgs {
    DevAddr logits; /* f32 [n_rows, n_vocab]; destroyed */
    uint32_t first, n_rows, n_vocab;
} SampleArgs;

/* The most that any step will ask for, so that scratch is allocated once, at start. */
typedef struct ReserveArgs {
    KvGeometry geometry; /* of every store that steps will be run on */
    uint32_t n_heads;    /* of queries */
    uint32_t n_cols_max; /* the widest input of a product */
    uint32_t n_vocab;
    const uint32_t *windows; /* [n_windows] the distinct ones attention will be asked for */
    uint32_t n_windows;
    uint32_t max_rows;      /* of a step */
    uint32_t max_sequences; /* of a step; slots are less than this */
    uint32_t max_pages;     /* of a step's page table */
} ReserveArgs;

typedef struct MemoryInfo {
    uint64_t total_bytes; /* of the device, or what of it this process may use */
    uint64_t free_bytes;  /* of those, now */
    uint64_t cache_bytes; /* what a cache of no given size may take now, at most free_bytes: less
                             where others need the device's memory as well */
} MemoryInfo;

typedef struct BackendOps {
    const char *name;        /* "cpu", "cuda"; what users call the device */
    uint32_t act_bytes;      /* size of an activation: 4 (f32) or 2 (bf16) */
    uint32_t residual_bytes; /* of an element of the residual stream: as above */
    bool row_exact;          /* equal input gives a row equal bits, whatever else is in its step */
    uint32_t rounding_paths; /* that sealing keeps for a key (kvcache/rounding.h) */
    bool is_async; /* ops are done by others than the caller: a second step in flight keeps them
                      busy while the caller looks at the first one's results */

    Backend *(*free)(Backend *backend); /* NULL is fine; returns NULL */

    /* Takes size_bytes >= 1 of the backend's memory for the caller, who gives them back with
     * memory_free. The address is a multiple of BACKEND_ALIGN_BYTES, and every byte is zero: ops
     * that add, such as `moments`, may begin there. `purpose` names the bytes in errors and must
     * outlive them. -ENOMEM: they are not to be had, and *outp stays as it was. */
    int (*memory_new)(Backend *backend, DevAddr *outp, size_t size_bytes, const char *purpose,
                      Reason *why);
    void (*memory_free)(Backend *backend, DevAddr address);
    int (*memory_info)(Backend *backend, MemoryInfo *info);
    int (*upload)(Backend *backend, DevAddr to, const void *from, size_t size_bytes);
    int (*download)(Backend *backend, void *to, DevAddr from, size_t size_bytes); /* syncs */
    /* Makes the group of weights whose products share their input, and are asked for as parts of
     * one matmul: a backend may lay them side by side. Their data may still be on its way when this
     * returns. Error: none is made. */
    int (*weights_new)(Backend *backend, Weight *outs[], const WeightSource *sources,
                       uint32_t n_sources, Reason *why);
    Weight *(*weight_free)(Backend *backend, Weight *weight);
    size_t (*weight_bytes)(const Weight *weight); /* of memory the backend itself holds for it */
    /* Takes all scratch and slots that steps need, in place of what an earlier call took, and adds
     * its bytes to *bytesp. Slots are then empty, and steps that nobody waited for are forgotten.
     * Called after the weights are made and before the first step, and again to change it. */
    int (*reserve)(Backend *backend, const ReserveArgs *args, size_t *bytesp, Reason *why);

    /* Fills a slot, for the steps that begin later: one in flight may still use what it was. */
    int (*slot_set)(Backend *backend, uint32_t slot, const SlotState *state);
    /* From now on the slot draws only ids whose bit in `mask` is set (bit i % 32 of word i / 32;
     * [ceil(n_vocab / 32)], n_vocab as in ReserveArgs; copied): for `sample` ops that are called
     * later, those of a step that has begun among them. NULL: any id. slot_set ends it, too. */
    int (*slot_mask)(Backend *backend, uint32_t slot, const uint32_t *mask);

    /* steps */
    int (*step_begin)(Backend *backend, const StepInput *input);
    int (*embed)(Backend *backend, const EmbedArgs *args);
    int (*rmsnorm)(Backend *backend, const RmsnormArgs *args);
    int (*matmul)(Backend *backend, const MatmulArgs *args);
    int (*rope_table)(Backend *backend, const RopeTableArgs *args);
    int (*rope)(Backend *backend, const RopeArgs *args);
    int (*attention)(Backend *backend, const AttentionArgs *args);
    int (*gated)(Backend *backend, const GatedArgs *args);
    int (*moments)(Backend *backend, const MomentsArgs *args);
    int (*covariances)(Backend *backend, const CovariancesArgs *args);
    int (*gather_rows)(Backend *backend, const GatherRowsArgs *args);
    int (*sample)(Backend *backend, const SampleArgs *args);
    int (*step_end)(Backend *backend);
    /* Waits for the oldest step that has ended and was not waited for. Sets *resultsp to the
     * results of its logit rows, by their place in logit_rows; they are there for those that were
     * sampled, until the next step_begin or step_wait. */
    int (*step_wait)(Backend *backend, const SampleResult **resultsp);
    int (*sync)(Backend *backend);
} BackendOps;
