/* SPDX-License-Identifier: Apache-2.0 */
/* The config file: comments, lines in errors, precedence, reload; and what is no such file. */
#include "config/config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char path[] = "/tmp/kvasird-test-XXXXXX";

static const char good_text[] = "// a \" quote\n"
                                "{ # another comment\n"
                                "/* \"port\": 1,\n"
                                "   two lines */ \"port\": 9000,\n"
                                "\"kv_memory\": \"8GiB\", \"max_body_bytes\": 4096,\n"
                                "\"host\": \"a//b#c/*d*/\\\"\\\\\", \"model\": null,\n"
                                "\"lo\\u0067_level\": \"error\"\n"
                                "}\n"
                                "# the end";

static void write_file(const char *text, size_t n) {
    CLEANUP(fclose) FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
}

static void write_text(const char *text) {
    write_file(text, strlen(text));
}

static int load(Config *config, const char **args, int n_args, const char **variables,
                Reason *why) {
    return config_load(
        config,
        &(ConfigInput){
            .command = COMMAND_CONFIG, .argc = n_args, .argv = args, .environ = variables },
        why);
}

static int load_text(Config *config, const char *text, size_t n, Reason *why) {
    static const char *args[] = { "--config", path };

    write_file(text, n);
    return load(config, args, 2, NULL, why);
}

static const char *origin_of(const Config *config, const char *name, char *text, size_t size) {
    return config_origin_text(config, option_find(name, strlen(name), COMMAND_SERVE), text, size);
}

/* The message is the path, then `words`, then maybe more. */
static void refused_bytes(const char *text, size_t n, const char *words) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    assert_int_equal(load_text(&config, text, n, &why), -EINVAL);
    assert_memory_equal(why.text, path, strlen(path));
    if (strncmp(why.text + strlen(path), words, strlen(words)) != 0)
        fail_msg("\"%s\" does not begin \"%s\"", why.text + strlen(path), words);
}

static void refused(const char *text, const char *words) {
    refused_bytes(text, strlen(text), words);
}

static void test_values_comments_and_lines(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;
    char origin[64], expected[64];

    (void)state;
    assert_int_equal(load_text(&config, good_text, strlen(good_text), &why), 0);
    assert_int_equal(config.port, 9000);
    assert_int_equal(config.kv_memory_bytes, UINT64_C(8) << 30);
    assert_int_equal(config.max_body_bytes, 4096);
    assert_string_equal(config.host, "a//b#c/*d*/\"\\");
    assert_int_equal(config.log_level, LOG_LEVEL_ERROR);
    assert_null(config.model);
    snprintf(expected, sizeof(expected), "%s:4", path);
    assert_string_equal(origin_of(&config, "port", origin, sizeof(origin)), expected);
    snprintf(expected, sizeof(expected), "%s:7", path);
    assert_string_equal(origin_of(&config, "log_level", origin, sizeof(origin)), expected);
}

static void test_errors_name_line_key_value_and_what_is_allowed(void **state) {
    (void)state;
    refused("{\n\n\"prot\": 1}", ":3: \"prot\" is no option; did you mean port?");
    refused("{\"chunk\": 1}", ":1: \"chunk\" is no option");
    refused("{\"port\": 1,\n\"port\": 2}",
            ":2: \"port\" is given a second time; the first is on line 1");
    refused("{\"port\": null, \"port\": 2}", ":1: \"port\" is given a second time");
    refused("{\n\"port\": 65536}",
            ":2: port: \"65536\" is out of bounds; allowed: 1 to 65535, or 0 (any free one)");
    refused("{\"port\": -1}", ":1: port: \"-1\" is not a whole number");
    refused("{\"port\": \"80\"}", ":1: port: expected a whole number, found \"80\"");
    refused("{\"port\": 80.0}", ":1: port: expected a whole number, found 80.0");
    refused("{\"port\": [80]}", ":1: port: expected a whole number, found [80]");
    refused("{\"host\": 1}", ":1: host: expected a text, found 1");
    refused("{\"host\": \"\"}", ":1: host: is empty");
    refused("{\"host\": \"a\\u0000b\"}", ":1: host: holds a NUL character");
    refused("{\"kv_memory\": 1.5}", ":1: kv_memory: expected a number of bytes, or a text");
    refused("{\"kv_memory\": \"8 lots\"}", ":1: kv_memory: \"8 lots\" is not a number of bytes");
    refused("{\"idle_timeout\": 30}", ":1: idle_timeout: \"30\" is not a time such as");
    refused("{\"log_level\": \"loud\"}",
            ":1: log_level: \"loud\" is not one of the choices; allowed: error, warning, info or");
    refused("{\"config\": \"x\"}", ":1: a config file cannot name another one");
    refused("{\"a\": {\"port\": 1}}", ":1: \"a\" is no option");
}

static void test_what_is_no_json_object(void **state) {
    (void)state;
    refused("", ":1: not valid JSON");
    refused("{\"port\": 1,}", ":1: not valid JSON");
    refused("{\n\"port\" 1}", ":2: not valid JSON");
    refused("{} {}", ":1: not valid JSON");
    refused("[1]", ":1: expected an object");
    refused("{\n/* \n", ":2: a comment begins here and never ends");
    refused("{}\n/*/", ":2: a comment begins here and never ends");
    refused("{\"host\": \"\xff\"}", ":1: not valid JSON");
    refused("{\"port\": 99999999999999999999}", ":1: port: \"99999999999999999999\" is");
    refused_bytes("{}\0", 3, ":1: not valid JSON");
    refused_bytes("{\"ho\0st\": 1}", 12, ":1: not valid JSON");
    refused("{\"ho\\u0000st\": 1}", ":1: \"ho\\u0000st\" is no option");
    refused("{\"host\\u0000\": \"a\"}", ":1: \"host\\u0000\" is no option");
}

static void test_deep_nesting(void **state) {
    char text[20000];

    (void)state;
    memset(text, '[', sizeof(text));
    memcpy(text, "{\"a\":", 5);
    refused_bytes(text, sizeof(text), ":1: not valid JSON");
}

/* Whatever is cut off, or overwritten, is refused or read, and nothing else happens. */
static void test_damaged_files(void **state) {
    const size_t n = strlen(good_text);
    char text[sizeof(good_text)];

    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    for (size_t i = 0; i < 2 * n; i++) {
        CLEANUP(config_deinit) Config config = CONFIG_NULL;
        Reason why = REASON_NULL;
        int r;

        memcpy(text, good_text, n);
        if (i < n) {
            r = load_text(&config, text, i, &why);
        } else {
            text[i - n] = "\"{}[],:/*#\\\n\0x"[i % 14];
            r = load_text(&config, text, n, &why);
        }
        assert_true(r == 0 || (r == -EINVAL && why.text[0]));
    }
}

static void test_missing_and_oversized_files(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    CLEANUP(free) char *text = calloc(1, (2u << 20));
    const char *args[] = { "--config", "/nonexistent/kvasird.json" };
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(load(&config, args, 2, NULL, &why), -ENOENT);
    assert_string_equal(why.text, "/nonexistent/kvasird.json: No such file or directory");
    args[1] = "/";
    assert_int_equal(load(&config, args, 2, NULL, &why), -EISDIR);
    memset(text, ' ', 2u << 20);
    refused_bytes(text, 2u << 20, ": larger than the 1048576 bytes");
}

static void test_flag_over_environment_over_file_over_default(void **state) {
    const char *variables[] = { "KVASIR_PORT=2", "KVASIR_MAX_CHOICES=2", NULL };
    const char *args[] = { "--config", path, "--port", "3" };
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;
    char origin[64];

    (void)state;
    write_text("{\"port\": 1, \"max_choices\": 1, \"max_prompts\": 1}");
    assert_int_equal(load(&config, args, 4, variables, &why), 0);
    assert_int_equal(config.port, 3);
    assert_int_equal(config.max_choices, 2);
    assert_int_equal(config.max_prompts, 1);
    assert_int_equal(config.max_batched_tokens, 256);
    assert_string_equal(origin_of(&config, "max_batched_tokens", origin, sizeof(origin)),
                        "default");
    assert_string_equal(origin_of(&config, "max_choices", origin, sizeof(origin)),
                        "environment KVASIR_MAX_CHOICES");
}

static void test_overridden_values_are_checked_too(void **state) {
    const char *args[] = { "--config", path, "--port", "3" };
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    write_text("{\"port\": 70000}");
    assert_int_equal(load(&config, args, 4, NULL, &why), -EINVAL);
}

static void test_environment_names_the_file(void **state) {
    char variable[64];
    const char *variables[] = { variable, NULL };
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    snprintf(variable, sizeof(variable), "KVASIR_CONFIG=%s", path);
    write_text("{\"port\": 77}");
    assert_int_equal(load(&config, NULL, 0, variables, &why), 0);
    assert_int_equal(config.port, 77);
}

static void test_reload_takes_all_or_nothing(void **state) {
    CLEANUP(config_deinit) Config running = CONFIG_NULL;
    CLEANUP(config_deinit) Config fresh = CONFIG_NULL;
    Reason why = REASON_NULL;
    const char *first = "{\"port\": 1, \"model\": \"m\"}";
    uint32_t n_left;

    (void)state;
    assert_int_equal(load_text(&running, first, strlen(first), &why), 0);
    log_set_level(LOG_LEVEL_ERROR);
    write_text("{\"port\": 2, \"host\": \"h\",\"log_level\": \"debug\"}");
    assert_int_equal(config_reload(&fresh, &running, &n_left, &why), 0);
    assert_int_equal(n_left, 3);
    assert_int_equal(fresh.port, 1);
    assert_string_equal(fresh.host, "127.0.0.1");
    assert_string_equal(fresh.model, "m");
    assert_int_equal(fresh.log_level, LOG_LEVEL_DEBUG);
    config_deinit(&fresh);

    write_text("{\"log_level\": \"warning\", \"port\": \"x\"}");
    assert_int_equal(config_reload(&fresh, &running, &n_left, &why), -EINVAL);
    assert_null(fresh.origins);
}

static int make_file(void **state) {
    int fd = mkstemp(path);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
    (void)state;
    return remove(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_comments_and_lines),
        cmocka_unit_test(test_errors_name_line_key_value_and_what_is_allowed),
        cmocka_unit_test(test_what_is_no_json_object),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_missing_and_oversized_files),
        cmocka_unit_test(test_flag_over_environment_over_file_over_default),
        cmocka_unit_test(test_overridden_values_are_checked_too),
        cmocka_unit_test(test_environment_names_the_file),
        cmocka_unit_test(test_reload_takes_all_or_nothing),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
