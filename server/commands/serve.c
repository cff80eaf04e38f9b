/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listener is up before the model is there, so that health checks see "loading" and not
 * nothing; the model is loaded by libuv's pool. SIGTERM and SIGINT drain: no new connections,
 * what is in flight finishes, then the process ends with status 0. A second signal, or the drain
 * timeout, cancels what is left. SIGHUP reads the configuration again.
 *
 * A device that was lost does not come back to this process: for a moment everybody who asks hears
 * of it, then the process ends with status 1, for its supervisor to start another.
 *
 * The loop ends by itself when its last handle is closed, which `end_if_done` sees to. Signals are
 * watched longer, and blocked for the rest: one that comes while the process cleans up is not to
 * kill it.
 */
#include "server/commands/serve.h"

#include "server/api/api.h"
#include "server/commands/notify.h"
#include "server/commands/served_model.h"
#include "server/http/cors.h"
#include "util/log.h"
#include "util/utf8.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#define FILES_BESIDE_CONNECTIONS 128 /* standard streams, the loop's own, the model's */
#define CANCEL_GRACE_MS 2000         /* for clients to take the end of what was cancelled */
#define LOST_GRACE_MS 1000           /* for clients and health checks to hear of a lost device */

typedef struct Server {
    const Config *config; /* borrowed */
    Config reloaded;      /* what the last SIGHUP brought; CONFIG_NULL before */
    uv_loop_t loop;
    uv_signal_t on_term, on_int, on_hup;
    uv_timer_t drain_timer;
    uv_work_t load;
    HttpServer *http; /* owned */
    Account requests_memory;
    AccessLog access_log;
    Api api;
    ServedModel model;
    char *name; /* of the model, owned */
    bool http_done, ending, loading;
    int load_result;
    Reason *why;
} Server;

/* ending */

static void end_if_done(Server *s) {
    if (s->ending || !s->http_done || s->loading || !list_is_empty(&s->api.jobs))
        return;
    s->ending = true;
    api_close(&s->api);
    uv_close((uv_handle_t *)&s->drain_timer, NULL);
}

static void on_http_empty(void *userdata) {
    Server *s = userdata;

    s->http_done = true;
    end_if_done(s);
}

static void on_jobs_done(void *userdata) {
    end_if_done(userdata);
}

static void on_grace_over(uv_timer_t *timer) {
    Server *s = timer->data;

    http_server_abort(s->http);
}

static void on_lost_told(uv_timer_t *timer) {
    Server *s = timer->data;

    http_server_drain(s->http);
    uv_timer_start(timer, on_grace_over, CANCEL_GRACE_MS, 0);
}

/* Every request ends by itself with an error; a drain that was under way goes on so. */
static void on_lost(void *userdata) {
    Server *s = userdata;

    s->load_result = reason_set(s->why, -ENODEV, "the device that runs the model was lost");
    notify_send("STATUS=%s", s->why->text);
    uv_timer_start(&s->drain_timer, on_lost_told, LOST_GRACE_MS, 0);
}

static void cancel(Server *s, const char *because) {
    if (s->api.cancelling)
        return;
    log_line(LOG_LEVEL_WARNING, "cancelling what is in flight", "because=%s", because);
    uv_timer_start(&s->drain_timer, on_grace_over, CANCEL_GRACE_MS, 0);
    api_cancel_all(&s->api);
}

static void on_drain_timeout(uv_timer_t *timer) {
    cancel(timer->data, "drain_timeout");
}

static void drain(Server *s) {
    notify_send("STOPPING=1\nSTATUS=Finishing what is in flight");
    log_line(LOG_LEVEL_INFO, "finishing what is in flight; a second signal cancels it",
             "drain_timeout_ms=%" PRIu64, s->config->drain_timeout_ms);
    s->api.state = API_DRAINING;
    uv_timer_start(&s->drain_timer, on_drain_timeout, s->config->drain_timeout_ms, 0);
    http_server_drain(s->http);
}

static void on_end_signal(uv_signal_t *signal, int number) {
    Server *s = signal->data;

    if (s->ending)
        return;
    if (s->loading) { /* nothing is in flight, and loading cannot be stopped midway */
        notify_send("STOPPING=1");
        log_line(LOG_LEVEL_INFO, "stopped while loading", "signal=%s", strsignal(number));
        _exit(0);
    }
    if (s->api.state == API_LOST)
        return; /* it ends in a moment, with a status that says why */
    if (s->api.state == API_DRAINING)
        cancel(s, "a second signal");
    else
        drain(s);
}

/* reloading */

static void on_reload_signal(uv_signal_t *signal, int number) {
    Server *s = signal->data;
    Config fresh = CONFIG_NULL;
    Reason why = REASON_NULL;
    uint32_t n_left;

    (void)number;
    if (access_log_reopen(&s->access_log, &why)) {
        log_line(LOG_LEVEL_ERROR, "the access log stays where it was", "reason=%s", why.text);
        reason_log_origin(&why);
    }
    if (config_reload(&fresh, s->reloaded.origins ? &s->reloaded : s->config, &n_left, &why)) {
        log_line(LOG_LEVEL_ERROR, "the configuration stays as it was", "reason=%s", why.text);
        reason_log_origin(&why);
        return;
    }
    log_set_level(fresh.log_level);
    log_line(LOG_LEVEL_INFO, "read the configuration again", "left_for_restart=%" PRIu32, n_left);
    config_deinit(&s->reloaded);
    s->reloaded = fresh;
}

/* loading */

static void on_phase(const char *phase, void *userdata) {
    Server *s = userdata;

    atomic_store(&s->api.phase, phase);
    notify_send("STATUS=%s", phase);
    log_line(LOG_LEVEL_INFO, phase, "model=%s", s->config->model);
}

static void on_load(uv_work_t *work) {
    Server *s = container_of(work, Server, load);

    s->load_result = served_model_load(&s->model, s->config, &s->api.events, &s->requests_memory,
                                       on_phase, s, s->why);
    if (!s->load_result)
        s->load_result = engine_start(s->model.engine);
}

static void on_loaded(uv_work_t *work, int status) {
    Server *s = container_of(work, Server, load);
    char address[64];

    (void)status; /* never cancelled */
    s->loading = false;
    if (s->load_result) {
        notify_send("STATUS=%s", s->why->text);
        http_server_drain(s->http);
        http_server_abort(s->http);
        return;
    }
    s->api.model = (ApiModel){ .checkpoint = s->model.checkpoint,
                               .tokenizer = s->model.tokenizer,
                               .chat_template = s->model.chat_template,
                               .forms = s->model.forms,
                               .engine = s->model.engine,
                               .grammars = s->model.grammars,
                               .profile = s->model.profile,
                               .plan = &s->model.plan->plan,
                               .expected_kld = s->model.plan->damage,
                               .tokenizer_info = &s->model.tokenizer_info,
                               .plan_json = &s->model.plan_json,
                               .created_s = time(NULL) };
    s->api.state = API_READY;
    fputs(buffer_text(&s->model.plan_text), stderr);
    http_server_address(s->http, address, sizeof(address));
    log_line(LOG_LEVEL_INFO, "ready", "url=http://%s model=%s", address, s->name);
    notify_send("READY=1\nSTATUS=Serving %s at http://%s", s->name, address);
}

/* starting */

/* As many files as the system lets us have: each connection is one. */
static void raise_file_limit(const Config *config) {
    rlim_t need = (rlim_t)config->max_connections + FILES_BESIDE_CONNECTIONS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    if (limit.rlim_cur < need)
        limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < need)
        log_line(LOG_LEVEL_WARNING, "the limit on open files is below what max_connections needs",
                 "limit=%ju need=%ju", (uintmax_t)limit.rlim_cur, (uintmax_t)need);
}

/* The last part of the path. */
static char *name_of_path(const char *path) {
    size_t n = strlen(path);
    const char *slash;

    while (n > 1 && path[n - 1] == '/')
        n--;
    slash = memrchr(path, '/', n);
    return slash && slash + 1 < path + n ? strndup(slash + 1, (size_t)(path + n - slash - 1))
                                         : strndup(path, n);
}

static HttpServerOptions http_options(Server *s) {
    const Config *c = s->config;

    return (HttpServerOptions){ .loop = &s->loop,
                                .handler = api_handle,
                                .handler_userdata = &s->api,
                                .on_empty = on_http_empty,
                                .on_empty_userdata = s,
                                .parser = { .header_bytes_max = c->max_header_bytes,
                                            .body_bytes_max = c->max_body_bytes,
                                            .request_bytes_max = c->max_request_memory_bytes },
                                .account = &s->requests_memory,
                                .client_bytes_max = c->max_client_memory_bytes
                                                        ? c->max_client_memory_bytes
                                                        : c->max_requests_memory_bytes / 2,
                                .connections_max = c->max_connections,
                                .client_connections_max =
                                    c->max_client_connections
                                        ? c->max_client_connections
                                        : c->max_connections - c->max_connections / 8,
                                .allowed_origins = c->allowed_origins,
                                .access_log = &s->access_log,
                                .buffer_bytes_max = c->stream_buffer_bytes_max,
                                .header_timeout_ms = c->header_timeout_ms,
                                .request_timeout_ms = c->request_timeout_ms,
                                .idle_timeout_ms = c->idle_timeout_ms,
                                .write_timeout_ms = c->write_timeout_ms };
}

static int watch_signal(Server *s, uv_signal_t *handle, uv_signal_cb callback, int number) {
    int r = uv_signal_init(&s->loop, handle);

    if (r)
        return r;
    handle->data = s;
    uv_unref((uv_handle_t *)handle); /* a watched signal does not keep the loop going */
    return uv_signal_start(handle, callback, number);
}

static int watch_signals(Server *s) {
    int r = watch_signal(s, &s->on_term, on_end_signal, SIGTERM);

    if (!r)
        r = watch_signal(s, &s->on_int, on_end_signal, SIGINT);
    return r ? r : watch_signal(s, &s->on_hup, on_reload_signal, SIGHUP);
}

static void close_handle(uv_handle_t *handle, void *userdata) {
    (void)userdata;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Closes what is left: the signals' handles, or those that a start which failed had made. */
static void close_loop(Server *s) {
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    uv_walk(&s->loop, close_handle, NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
}

static int make_api(Server *s) {
    ApiLimits limits = { .choices_max = s->config->max_choices,
                         .prompts_max = s->config->max_prompts,
                         .stops_max = s->config->max_stops,
                         .answer_timeout_ms = s->config->answer_timeout_ms,
                         .unknown_taken =
                             s->config->unknown_parameters == UNKNOWN_PARAMETERS_WARN };
    int r = api_init(&s->api, &s->loop, &limits, s->name);

    if (r)
        return r;
    s->api.http = s->http;
    s->api.on_idle = on_jobs_done;
    s->api.on_lost = on_lost;
    s->api.userdata = s;
    return 0;
}

static int check_options(Server *s) {
    int r = cors_check(s->config->allowed_origins, s->why);

    if (r)
        return r;
    return access_log_open(&s->access_log, s->config->access_log, s->why);
}

static int set_up_loop(Server *s) {
    int r = uv_timer_init(&s->loop, &s->drain_timer);

    s->drain_timer.data = s;
    if (!r)
        r = watch_signals(s);
    if (!r)
        r = make_api(s);
    if (r)
        return reason_set(s->why, r, "the event loop cannot be set up: %s", uv_strerror(r));
    return 0;
}

static int start_listening(Server *s) {
    char address[64];
    int r = http_server_listen(s->http, s->config->host, (uint16_t)s->config->port, s->why);

    if (r)
        return r;
    http_server_address(s->http, address, sizeof(address));
    log_line(LOG_LEVEL_INFO, "listening", "url=http://%s", address);
    return 0;
}

static int start_loading(Server *s) {
    int r = uv_queue_work(&s->loop, &s->load, on_load, on_loaded);

    if (r)
        return reason_set(s->why, r, "loading the model cannot begin: %s", uv_strerror(r));
    s->loading = true;
    return 0;
}

/* Serves until nothing is left to serve. If a step of the start fails, the loop runs as well: it
 * closes what the steps before have opened. */
static int run(Server *s) {
    HttpServerOptions options = http_options(s);
    int r;

    raise_file_limit(s->config);
    sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
    http_server_init(s->http, &options);
    r = set_up_loop(s);
    if (r)
        return r;
    r = start_listening(s);
    if (!r)
        r = start_loading(s);
    if (r) {
        s->load_result = r;
        http_server_drain(s->http);
    }
    uv_run(&s->loop, UV_RUN_DEFAULT);
    if (s->model.engine)
        engine_stop(s->model.engine, false);
    served_model_unload(&s->model);
    api_deinit(&s->api);
    return s->load_result;
}

static int run_on_loop(Server *s) {
    int r = uv_loop_init(&s->loop);

    if (r)
        return reason_set(s->why, r, "there can be no event loop: %s", uv_strerror(r));
    r = run(s);
    close_loop(s);
    return r;
}

int serve(const Config *config, Reason *why) {
    Server *s = calloc(1, sizeof(*s));
    HttpServer *http = calloc(1, sizeof(*http));
    char *name =
        config->served_model_name ? strdup(config->served_model_name) : name_of_path(config->model);
    int r;

    if (!s || !http || !name) {
        r = reason_set(why, -ENOMEM, "out of memory");
    } else if (!utf8_is_valid(name, strlen(name))) { /* it goes out in JSON */
        r = reason_set(why, -EINVAL,
                       "the model's name is not UTF-8; give it one with --served-model-name");
    } else {
        *s = (Server){
            .config = config, .http = http, .name = name, .why = why, .access_log = ACCESS_LOG_NULL
        };
        account_init(&s->requests_memory, NULL, config->max_requests_memory_bytes,
                     "max_requests_memory");
        r = check_options(s);
        if (!r)
            r = run_on_loop(s);
        account_deinit(&s->requests_memory);
        access_log_close(&s->access_log);
        config_deinit(&s->reloaded);
    }
    free(name);
    free(http);
    free(s);
    return r;
}
