/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/served_model.h"

#include "server/api/api_tokenizer_info.h"
#include "server/commands/backend_open.h"
#include "server/commands/model_run.h"
#include "util/log.h"

#include <errno.h>
#include <inttypes.h>

static int load_chat_template(ServedModel *model, const Config *config, Reason *why) {
    ChatTemplateOptions options = { .time_ms_max = (uint32_t)config->chat_template_timeout_ms,
                                    .output_bytes_max = config->chat_template_output_bytes_max,
                                    .n_workers = config->chat_template_workers,
                                    .source_path = config->chat_template };
    int r = chat_template_open(&model->chat_template, config->model, &options, why);

    return r == CHAT_TEMPLATE_E_NONE ? 0 : r;
}

static int load_engine(ServedModel *model, const Config *config, Mailbox *events, Reason *why) {
    EngineOptions options = model_run_engine_options(config);

    options.ops = model->ops;
    options.backend = model->backend;
    options.checkpoint = model->checkpoint;
    options.tokenizer = model->tokenizer;
    options.plan = model->plan;
    options.profile = model->profile;
    options.events = events;
    return engine_new(&model->engine, &options, why);
}

/* What the cache would be, of the model's shape alone: who gave it too little memory hears so
 * before a profile is measured or weights are read. */
static int check_cache(const ServedModel *model, const Config *config, Reason *why) {
    EngineOptions options = model_run_engine_options(config);
    CLEANUP(free) KvPlan *plan = malloc(sizeof(*plan));
    Ledger ledger;
    int r;

    if (!plan)
        return reason_set(why, -ENOMEM, "out of memory");
    r = kv_spec_parse(plan, config->kv, checkpoint_config(model->checkpoint)->n_layers, why);
    options.ops = model->ops;
    options.backend = model->backend;
    options.checkpoint = model->checkpoint;
    options.plan = plan;
    return r ? r : engine_plan(&options, &ledger, why);
}

static int load_plan(ServedModel *model, const Config *config, Reason *why) {
    int r;

    model->plan = calloc(1, sizeof(*model->plan));
    if (!model->plan)
        return reason_set(why, -ENOMEM, "out of memory");
    r = model_run_plan(config, config->kv, checkpoint_config(model->checkpoint)->n_layers,
                       model->plan, &model->profile, why);
    if (!r && model->profile)
        log_line(LOG_LEVEL_INFO, "keys are rounded by the model's profile",
                 "tokens=%" PRIu64 " wanted=%" PRIu64 " text=%s", model->profile->n_tokens,
                 model->profile->n_tokens_wanted, model->profile->text_name);
    return r;
}

static int write_tokenizer_info(ServedModel *model, const Config *config, Reason *why) {
    CLEANUP(tokenizer_info_deinit) TokenizerInfo info = TOKENIZER_INFO_NULL;
    int r = tokenizer_info_read(&info, config->model, config->chat_template, why);

    if (r)
        return r;
    api_tokenizer_info_write(
        &model->tokenizer_info,
        &(ApiTokenizerInfo){ .tokenizer = model->tokenizer,
                             .info = &info,
                             .ends = engine_ends(model->engine),
                             .max_model_len = engine_max_model_len(model->engine) });
    return buffer_failed(&model->tokenizer_info) ? reason_set(why, -ENOMEM, "out of memory") : 0;
}

int served_model_load(ServedModel *model, const Config *config, Mailbox *events,
                      ServedModelPhaseFn on_phase, void *userdata, Reason *why) {
    BackendOptions backend = { .device = config->device, .n_threads = config->n_threads };
    int r;

    on_phase("opening the device", userdata);
    r = backend_open(&model->backend, &model->ops, &backend, why);
    if (r)
        return r;
    on_phase("opening the checkpoint", userdata);
    r = checkpoint_open(&model->checkpoint, config->model, why);
    if (r)
        return r;
    r = check_cache(model, config, why);
    if (r)
        return r;
    on_phase("loading the tokenizer", userdata);
    r = tokenizer_open(&model->tokenizer, config->model, why);
    if (r)
        return r;
    on_phase("compiling the chat template", userdata);
    r = load_chat_template(model, config, why);
    if (r)
        return r;
    on_phase("getting the model's profile", userdata);
    r = load_plan(model, config, why);
    if (r)
        return r;
    on_phase("loading the weights and making the cache", userdata);
    r = load_engine(model, config, events, why);
    return r ? r : write_tokenizer_info(model, config, why);
}

void served_model_unload(ServedModel *model) {
    engine_free(model->engine);
    if (model->backend)
        model->ops->free(model->backend);
    profile_free(model->profile);
    free(model->plan);
    chat_template_free(model->chat_template);
    tokenizer_free(model->tokenizer);
    buffer_deinit(&model->tokenizer_info);
    checkpoint_free(model->checkpoint);
    *model = (ServedModel)SERVED_MODEL_NULL;
}
