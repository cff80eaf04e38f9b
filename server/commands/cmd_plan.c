/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird plan`: the plan and the ledger of the cache that serve would make, from the model's
 * shape, a profile where there is one, and the device's memory as it is now. Nothing is measured
 * and no weights are read; with norms from a file and the paper's method there need not even be a
 * model.
 */
#include "kvcache/kv_menu.h"
#include "kvcache/norms_file.h"
#include "kvcache/paper_plan.h"
#include "model/identity.h"
#include "server/commands/backend_open.h"
#include "server/commands/commands.h"
#include "server/commands/model_run.h"
#include "server/commands/plan_page.h"
#include "server/commands/plan_report.h"
#include "util/output_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PAPER_MENU_DEFAULT "8,6,4,3,2"

/* files */

static int write_file(const char *path, const Buffer *text, Reason *why) {
    CLEANUP(output_file_deinit) OutputFile file = OUTPUT_FILE_NULL;
    int r;

    if (buffer_failed(text))
        return reason_set(why, -ENOMEM, "out of memory");
    r = output_file_open(&file, path, why);
    if (r)
        return r;
    fwrite(buffer_text(text), 1, text->size, file.stream);
    return output_file_commit(&file, why);
}

static int print_text(const Buffer *text, Reason *why) {
    return write_file("-", text, why);
}

/* norms without a model */

static void put_widths(JsonWriter *w, const char *key, const double *bits, uint32_t n) {
    json_begin_array(w, key);
    for (uint32_t i = 0; i < n; i++)
        if (bits[i] == (double)(uint64_t)bits[i])
            json_put_u64(w, NULL, (uint64_t)bits[i]);
        else
            json_put_double(w, NULL, bits[i]);
    json_end_array(w);
}

static void print_widths(Buffer *out, const char *side, const double *bits, uint32_t n) {
    buffer_printf(out, "%s bits      ", side);
    for (uint32_t i = 0; i < n; i++)
        buffer_printf(out, " %g", bits[i]);
    buffer_append_char(out, '\n');
}

static void write_paper_plan(const PaperPlan *plan, uint32_t n_layers, bool json, Buffer *out) {
    const double *k = plan->bits[KV_SIDE_K], *v = plan->bits[KV_SIDE_V];
    JsonWriter w = JSON_WRITER(out);

    if (!json) {
        print_widths(out, "K", k, n_layers);
        print_widths(out, "V", v, n_layers);
        return;
    }
    json_begin_object(&w, NULL);
    put_widths(&w, "k", k, n_layers);
    put_widths(&w, "v", v, n_layers);
    json_end_object(&w);
    buffer_append_char(out, '\n');
}

static int check_paper_budget(double budget, const KvMenu *menu, Reason *why) {
    if (budget == 0)
        return reason_set(why, -EINVAL,
                          "without a model there is no memory to plan for: give --budget, or a "
                          "model");
    if (budget < menu->widths[0])
        return reason_set(why, -EINVAL,
                          "flag --budget: %g bits are less than the narrowest of the menu, %g",
                          budget, menu->widths[0]);
    return 0;
}

static int plan_norms(const Config *config, Reason *why) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    double budget = (double)config->budget_millionths / 1e6;
    PaperProblem problem = { .budget = budget };
    PaperPlan plan;
    NormsFile norms;
    KvMenu menu;
    int r;

    r = norms_file_load(&norms, config->norms_path, why);
    if (r)
        return reason_prefix(why, r, "flag --norms: ");
    r = kv_menu_parse(&menu, config->menu ? config->menu : PAPER_MENU_DEFAULT, true, why);
    if (r)
        return reason_prefix(why, r, "flag --menu: ");
    r = check_paper_budget(budget, &menu, why);
    if (r)
        return r;
    problem.n_layers = norms.n_layers;
    problem.norms[KV_SIDE_K] = norms.norms[KV_SIDE_K];
    problem.norms[KV_SIDE_V] = norms.norms[KV_SIDE_V];
    problem.n_widths = menu.n;
    memcpy(problem.widths, menu.widths, menu.n * sizeof(*menu.widths));
    paper_plan_make(&plan, &problem);
    write_paper_plan(&plan, norms.n_layers, config->json, &text);
    return print_text(&text, why);
}

/* the profile */

/* Norms alone are a profile that knows nothing else. */
static int profile_of_norms(Profile **outp, const char *path, const KvGeometry *geometry,
                            Reason *why) {
    CLEANUP(profile_free) Profile *profile = NULL;
    NormsFile norms;
    int r;

    r = norms_file_load(&norms, path, why);
    if (!r && norms.n_layers != geometry->n_layers)
        r = reason_set(why, -EINVAL, "%s: norms of %u layers; the model has %u", path,
                       norms.n_layers, geometry->n_layers);
    if (r)
        return reason_prefix(why, r, "flag --norms: ");
    r = profile_new(&profile, geometry);
    if (r)
        return reason_set(why, r, "no profile can be made of this shape of model");
    memcpy(profile->k_norms, norms.norms[KV_SIDE_K], norms.n_layers * sizeof(double));
    memcpy(profile->v_norms, norms.norms[KV_SIDE_V], norms.n_layers * sizeof(double));
    *outp = TAKE(profile);
    return 0;
}

static int find_profile(Profile **outp, const Config *config, const KvGeometry *geometry,
                        Reason *why) {
    ProfileStoreOptions where = model_run_profile_options(config);

    return config->norms_path ? profile_of_norms(outp, config->norms_path, geometry, why)
                              : profile_store_find(outp, &where, why);
}

/* a model */

static int write_all(const Config *config, const PlanReport *report, Reason *why) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer file = BUFFER_NULL;
    CLEANUP(buffer_deinit) Buffer page = BUFFER_NULL;
    const KvGeometry *g = &report->plan->demand.geometry;
    JsonWriter w = JSON_WRITER(&text);
    int r = 0;

    if (config->output_path) {
        plan_report_file(report, &file);
        r = write_file(config->output_path, &file, why);
    }
    if (!r && config->html_path) {
        r = plan_page_write(report, config->model, &page, why);
        if (!r)
            r = write_file(config->html_path, &page, why);
    }
    if (r)
        return r;
    if (config->json) {
        plan_report_json(report, &w);
        buffer_append_char(&text, '\n');
    } else {
        buffer_printf(&text, "kv %s: %u layers, %u KV heads of %u channels\n", config->kv,
                      g->n_layers, g->n_kv_heads, g->head_dim);
        plan_report_print(report, &text);
    }
    return print_text(&text, why);
}

static int plan_model(const Config *config, const BackendOps *ops, Backend *backend, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    CLEANUP(free) CachePlan *plan = malloc(sizeof(*plan));
    CachePlanOptions options = cache_plan_options(config);
    EngineOptions engine = model_run_engine_options(config);
    char identity[HASH128_HEX_BYTES];
    Ledger ledger;
    int r;

    if (!plan)
        return reason_set(why, -ENOMEM, "out of memory");
    r = checkpoint_open(&checkpoint, config->model, why);
    if (r)
        return r;
    engine.ops = ops;
    engine.backend = backend;
    engine.checkpoint = checkpoint;
    engine.plan = &plan->plan;
    r = cache_plan_begin(plan, &options, &engine, why);
    if (!r)
        r = find_profile(&profile, config, &plan->demand.geometry, why);
    if (!r)
        r = cache_plan_finish(plan, profile, why);
    if (!r)
        r = engine_plan(&engine, &ledger, why);
    if (r)
        return r;
    return write_all(config,
                     &(PlanReport){ .plan = plan,
                                    .ledger = &ledger,
                                    .profile = profile,
                                    .identity = model_identity(checkpoint, identity) },
                     why);
}

/* options that contradict each other */

/* Norms for the paper's method are about some other model than the one that the environment or a
 * config file names for serve. */
static bool has_model(const Config *config) {
    const Option *option = option_find("model", strlen("model"), COMMAND_PLAN);
    bool is_for_norms = config->norms_path && config->method == PLAN_METHOD_PAPER;

    return config->model &&
           (!is_for_norms || config->origins[option - option_table].kind == CONFIG_FROM_FLAG);
}

static int check_without_model(const Config *config, Reason *why) {
    if (!config->norms_path || config->method != PLAN_METHOD_PAPER)
        return reason_set(why, -EINVAL,
                          "no model is given: pass --model, or --method paper with --norms");
    if (config->output_path || config->html_path || config->bits_millionths)
        return reason_set(why, -EINVAL, "%s needs a model: pass --model",
                          config->output_path ? "--output"
                          : config->html_path ? "--html"
                                              : "--bits");
    return 0;
}

static int check_choice(const Config *config, Reason *why) {
    if (config->profile && config->norms_path)
        return reason_set(why, -EINVAL,
                          "--profile and --norms are both given; a plan is made by "
                          "one of them");
    if (config->budget_millionths && config->method != PLAN_METHOD_PAPER)
        return reason_set(why, -EINVAL,
                          "--budget is for --method paper; --bits is for every method");
    if (config->budget_millionths && config->bits_millionths)
        return reason_set(why, -EINVAL, "--budget and --bits are both given; a plan keeps to one");
    if (strcmp(config->kv, CACHE_PLAN_AUTO) != 0 &&
        (config->method != PLAN_METHOD_AUTO || config->menu || config->bits_millionths ||
         config->norms_path))
        return reason_set(why, -EINVAL,
                          "kv is \"%s\", so there is nothing to choose: leave out --kv, or "
                          "--method, --menu, --bits and --norms",
                          config->kv);
    return 0;
}

static int run(const Config *config, Reason *why) {
    BackendOptions options = { .device = config->device,
                               .n_threads = 1,
                               .gpu_memory_bytes = config->gpu_memory_bytes };
    Backend *backend = NULL;
    const BackendOps *ops;
    int r = check_choice(config, why);

    if (r)
        return r;
    if (!has_model(config)) {
        r = check_without_model(config, why);
        return r ? r : plan_norms(config, why);
    }
    r = backend_open(&backend, &ops, &options, why);
    if (r)
        return r;
    r = plan_model(config, ops, backend, why);
    ops->free(backend);
    return r;
}

int cmd_plan(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
