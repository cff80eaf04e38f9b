/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/commands.h"
#include "server/commands/grammars.h"
#include "server/commands/serve.h"
#include "util/allocator.h"
#include "util/log.h"

#include <stdio.h>

int cmd_serve(const Config *config) {
    Reason why = REASON_NULL;

    log_line(LOG_LEVEL_INFO, "starting", "version=" KVASIR_VERSION " allocator=\"%s\"",
             allocator_name());
    if (!grammars_start(&why) && !serve(config, &why))
        return 0;
    fprintf(stderr, "kvasird serve: %s\n", why.text);
    reason_log_origin(&why);
    return 1;
}
