/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The interpreter is started by the first task and lives as long as the process: CPython cannot be
 * taken down and brought up again without leaking. The lock of this file guards the queue and is
 * never held while Python runs or while waiting for Python's own lock.
 *
 * Time: a second thread, the alarm, waits to be told to stop the running task. It takes Python's
 * lock, which Python gives up between bytecodes, and raises LimitReached in the interpreter's
 * thread. Only the alarm ever waits for that lock, so a task that never gives it up holds up
 * nobody else. (Python's "pending calls" need no lock, but up to 3.12 they are not noticed when
 * another thread adds them.)
 *
 * Memory: all of Python's allocations come through here and are counted. Past the limit a large
 * one fails, which Python reports as MemoryError; small ones, whose failure is the less travelled
 * path, still succeed up to twice the limit while the alarm stops the code. Beyond that, and in a
 * task that is long past its time because it is in C code that never looks up, one small one in
 * REFUSE_ONE_OF fails, which ends most of such code. (Not every one: from 3.12 on, Python's way
 * to an exception handler allocates, and repeats itself until that succeeds.)
 *
 * The interpreter is that of the system, whatever PATH, PYTHONHOME and PYTHONPATH say, and sees
 * the system's packages only: no site module, no user directory, no current directory.
 */

#include <Python.h>

#include "model/chat_template_python.h"
#include "model/chat_template_source.h"
#include "model/python_home.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define STACK_BYTES (32u << 20) /* Python counts its recursion, not its stack */
#define ALARM_STACK_BYTES (256u << 10)
#define STARVE_AFTER_NS (1000 * INT64_C(1000000)) /* past the deadline, likewise the next */
#define GIVE_UP_AFTER_NS (5000 * INT64_C(1000000))
#define RAISE_AGAIN_NS (20 * INT64_C(1000000))
#define SMALL_ALLOCATION_BYTES (64u << 10)
#define REFUSE_ONE_OF 64

typedef enum PythonState {
    PYTHON_NOT_STARTED,
    PYTHON_STARTING,
    PYTHON_READY,
    PYTHON_FAILED,
} PythonState;

static struct {
    pthread_mutex_t lock; /* guards everything here but what says otherwise */
    pthread_cond_t changed;
    PythonState state;
    Reason failure; /* why the state is PYTHON_FAILED */
    List tasks;     /* waiting */
    PythonTask *running;
    bool stuck;              /* `running` outran its grace and may never end */
    atomic_bool stop_wanted; /* of `running` */
    atomic_bool starve;      /* `running` gets no more memory */
    sem_t alarm, alarm_ready;
    unsigned long thread_id;          /* Python's name for the interpreter's thread */
    PyObject *module, *limit_reached; /* to be used with Python's lock held */
} python = { .lock = PTHREAD_MUTEX_INITIALIZER, .tasks = LIST_INIT(python.tasks) };

/* Interpreter thread only, like every allocation of Python's. */
static struct {
    int64_t used_bytes; /* may be off by what Python took before it was counted */
    int64_t limit_bytes;
    bool refused;
    uint32_t n_begrudged; /* small ones past twice the limit, or the time */
} memory = { .limit_bytes = INT64_MAX };

static int64_t clock_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Any thread; again and again until the task ends, since code may be where nothing can be raised.
 */
static void stop_running(void) {
    atomic_store(&python.stop_wanted, true);
    sem_post(&python.alarm);
}

static void *alarm_main(void *interpreter) {
    /* The interpreter's thread waits meanwhile: nothing here allocates while Python may. */
    PyThreadState *state = PyThreadState_New(interpreter);

    sem_post(&python.alarm_ready);
    while (state) {
        while (sem_wait(&python.alarm) < 0)
            ;
        PyEval_RestoreThread(state);
        if (atomic_load(&python.stop_wanted))
            PyThreadState_SetAsyncExc(python.thread_id, python.limit_reached);
        PyEval_SaveThread();
    }
    return NULL;
}

/* Forgets a stop that has not been noticed yet. Python's lock held. */
static void stop_forget(void) {
    atomic_store(&python.stop_wanted, false);
    atomic_store(&python.starve, false);
    PyThreadState_SetAsyncExc(python.thread_id, NULL);
}

static bool memory_allows(size_t size) {
    bool starve = atomic_load_explicit(&python.starve, memory_order_relaxed);
    int64_t excess;

    if (size > PTRDIFF_MAX)
        return false;
    excess = (int64_t)size - (memory.limit_bytes - memory.used_bytes);
    if (excess > 0 && !memory.refused) {
        memory.refused = true;
        stop_running();
    }
    if (size >= SMALL_ALLOCATION_BYTES && (excess > 0 || starve))
        return false;
    if (starve || excess >= memory.limit_bytes)
        return ++memory.n_begrudged % REFUSE_ONE_OF != 0;
    return true;
}

static void *count_allocation(void *p) {
    if (p)
        memory.used_bytes += (int64_t)malloc_usable_size(p);
    return p;
}

static void *limited_malloc(void *unused, size_t size) {
    (void)unused;
    return memory_allows(size) ? count_allocation(malloc(size ? size : 1)) : NULL;
}

static void *limited_calloc(void *unused, size_t n, size_t size) {
    size_t bytes;

    (void)unused;
    if (__builtin_mul_overflow(n, size, &bytes) || !memory_allows(bytes))
        return NULL;
    return count_allocation(bytes ? calloc(1, bytes) : malloc(1));
}

static void *limited_realloc(void *unused, void *p, size_t size) {
    size_t old_bytes = p ? malloc_usable_size(p) : 0;
    void *moved;

    (void)unused;
    if (size > old_bytes && !memory_allows(size - old_bytes))
        return NULL;
    moved = realloc(p, size ? size : 1);
    if (moved)
        memory.used_bytes -= (int64_t)old_bytes;
    return count_allocation(moved);
}

static void limited_free(void *unused, void *p) {
    (void)unused;
    if (p)
        memory.used_bytes -= (int64_t)malloc_usable_size(p);
    free(p);
}

static void memory_take_over(void) {
    PyMemAllocatorEx allocator = {
        .malloc = limited_malloc,
        .calloc = limited_calloc,
        .realloc = limited_realloc,
        .free = limited_free,
    };

    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &allocator);
    PyMem_SetAllocator(PYMEM_DOMAIN_MEM, &allocator);
    PyMem_SetAllocator(PYMEM_DOMAIN_OBJ, &allocator);
}

static int status_failed(PyStatus status, Reason *why) {
    return reason_set(why, -EIO, "Python in %s cannot be started: %s", PYTHON_HOME,
                      status.err_msg ? status.err_msg : "no reason given");
}

static int interpreter_start(Reason *why) {
    PyPreConfig preconfig;
    PyConfig config;
    PyStatus status;

    PyPreConfig_InitIsolatedConfig(&preconfig);
    preconfig.utf8_mode = 1;
    preconfig.allocator = PYMEM_ALLOCATOR_MALLOC;
    status = Py_PreInitialize(&preconfig);
    if (PyStatus_Exception(status))
        return status_failed(status, why);
    memory_take_over();

    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.write_bytecode = 0;
    config.pathconfig_warnings = 0;
    config.install_signal_handlers = 0;
    status = PyConfig_SetBytesString(&config, &config.home, PYTHON_HOME);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesString(&config, &config.program_name, PYTHON_HOME "/bin/python3");
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return PyStatus_Exception(status) ? status_failed(status, why) : 0;
}

/* Where Debian and its kin keep packages, and where others do. */
static bool paths_add(void) {
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    PyObject *folders[] = {
        PyUnicode_FromString(PYTHON_HOME "/lib/python3/dist-packages"),
        PyUnicode_FromFormat("%s/lib/python%d.%d/site-packages", PYTHON_HOME, PY_MAJOR_VERSION,
                             PY_MINOR_VERSION),
    };
    bool added = path != NULL;

    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        added = added && folders[i] && PyList_Append(path, folders[i]) == 0;
        Py_XDECREF(folders[i]);
    }
    return added;
}

static bool module_load(void) {
    PyObject *code;

    code = Py_CompileString((const char *)chat_template_source, "chat_template.py", Py_file_input);
    if (!code)
        return false;
    python.module = PyImport_ExecCodeModule("kvasir_chat_template", code);
    Py_DECREF(code);
    if (!python.module)
        return false;
    python.limit_reached = PyObject_GetAttrString(python.module, "LimitReached");
    return python.limit_reached != NULL;
}

/* A detached thread that takes no signals. */
static int thread_start(void *(*main)(void *), void *arg, size_t stack_bytes) {
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_t thread;
    int r;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, stack_bytes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, &attributes, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return -r;
}

static int alarm_start(Reason *why) {
    int r;

    python.thread_id = PyThread_get_thread_ident();
    r = thread_start(alarm_main, PyInterpreterState_Get(), ALARM_STACK_BYTES);
    if (r < 0)
        return reason_set(why, r, "no thread to limit chat templates: %s", strerror(-r));
    while (sem_wait(&python.alarm_ready) < 0)
        ;
    return 0;
}

static int interpreter_init(Reason *why) {
    PyObject *type, *value, *traceback, *text;
    const char *words = NULL;
    int r = interpreter_start(why);

    if (r < 0)
        return r;
    if (paths_add() && module_load())
        return alarm_start(why);
    PyErr_Fetch(&type, &value, &traceback);
    text = value ? PyObject_Str(value) : NULL;
    if (text)
        words = PyUnicode_AsUTF8(text);
    r = reason_set(why, -ENOENT,
                   "chat templates need Python's Jinja2, from %s: %s; install python3-jinja2",
                   PYTHON_HOME, words ? words : "unknown error");
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return r;
}

static int task_run(PythonTask *task) {
    int r;

    stop_forget();
    memory.refused = false;
    if (task->memory_bytes_max)
        memory.limit_bytes = memory.used_bytes + (int64_t)task->memory_bytes_max;
    if (task->run(task))
        r = 0;
    else if (memory.refused)
        r = PYTHON_E_MEMORY;
    else if (atomic_load(&python.stop_wanted))
        r = PYTHON_E_TIME;
    else
        r = task->fail(task);
    /* Whatever was raised holds the frames it came through, and with them the memory. */
    stop_forget();
    memory.limit_bytes = INT64_MAX;
    PyErr_Clear();
    return r;
}

/* Runs all tasks, for ever. */
static void serve_tasks(void) {
    PyThreadState *python_state = PyEval_SaveThread();
    PythonTask *task;
    int outcome;

    pthread_mutex_lock(&python.lock);
    for (;;) {
        while (list_is_empty(&python.tasks))
            pthread_cond_wait(&python.changed, &python.lock);
        task = container_of(list_pop_front(&python.tasks), PythonTask, link);
        task->deadline_ns = clock_ns() + task->time_ms_max * INT64_C(1000000);
        python.running = task;
        pthread_cond_broadcast(&python.changed);
        pthread_mutex_unlock(&python.lock);

        PyEval_RestoreThread(python_state);
        outcome = task_run(task);
        python_state = PyEval_SaveThread();

        pthread_mutex_lock(&python.lock);
        python.running = NULL;
        task->outcome = outcome;
        task->done = true;
        if (task->nobody_waits) {
            python.stuck = false;
            task->free(task);
        }
        pthread_cond_broadcast(&python.changed);
    }
}

static void *interpreter_main(void *unused) {
    Reason why = REASON_NULL;
    int r = interpreter_init(&why);

    (void)unused;
    pthread_mutex_lock(&python.lock);
    python.state = r < 0 ? PYTHON_FAILED : PYTHON_READY;
    python.failure = why;
    pthread_cond_broadcast(&python.changed);
    pthread_mutex_unlock(&python.lock);
    if (r == 0)
        serve_tasks();
    return NULL;
}

static void waiting_init(void) {
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&python.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    sem_init(&python.alarm, 0, 0);
    sem_init(&python.alarm_ready, 0, 0);
}

/* Brings the interpreter up if nobody has yet. Lock held. */
static int interpreter_require(Reason *why) {
    int r;

    if (python.state == PYTHON_NOT_STARTED) {
        waiting_init();
        r = thread_start(interpreter_main, NULL, STACK_BYTES);
        if (r < 0)
            return reason_set(why, r, "no thread for the Python interpreter: %s", strerror(-r));
        python.state = PYTHON_STARTING;
    }
    while (python.state == PYTHON_STARTING)
        pthread_cond_wait(&python.changed, &python.lock);
    if (python.state == PYTHON_FAILED)
        return reason_set(why, -ENOENT, "%s", python.failure.text);
    return 0;
}

static void wait_until(int64_t when_ns) {
    struct timespec t = { .tv_sec = when_ns / 1000000000, .tv_nsec = when_ns % 1000000000 };

    pthread_cond_timedwait(&python.changed, &python.lock, &t);
}

/* Waits for the end of a queued task and stops it in time. Lock held. */
static int wait_for_end(PythonTask **taskp) {
    PythonTask *task = *taskp;
    int64_t now_ns;

    while (!task->done) {
        now_ns = clock_ns();
        if (python.running != task) {
            if (python.stuck) {
                list_remove(&task->link);
                return PYTHON_E_STUCK;
            }
            pthread_cond_wait(&python.changed, &python.lock);
        } else if (now_ns < task->deadline_ns) {
            wait_until(task->deadline_ns);
        } else if (now_ns < task->deadline_ns + GIVE_UP_AFTER_NS) {
            stop_running();
            if (now_ns > task->deadline_ns + STARVE_AFTER_NS)
                atomic_store(&python.starve, true);
            wait_until(now_ns + RAISE_AGAIN_NS);
        } else {
            python.stuck = true;
            task->nobody_waits = true;
            *taskp = NULL;
            pthread_cond_broadcast(&python.changed);
            return PYTHON_E_STUCK;
        }
    }
    return task->outcome;
}

int python_run(PythonTask **taskp, Reason *why) {
    int r;

    pthread_mutex_lock(&python.lock);
    r = interpreter_require(why);
    if (r == 0) {
        list_push_back(&python.tasks, &(*taskp)->link);
        pthread_cond_broadcast(&python.changed);
        r = wait_for_end(taskp);
    }
    pthread_mutex_unlock(&python.lock);
    return r;
}

void python_post(PythonTask *task) {
    task->nobody_waits = true;
    pthread_mutex_lock(&python.lock);
    list_push_back(&python.tasks, &task->link);
    pthread_cond_broadcast(&python.changed);
    pthread_mutex_unlock(&python.lock);
}

PyObject *python_lookup(const char *name) {
    PyObject *found = PyDict_GetItemString(PyModule_GetDict(python.module), name);

    assert(found);
    return found;
}
