/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/served_model.h"

#include "model/identity.h"
#include "server/api/api_tokenizer_info.h"
#include "server/commands/backend_open.h"
#include "server/commands/grammars.h"
#include "server/commands/model_run.h"
#include "server/commands/plan_report.h"
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

/* What the options say, or the templates show. */
static int choose_forms(ServedModel *model, const Config *config, Reason *why) {
    CLEANUP(buffer_deinit) Buffer sources = BUFFER_NULL;
    OutputForms *forms = &model->forms;

    if (!model->chat_template)
        return 0;
    if (chat_template_sources(model->chat_template, &sources))
        return reason_set(why, -ENOMEM, "out of memory");
    if (config->tool_call_parser != TOOL_CALL_PARSER_AUTO)
        forms->tools = tool_family_find(tool_call_parser_names[config->tool_call_parser]);
    else
        forms->tools = tool_family_detect(buffer_text(&sources));
    forms->reasoning =
        config->reasoning_parser == REASONING_PARSER_AUTO
            ? reasoning_family_detect(buffer_text(&sources))
            : reasoning_family_find(reasoning_parser_names[config->reasoning_parser]);
    log_line(LOG_LEVEL_INFO, "how the model's answers are read",
             "tool_call_parser=%s reasoning_parser=%s", forms->tools ? forms->tools->name : "none",
             forms->reasoning ? forms->reasoning->name : "none");
    return 0;
}

static EngineOptions engine_options(const ServedModel *model, const Config *config) {
    EngineOptions options = model_run_engine_options(config);

    options.ops = model->ops;
    options.backend = model->backend;
    options.checkpoint = model->checkpoint;
    options.plan = &model->plan->plan;
    return options;
}

/* Of the model's shape alone: who gave the cache too little memory hears so before a profile is
 * measured or weights are read. */
static int begin_plan(ServedModel *model, const Config *config, EngineOptions *options,
                      Reason *why) {
    CachePlanOptions choice = cache_plan_options(config);
    Ledger ledger;
    int r;

    model->plan = calloc(1, sizeof(*model->plan));
    if (!model->plan)
        return reason_set(why, -ENOMEM, "out of memory");
    *options = engine_options(model, config);
    r = cache_plan_begin(model->plan, &choice, options, why);
    return r || model->plan->is_auto ? r : engine_plan(options, &ledger, why);
}

static int get_profile(ServedModel *model, const Config *config, Reason *why) {
    ProfileStoreOptions where = model_run_profile_options(config);
    const Profile *p;
    int r = profile_store_get(&model->profile, &where, why);

    if (r)
        return r;
    p = model->profile;
    log_line(LOG_LEVEL_INFO, "keys are rounded by the model's profile",
             "tokens=%" PRIu64 " wanted=%" PRIu64 " text=%s", p->n_tokens, p->n_tokens_wanted,
             p->text_name);
    model_run_warn_of_short_profile(config, p);
    return 0;
}

static int finish_plan(ServedModel *model, const Config *config, Reason *why) {
    int r = model->plan->wants_profile ? get_profile(model, config, why) : 0;

    return r ? r : cache_plan_finish(model->plan, model->profile, why);
}

static int load_engine(ServedModel *model, EngineOptions *options, Mailbox *events, Reason *why) {
    options->tokenizer = model->tokenizer;
    options->profile = model->profile;
    options->events = events;
    return engine_new(&model->engine, options, why);
}

static int load_grammars(ServedModel *model, const Config *config, Account *account, Reason *why) {
    GrammarLimits limits = grammars_limits(config);

    return grammars_open(&model->grammars, model->tokenizer, model->checkpoint,
                         engine_ends(model->engine), &limits, account, why);
}

static int write_plan(ServedModel *model, Reason *why) {
    JsonWriter w = JSON_WRITER(&model->plan_json);
    char identity[HASH128_HEX_BYTES];
    PlanReport report = { .plan = model->plan,
                          .ledger = engine_ledger(model->engine),
                          .profile = model->profile,
                          .identity = model_identity(model->checkpoint, identity) };

    plan_report_print(&report, &model->plan_text);
    plan_report_json(&report, &w);
    return buffer_failed(&model->plan_text) || buffer_failed(&model->plan_json)
               ? reason_set(why, -ENOMEM, "out of memory")
               : 0;
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

int served_model_load(ServedModel *model, const Config *config, Mailbox *events, Account *account,
                      ServedModelPhaseFn on_phase, void *userdata, Reason *why) {
    BackendOptions backend = { .device = config->device,
                               .n_threads = config->n_threads,
                               .gpu_memory_bytes = config->gpu_memory_bytes };
    EngineOptions options;
    int r;

    on_phase("opening the device", userdata);
    r = backend_open(&model->backend, &model->ops, &backend, why);
    if (r)
        return r;
    on_phase("opening the checkpoint", userdata);
    r = checkpoint_open(&model->checkpoint, config->model, why);
    if (r)
        return r;
    r = begin_plan(model, config, &options, why);
    if (r)
        return r;
    on_phase("loading the tokenizer", userdata);
    r = tokenizer_open(&model->tokenizer, config->model, why);
    if (r)
        return r;
    on_phase("compiling the chat template", userdata);
    r = load_chat_template(model, config, why);
    if (!r)
        r = choose_forms(model, config, why);
    if (r)
        return r;
    on_phase("planning the cache", userdata);
    r = finish_plan(model, config, why);
    if (r)
        return r;
    on_phase("loading the weights and making the cache", userdata);
    r = load_engine(model, &options, events, why);
    if (!r)
        r = load_grammars(model, config, account, why);
    if (!r)
        r = write_plan(model, why);
    return r ? r : write_tokenizer_info(model, config, why);
}

void served_model_unload(ServedModel *model) {
    engine_free(model->engine);
    grammar_engine_free(model->grammars);
    if (model->backend)
        model->ops->free(model->backend);
    profile_free(model->profile);
    free(model->plan);
    chat_template_free(model->chat_template);
    tokenizer_free(model->tokenizer);
    buffer_deinit(&model->tokenizer_info);
    buffer_deinit(&model->plan_text);
    buffer_deinit(&model->plan_json);
    checkpoint_free(model->checkpoint);
    *model = (ServedModel)SERVED_MODEL_NULL;
}
