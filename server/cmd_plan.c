/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird plan`: the ledger of the cache that serve would make, from the model's shape alone.
 */
#include "server/commands.h"
#include "server/engine.h"
#include "server/model_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* The same defaults as the engine's. */
static LedgerRequest request_of(const Config *config, const ModelConfig *model,
                                const KvPlan *plan) {
    uint32_t n_seqs = config->max_num_seqs < config->max_batched_tokens
                          ? config->max_num_seqs
                          : config->max_batched_tokens;
    uint32_t max_len = config->max_model_len ? config->max_model_len : model->max_position;
    uint64_t n_pages = (max_len + UINT64_C(63)) / KV_PAGE_TOKENS;

    return (LedgerRequest){
        .geometry = decoder_kv_geometry(model),
        .kv_memory_bytes = config->kv_memory_bytes,
        .kv_tokens = config->kv_tokens ? config->kv_tokens : n_pages * KV_PAGE_TOKENS * n_seqs,
        .max_num_seqs = n_seqs,
        .n_sinks = engine_n_sinks(n_seqs, config->prefix_caching),
        .plan = plan,
    };
}

static int run(const Config *config, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    const ModelConfig *model;
    LedgerRequest request;
    Ledger ledger;
    KvPlan plan;
    int r;

    r = checkpoint_open(&checkpoint, config->model, why);
    if (r)
        return r;
    model = checkpoint_config(checkpoint);
    r = kv_spec_parse(&plan, config->kv, model->n_layers, why);
    if (r)
        return r;
    request = request_of(config, model, &plan);
    r = ledger_plan(&ledger, &request, why);
    if (r)
        return r;
    ledger_print(&ledger, &text);
    printf("kv %s: %u layers, %u KV heads of %u channels\n%s", config->kv, model->n_layers,
           model->n_kv_heads, model->head_dim, buffer_text(&text));
    return buffer_failed(&text) ? reason_set(why, -ENOMEM, "out of memory") : 0;
}

int cmd_plan(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
