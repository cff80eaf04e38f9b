/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the server's process ends when its device is lost. backend_open is wrapped by the linker, so
 * that serve() runs on a CPU whose first step answers -ENODEV.
 */
#include "server/commands/backend_open.h"
#include "server/commands/serve.h"
#include "tests/unit/tiny_model.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int __wrap_backend_open(Backend **outp, const BackendOps **opsp, const BackendOptions *options,
                        Reason *why);

static int lose(Backend *backend, const EmbedArgs *args) {
    (void)backend;
    (void)args;
    return -ENODEV;
}

int __wrap_backend_open(Backend **outp, const BackendOps **opsp, const BackendOptions *options,
                        Reason *why) {
    static BackendOps ops;

    ops = cpu_ops;
    ops.embed = lose;
    *opsp = &ops;
    return cpu_backend_new(outp, &(CpuBackendOptions){ .n_threads = options->n_threads }, why);
}

/* In a process of its own, which says on standard error where it listens. */
static void run_server(int log) {
    char path[96];
    const char *const argv[] = { path, "--port", "0", "--threads", "1", "--kv-tokens", "1024" };
    static const char *const environ_none[] = { NULL };
    Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    snprintf(path, sizeof(path), "%s/llama", model.directory);
    dup2(log, STDERR_FILENO);
    if (config_load(&config,
                    &(ConfigInput){ .command = COMMAND_SERVE,
                                    .argc = sizeof(argv) / sizeof(*argv),
                                    .argv = argv,
                                    .environ = environ_none },
                    &why))
        _exit(99);
    _exit(serve(&config, &why) == -ENODEV && strstr(why.text, "lost") ? 1 : 98);
}

static uint16_t wait_until_ready(FILE *log) {
    const char *url;
    char line[1024];

    while (fgets(line, sizeof(line), log))
        if (strstr(line, ": ready ") && (url = strstr(line, "127.0.0.1:")))
            return (uint16_t)strtoul(url + strlen("127.0.0.1:"), NULL, 10);
    return 0;
}

static void complete(uint16_t port) {
    static const char body[] = "{\"prompt\": [5, 6], \"max_tokens\": 4}";
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char text[2048] = "";
    size_t n_read = 0;
    ssize_t n;

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    dprintf(fd,
            "POST /v1/completions HTTP/1.1\r\nHost: k\r\nConnection: close\r\nContent-Type: "
            "application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    while ((n = read(fd, text + n_read, sizeof(text) - 1 - n_read)) > 0)
        n_read += (size_t)n;
    close(fd);
    assert_non_null(strstr(text, "HTTP/1.1 500 "));
    assert_non_null(strstr(text, "was lost"));
}

static void test_the_process_ends_for_its_supervisor(void **state) {
    int pipes[2], status = 0;
    uint16_t port;
    FILE *log;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    pid = fork();
    if (!pid)
        run_server(pipes[1]);
    close(pipes[1]);
    log = fdopen(pipes[0], "r");
    assert_non_null(log);
    port = wait_until_ready(log);
    assert_true(port);
    complete(port);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    fclose(log);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_process_ends_for_its_supervisor),
    };

    return cmocka_run_group_tests(tests, setup_model, teardown_model);
}
