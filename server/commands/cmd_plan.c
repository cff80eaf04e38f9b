/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird plan`: the ledger of the cache that serve would make, from the model's shape and, where
 * no size is given, the device's memory as it is now.
 */
#include "server/commands/backend_open.h"
#include "server/commands/commands.h"
#include "server/commands/model_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static int plan(const Config *config, const BackendOps *ops, Backend *backend, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    const ModelConfig *model;
    EngineOptions options = model_run_engine_options(config);
    Ledger ledger;
    KvPlan formats;
    int r;

    r = checkpoint_open(&checkpoint, config->model, why);
    if (r)
        return r;
    model = checkpoint_config(checkpoint);
    r = kv_spec_parse(&formats, config->kv, model->n_layers, why);
    if (r)
        return r;
    options.ops = ops;
    options.backend = backend;
    options.checkpoint = checkpoint;
    options.plan = &formats;
    r = engine_plan(&options, &ledger, why);
    if (r)
        return r;
    ledger_print(&ledger, &text);
    printf("kv %s: %u layers, %u KV heads of %u channels\n%s", config->kv, model->n_layers,
           model->n_kv_heads, model->head_dim, buffer_text(&text));
    return buffer_failed(&text) ? reason_set(why, -ENOMEM, "out of memory") : 0;
}

static int run(const Config *config, Reason *why) {
    BackendOptions options = { .device = config->device, .n_threads = 1 };
    Backend *backend = NULL;
    const BackendOps *ops;
    int r = backend_open(&backend, &ops, &options, why);

    if (r)
        return r;
    r = plan(config, ops, backend, why);
    ops->free(backend);
    return r;
}

int cmd_plan(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
