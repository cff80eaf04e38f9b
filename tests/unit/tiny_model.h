/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A real, tiny model for tests of the engine: group set-up and tear-down of cmocka, and what they
 * open. KVASIR_TEST_BACKEND says on what it runs: "cpu", or "async", an asynchronous backend made
 * of that; KVASIR_TEST_STEPS_IN_FLIGHT how many steps the engine has in flight.
 */

#include "cpu/cpu_backend.h"
#include "model/checkpoint.h"
#include "tests/unit/async_backend.h"
#include "text/tokenizer.h"
#include "util/buffer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static struct {
    char directory[64];
    Checkpoint *checkpoint;
    Tokenizer *tokenizer;
    Backend *backend;
    BackendOps ops; /* of that */
    uint32_t steps_in_flight;
} model;

/* For tests of what only such a backend promises. */
static inline void need_row_exact(void) {
    if (!model.ops.row_exact)
        skip();
}

static inline int open_model_backend(Reason *why) {
    const char *name = getenv("KVASIR_TEST_BACKEND");
    const char *steps = getenv("KVASIR_TEST_STEPS_IN_FLIGHT");
    AsyncBackendOptions async = { .ops = &cpu_ops, .lingers = true, .seed = (uint64_t)time(NULL) };
    int r;

    model.steps_in_flight = steps ? (uint32_t)atoi(steps) : 1;
    model.ops = cpu_ops;
    r = cpu_backend_new(&model.backend, &(CpuBackendOptions){ .n_threads = 2 }, why);
    if (r || !name || !strcmp(name, "cpu"))
        return r;
    if (strcmp(name, "async"))
        return reason_set(why, -EINVAL, "KVASIR_TEST_BACKEND is \"%s\"", name);
    print_message("async backend, seed %llu\n", (unsigned long long)async.seed);
    model.ops = async_backend_ops(&cpu_ops);
    async.backend = model.backend;
    return async_backend_new(&model.backend, &async, why);
}

static int setup_model(void **state) {
    const char *root = getenv("KVASIR_SOURCE_ROOT");
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
        tokenizer_open(&model.tokenizer, buffer_text(&path), &why) || open_model_backend(&why)) {
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
    model.ops.free(model.backend);
    buffer_printf(&command, "rm -rf '%s'", model.directory);
    return system(buffer_text(&command));
}
