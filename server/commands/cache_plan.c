/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has to fit is either demanded or wished for. Tokens that somebody named (kv_tokens, or
 * max_model_len and max_num_seqs beside kv_memory) must fit, however narrow formats become; if they
 * do not, the start ends. Where nobody named any, room for all that could run is a wish: no format
 * below 4 bits is taken for its sake, and then fewer tokens fit.
 *
 * The number of sequences is given or follows from the memory: first a quarter of it may be tails,
 * and fewer where a demand needs the bytes.
 */
#include "server/commands/cache_plan.h"

#include "kvcache/kv_format.h"
#include "kvcache/kv_menu.h"
#include "kvcache/kv_spec.h"
#include "kvcache/paper_plan.h"
#include "kvcache/ratequant_plan.h"
#include "kvcache/store_planner.h"
#include "util/clock.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MENU_DEFAULT "16,8,6,5,4,3,2"
#define MENU_DEFAULT_OF_PAPER "16,8,6,4,3,2" /* of the widths that its authors tried, and f16 */
#define WISH_BITS_MIN 4

CachePlanOptions cache_plan_options(const Config *config) {
    return (CachePlanOptions){ .spec = config->kv,
                               .method = config->method,
                               .norm = config->norm,
                               .menu = config->menu,
                               .values = config->wider_values ? PLANNER_VALUES_ANY
                                                              : PLANNER_VALUES_PROVEN,
                               .budget_millionths = config->budget_millionths,
                               .bits_millionths = config->bits_millionths };
}

/* the menu */

static const char *menu_text(const CachePlanOptions *options) {
    if (options->menu)
        return options->menu;
    return options->method == PLAN_METHOD_PAPER ? MENU_DEFAULT_OF_PAPER : MENU_DEFAULT;
}

static int read_menu(CachePlan *p, Reason *why) {
    bool can_quantize = store_planner_quantizes(&p->demand.geometry);
    KvMenu menu;
    int r;

    r = kv_menu_parse(&menu, menu_text(&p->options), false, why);
    if (r)
        return reason_prefix(why, r, "flag --menu: ");
    kv_menu_formats(&menu, p->menu);
    if (!can_quantize && !p->menu[KV_FORMAT_F16])
        return reason_set(
            why, -EINVAL,
            "flag --menu: \"%s\" has no format for heads of %u channels; below 16 bits they "
            "must be a multiple of 8 and at most %d",
            p->options.menu, p->demand.geometry.head_dim, KV_HEAD_DIM_MAX);
    return 0;
}

static bool is_wish(const CachePlan *p) {
    return !p->demand.tokens_are_demanded;
}

/* For a wish, formats that do much damage are left out, unless somebody chose them. */
static void narrow_to_wish(CachePlan *p) {
    for (KvFormat f = 0; f < KV_FORMATS && !p->options.menu; f++)
        if (kv_formats[f].bits < WISH_BITS_MIN)
            p->menu[f] = false;
}

static KvFormat narrowest(const CachePlan *p) {
    KvFormat best = KV_FORMAT_F16;

    for (KvFormat f = KV_FORMAT_8; f < KV_FORMATS; f++)
        if (p->menu[f] && store_planner_quantizes(&p->demand.geometry))
            best = f;
    return best;
}

/* problems */

PlannerProblem cache_plan_problem(const CachePlan *p) {
    PlannerProblem problem = { .n_layers = p->demand.geometry.n_layers,
                               .damages = p->table.damages,
                               .errors = p->table.errors,
                               .bytes_max = UINT64_MAX / 4,
                               .values = p->options.values };

    if (problem.values == PLANNER_VALUES_PROVEN && p->table.source != DAMAGE_MEASURED)
        problem.values = PLANNER_VALUES_NARROWER;
    memcpy(problem.menu, p->menu, sizeof(problem.menu));
    store_planner_cost_page(&problem, &p->demand.geometry);
    return problem;
}

static StoreDemand store_demand(const CachePlan *p) {
    const EngineCacheDemand *d = &p->demand;

    return (StoreDemand){ .geometry = d->geometry,
                          .n_pages = kv_pages_of_tokens(d->n_tokens),
                          .n_tails = d->n_tails,
                          .n_sinks = d->n_sinks,
                          .bytes_max = d->bytes_max };
}

/* what fits */

static void fill_uniform(KvPlan *plan, uint32_t n_layers, KvFormat format) {
    memset(plan, 0, sizeof(*plan));
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            plan->formats[layer][side] = format;
}

/* The ledger of the memory at the narrowest formats. */
static int narrowest_ledger(const CachePlan *p, Ledger *ledger, Reason *why) {
    const EngineCacheDemand *d = &p->demand;
    KvPlan plan;

    fill_uniform(&plan, d->geometry.n_layers, narrowest(p));
    return ledger_plan(ledger,
                       &(LedgerRequest){ .geometry = d->geometry,
                                         .plan = &plan,
                                         .kv_memory_bytes = d->bytes_max,
                                         .memory_is_default = d->bytes_are_default,
                                         .max_num_seqs = d->n_tails,
                                         .n_sinks = d->n_sinks },
                       why);
}

/* What the user may change, so that it fits. */
static const char *remedy_of(const EngineCacheDemand *d) {
    if (d->tokens_are_given)
        return d->n_tails > 1 ? "lower kv_tokens, or max_num_seqs: each of them has a tail"
                              : "lower kv_tokens";
    return d->n_tails > 1
               ? "lower max_model_len or max_num_seqs, whose product must fit where both "
                 "are given, or give kv_tokens"
               : "lower max_model_len";
}

static int refuse_demand(const CachePlan *p, const PlannerAnswer *needed, Reason *why) {
    const EngineCacheDemand *d = &p->demand;
    Ledger ledger = { .kv_tokens = 0 };
    uint32_t bits = kv_formats[narrowest(p)].bits;

    if (narrowest_ledger(p, &ledger, NULL))
        ledger.kv_tokens = 0;
    return reason_set(
        why, -ENOSPC,
        "%s %" PRIu64 " bytes, but %" PRIu64 " tokens, with the tails of max_num_seqs = %" PRIu32
        ", take %" PRIu64 " at the narrowest formats, k%uv%u: %" PRIu64
        " bytes are missing, and %" PRIu64 " tokens would fit; %s kv_memory, or %s",
        d->bytes_are_default ? "a cache of no given size may take" : "kv_memory is", d->bytes_max,
        d->n_tokens, d->n_tails, needed->bytes, bits, bits, needed->bytes - d->bytes_max,
        ledger.kv_tokens, d->bytes_are_default ? "give" : "raise", remedy_of(d));
}

/* Gives up as many of the sequences that nobody asked for as the missing bytes take. */
static bool give_up_sequences(CachePlan *p, bool prefix_caching, uint64_t missing_bytes) {
    EngineCacheDemand *d = &p->demand;
    uint64_t n = missing_bytes / kv_tail_bytes(&d->geometry) + 1;

    if (!d->seqs_are_default || d->n_tails == 1)
        return false;
    d->n_tails = n < d->n_tails ? d->n_tails - (uint32_t)n : 1;
    d->n_sinks = engine_sinks(d->n_tails, prefix_caching);
    return true;
}

/* What a wish comes to: what the memory holds, which is less. */
static int give_up_tokens(CachePlan *p, Reason *why) {
    Ledger ledger;
    int r = narrowest_ledger(p, &ledger, why);

    if (r)
        return r;
    assert(ledger.kv_tokens < p->demand.n_tokens);
    p->demand.n_tokens = ledger.kv_tokens;
    return 0;
}

/* Lowers what nobody asked for until it fits. *f16p: all of it does in f16. */
static int make_fit(CachePlan *p, bool prefix_caching, bool *f16p, Reason *why) {
    for (;;) {
        StoreDemand demand = store_demand(p);
        PlannerProblem problem = cache_plan_problem(p);
        PlannerAnswer answer;
        int r = store_planner_fit(&p->plan, &answer, &problem, &demand, NULL, NULL);

        *f16p = !r && !kv_plan_quantizes(&p->plan, demand.geometry.n_layers);
        if (r < 0)
            return reason_set(why, r,
                              "no KV cache of %" PRIu64 " tokens can be laid out for this model",
                              p->demand.n_tokens);
        if (!r)
            return 0;
        if (is_wish(p))
            r = give_up_tokens(p, why);
        else if (!give_up_sequences(p, prefix_caching, answer.bytes - demand.bytes_max))
            return refuse_demand(p, &answer, why);
        if (r < 0)
            return r;
    }
}

static bool is_by_bits(const CachePlan *p) {
    return p->options.bits_millionths || p->options.budget_millionths;
}

static int begin_auto(CachePlan *p, EngineOptions *engine, Reason *why) {
    bool is_f16 = false;
    int r;

    r = read_menu(p, why);
    if (r)
        return r;
    damage_table_fill(&p->table, NULL, p->demand.geometry.n_layers, DAMAGE_TYPICAL);
    p->wants_profile = true;
    if (is_by_bits(p))
        return 0;
    if (is_wish(p))
        narrow_to_wish(p);
    r = make_fit(p, engine->prefix_caching, &is_f16, why);
    engine->max_num_seqs = p->demand.n_tails;
    p->wants_profile = !is_f16;
    return r;
}

int cache_plan_begin(CachePlan *out, const CachePlanOptions *options, EngineOptions *engine,
                     Reason *why) {
    uint32_t n_layers = checkpoint_config(engine->checkpoint)->n_layers;
    int r;

    memset(out, 0, sizeof(*out));
    out->options = *options;
    out->is_auto = strcmp(options->spec, CACHE_PLAN_AUTO) == 0;
    if (n_layers > KV_LAYERS_MAX)
        return reason_set(why, -EINVAL, "the model has %u layers; a KV cache has at most %d",
                          n_layers, KV_LAYERS_MAX);
    r = engine_cache_demand(engine, &out->demand, why);
    if (r)
        return r;
    if (out->is_auto)
        return begin_auto(out, engine, why);
    r = kv_spec_parse(&out->plan, options->spec, n_layers, why);
    out->wants_profile = !r && kv_plan_quantizes(&out->plan, n_layers);
    return r;
}

/* methods */

typedef struct PaperInput {
    PaperProblem problem;
    double budget; /* 0: the most that fits */
} PaperInput;

/* False: it has a fraction of bits that is no format's. */
static void read_paper_plan(KvPlan *plan, const PaperPlan *paper, uint32_t n_layers) {
    memset(plan, 0, sizeof(*plan));
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            plan->formats[layer][side] = kv_format_of_bits((uint32_t)paper->bits[side][layer]);
}

static PlannerAnswer make_paper_plan(KvPlan *plan, PaperProblem *paper, double budget,
                                     const PlannerProblem *problem) {
    PaperPlan bits;

    paper->budget = budget;
    paper_plan_make(&bits, paper);
    read_paper_plan(plan, &bits, problem->n_layers);
    return planner_judge(plan, problem);
}

/* The allocator knows bits of codes: the most whole ones are looked for whose bytes fit. More of
 * them never make a plan of fewer bytes, but for the last step, which takes what still fits. */
static int solve_paper(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                       void *userdata) {
    PaperInput *input = userdata;
    PaperProblem paper = input->problem;
    uint32_t n = problem->n_layers * KV_SIDES;
    uint32_t fits = (uint32_t)paper.widths[0] * n;
    uint32_t too_many = (uint32_t)paper.widths[paper.n_widths - 1] * n + 1;

    if (input->budget > 0) {
        *answer = make_paper_plan(plan, &paper, input->budget, problem);
        return 0;
    }
    while (too_many - fits > 1) {
        uint32_t bits = fits + (too_many - fits) / 2;

        *answer = make_paper_plan(plan, &paper, (double)bits / n, problem);
        if (answer->bytes <= problem->bytes_max)
            fits = bits;
        else
            too_many = bits;
    }
    *answer = make_paper_plan(plan, &paper, (double)fits / n, problem);
    return answer->bytes <= problem->bytes_max ? 0 : PLANNER_E_FULL;
}

static int solve_uniform(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                         void *userdata) {
    (void)userdata;
    return planner_solve_uniform(plan, answer, problem);
}

static int solve_ratequant(KvPlan *plan, PlannerAnswer *answer, const PlannerProblem *problem,
                           void *userdata) {
    (void)userdata;
    return ratequant_solve(plan, answer, problem);
}

static int find_norms(PaperInput *input, const CachePlan *p, const Profile *profile, Reason *why) {
    bool spectral = p->options.norm == PLAN_NORM_SPECTRAL;
    double sum = 0;

    if (!profile)
        return reason_set(why, -EINVAL,
                          "method paper needs norms of the model's weights: make a profile with "
                          "kvasird profile, or give --norms");
    input->problem.norms[KV_SIDE_K] = spectral ? profile->k_spectral_norms : profile->k_norms;
    input->problem.norms[KV_SIDE_V] = spectral ? profile->v_spectral_norms : profile->v_norms;
    for (uint32_t layer = 0; layer < input->problem.n_layers; layer++)
        sum += input->problem.norms[KV_SIDE_K][layer] + input->problem.norms[KV_SIDE_V][layer];
    if (sum > 0)
        return 0;
    return reason_set(why, -EINVAL, "the profile has no %s norms; choose another with --norm",
                      spectral ? "spectral" : "Frobenius");
}

static int paper_input(PaperInput *input, const CachePlan *p, const Profile *profile, Reason *why) {
    *input = (PaperInput){ .problem.n_layers = p->demand.geometry.n_layers,
                           .budget = (double)p->options.budget_millionths / 1e6 };
    for (KvFormat f = KV_FORMATS; f-- > KV_FORMAT_F16;)
        if (p->menu[f])
            input->problem.widths[input->problem.n_widths++] = kv_formats[f].bits;
    if (input->budget > 0 && input->budget < input->problem.widths[0])
        return reason_set(why, -EINVAL,
                          "flag --budget: %g bits are less than the narrowest of the menu, %g",
                          input->budget, input->problem.widths[0]);
    return find_norms(input, p, profile, why);
}

static PlannerFn solver_of(PlanMethod method) {
    switch (method) {
    case PLAN_METHOD_PAPER:
        return solve_paper;
    case PLAN_METHOD_RATEQUANT:
        return solve_ratequant;
    case PLAN_METHOD_UNIFORM:
        return solve_uniform;
    default:
        return NULL;
    }
}

/* choosing */

static int solve_bits(CachePlan *p, PlannerProblem *problem, PlannerFn fn, void *userdata,
                      Reason *why) {
    const KvGeometry *g = &p->demand.geometry;
    double n_elements =
        (double)g->n_layers * KV_SIDES * g->n_kv_heads * g->head_dim * KV_PAGE_TOKENS;
    double bits = (double)p->options.bits_millionths / 1e6;
    PlannerAnswer answer;
    int r;

    if (p->options.bits_millionths)
        problem->bytes_max = (uint64_t)(bits * n_elements / 8 * (1 + 1e-12));
    r = fn ? fn(&p->plan, &answer, problem, userdata) : planner_solve(&p->plan, &answer, problem);
    if (r == PLANNER_E_FULL)
        return reason_set(
            why, -ENOSPC,
            "flag --bits: %g bits an element are less than the narrowest formats of the menu "
            "take with their metadata, %.4f",
            bits, 8 * (double)answer.bytes / n_elements);
    return r;
}

static int solve_memory(CachePlan *p, PlannerProblem *problem, PlannerFn fn, void *userdata) {
    StoreDemand demand = store_demand(p);
    PlannerAnswer answer;
    int r = store_planner_fit(&p->plan, &answer, problem, &demand, fn, userdata);

    /* Every method begins at the narrowest formats, and begin saw to it that those fit. */
    return r == PLANNER_E_FULL ? -ENOSPC : r;
}

static int solve(CachePlan *p, const Profile *profile, Reason *why) {
    PlannerFn fn = solver_of(p->options.method);
    PaperInput paper = { .budget = 0 };
    PlannerProblem problem;
    int r = 0;

    if (p->options.method == PLAN_METHOD_PAPER)
        r = paper_input(&paper, p, profile, why);
    if (r)
        return r;
    damage_table_fill(&p->table, profile, p->demand.geometry.n_layers,
                      p->options.method == PLAN_METHOD_RATEQUANT ? DAMAGE_DISTORTIONS
                                                                 : DAMAGE_MEASURED);
    p->chosen_by = p->table.source;
    if (p->options.method == PLAN_METHOD_PAPER)
        p->chosen_by =
            p->options.norm == PLAN_NORM_SPECTRAL ? DAMAGE_SPECTRAL_NORMS : DAMAGE_FROBENIUS_NORMS;
    problem = cache_plan_problem(p);
    r = is_by_bits(p) ? solve_bits(p, &problem, fn, &paper, why)
                      : solve_memory(p, &problem, fn, &paper);
    return r && !why->text[0] ? reason_set(why, r, "no plan can be made") : r;
}

static void judge(CachePlan *p) {
    uint32_t n_layers = p->demand.geometry.n_layers;
    KvPlan swapped = { 0 };

    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (KvSide side = 0; side < KV_SIDES; side++)
            swapped.formats[layer][side] = p->plan.formats[layer][!side];
    p->damage = damage_table_sum(&p->table, &p->plan);
    p->swapped_damage = damage_table_sum(&p->table, &swapped);
    p->n_wider_values = planner_count_wider_values(&p->plan, n_layers);
}

int cache_plan_finish(CachePlan *p, const Profile *profile, Reason *why) {
    uint64_t begin_ns = clock_ns();
    int r = p->is_auto && p->wants_profile ? solve(p, profile, why) : 0;

    p->milliseconds = (double)(clock_ns() - begin_ns) * 1e-6;
    if (r)
        return r;
    /* Whoever chose it, it is judged by the best that is known. */
    damage_table_fill(&p->table, profile, p->demand.geometry.n_layers, DAMAGE_MEASURED);
    judge(p);
    return 0;
}
