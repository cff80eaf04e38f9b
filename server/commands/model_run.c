/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/model_run.h"

#include "util/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

ProfileStoreOptions model_run_profile_options(const Config *config) {
    return (ProfileStoreOptions){
        .path = config->profile,
        .state_dir = config->state_dir,
        .text_path = config->input.command == COMMAND_PROFILE ? config->text_path : NULL,
        .model_path = config->model,
        .device = config->device,
        .gpu_memory_bytes = config->gpu_memory_bytes,
        .n_threads = config->n_threads,
        .time_ms_max = config->profile_seconds * UINT64_C(1000),
    };
}

EngineOptions model_run_engine_options(const Config *config) {
    return (EngineOptions){
        .prefix_caching = config->prefix_caching,
        .page_exact = config->prefill_exact == PREFILL_EXACT_PAGE,
        .kv_memory_bytes = config->kv_memory_bytes,
        .kv_tokens = config->kv_tokens,
        .max_model_len = config->max_model_len,
        .max_num_seqs = config->max_num_seqs,
        .max_batched_tokens = config->max_batched_tokens,
        .steps_in_flight = config->steps_in_flight,
        .max_waiting_requests = config->max_waiting_requests,
        .max_waiting_tokens = config->max_waiting_tokens,
    };
}

int model_run_check(const Config *config, const char *spec, Reason *why) {
    CLEANUP(checkpoint_free) Checkpoint *checkpoint = NULL;
    CLEANUP(profile_free) Profile *profile = NULL;
    KvPlan plan;
    int r;

    r = checkpoint_open(&checkpoint, config->model, why);
    if (!r)
        r = kv_spec_parse(&plan, spec, checkpoint_config(checkpoint)->n_layers, why);
    if (r || !config->profile || !kv_plan_quantizes(&plan, checkpoint_config(checkpoint)->n_layers))
        return r;
    return profile_store_get(
        &profile, &(ProfileStoreOptions){ .path = config->profile, .model_path = config->model },
        why);
}

void model_run_warn_of_short_profile(const Config *config, const Profile *profile) {
    if (!profile_is_whole(profile))
        log_line(LOG_LEVEL_WARNING, "the model's profile was cut short",
                 "tokens=%" PRIu64 " wanted=%" PRIu64 " help=\"%s\"", profile->n_tokens,
                 profile->n_tokens_wanted,
                 config->profile ? "make it anew with: kvasird profile"
                                 : "the next start goes on with it; or raise profile_seconds");
}

int model_run_plan(const Config *config, const char *spec, uint32_t n_layers, KvPlan *plan,
                   Profile **profilep, Reason *why) {
    ProfileStoreOptions where = model_run_profile_options(config);
    int r;

    r = kv_spec_parse(plan, spec, n_layers, why);
    if (r || *profilep || !kv_plan_quantizes(plan, n_layers))
        return r;
    r = profile_store_get(profilep, &where, why);
    if (!r)
        model_run_warn_of_short_profile(config, *profilep);
    return r;
}

/* A config file or the environment may say auto, for serve. */
const char *model_run_spec(const Config *config) {
    return strcmp(config->kv, "auto") == 0 ? "f16" : config->kv;
}

int model_run_failed(const Reason *why) {
    fprintf(stderr, "kvasird: %s\n", why->text[0] ? why->text : "out of memory");
    reason_log_origin(why);
    return 1;
}
