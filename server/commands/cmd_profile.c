/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/commands.h"
#include "server/commands/model_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int run(const Config *config, Reason *why) {
    ProfileStoreOptions where = model_run_profile_options(config);
    CLEANUP(profile_free) Profile *profile = NULL;
    CLEANUP(buffer_deinit) Buffer path = BUFFER_NULL;
    int r = 0;

    if (config->output_path) /* who cannot have it there need not wait to hear so */
        r = profile_store_check(config->output_path, why);
    if (r)
        return reason_prefix(why, r, "flag --output: ");
    r = profile_store_measure(&profile, &where, why);
    if (r)
        return r;
    if (config->output_path)
        buffer_append_text(&path, config->output_path);
    else
        r = profile_store_path(&where, profile->identity, &path, why);
    if (!r)
        r = profile_store_save(profile, buffer_text(&path), why);
    if (r)
        return r;
    fprintf(strcmp(buffer_text(&path), "-") == 0 ? stderr : stdout,
            "%s: model %s, %" PRIu64 " of %" PRIu64 " tokens of %s\n", buffer_text(&path),
            profile->identity, profile->n_tokens, profile->n_tokens_wanted, profile->text_name);
    return 0;
}

int cmd_profile(const Config *config) {
    Reason why = REASON_NULL;

    return run(config, &why) ? model_run_failed(&why) : 0;
}
