/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API over a real socket and a real, tiny model whose steps can be made to fail: what clients
 * hear of it, before and after their first token, and that the server goes on.
 */
#include "server/api/api.h"

#include "cpu/cpu_backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

static struct {
    char directory[64];
    uv_loop_t loop;
    uv_thread_t thread;
    uv_async_t stop;
    Account memory;
    HttpServer http;
    Api api;
    Checkpoint *checkpoint;
    Tokenizer *tokenizer;
    Backend *backend;
    Engine *engine;
    uint16_t port;
} server;

/* Steps that still succeed; negative: all do. */
static atomic_int n_steps_left = -1;
static atomic_int failure = -EIO; /* of the one after them */
static atomic_uint n_losses;      /* that the API told of */

static int embed_or_fail(Backend *backend, const EmbedArgs *args) {
    int n = atomic_load(&n_steps_left);

    if (n == 0) {
        atomic_store(&n_steps_left, -1);
        return atomic_load(&failure);
    }
    if (n > 0)
        atomic_fetch_sub(&n_steps_left, 1);
    return cpu_ops.embed(backend, args);
}

/* the server, on a thread of its own */

static void on_stop(uv_async_t *stop) {
    http_server_drain(&server.http);
    http_server_abort(&server.http);
    api_close(&server.api);
    uv_close((uv_handle_t *)stop, NULL);
}

static void on_lost(void *unused) {
    (void)unused;
    atomic_fetch_add(&n_losses, 1);
}

static void run_loop(void *unused) {
    (void)unused;
    uv_run(&server.loop, UV_RUN_DEFAULT);
}

static int load_model(void) {
    static BackendOps ops;
    const char *root = getenv("KVASIR_SOURCE_ROOT");
    char command[512], path[96];
    EngineOptions options;
    Reason why;

    strcpy(server.directory, "/tmp/kvasir-test-api-XXXXXX");
    if (!mkdtemp(server.directory))
        return -1;
    snprintf(command, sizeof(command), "tar -xJf '%s/tests/data/models/llama.tar.xz' -C '%s'",
             root ? root : ".", server.directory);
    snprintf(path, sizeof(path), "%s/llama", server.directory);
    if (system(command) || checkpoint_open(&server.checkpoint, path, &why) ||
        tokenizer_open(&server.tokenizer, path, &why) ||
        cpu_backend_new(&server.backend, &(CpuBackendOptions){ .n_threads = 1 }, &why))
        return -1;
    ops = cpu_ops;
    ops.embed = embed_or_fail;
    options = (EngineOptions){ .ops = &ops,
                               .backend = server.backend,
                               .checkpoint = server.checkpoint,
                               .tokenizer = server.tokenizer,
                               .kv_tokens = 4096,
                               .max_num_seqs = 8,
                               .max_batched_tokens = 64,
                               .events = &server.api.events };
    return engine_new(&server.engine, &options, &why) || engine_start(server.engine);
}

static int start_server(void **state) {
    HttpServerOptions options = { .loop = &server.loop,
                                  .handler = api_handle,
                                  .handler_userdata = &server.api,
                                  .parser = { .header_bytes_max = 4096, .body_bytes_max = 1 << 20 },
                                  .account = &server.memory,
                                  .client_bytes_max = 16 << 20,
                                  .client_connections_max = 10,
                                  .connections_max = 10,
                                  .buffer_bytes_max = 1 << 20,
                                  .header_timeout_ms = 10000,
                                  .request_timeout_ms = 10000,
                                  .idle_timeout_ms = 10000,
                                  .write_timeout_ms = 10000 };
    ApiLimits limits = { .choices_max = 8, .prompts_max = 8, .stops_max = 8 };
    char address[64];
    Reason why;

    (void)state;
    uv_loop_init(&server.loop);
    account_init(&server.memory, NULL, 16 << 20, "max_requests_memory");
    http_server_init(&server.http, &options);
    if (api_init(&server.api, &server.loop, &limits, "tiny") || load_model() ||
        http_server_listen(&server.http, "127.0.0.1", 0, &why))
        return -1;
    http_server_address(&server.http, address, sizeof(address));
    server.port = (uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10);
    server.api.http = &server.http;
    server.api.on_lost = on_lost;
    server.api.model = (ApiModel){ .checkpoint = server.checkpoint,
                                   .tokenizer = server.tokenizer,
                                   .engine = server.engine };
    server.api.state = API_READY;
    uv_async_init(&server.loop, &server.stop, on_stop);
    return uv_thread_create(&server.thread, run_loop, NULL);
}

static int stop_server(void **state) {
    char command[96];

    (void)state;
    uv_async_send(&server.stop);
    uv_thread_join(&server.thread);
    engine_stop(server.engine, false);
    engine_free(server.engine);
    cpu_ops.free(server.backend);
    tokenizer_free(server.tokenizer);
    checkpoint_free(server.checkpoint);
    api_deinit(&server.api);
    assert_int_equal(uv_loop_close(&server.loop), 0);
    account_deinit(&server.memory);
    snprintf(command, sizeof(command), "rm -rf '%s'", server.directory);
    return system(command);
}

/* a client */

/* Sends a request, and reads everything up to the end of the connection. */
static void send_to(const char *method, const char *path, const char *body, Buffer *answer) {
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(server.port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    CLEANUP(buffer_deinit) Buffer request = BUFFER_NULL;
    CLEANUP(fd_close) int fd = socket(AF_INET, SOCK_STREAM, 0);
    ssize_t n;

    buffer_clear(answer);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    buffer_printf(&request,
                  "%s %s HTTP/1.1\r\nHost: k\r\nConnection: close\r\nContent-Type: "
                  "application/json\r\nContent-Length: %zu\r\n\r\n"
                  "%s",
                  method, path, strlen(body), body);
    assert_int_equal(write(fd, request.data, request.size), request.size);
    while ((n = read(fd, buffer_reserve(answer, 4096), 4096)) > 0)
        answer->size += (size_t)n;
    *buffer_reserve(answer, 1) = 0;
}

static void post(const char *path, const char *body, Buffer *answer) {
    send_to("POST", path, body, answer);
}

static void check_has(const Buffer *answer, const char *text) {
    if (!strstr(buffer_text(answer), text))
        fail_msg("\"%s\" is not in: %s", text, buffer_text(answer));
}

static size_t count(const Buffer *answer, const char *text) {
    size_t n = 0;

    for (const char *at = buffer_text(answer); (at = strstr(at, text)); at++)
        n++;
    return n;
}

static const char whole[] = "{\"prompt\": [5, 6], \"max_tokens\": 8, \"ignore_eos\": true}";
static const char stream[] =
    "{\"prompt\": [5, 6], \"max_tokens\": 8, \"ignore_eos\": true, \"stream\": true, \"n\": 3,"
    " \"logprobs\": 0, \"stream_options\": {\"include_usage\": true}}";

/* the tests */

static void check_it_goes_on(Buffer *answer) {
    post("/v1/completions", whole, answer);
    check_has(answer, "HTTP/1.1 200 OK");
    check_has(answer, "\"completion_tokens\":8");
}

static void test_a_failed_step_is_a_500(void **state) {
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;

    (void)state;
    for (int n = 0; n < 8; n++) {
        atomic_store(&n_steps_left, n);
        post("/v1/completions", whole, &answer);
        check_has(&answer, "HTTP/1.1 500 Internal Server Error");
        check_has(&answer, "\"type\":\"server_error\"");
        check_it_goes_on(&answer);
    }
}

static void test_a_stream_that_has_not_begun_is_a_500_too(void **state) {
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;

    (void)state;
    atomic_store(&n_steps_left, 0);
    post("/v1/completions", stream, &answer);
    check_has(&answer, "HTTP/1.1 500 ");
    assert_int_equal(count(&answer, "data: "), 0);
    check_it_goes_on(&answer);
}

static void test_a_stream_ends_with_the_error(void **state) {
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;

    (void)state;
    for (int n = 1; n < 8; n++) {
        atomic_store(&n_steps_left, n);
        post("/v1/completions", stream, &answer);
        check_has(&answer, "HTTP/1.1 200 OK");
        assert_int_equal(count(&answer, "data: {\"error\":{\"message\":\""), 1);
        assert_int_equal(count(&answer, "\"finish_reason\":\"length\""), 0);
        assert_int_equal(count(&answer, "\"usage\":{"), 0);
        assert_int_equal(count(&answer, "data: [DONE]\n\n"), 1);
        assert_true(strstr(answer.data, "{\"error\"") < strstr(answer.data, "data: [DONE]"));
        check_it_goes_on(&answer);
    }
}

static void test_without_a_template_chat_is_a_400(void **state) {
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;

    (void)state;
    post("/v1/chat/completions", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
         &answer);
    check_has(&answer, "HTTP/1.1 400 Bad Request");
    check_has(&answer, "no chat template");
    check_has(&answer, "\"param\":\"messages\"");
}

static void test_pages_are_back(void **state) {
    (void)state;
    assert_int_equal(engine_stats(server.engine)->pages_used, 0);
    assert_int_equal(engine_stats(server.engine)->n_running, 0);
}

/* The last test: nothing is served after it. */
static void test_a_lost_device_is_told_to_everybody(void **state) {
    static const char *const health[] = { "/health", "/ping" };
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;

    (void)state;
    atomic_store(&failure, -ENODEV);
    atomic_store(&n_steps_left, 3);
    send_to("GET", "/health", "", &answer);
    check_has(&answer, "HTTP/1.1 200 OK");
    post("/v1/completions", stream, &answer);
    check_has(&answer, "data: {\"error\":{\"message\":\"the device that runs the model was lost");
    for (size_t i = 0; i < 2; i++) {
        send_to("GET", health[i], "", &answer);
        check_has(&answer, "HTTP/1.1 503 ");
        check_has(&answer, "{\"status\":\"lost\"}");
    }
    post("/v1/completions", whole, &answer);
    check_has(&answer, "HTTP/1.1 503 ");
    check_has(&answer, "\"code\":\"device_lost\"");
    assert_int_equal(atomic_load(&n_losses), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_failed_step_is_a_500),
        cmocka_unit_test(test_a_stream_that_has_not_begun_is_a_500_too),
        cmocka_unit_test(test_a_stream_ends_with_the_error),
        cmocka_unit_test(test_without_a_template_chat_is_a_400),
        cmocka_unit_test(test_pages_are_back),
        cmocka_unit_test(test_a_lost_device_is_told_to_everybody),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
