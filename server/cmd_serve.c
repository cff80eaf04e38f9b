/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands.h"
#include "server/serve.h"

#include <stdio.h>

int cmd_serve(const Config *config) {
    Reason why = REASON_NULL;

    if (!serve(config, &why))
        return 0;
    fprintf(stderr, "kvasird serve: %s\n", why.text);
    return 1;
}
