/* SPDX-License-Identifier: Apache-2.0 */
#include "server/commands/progress.h"

#include <stdio.h>
#include <unistd.h>

#define WIDTH 40

void progress_show(uint64_t n_done, uint64_t n_all, const char *words) {
    int n = (int)(n_done * WIDTH / n_all);

    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r[%.*s%*s] %s\033[K%s", n, "########################################",
            WIDTH - n, "", words, n_done == n_all ? "\n" : "");
}

void progress_break(void) {
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
}
