/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool of workers, each with the model's templates compiled. The first one finds the templates
 * and what they read; what it says about them is kept and given to every later one, so that all
 * are alike whatever has become of the files. Workers are started when there is no idle one, and
 * are ended when their answer does not come in time or is not waited for any more, when they have
 * grown, and with the ChatTemplate. The lock guards the pool and is never held while anything is
 * waited for but the pool itself.
 */
#include "text/chat_template.h"

#include "text/chat_template_gguf.h"
#include "text/chat_worker.h"
#include "util/json_tree.h"
#include "util/log.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define OPEN_TIME_MS_MAX 10000
#define OPEN_MEMORY_BYTES_MAX (512u << 20)
#define TEMPLATES_BYTES_MAX (512u << 20)
#define PROBE_TIME_MS_MIN 1000
/* Text in Python takes up to four bytes a character, and is there in pieces and joined. */
#define MEMORY_BYTES_BASE (64u << 20)
#define MEMORY_BYTES_PER_OUTPUT_BYTE 12
#define LOOK_UP_AFTER_NS (10 * 1000000) /* whether anybody still waits */
#define CHARGE_ATTEMPTS_MAX 8
#define START_ATTEMPTS_MAX 2

struct ChatTemplate {
    ChatTemplateOptions options;
    Buffer templates; /* for CHAT_WORKER_LOAD */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    uint32_t n_idle, n_busy;
    ChatWorker idle[CHAT_TEMPLATE_WORKERS_MAX]; /* [n_idle] */
};

/* What a model has, for CHAT_WORKER_OPEN. */
static int parts_make(Buffer *parts, const char *path, const char *source_path, Reason *why) {
    CLEANUP(gguf_free) Gguf *gguf = NULL;
    struct stat status;
    int r;

    if (stat(path, &status) < 0)
        return reason_set(why, -errno, "%s: %s", path, strerror(errno));
    if (source_path)
        chat_part_append(parts, "override", "", source_path, strlen(source_path));
    if (S_ISDIR(status.st_mode)) {
        chat_part_append(parts, "path", "", path, strlen(path));
    } else {
        r = gguf_open(&gguf, path, why);
        if (!r)
            r = gguf_chat_parts(gguf, parts, why);
        if (r)
            return r;
    }
    return buffer_failed(parts) ? reason_set(why, -ENOMEM, "no memory for a chat template") : 0;
}

/* Takes the words of an answer that is no success. */
static int take_words(ChatWorker *worker, int outcome, Reason *why) {
    CLEANUP(buffer_deinit) Buffer words = BUFFER_NULL;
    int r = chat_worker_take(worker, &words);

    if (r)
        return reason_set(why, r < 0 ? r : -EIO, "the chat template's answer did not come through");
    return reason_set(why, outcome, "%s", buffer_text(&words));
}

/* What a question's end, other than success, is here, with words for it. `doing` is what was done,
 * and `limited` the answer where a limit stopped it. */
static int end_as(ChatWorker *worker, int end, const ChatWorkerLimits *limits, const char *doing,
                  int limited, Reason *why) {
    switch (end) {
    case CHAT_WORKER_NO_TEMPLATE:
        return take_words(worker, CHAT_TEMPLATE_E_NONE, why);
    case CHAT_WORKER_RAISED:
        return take_words(worker, CHAT_TEMPLATE_E_RAISED, why);
    case CHAT_WORKER_BAD_MESSAGE:
        return take_words(worker, CHAT_TEMPLATE_E_MESSAGE, why);
    case CHAT_WORKER_OUTPUT_LIMIT:
        return take_words(worker, limited, why);
    case CHAT_WORKER_INVALID:
        return take_words(worker, -EINVAL, why);
    case CHAT_WORKER_NO_JINJA:
        end = take_words(worker, -ENOENT, why);
        return end == -ENOENT ? reason_prefix(why, end,
                                              "chat templates need the system's Python with "
                                              "Jinja2; install python3-jinja2: ")
                              : end;
    case CHAT_WORKER_BROKEN:
        return take_words(worker, -EIO, why);
    case CHAT_WORKER_OUT_OF_MEMORY:
        return reason_set(why, limited, "%s needs more than %llu bytes of memory", doing,
                          (unsigned long long)limits->memory_bytes);
    case CHAT_WORKER_TIMED_OUT:
        return reason_set(why, limited, "%s took longer than %llu ms", doing,
                          (unsigned long long)limits->time_ms);
    case CHAT_WORKER_DIED:
        return reason_set(why, limited, "%s ended the process that it runs in", doing);
    case -ECANCELED:
        return reason_set(why, end, "nobody waits for the prompt any more");
    default:
        return reason_set(why, end, "%s: %s", doing, strerror(-end));
    }
}

/* Compiles the model's templates in a new worker. */
static int templates_open(ChatTemplate *ct, ChatWorker *worker, const Buffer *parts, Reason *why) {
    static const ChatWorkerLimits limits = { .time_ms = OPEN_TIME_MS_MAX,
                                             .answer_bytes = TEMPLATES_BYTES_MAX,
                                             .memory_bytes = OPEN_MEMORY_BYTES_MAX };
    static const char doing[] = "compiling the chat template";
    int r = chat_worker_start(worker, why);

    if (r)
        return r;
    r = chat_worker_ask(worker, CHAT_WORKER_OPEN, parts->data, parts->size, &limits, NULL);
    if (!r)
        r = chat_worker_take(worker, &ct->templates);
    return r ? end_as(worker, r, &limits, doing, -EINVAL, why) : 0;
}

/* Lets the worker find out what the templates read. One that takes too long over short messages
 * keeps the usual forms; what becomes of it, requests will see. */
static void templates_probe(ChatTemplate *ct, ChatWorker *worker) {
    CLEANUP(buffer_deinit) Buffer probed = BUFFER_NULL;
    const uint64_t patience_ms = UINT64_C(2) * ct->options.time_ms_max;
    const ChatWorkerLimits limits = {
        .time_ms = patience_ms > OPEN_TIME_MS_MAX    ? OPEN_TIME_MS_MAX
                   : patience_ms < PROBE_TIME_MS_MIN ? PROBE_TIME_MS_MIN
                                                     : patience_ms,
        .answer_bytes = TEMPLATES_BYTES_MAX,
        .memory_bytes = OPEN_MEMORY_BYTES_MAX,
    };
    Reason why = REASON_NULL;
    int r = chat_worker_ask(worker, CHAT_WORKER_PROBE, NULL, 0, &limits, NULL);

    if (!r)
        r = chat_worker_take(worker, &probed);
    if (!r) {
        buffer_deinit(&ct->templates);
        ct->templates = probed;
        probed = (Buffer)BUFFER_NULL;
        return;
    }
    end_as(worker, r, &limits, "trying it on short messages", -EINVAL, &why);
    log_line(LOG_LEVEL_WARNING, "what the chat template reads could not be found out",
             "reason=\"%s\"", why.text);
    reason_log_origin(&why);
    chat_worker_close(worker);
}

static ChatTemplate *chat_template_new(const ChatTemplateOptions *options) {
    static const ChatTemplateOptions defaults = CHAT_TEMPLATE_OPTIONS_DEFAULT;
    ChatTemplate *ct = calloc(1, sizeof(*ct));

    if (!ct)
        return NULL;
    ct->options = options ? *options : defaults;
    ct->options.source_path = NULL; /* borrowed for the opening only */
    assert(ct->options.n_workers >= 1 && ct->options.n_workers <= CHAT_TEMPLATE_WORKERS_MAX);
    pthread_mutex_init(&ct->lock, NULL);
    pthread_cond_init(&ct->changed, NULL);
    return ct;
}

int chat_template_open(ChatTemplate **outp, const char *path, const ChatTemplateOptions *options,
                       Reason *why) {
    CLEANUP(chat_template_free) ChatTemplate *ct = chat_template_new(options);
    CLEANUP(buffer_deinit) Buffer parts = BUFFER_NULL;
    CLEANUP(chat_worker_close) ChatWorker worker = CHAT_WORKER_NULL;
    int r;

    if (!ct)
        return reason_set(why, -ENOMEM, "no memory for a chat template");
    r = parts_make(&parts, path, options ? options->source_path : NULL, why);
    if (!r)
        r = templates_open(ct, &worker, &parts, why);
    if (r)
        return r;
    templates_probe(ct, &worker);
    if (chat_worker_is_alive(&worker)) {
        ct->idle[ct->n_idle++] = worker;
        worker = (ChatWorker)CHAT_WORKER_NULL;
    }
    *outp = TAKE(ct);
    return 0;
}

int chat_template_sources(const ChatTemplate *ct, Buffer *out) {
    CLEANUP(json_unref) json_t *state = NULL;
    const json_t *name, *source;
    int r = json_parse(&state, ct->templates.data, ct->templates.size, 0, NULL);

    if (r)
        return r == -EINVAL ? 0 : r; /* half a surrogate pair, which Python takes for text */
    json_object_foreach(json_array_get(state, 0), name, source) {
        buffer_append(out, json_string_value(source), json_string_length(source));
        buffer_append_char(out, '\n');
    }
    return buffer_failed(out) ? -ENOMEM : 0;
}

ChatTemplate *chat_template_free(ChatTemplate *ct) {
    if (!ct)
        return NULL;
    assert(!ct->n_busy);
    while (ct->n_idle)
        chat_worker_close(&ct->idle[--ct->n_idle]);
    pthread_cond_destroy(&ct->changed);
    pthread_mutex_destroy(&ct->lock);
    buffer_deinit(&ct->templates);
    free(ct);
    return NULL;
}

/* Waits until one more worker may be busy, and takes an idle one where there is one. */
static int worker_take_idle(ChatTemplate *ct, ChatWorker *worker, Account *account) {
    struct timespec t;

    pthread_mutex_lock(&ct->lock);
    while (ct->n_busy == ct->options.n_workers && !account_is_closed(account)) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += LOOK_UP_AFTER_NS;
        if (t.tv_nsec >= 1000000000) {
            t.tv_nsec -= 1000000000;
            t.tv_sec++;
        }
        pthread_cond_clockwait(&ct->changed, &ct->lock, CLOCK_MONOTONIC, &t);
    }
    if (account_is_closed(account)) {
        pthread_mutex_unlock(&ct->lock);
        return -ECANCELED;
    }
    ct->n_busy++;
    if (ct->n_idle)
        *worker = ct->idle[--ct->n_idle];
    pthread_mutex_unlock(&ct->lock);
    return 0;
}

/* Gives back what worker_take_idle took. */
static void worker_give(ChatTemplate *ct, ChatWorker *worker) {
    ChatWorker gone = CHAT_WORKER_NULL;

    pthread_mutex_lock(&ct->lock);
    ct->n_busy--;
    if (chat_worker_is_alive(worker))
        ct->idle[ct->n_idle++] = *worker;
    else
        gone = *worker;
    *worker = (ChatWorker)CHAT_WORKER_NULL;
    pthread_cond_signal(&ct->changed);
    pthread_mutex_unlock(&ct->lock);
    chat_worker_close(&gone);
}

/* Puts a new worker, which knows the templates, in the place of one that is not alive. A nursery
 * that ended meanwhile takes the worker with it: then another try has another nursery. */
static int worker_require(const ChatTemplate *ct, ChatWorker *worker, Account *account,
                          Reason *why) {
    static const ChatWorkerLimits limits = { .time_ms = OPEN_TIME_MS_MAX,
                                             .memory_bytes = OPEN_MEMORY_BYTES_MAX };
    int r = chat_worker_is_alive(worker) ? 0 : CHAT_WORKER_DIED;

    for (int i = 0; r == CHAT_WORKER_DIED && i < START_ATTEMPTS_MAX; i++) {
        chat_worker_close(worker);
        r = chat_worker_start(worker, why);
        if (r)
            return r;
        r = chat_worker_ask(worker, CHAT_WORKER_LOAD, ct->templates.data, ct->templates.size,
                            &limits, account);
    }
    return r ? end_as(worker, r, &limits, "compiling the chat template", -EIO, why) : 0;
}

/* Charges what a worker may take, `*n_bytes` or what room there is. */
static int charge_memory(Account *account, uint64_t *n_bytes) {
    int r = -ENOMEM;

    for (int i = 0; r == -ENOMEM && i < CHARGE_ATTEMPTS_MAX; i++) {
        uint64_t room = account_room(account);

        if (room < *n_bytes)
            *n_bytes = room ? room : 1;
        r = account_charge(account, *n_bytes);
    }
    return r;
}

/* Lets the account remember whose limit it was that a template would have passed. */
static int refuse_memory(Account *account, uint64_t n_bytes, Reason *why) {
    if (account_charge(account, n_bytes) == 0)
        account_release(account, n_bytes);
    return reason_set(why, -ENOMEM,
                      "the chat template needs more memory than the request may take");
}

static int render(const ChatTemplate *ct, ChatWorker *worker, const char *request_json, size_t size,
                  Account *account, Buffer *out, Reason *why) {
    const uint64_t memory_bytes =
        MEMORY_BYTES_BASE + ct->options.output_bytes_max * MEMORY_BYTES_PER_OUTPUT_BYTE;
    ChatWorkerLimits limits = { .time_ms = ct->options.time_ms_max,
                                .answer_bytes = ct->options.output_bytes_max,
                                .memory_bytes = memory_bytes };
    int r = charge_memory(account, &limits.memory_bytes);

    if (r == -ENOMEM)
        return reason_set(why, r, "there is no memory left for the chat template");
    if (!r) {
        r = chat_worker_ask(worker, CHAT_WORKER_RENDER, request_json, size, &limits, account);
        account_release(account, limits.memory_bytes);
    }
    if (r == CHAT_WORKER_OUT_OF_MEMORY && limits.memory_bytes < memory_bytes)
        return refuse_memory(account, limits.memory_bytes + 1, why);
    if (!r)
        r = chat_worker_take(worker, out);
    return r ? end_as(worker, r, &limits, "the chat template", CHAT_TEMPLATE_E_LIMIT, why) : 0;
}

int chat_template_render(ChatTemplate *ct, const char *request_json, size_t size, Account *account,
                         Buffer *out, Reason *why) {
    ChatWorker worker = CHAT_WORKER_NULL;
    int r = worker_take_idle(ct, &worker, account);

    if (r)
        return reason_set(why, r, "nobody waits for the prompt any more");
    r = worker_require(ct, &worker, account, why);
    if (!r)
        r = render(ct, &worker, request_json, size, account, out, why);
    worker_give(ct, &worker);
    return r;
}
