/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird eval`: a table of what formats cost, for people, and the same as JSON. The arithmetic is
 * server/commands/eval.c's.
 */
#include "server/commands/commands.h"
#include "server/commands/eval.h"
#include "server/commands/model_run.h"
#include "server/commands/progress.h"
#include "server/commands/text_tokens.h"

#include "kvcache/kv_layout.h"
#include "util/json_writer.h"
#include "util/output_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define GIB ((double)(1u << 30))
#define QUICK_TOKENS 8192

typedef struct Eval {
    const Config *config;
    Session session;
    TokenIds tokens;
    Profile *profile;
    KvPlan reference;
    EvalRun *runs; /* [n_runs]: the reference, bf16, then the specs */
    uint32_t n_runs;
} Eval;

static void eval_deinit(Eval *e) {
    for (uint32_t i = 0; i < e->n_runs; i++) {
        if (e->runs[i].cache.session)
            session_cache_deinit(&e->runs[i].cache);
        eval_stats_deinit(&e->runs[i].stats);
    }
    free(e->runs);
    profile_free(e->profile);
    token_ids_deinit(&e->tokens);
    session_deinit(&e->session);
}

CLEANUP_DEINIT_DEFINE(Eval, eval_deinit);

/* set up */

static int read_tokens(Eval *e, Reason *why) {
    const Config *config = e->config;
    int r = text_tokens_read(&e->tokens, config->model, config->text_path, config->window, why);

    if (r)
        return r;
    if (config->quick && e->tokens.n > QUICK_TOKENS)
        e->tokens.n = QUICK_TOKENS;
    if (config->max_tokens && e->tokens.n > config->max_tokens)
        e->tokens.n = config->max_tokens;
    if (e->tokens.n < config->window)
        return reason_set(why, -EINVAL, "%s: %zu tokens are less than a window of %u; see --window",
                          config->text_path, e->tokens.n, config->window);
    return 0;
}

/* The first one is the reference. */
static int add_run(Eval *e, const char *spec, Reason *why) {
    EvalRun *run = &e->runs[e->n_runs];
    uint32_t n_layers = e->session.config->n_layers;
    KvPlan plan;
    int r;

    r = model_run_plan(e->config, spec, n_layers, &plan, &e->profile, why);
    if (!r && !e->n_runs)
        e->reference = plan;
    run->is_reference = e->n_runs && kv_plans_equal(&plan, &e->reference, n_layers);
    if (!r && !run->is_reference)
        r = session_cache_init(&run->cache, &e->session, e->config->window, &plan, e->profile, why);
    if (r)
        return r;
    run->name = spec;
    e->n_runs++;
    return 0;
}

static int check_specs(const Config *config, Reason *why) {
    int r = model_run_check(config, config->reference, why);

    for (uint32_t i = 0; !r && i < config->kv_specs.n; i++)
        r = model_run_check(config, config->kv_specs.items[i], why);
    return r;
}

static int set_up(Eval *e, Reason *why) {
    const ConfigTexts *specs = &e->config->kv_specs;
    int r;

    r = check_specs(e->config, why);
    if (!r)
        r = read_tokens(e, why);
    if (r)
        return r;
    r = session_init(&e->session,
                     &(SessionOptions){ .model_path = e->config->model,
                                        .device = e->config->device,
                                        .gpu_memory_bytes = e->config->gpu_memory_bytes,
                                        .n_threads = e->config->n_threads,
                                        .max_step_tokens = KV_PAGE_TOKENS,
                                        .max_logit_rows = KV_PAGE_TOKENS },
                     why);
    if (r)
        return r;
    e->runs = calloc(specs->n + 3, sizeof(*e->runs));
    if (!e->runs)
        return reason_set(why, -ENOMEM, "out of memory");
    r = add_run(e, e->config->reference, why);
    if (!r)
        r = add_run(e, "bf16", why);
    if (!r && !specs->n)
        r = add_run(e, "k4v4", why);
    for (uint32_t i = 0; !r && i < specs->n; i++)
        if (strcmp(specs->items[i], "bf16"))
            r = add_run(e, specs->items[i], why);
    return r;
}

static void show_progress(void *userdata, uint64_t n_done, uint64_t n_all) {
    char words[64];

    (void)userdata;
    snprintf(words, sizeof(words), "%" PRIu64 " of %" PRIu64 " tokens", n_done, n_all);
    progress_show(n_done, n_all, words);
}

/* figures */

typedef struct Figures {
    double bits, bits_with_tails; /* per element of K and V */
    double bytes_per_token, tokens_per_gib;
    double ppl, kld, kld_error, kld_p99, top1;
} Figures;

static Figures figures_of(const Eval *e, uint32_t i) {
    EvalRun *run = &e->runs[e->runs[i].is_reference ? 0 : i];
    const KvStore *store = run->cache.store;
    double bytes = (double)kv_store_page_bytes(store) / KV_PAGE_TOKENS;

    return (Figures){
        .bits = kv_store_bits(store),
        .bits_with_tails = eval_bits_with_tails(store, e->config->window),
        .bytes_per_token = bytes,
        .tokens_per_gib = GIB / bytes,
        .ppl = eval_perplexity(&run->stats),
        .kld = eval_kld(&run->stats),
        .kld_error = eval_kld_error(&run->stats),
        .kld_p99 = eval_kld_percentile(&run->stats, 0.99),
        .top1 = eval_same_top(&run->stats),
    };
}

static void print_table(Eval *e) {
    printf("%llu tokens in windows of %u, chunks of %d; first %d tokens of a window exact; KLD, "
           "p99 and top-1\nagainst the first row\n",
           (unsigned long long)e->runs[0].stats.n_tokens, e->config->window, KV_PAGE_TOKENS,
           KV_SINK_TOKENS);
    if (e->profile)
        printf("keys are rounded by a profile of %" PRIu64 " of %" PRIu64 " tokens of %s\n",
               e->profile->n_tokens, e->profile->n_tokens_wanted, e->profile->text_name);
    printf("%-12s %7s %7s %9s %9s %9s %9s %8s %7s %12s\n", "kv", "bits", "+tails", "ppl", "KLD",
           "+-", "p99", "top-1", "B/token", "tokens/GiB");
    for (uint32_t i = 0; i < e->n_runs; i++) {
        Figures f = figures_of(e, i);

        printf("%-12s %7.3f %7.3f %9.4f %9.6f %9.6f %9.6f %7.2f%% %7.0f %12.0f\n", e->runs[i].name,
               f.bits, f.bits_with_tails, f.ppl, f.kld, f.kld_error, f.kld_p99, 100 * f.top1,
               f.bytes_per_token, f.tokens_per_gib);
    }
}

/* Damage grows with what lies behind a token: a window of one bin says nothing of that. */
static void print_by_position(const Eval *e) {
    uint32_t n_bins = eval_bin(e->config->window - 1) + 1;

    if (n_bins == 1)
        return;
    printf("\nKLD by position in the window, below\n%-12s", "kv");
    for (uint32_t bin = 0; bin < n_bins; bin++)
        printf(" %9u", eval_bin_end(bin));
    printf("\n");
    for (uint32_t i = 0; i < e->n_runs; i++) {
        const EvalStats *stats = &e->runs[e->runs[i].is_reference ? 0 : i].stats;

        printf("%-12s", e->runs[i].name);
        for (uint32_t bin = 0; bin < n_bins; bin++)
            printf(" %9.6f", eval_bin_kld(stats, bin));
        printf("\n");
    }
}

static void put_bins(const Eval *e, const EvalStats *stats, JsonWriter *w) {
    json_begin_array(w, "kld_by_position");
    for (uint32_t bin = 0; bin <= eval_bin(e->config->window - 1); bin++) {
        json_begin_object(w, NULL);
        json_put_u64(w, "below", eval_bin_end(bin));
        json_put_double(w, "kld", eval_bin_kld(stats, bin));
        json_end_object(w);
    }
    json_end_array(w);
}

static void put_run(const Eval *e, uint32_t i, JsonWriter *w, const char *key) {
    Figures f = figures_of(e, i);

    json_begin_object(w, key);
    json_put_text(w, "kv", e->runs[i].name);
    json_put_double(w, "bits", f.bits);
    json_put_double(w, "bits_with_tails", f.bits_with_tails);
    json_put_double(w, "ppl", f.ppl);
    json_put_double(w, "kld", f.kld);
    json_put_double(w, "kld_se", f.kld_error);
    json_put_double(w, "kld_p99", f.kld_p99);
    json_put_double(w, "top1", f.top1);
    put_bins(e, &e->runs[e->runs[i].is_reference ? 0 : i].stats, w);
    json_put_double(w, "bytes_per_token", f.bytes_per_token);
    json_put_double(w, "tokens_per_gib", f.tokens_per_gib);
    json_end_object(w);
}

static void put_figures(Eval *e, JsonWriter *w) {
    json_begin_object(w, NULL);
    json_put_text(w, "model", e->config->model);
    json_put_text(w, "text", e->config->text_path);
    json_put_u64(w, "window", e->config->window);
    json_put_u64(w, "tokens", e->runs[0].stats.n_tokens);
    if (e->profile) {
        json_put_u64(w, "profile_tokens", e->profile->n_tokens);
        json_put_u64(w, "profile_tokens_wanted", e->profile->n_tokens_wanted);
    }
    put_run(e, 0, w, "reference");
    json_begin_array(w, "specs");
    for (uint32_t i = 1; i < e->n_runs; i++)
        put_run(e, i, w, NULL);
    json_end_array(w);
    json_end_object(w);
}

static int write_json(Eval *e, OutputFile *file, Reason *why) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    JsonWriter writer = { .out = &text, .indent = 1 };

    put_figures(e, &writer);
    if (buffer_failed(&text))
        return reason_set(why, -ENOMEM, "out of memory");
    fwrite(text.data, 1, text.size, file->stream); /* errors stay with the stream */
    return output_file_commit(file, why);
}

static int run(const Config *config, Reason *why) {
    CLEANUP(output_file_deinit) OutputFile json = OUTPUT_FILE_NULL;
    CLEANUP(eval_deinit) Eval e = { .config = config };
    int r = 0;

    if (config->json_path)
        r = output_file_open(&json, config->json_path, why);
    if (!r)
        r = set_up(&e, why);
    if (r)
        return r;
    r = eval_run(&e.session, e.runs, e.n_runs, e.tokens.ids, e.tokens.n, config->window,
                 show_progress, NULL);
    if (r)
        return reason_set(why, r, "the model could not be run: %s", strerror(-r));
    print_table(&e);
    print_by_position(&e);
    return config->json_path ? write_json(&e, &json, why) : 0;
}

int cmd_eval(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
