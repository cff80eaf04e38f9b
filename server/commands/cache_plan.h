/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Decides how a model's cache is stored, for `serve` and for `plan`: what the options say, or,
 * where they say auto, the formats that do least damage among those that fit. No weights are read.
 *
 * It takes two steps, since only plans that quantize need a profile, which may have to be measured
 * first: cache_plan_begin says whether this one may, and refuses what cannot fit; then the caller
 * gets a profile, or none, and cache_plan_finish chooses.
 */

#include "config/config.h"
#include "kvcache/damage_table.h"
#include "kvcache/planner.h"
#include "server/engine/engine.h"

#define CACHE_PLAN_AUTO "auto"

/* What of the options concerns the choice; texts are borrowed. */
typedef struct CachePlanOptions {
    const char *spec; /* of option kv */
    PlanMethod method;
    PlanNorm norm;              /* of method paper */
    const char *menu;           /* NULL: the formats that the method has by default */
    PlannerValues values;       /* where damages are measured; else never wider, unless ANY */
    uint64_t budget_millionths; /* of method paper: mean bits of codes; 0: what fits */
    uint64_t bits_millionths;   /* mean bits of an element with its metadata, instead of memory
                                   and tokens; 0: memory and tokens */
} CachePlanOptions;

typedef struct CachePlan {
    CachePlanOptions options;
    EngineCacheDemand demand;
    bool menu[KV_FORMATS];
    bool is_auto;
    bool wants_profile;      /* after begin: the plan may quantize */
    KvPlan plan;             /* after finish, or once wants_profile is false */
    DamageSource chosen_by;  /* where it was chosen, what the method went by */
    DamageTable table;       /* by which damage is expected; after finish */
    double damage;           /* expected of the plan, nats a token */
    double swapped_damage;   /* of the plan with K's and V's formats exchanged in each layer */
    uint32_t n_wider_values; /* layers where V has more bits than K */
    double milliseconds;     /* that choosing took */
} CachePlan;

/* What serve's own options say. */
CachePlanOptions cache_plan_options(const Config *config);

/* Fills the defaults of `engine` in, max_num_seqs among them, which becomes what fits. -EINVAL (an
 * option), -ENOSPC (no admitted format makes it fit: how many bytes are missing, how many tokens
 * would fit, which options help). */
int cache_plan_begin(CachePlan *out, const CachePlanOptions *options, EngineOptions *engine,
                     Reason *why);
/* `profile`: of this model; NULL: there is none. -ENOMEM, -ENOSPC as above. */
int cache_plan_finish(CachePlan *plan, const Profile *profile, Reason *why);

/* What other plans would take and do by the same table: bytes are of one page. */
PlannerProblem cache_plan_problem(const CachePlan *plan);
