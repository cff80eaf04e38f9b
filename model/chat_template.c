/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The C half: finds the templates and special tokens of a model, and carries requests to the
 * Python half (chat_template.py) on the interpreter's thread and prompts back. State: one Python
 * object a model, which only that thread may touch.
 *
 * A rendering that cannot be stopped outlives its caller and may outlive the ChatTemplate, so
 * tasks own copies of what they use and a reference to the Python object's holder.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "model/chat_template.h"

#include "model/chat_template_gguf.h"
#include "model/chat_template_python.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#define OPEN_TIME_MS_MAX 10000
#define OPEN_MEMORY_BYTES_MAX (512u << 20)
/* Text in Python takes up to four bytes a character, and is there in pieces and joined. */
#define MEMORY_BYTES_BASE (64u << 20)
#define MEMORY_BYTES_PER_OUTPUT_BYTE 12

/* The Python object of a model, kept until the last task that uses it is gone. */
typedef struct Renderer {
    PythonTask release; /* runs once, at the end */
    atomic_uint n_refs;
    PyObject *object; /* owned; interpreter thread only */
} Renderer;

struct ChatTemplate {
    Renderer *renderer; /* a reference */
    ChatTemplateOptions options;
};

typedef struct OpenTask {
    PythonTask task;
    char *path;         /* owned */
    char *source_path;  /* owned; or NULL */
    Gguf *gguf;         /* owned; NULL for a directory */
    Renderer *renderer; /* a reference; its object is what comes out */
    Reason why;
} OpenTask;

typedef struct RenderTask {
    PythonTask task;
    Renderer *renderer; /* a reference */
    char *request;      /* owned; [size] */
    size_t size, output_bytes_max;
    Buffer prompt;
    Reason why;
} RenderTask;

static bool renderer_release(PythonTask *task) {
    Renderer *renderer = container_of(task, Renderer, release);

    Py_CLEAR(renderer->object);
    return true;
}

static void renderer_free(PythonTask *task) {
    free(container_of(task, Renderer, release));
}

static Renderer *renderer_new(void) {
    Renderer *renderer = calloc(1, sizeof(*renderer));

    if (!renderer)
        return NULL;
    renderer->release.run = renderer_release;
    renderer->release.free = renderer_free;
    atomic_init(&renderer->n_refs, 1);
    return renderer;
}

static Renderer *renderer_ref(Renderer *renderer) {
    atomic_fetch_add(&renderer->n_refs, 1);
    return renderer;
}

/* `object` is only looked at by the last holder, after every task that could set it. */
static void renderer_unref(Renderer *renderer) {
    if (!renderer || atomic_fetch_sub(&renderer->n_refs, 1) > 1)
        return;
    if (renderer->object)
        python_post(&renderer->release);
    else
        free(renderer);
}

/* The exceptions of chat_template.py and what they mean here. */
static const struct {
    const char *name;
    int outcome;
} exceptions[] = {
    { "NoTemplate", CHAT_TEMPLATE_E_NONE },
    { "Raised", CHAT_TEMPLATE_E_RAISED },
    { "OutputLimit", CHAT_TEMPLATE_E_LIMIT },
    { "Invalid", -EINVAL },
};

/* Takes the exception that is set; -EIO for one that nobody foresaw. */
static int exception_take(Reason *why) {
    PyObject *type, *value, *traceback, *text;
    const char *words = NULL;
    int r = -EIO;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    for (size_t i = 0; i < sizeof(exceptions) / sizeof(exceptions[0]); i++)
        if (PyErr_GivenExceptionMatches(type, python_lookup(exceptions[i].name)))
            r = exceptions[i].outcome;
    text = value ? PyObject_Str(value) : NULL;
    if (text)
        words = PyUnicode_AsUTF8(text);
    if (r == -EIO)
        reason_set(why, r, "chat templates: %s: %s", ((PyTypeObject *)type)->tp_name,
                   words ? words : "no words");
    else
        reason_set(why, r, "%s", words ? words : "no words");
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return r;
}

static PyObject *open_gguf(const OpenTask *open) {
    PyObject *templates = gguf_chat_templates(open->gguf);
    PyObject *tokens = templates ? gguf_special_tokens(open->gguf) : NULL;
    PyObject *object = NULL;

    if (tokens)
        object = PyObject_CallFunction(python_lookup("open_parts"), "OOy", templates, tokens,
                                       open->source_path);
    Py_XDECREF(templates);
    Py_XDECREF(tokens);
    return object;
}

static bool open_run(PythonTask *task) {
    OpenTask *open = container_of(task, OpenTask, task);

    if (open->gguf)
        open->renderer->object = open_gguf(open);
    else
        open->renderer->object = PyObject_CallFunction(python_lookup("open_directory"), "yy",
                                                       open->path, open->source_path);
    return open->renderer->object != NULL;
}

static int open_fail(PythonTask *task) {
    return exception_take(&container_of(task, OpenTask, task)->why);
}

static void open_free(PythonTask *task) {
    OpenTask *open = container_of(task, OpenTask, task);

    renderer_unref(open->renderer);
    gguf_free(open->gguf);
    free(open->source_path);
    free(open->path);
    free(open);
}

static bool render_run(PythonTask *task) {
    RenderTask *render = container_of(task, RenderTask, task);
    PyObject *prompt;

    prompt = PyObject_CallMethod(render->renderer->object, "render", "y#n", render->request,
                                 (Py_ssize_t)render->size, (Py_ssize_t)render->output_bytes_max);
    if (!prompt)
        return false;
    assert(PyBytes_Check(prompt));
    buffer_append(&render->prompt, PyBytes_AS_STRING(prompt), (size_t)PyBytes_GET_SIZE(prompt));
    Py_DECREF(prompt);
    return true;
}

static int render_fail(PythonTask *task) {
    return exception_take(&container_of(task, RenderTask, task)->why);
}

static void render_free(PythonTask *task) {
    RenderTask *render = container_of(task, RenderTask, task);

    renderer_unref(render->renderer);
    buffer_deinit(&render->prompt);
    free(render->request);
    free(render);
}

/* Runs a task and puts the reason for any other end than 0 into `why`. `words` is where the task's
 * own go; `limited` is the answer where a limit stopped it. */
static int task_run(PythonTask **taskp, const Reason *words, const char *doing, int limited,
                    Reason *why) {
    const uint32_t time_ms_max = (*taskp)->time_ms_max;
    const size_t memory_bytes_max = (*taskp)->memory_bytes_max;
    int r = python_run(taskp, why);

    switch (r) {
    case PYTHON_E_TIME:
        return reason_set(why, limited, "%s took longer than %u ms", doing, time_ms_max);
    case PYTHON_E_MEMORY:
        return reason_set(why, limited, "%s needs more than %zu bytes of memory", doing,
                          memory_bytes_max);
    case PYTHON_E_STUCK:
        return reason_set(
            why, limited,
            "a chat template does not end and cannot be stopped: until it ends or the "
            "daemon is restarted, there are no chat prompts");
    default:
        return words->text[0] ? reason_set(why, r, "%s", words->text) : r;
    }
}

static OpenTask *open_task_new(const char *path, const char *source_path) {
    OpenTask *open = calloc(1, sizeof(*open));

    if (!open)
        return NULL;
    open->task = (PythonTask){
        .run = open_run,
        .fail = open_fail,
        .free = open_free,
        .time_ms_max = OPEN_TIME_MS_MAX,
        .memory_bytes_max = OPEN_MEMORY_BYTES_MAX,
    };
    open->path = strdup(path);
    open->source_path = source_path ? strdup(source_path) : NULL;
    open->renderer = renderer_new();
    if (!open->path || !open->renderer || (source_path && !open->source_path)) {
        open_free(&open->task);
        return NULL;
    }
    return open;
}

int chat_template_open(ChatTemplate **outp, const char *path, const ChatTemplateOptions *options,
                       Reason *why) {
    static const ChatTemplateOptions defaults = CHAT_TEMPLATE_OPTIONS_DEFAULT;
    CLEANUP(chat_template_free) ChatTemplate *chat_template = calloc(1, sizeof(*chat_template));
    CLEANUP(python_task_free) PythonTask *task = NULL;
    OpenTask *open = open_task_new(path, options ? options->source_path : NULL);
    struct stat status;
    int r = 0;

    if (open)
        task = &open->task;
    if (!chat_template || !task)
        return reason_set(why, -ENOMEM, "no memory for a chat template");
    chat_template->options = options ? *options : defaults;
    chat_template->options.source_path = NULL; /* borrowed for this call only */
    if (stat(path, &status) < 0)
        return reason_set(why, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(status.st_mode))
        r = gguf_open(&open->gguf, path, why);
    if (r == 0)
        r = task_run(&task, &open->why, "compiling the chat template", -EINVAL, why);
    if (r)
        return r;
    chat_template->renderer = renderer_ref(open->renderer);
    *outp = TAKE(chat_template);
    return 0;
}

ChatTemplate *chat_template_free(ChatTemplate *chat_template) {
    if (!chat_template)
        return NULL;
    renderer_unref(chat_template->renderer);
    free(chat_template);
    return NULL;
}

static RenderTask *render_task_new(const ChatTemplate *chat_template, const char *request_json,
                                   size_t size) {
    const ChatTemplateOptions *options = &chat_template->options;
    RenderTask *render = calloc(1, sizeof(*render));

    if (!render)
        return NULL;
    render->task = (PythonTask){
        .run = render_run,
        .fail = render_fail,
        .free = render_free,
        .time_ms_max = options->time_ms_max,
        .memory_bytes_max =
            MEMORY_BYTES_BASE + options->output_bytes_max * MEMORY_BYTES_PER_OUTPUT_BYTE,
    };
    render->renderer = renderer_ref(chat_template->renderer);
    render->size = size;
    render->output_bytes_max = options->output_bytes_max;
    render->request = malloc(size + 1);
    if (!render->request) {
        render_free(&render->task);
        return NULL;
    }
    memcpy(render->request, request_json, size);
    return render;
}

int chat_template_render(ChatTemplate *chat_template, const char *request_json, size_t size,
                         Buffer *out, Reason *why) {
    RenderTask *render = render_task_new(chat_template, request_json, size);
    CLEANUP(python_task_free) PythonTask *task = render ? &render->task : NULL;
    int r;

    if (!task)
        return reason_set(why, -ENOMEM, "no memory for a chat prompt");
    r = task_run(&task, &render->why, "the chat template", CHAT_TEMPLATE_E_LIMIT, why);
    if (r)
        return r;
    buffer_append(out, render->prompt.data, render->prompt.size);
    if (buffer_failed(&render->prompt) || buffer_failed(out))
        return reason_set(why, -ENOMEM, "no memory for a chat prompt");
    return 0;
}
