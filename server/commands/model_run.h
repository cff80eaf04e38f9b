/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What `logits`, `generate` and `eval` do first: open the session that the configuration asks for,
 * read the plan, and get a profile if the plan quantizes anything.
 */

#include "config/config.h"
#include "kvcache/kv_spec.h"
#include "server/commands/profile_store.h"
#include "server/commands/session.h"
#include "server/engine/engine.h"

/* Rows of one step where a prompt is fed "all at once". */
#define MODEL_RUN_STEP_TOKENS 512

/* What of the configuration concerns profiles; borrowed from it. */
ProfileStoreOptions model_run_profile_options(const Config *config);

/* Whether there is a model whose cache can have this format; reads no weights, and a profile only
 * if one was named. Called before anything takes long. */
int model_run_check(const Config *config, const char *spec, Reason *why);

/* Parses `spec`; *profilep stays NULL where nothing is quantized, and is the caller's. */
int model_run_plan(const Config *config, const char *spec, uint32_t n_layers, KvPlan *plan,
                   Profile **profilep, Reason *why);

/* Warns, and says what helps, where the profile rests on less text than it was to. */
void model_run_warn_of_short_profile(const Config *config, const Profile *profile);

/* Option kv for commands that run one sequence: where serve would choose, nothing has to be
 * narrower than f16. */
const char *model_run_spec(const Config *config);

/* What of the configuration concerns an engine; what it runs on is the caller's to add. */
EngineOptions model_run_engine_options(const Config *config);

/* Prints "kvasird: <why>" and returns the exit status of a command that failed. */
int model_run_failed(const Reason *why);
