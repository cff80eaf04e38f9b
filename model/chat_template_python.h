/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The embedded Python interpreter: one in the process, on a thread of its own, on which all Python
 * runs and nothing else may touch a PyObject. Callers hand it tasks and wait; tasks run one at a
 * time, each with a limit on time and memory.
 *
 * A task past its time has an exception raised into it, again and again until it ends. One C
 * function that runs for ever cannot be stopped so: after a grace period its caller is let go, and
 * until the task ends, if it does, every other task is refused instead of waiting for it.
 */

#include "util/cleanup.h"
#include "util/list.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct PythonTask PythonTask;
typedef struct _object PyObject;

struct PythonTask {
    /* On the interpreter thread; true if it came to its end, false with the Python exception set.
     */
    bool (*run)(PythonTask *task);
    /* Any thread. */
    void (*free)(PythonTask *task);
    /* On the interpreter thread, after `run` failed for another reason than a limit: takes the
     * exception, and its answer is what python_run returns. */
    int (*fail)(PythonTask *task);
    uint32_t time_ms_max;
    size_t memory_bytes_max; /* beyond what the interpreter held before; 0: no limit */

    List link; /* from here on the interpreter's */
    int64_t deadline_ns;
    int outcome;
    bool done, nobody_waits;
};

static inline PythonTask *python_task_free(PythonTask *task) {
    if (task)
        task->free(task);
    return NULL;
}
CLEANUP_DEFINE(PythonTask, python_task_free);

enum {
    _PYTHON_E_SUCCESS,
    PYTHON_E_TIME = 100, /* the numbers below are for the tasks' own outcomes */
    PYTHON_E_MEMORY,
    PYTHON_E_STUCK, /* some task cannot be stopped: this one, which then is consumed, or another */
};

/* Runs `*taskp` and waits for its end. 0, what `fail` answered, a PYTHON_E_*, or -errno with `why`
 * where there is no interpreter (no Jinja2, say). `*taskp` is NULL afterwards if it was consumed.
 */
int python_run(PythonTask **taskp, Reason *why);

/* Hands over a task that nobody waits for, once python_run has succeeded; consumed. */
void python_post(PythonTask *task);

/* A name in chat_template.py; borrowed. Interpreter thread only. */
PyObject *python_lookup(const char *name);
