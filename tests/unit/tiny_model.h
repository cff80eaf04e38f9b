/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A real, tiny model for tests of the engine: group set-up and tear-down of cmocka, and what they
 * open.
 */

#include "cpu/cpu_backend.h"
#include "model/checkpoint.h"
#include "text/tokenizer.h"
#include "util/buffer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct {
    char directory[64];
    Checkpoint *checkpoint;
    Tokenizer *tokenizer;
    Backend *backend;
} model;

/* For tests of what only such a backend promises. */
static inline void need_row_exact(const BackendOps *ops) {
    if (!ops->row_exact)
        skip();
}

static int setup_model(void **state) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    CpuBackendOptions options = { .n_threads = 2 };
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL, path = BUFFER_NULL;
    Reason why = REASON_NULL;

    (void)state;
    strcpy(model.directory, "/tmp/kvasir-test-engine-XXXXXX");
    if (!mkdtemp(model.directory))
        return -1;
    buffer_printf(&command, "tar -xJf '%s/tests/data/models/llama.tar.xz' -C '%s'",
                  root ? root : ".", model.directory);
    buffer_printf(&path, "%s/llama", model.directory);
    if (system(buffer_text(&command)) ||
        checkpoint_open(&model.checkpoint, buffer_text(&path), &why) ||
        tokenizer_open(&model.tokenizer, buffer_text(&path), &why) ||
        cpu_backend_new(&model.backend, &options, &why)) {
        print_error("%s\n", why.text);
        return -1;
    }
    return 0;
}

static int teardown_model(void **state) {
    CLEANUP(buffer_deinit) Buffer command = BUFFER_NULL;

    (void)state;
    tokenizer_free(model.tokenizer);
    checkpoint_free(model.checkpoint);
    cpu_ops.free(model.backend);
    buffer_printf(&command, "rm -rf '%s'", model.directory);
    return system(buffer_text(&command));
}
