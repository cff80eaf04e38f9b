/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the options of an engine come to: limits that have defaults, the bytes that its cache may
 * take, the tokens that it is to hold, and the ledger of that. Pure but for asking the backend
 * for its memory.
 */
#include "server/engine/engine_state.h"

#include <errno.h>
#include <inttypes.h>

#define MAX_NUM_SEQS_DEFAULT 64
/* Where max_num_seqs is not given, tails take at most one part in so many of the cache. */
#define TAILS_SHARE 4

/* limits */

static int check_limits(const EngineOptions *o, Reason *why) {
    uint32_t max_position = checkpoint_config(o->checkpoint)->max_position;

    if (!o->max_batched_tokens)
        return reason_set(why, -EINVAL, "max_batched_tokens is 0; it must be at least 1");
    if (o->steps_in_flight > STEPS_IN_FLIGHT_MAX)
        return reason_set(why, -EINVAL, "steps_in_flight is %" PRIu32 "; it must be 1 to %d",
                          o->steps_in_flight, STEPS_IN_FLIGHT_MAX);
    if (o->max_model_len > max_position)
        return reason_set(why, -EINVAL,
                          "max_model_len is %" PRIu32 ", but the model was made for sequences of "
                          "at most %" PRIu32 " tokens",
                          o->max_model_len, max_position);
    return 0;
}

/* Tails are memory of the cache, too: a small one has room for those of fewer sequences. */
static uint32_t default_num_seqs(const EngineOptions *o, uint64_t bytes_max) {
    KvGeometry g = decoder_kv_geometry(checkpoint_config(o->checkpoint));
    uint64_t n = bytes_max / TAILS_SHARE / kv_tail_bytes(&g);

    return n < 1 ? 1 : n < MAX_NUM_SEQS_DEFAULT ? (uint32_t)n : MAX_NUM_SEQS_DEFAULT;
}

static void settle_limits(EngineOptions *o, uint64_t bytes_max) {
    if (!o->steps_in_flight)
        o->steps_in_flight = o->ops && o->ops->is_async ? STEPS_IN_FLIGHT_MAX : 1;
    if (!o->max_model_len)
        o->max_model_len = checkpoint_config(o->checkpoint)->max_position;
    if (!o->max_num_seqs)
        o->max_num_seqs = default_num_seqs(o, bytes_max);
    /* Each running sequence may have a row in every step. */
    if (o->max_num_seqs > o->max_batched_tokens)
        o->max_num_seqs = o->max_batched_tokens;
}

/* One for each sequence that runs; as many again for first pages that are only cached. */
uint32_t engine_sinks(uint32_t max_num_seqs, bool prefix_caching) {
    return prefix_caching && max_num_seqs <= UINT32_MAX / 2 ? 2 * max_num_seqs : max_num_seqs;
}

/* bytes */

/* More than the device has at all was never meant. */
static int check_given_bytes(const EngineOptions *o, Reason *why) {
    MemoryInfo info;

    if (!o->backend || o->ops->memory_info(o->backend, &info) ||
        o->kv_memory_bytes <= info.total_bytes)
        return 0;
    return reason_set(why, -ENOSPC,
                      "kv_memory is %" PRIu64 " bytes, but device %s has only %" PRIu64
                      ": lower kv_memory",
                      o->kv_memory_bytes, o->ops->name, info.total_bytes);
}

static uint64_t values_of(const Checkpoint *checkpoint, TensorRole role, uint32_t layer) {
    const TensorView *tensor = checkpoint_tensor(checkpoint, role, layer);

    return tensor ? (uint64_t)tensor->shape[0] * tensor->shape[1] : 0;
}

/* About what weights will take of a device that keeps them in memory of its own, as activations
 * are. The CPU's cache has a share of the memory that leaves room for them. */
static uint64_t bytes_to_come(const EngineOptions *o) {
    uint64_t n = 0;

    if (o->weights_are_made || !o->ops->is_async)
        return 0;
    for (TensorRole role = 0; role < TENSOR_ROLES; role++)
        for (uint32_t layer = 0; layer < checkpoint_config(o->checkpoint)->n_layers; layer++)
            if (layer == 0 || role >= TENSOR_ATTENTION_NORM)
                n += values_of(o->checkpoint, role, layer);
    return n * o->ops->act_bytes;
}

/* What a cache may take, once weights are there: the same share of what is then free. */
static uint64_t cache_bytes(const EngineOptions *o, const MemoryInfo *info) {
    uint64_t to_come = bytes_to_come(o);

    if (to_come >= info->free_bytes)
        return 0;
    return (uint64_t)((double)info->cache_bytes * (1 - (double)to_come / (double)info->free_bytes));
}

/* UINT64_MAX: nobody knows, which is no matter where tokens are given. */
static int default_bytes(const EngineOptions *o, uint64_t *bytesp, Reason *why) {
    MemoryInfo info;
    int r;

    *bytesp = o->kv_default_bytes ? o->kv_default_bytes : UINT64_MAX;
    if (o->kv_default_bytes || !o->backend)
        return 0;
    r = o->ops->memory_info(o->backend, &info);
    if (r && o->kv_tokens)
        return 0;
    if (r)
        return reason_set(why, r,
                          "the device does not say how much memory it has; give kv_memory or "
                          "kv_tokens");
    *bytesp = cache_bytes(o, &info);
    return 0;
}

static int find_bytes_max(const EngineOptions *o, uint64_t *bytesp, Reason *why) {
    if (!o->kv_memory_bytes)
        return default_bytes(o, bytesp, why);
    *bytesp = o->kv_memory_bytes;
    return check_given_bytes(o, why);
}

/* tokens */

/* Room for every sequence at its longest, in whole pages. */
static uint64_t tokens_of_all(const EngineOptions *o) {
    return (uint64_t)kv_pages_of_tokens(o->max_model_len) * KV_PAGE_TOKENS * o->max_num_seqs;
}

int engine_cache_demand(EngineOptions *o, EngineCacheDemand *demand, Reason *why) {
    uint64_t bytes_max;
    int r;

    r = check_limits(o, why);
    if (!r)
        r = find_bytes_max(o, &bytes_max, why);
    if (r)
        return r;
    *demand = (EngineCacheDemand){
        .geometry = decoder_kv_geometry(checkpoint_config(o->checkpoint)),
        .bytes_max = bytes_max,
        .bytes_are_default = !o->kv_memory_bytes,
        .seqs_are_default = !o->max_num_seqs,
        .tokens_are_given = o->kv_tokens != 0,
        .tokens_are_demanded =
            o->kv_tokens || (o->kv_memory_bytes && o->max_model_len && o->max_num_seqs),
    };
    settle_limits(o, bytes_max);
    demand->n_tokens = o->kv_tokens ? o->kv_tokens : tokens_of_all(o);
    demand->n_tails = o->max_num_seqs;
    demand->n_sinks = engine_sinks(o->max_num_seqs, o->prefix_caching);
    return 0;
}

/* the ledger */

/* Where neither bytes nor tokens are given: what all that can run takes, or what memory there is
 * for it. */
static int plan_default(const EngineCacheDemand *demand, LedgerRequest *request, Ledger *ledger,
                        Reason *why) {
    int r;

    request->kv_tokens = demand->n_tokens;
    r = ledger_plan(ledger, request, why);
    if (demand->bytes_max == UINT64_MAX || (!r && ledger->kv_bytes <= demand->bytes_max))
        return r;
    request->kv_tokens = 0;
    request->kv_memory_bytes = demand->bytes_max;
    request->memory_is_default = true;
    return ledger_plan(ledger, request, why);
}

int engine_plan(EngineOptions *o, Ledger *ledger, Reason *why) {
    EngineCacheDemand demand;
    LedgerRequest request;
    int r;

    r = engine_cache_demand(o, &demand, why);
    if (r)
        return r;
    request = (LedgerRequest){ .geometry = demand.geometry,
                               .kv_memory_bytes = o->kv_memory_bytes,
                               .kv_tokens = o->kv_tokens,
                               .plan = o->plan,
                               .prefix_caching = o->prefix_caching,
                               .n_sinks = demand.n_sinks,
                               .max_num_seqs = demand.n_tails };
    return o->kv_memory_bytes || o->kv_tokens ? ledger_plan(ledger, &request, why)
                                              : plan_default(&demand, &request, ledger, why);
}
