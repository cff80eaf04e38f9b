/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is written, and that nothing waits for a reader that does not come.
 */
#include "server/http/access_log.h"

#include "util/cleanup.h"
#include "util/json.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static char directory[64];

static const AccessEntry plain = { .id = "i",
                                   .client = "192.0.2.1",
                                   .method = "GET",
                                   .path = "/health",
                                   .status = 200,
                                   .n_bytes_received = 5,
                                   .n_bytes_sent = 7,
                                   .duration_ms = 3 };

static int make_directory(void **state) {
    (void)state;
    strcpy(directory, "/tmp/kvasir-test-access-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
    char command[96];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static const char *path_of(const char *name) {
    static char path[96];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static size_t read_file(const char *path, char *text, size_t size) {
    CLEANUP(fd_close) int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, text, size - 1);

    assert_true(n >= 0);
    text[n] = 0;
    return (size_t)n;
}

static void test_a_line_is_an_object(void **state) {
    AccessEntry early = plain;
    AccessLog log = ACCESS_LOG_NULL;
    CLEANUP(json_unref) json_t *first = NULL;
    CLEANUP(json_unref) json_t *second = NULL;
    char text[8192], path[96], *line;
    Reason why;

    (void)state;
    strcpy(path, path_of("log"));
    assert_int_equal(access_log_open(&log, path, &why), 0);
    access_log_write(&log, &plain);
    early.status = 0;
    early.path = NULL;
    early.method = NULL;
    early.aborted = true;
    access_log_write(&log, &early);
    access_log_close(&log);
    read_file(path, text, sizeof(text));
    line = strchr(text, '\n');
    assert_int_equal(json_parse(&first, text, (size_t)(line - text), 0, &why), 0);
    assert_int_equal(json_parse(&second, line + 1, strlen(line + 1) - 1, 0, &why), 0);
    assert_string_equal(json_string_value(json_object_get(first, "client")), "192.0.2.1");
    assert_string_equal(json_string_value(json_object_get(first, "path")), "/health");
    assert_int_equal(json_integer_value(json_object_get(first, "status")), 200);
    assert_int_equal(json_integer_value(json_object_get(first, "bytes_sent")), 7);
    assert_int_equal(strlen(json_string_value(json_object_get(first, "time"))), 24);
    assert_null(json_object_get(first, "aborted"));
    assert_true(json_is_true(json_object_get(second, "aborted")));
    assert_true(json_is_null(json_object_get(second, "status")));
    assert_true(json_is_null(json_object_get(second, "path")));
}

/* A path of what takes most room in JSON still makes a line that a pipe takes whole. */
static void test_any_path_is_one_short_line(void **state) {
    AccessEntry entry = plain;
    AccessLog log = ACCESS_LOG_NULL;
    CLEANUP(json_unref) json_t *root = NULL;
    char path[2000], text[8192], file[96];
    size_t n;
    Reason why;

    (void)state;
    memset(path, 1, sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    memcpy(path, "/\xff\n\"", 4);
    entry.path = path;
    strcpy(file, path_of("long"));
    assert_int_equal(access_log_open(&log, file, &why), 0);
    access_log_write(&log, &entry);
    access_log_close(&log);
    n = read_file(file, text, sizeof(text));
    assert_true(n < 4096);
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    assert_int_equal(json_parse(&root, text, n - 1, 0, &why), 0);
}

static void test_files_that_are_moved_away(void **state) {
    AccessLog log = ACCESS_LOG_NULL;
    char path[96], moved[96], text[8192];
    Reason why;

    (void)state;
    strcpy(path, path_of("rotated"));
    strcpy(moved, path_of("rotated.1"));
    assert_int_equal(access_log_open(&log, path, &why), 0);
    assert_int_equal(rename(path, moved), 0);
    assert_int_equal(access_log_reopen(&log, &why), 0);
    access_log_write(&log, &plain);
    access_log_close(&log);
    assert_int_equal(read_file(moved, text, sizeof(text)), 0);
    assert_true(read_file(path, text, sizeof(text)) > 0);
}

static void test_a_full_pipe_loses_lines_and_goes_on(void **state) {
    AccessLog log = ACCESS_LOG_NULL;
    char path[96], text[1 << 17];
    Reason why;

    (void)state;
    strcpy(path, path_of("pipe"));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(access_log_open(&log, path, &why), -ENXIO); /* nobody reads */
    {
        CLEANUP(fd_close) int reader = open(path, O_RDONLY | O_NONBLOCK);

        assert_int_equal(access_log_open(&log, path, &why), 0);
        for (int i = 0; i < 2000; i++)
            access_log_write(&log, &plain);
        assert_true(log.n_lost > 0 && log.n_lost < 2000);
        assert_true(read(reader, text, sizeof(text)) > 0);
        access_log_write(&log, &plain);
        assert_int_equal(log.n_lost, 0);
    }
    access_log_close(&log);
}

static void test_a_full_disk_is_counted(void **state) {
    AccessLog log = ACCESS_LOG_NULL;
    Reason why;

    (void)state;
    if (access_log_open(&log, "/dev/full", &why))
        skip();
    for (int i = 0; i < 3; i++)
        access_log_write(&log, &plain);
    assert_int_equal(log.n_lost, 3);
    access_log_close(&log);
}

static void test_half_a_line_is_ended(void **state) {
    AccessLog log = ACCESS_LOG_NULL;
    char path[96], text[8192];
    Reason why;

    (void)state;
    strcpy(path, path_of("torn"));
    assert_int_equal(access_log_open(&log, path, &why), 0);
    log.torn = true;
    access_log_write(&log, &plain);
    assert_false(log.torn);
    access_log_close(&log);
    read_file(path, text, sizeof(text));
    assert_memory_equal(text, "\n{", 2);
}

static void test_off(void **state) {
    static const char *const paths[] = { NULL, "", "off" };
    AccessLog log = ACCESS_LOG_NULL;
    Reason why;

    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        assert_int_equal(access_log_open(&log, paths[i], &why), 0);
        assert_int_equal(log.fd, -1);
        access_log_write(&log, &plain);
        access_log_close(&log);
    }
    assert_int_equal(access_log_open(&log, directory, &why), -EISDIR);
    assert_non_null(strstr(why.text, "access_log"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_is_an_object),
        cmocka_unit_test(test_any_path_is_one_short_line),
        cmocka_unit_test(test_files_that_are_moved_away),
        cmocka_unit_test(test_a_full_pipe_loses_lines_and_goes_on),
        cmocka_unit_test(test_a_full_disk_is_counted),
        cmocka_unit_test(test_half_a_line_is_ended),
        cmocka_unit_test(test_off),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
