/* SPDX-License-Identifier: Apache-2.0 */
/* The option table, values, flags and environment, and which of them wins. */
#include "config/config.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* `args` and `variables` end with NULL. */
static int load(Config *config, unsigned command, const char **args, const char **variables,
                Reason *why) {
    ConfigInput input = { .command = command, .argv = args, .environ = variables };

    while (args && args[input.argc])
        input.argc++;
    return config_load(config, &input, why);
}

#define LOAD(_config, _command, _why, ...) \
    load(_config, _command, (const char *[]){ __VA_ARGS__, NULL }, NULL, _why)

static void assert_refused(unsigned command, const char **args, const char **variables,
                           const char *words) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    assert_int_equal(load(&config, command, args, variables, &why), -EINVAL);
    if (!strstr(why.text, words))
        fail_msg("\"%s\" lacks \"%s\"", why.text, words);
}

#define REFUSED(_words, ...) \
    assert_refused(COMMAND_CONFIG, (const char *[]){ __VA_ARGS__, NULL }, NULL, _words)
#define REFUSED_VARIABLE(_words, _variable) \
    assert_refused(COMMAND_CONFIG, NULL, (const char *[]){ _variable, NULL }, _words)

static void test_every_row_is_sound(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_option_rows; i++) {
        const Option *o = &option_table[i];
        char text[OPTION_NAME_BYTES_MAX];

        assert_true(strlen(o->name) < OPTION_NAME_BYTES_MAX - strlen("KVASIR_"));
        assert_int_equal(strspn(o->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(o->name));
        assert_true(o->help && strlen(o->help) > 8 && o->help[strlen(o->help) - 1] != '.');
        assert_true(o->commands && !(o->required & ~o->commands));
        assert_true(o->topic < N_TOPICS);
        assert_true(!(o->commands & COMMAND_SERVE) || o->commands & COMMAND_CONFIG);
        assert_true(o->fallback || o->unset || o->type == OPTION_TEXTS);
        assert_true(o->type != OPTION_U32 || o->max <= UINT32_MAX);
        assert_true(o->min <= o->max);
        assert_true(strlen(option_flag(o, text)) > 2);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(o->name, option_table[k].name) == 0)
                assert_false(o->commands & option_table[k].commands);
    }
}

static void test_every_default_is_allowed_and_printed_as_written(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_option_rows; i++) {
        CLEANUP(config_deinit) Config config = CONFIG_NULL;
        const Option *o = &option_table[i];
        char text[OPTION_NAME_BYTES_MAX];

        if (!o->fallback)
            continue;
        assert_int_equal(option_parse(o, &config, o->fallback, strlen(o->fallback), NULL), 0);
        assert_string_equal(option_format(o, &config, text), o->fallback);
    }
}

static void test_rows_of_one_field_default_by_command(void **state) {
    CLEANUP(config_deinit) Config generate = CONFIG_NULL;
    CLEANUP(config_deinit) Config eval = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(LOAD(&generate, COMMAND_GENERATE, &why, "--model", "m", "--input", "i"), 0);
    assert_int_equal(generate.max_tokens, 128);
    assert_int_equal(LOAD(&eval, COMMAND_EVAL, &why, "--model", "m", "--text", "t"), 0);
    assert_int_equal(eval.max_tokens, 0);
    assert_int_equal(eval.origins[0].kind, CONFIG_FROM_FLAG);
    assert_int_equal(eval.origins[1].kind, CONFIG_FROM_DEFAULT);
}

static void test_both_ends_of_bounds(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;

    (void)state;
    for (uint32_t i = 0; i < n_option_rows; i++) {
        const Option *o = &option_table[i];
        uint64_t values[] = { o->min, o->max, o->min - 1, o->max + 1 };

        if (o->type < OPTION_U32 || o->type > OPTION_DURATION)
            continue;
        for (uint32_t k = 0; k < 4; k++) {
            const char *unit = o->type == OPTION_DURATION ? "ms" : "";
            bool allowed = k < 2 || (values[k] == 0 && o->unset);
            char text[32];
            int n = snprintf(text, sizeof(text), "%ju%s", (uintmax_t)values[k], unit);

            assert_int_equal(option_parse(o, &config, text, (size_t)n, NULL),
                             allowed ? 0 : -EINVAL);
        }
    }
}

static void test_units(void **state) {
    static const struct {
        const char *text;
        uint64_t bytes; /* 0: refused */
    } cases[] = {
        { "8GiB", UINT64_C(8) << 30 },
        { "8G", UINT64_C(8) << 30 },
        { "8 gib", UINT64_C(8) << 30 },
        { "1.5G", UINT64_C(3) << 29 },
        { "2MB", 2000000 },
        { "4194304", 4194304 },
        { "4194304B", 4194304 },
        { "0.5TiB", UINT64_C(1) << 39 },
        { "1.0000000001G", 0 },
        { "4194304.5", 0 },
        { "4194304.0", 4194304 },
        { "1.", 0 },
        { ".5G", 0 },
        { "1..5G", 0 },
        { "-1G", 0 },
        { "+1G", 0 },
        { "G", 0 },
        { "", 0 },
        { "8Gi", 0 },
        { "8GiB ", 0 },
        { "nan", 0 },
        { "0x10", 0 },
        { "99999999999999999999999", 0 },
        { "18446744073709551615T", 0 },
    };
    const Option *o = option_find("kv_memory", 9, COMMAND_SERVE);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CLEANUP(config_deinit) Config config = CONFIG_NULL;
        int r = option_parse(o, &config, cases[i].text, strlen(cases[i].text), NULL);

        assert_int_equal(r, cases[i].bytes ? 0 : -EINVAL);
        assert_int_equal(config.kv_memory_bytes, cases[i].bytes);
    }
}

static void test_durations(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(LOAD(&config, COMMAND_CONFIG, &why, "--idle-timeout", "1.5s",
                          "--drain-timeout=2m", "--write-timeout", "1500ms", "--request-timeout",
                          "1h"),
                     0);
    assert_int_equal(config.idle_timeout_ms, 1500);
    assert_int_equal(config.drain_timeout_ms, 120000);
    assert_int_equal(config.write_timeout_ms, 1500);
    assert_int_equal(config.request_timeout_ms, 3600000);
    REFUSED("--idle-timeout: \"30\" is not a time such as 500ms", "--idle-timeout", "30");
    REFUSED("allowed: 100ms to 24h", "--idle-timeout", "25h");
}

static void test_decimals(void **state) {
    static const struct {
        const char *text;
        uint64_t millionths; /* 0: refused */
        const char *printed;
    } cases[] = {
        { "2.75", 2750000, "2.75" }, { "3", 3000000, "3" },    { "1.000001", 1000001, "1.000001" },
        { "16.0", 16000000, "16" },  { "10", 10000000, "10" }, { "0.5", 0, NULL },
        { "16.1", 0, NULL },         { "2.0000001", 0, NULL }, { "-2", 0, NULL },
        { "+2", 0, NULL },           { "2e0", 0, NULL },       { "nan", 0, NULL },
        { "2.", 0, NULL },           { ".5", 0, NULL },        { "", 0, NULL },
        { "2 bits", 0, NULL },
    };
    const Option *o = option_find("bits", 4, COMMAND_PLAN);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CLEANUP(config_deinit) Config config = CONFIG_NULL;
        char text[OPTION_NAME_BYTES_MAX];
        int r = option_parse(o, &config, cases[i].text, strlen(cases[i].text), NULL);

        assert_int_equal(r, cases[i].millionths ? 0 : -EINVAL);
        assert_int_equal(config.bits_millionths, cases[i].millionths);
        if (!r)
            assert_string_equal(option_format(o, &config, text), cases[i].printed);
    }
}

/* 0 stands in files for what nobody gives; a flag or a variable that says it is a mistake. */
static void test_zero_is_no_budget(void **state) {
    static const char *const flags[] = { "--kv-memory", "--kv-tokens", "--bits", "--budget" };

    (void)state;
    for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
        const char *words[] = { "0", "00" };

        for (size_t k = 0; k < 2; k++)
            assert_refused(COMMAND_PLAN, (const char *[]){ flags[i], words[k], NULL }, NULL,
                           "is nothing; leave it out, or give");
    }
    REFUSED("flag --kv-memory: \"0GiB\" is nothing; leave it out, or give 1MiB to 64TiB",
            "--kv-memory", "0GiB");
    REFUSED_VARIABLE("environment KVASIR_KV_TOKENS: \"0\" is nothing", "KVASIR_KV_TOKENS=0");
}

static void test_flags(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(LOAD(&config, COMMAND_TOKENIZE, &why, "--no-special", "--model", "-",
                          "--log_level=debug", "--model=--odd"),
                     0);
    assert_false(config.special);
    assert_string_equal(config.model, "--odd");
    assert_int_equal(config.log_level, LOG_LEVEL_DEBUG);
    log_set_level(LOG_LEVEL_ERROR);

    REFUSED("did you mean --max-num-seqs?", "--max-num-seq", "4");
    REFUSED("unknown option --quux; see --help", "--quux");
    REFUSED("option --chunk is not one of this command's", "--chunk", "1");
    REFUSED("unexpected argument \"model.gguf\"", "model.gguf");
    REFUSED("flag --port needs a value", "--port");
    REFUSED("flag --model needs a value", "--model", "--port", "1");
    REFUSED("unknown option --no-port", "--no-port");
    REFUSED("--no-json takes no value", "--no-json=true");
    REFUSED("\"maybe\" is neither true nor false", "--json=maybe");
    REFUSED("flag --log-level: \"loud\" is not one of the choices; allowed: error, warning, info "
            "or debug",
            "--log-level", "loud");
    REFUSED("flag --port: \"65536\" is out of bounds; allowed: 1 to 65535, or 0 (any free one)",
            "--port", "65536");
    REFUSED("\"1.5\" is not a whole number", "--port", "1.5");
    REFUSED("is empty", "--host=");
    REFUSED("unknown option -x", "-x");
    REFUSED("unexpected argument \"-\"", "-");
}

static void test_short_flags(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(
        LOAD(&config, COMMAND_LOGITS, &why, "-o", "a", "--model", "m", "--input", "i", "-ob"), 0);
    assert_string_equal(config.output_path, "b");
}

static void test_help_is_asked_for(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;

    (void)state;
    assert_int_equal(LOAD(&config, COMMAND_CONFIG, &why, "--port", "1", "--help"), CONFIG_E_HELP);
    assert_int_equal(LOAD(&config, COMMAND_CONFIG, &why, "-h"), CONFIG_E_HELP);
}

static void test_required(void **state) {
    (void)state;
    assert_refused(
        COMMAND_SERVE, NULL, NULL,
        "no model is given: pass --model, set KVASIR_MODEL, or name it in a config file");
    assert_refused(COMMAND_LOGITS, (const char *[]){ "--model", "m", "-o", "o", NULL }, NULL,
                   "no input is given: pass --input");
}

static void test_environment(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;
    const char *variables[] = { "KVASIR_KV_MEMORY=2G",
                                "KVASIR_PORT=9000",
                                "KVASIR_HOST=",
                                "KVASIR_SHARED=/nowhere",
                                "KVASIR_SERVICE_HOST=10.0.0.1",
                                "KVASIR_PORT_8000_TCP=tcp://10.0.0.1:8000",
                                "KVASIR_INPUT=no option of serve",
                                "PATH=/bin",
                                "KVASIR",
                                NULL };
    const char *args[] = { "--port", "9001", NULL };
    char origin[64];

    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    assert_int_equal(load(&config, COMMAND_CONFIG, args, variables, &why), 0);
    assert_int_equal(config.kv_memory_bytes, UINT64_C(2) << 30);
    assert_int_equal(config.port, 9001);
    assert_string_equal(config.host, "127.0.0.1");
    assert_null(config.input_path);
    assert_string_equal(config_origin_text(&config, option_find("kv_memory", 9, COMMAND_ALL),
                                           origin, sizeof(origin)),
                        "environment KVASIR_KV_MEMORY");
    assert_string_equal(
        config_origin_text(&config, option_find("port", 4, COMMAND_ALL), origin, sizeof(origin)),
        "flag --port");

    REFUSED_VARIABLE("environment KVASIR_PORT: \"x\" is not a whole number", "KVASIR_PORT=x");
    REFUSED_VARIABLE("environment KVASIR_KV_TOKENS: \"1\" is out of bounds", "KVASIR_KV_TOKENS=1");
}

/* What Kubernetes sets for a service named kvasir must not be taken for the option. */
static void test_service_link_is_no_port(void **state) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    Reason why = REASON_NULL;
    const char *variables[] = { "KVASIR_PORT=tcp://10.0.0.1:8000", NULL };

    (void)state;
    assert_int_equal(load(&config, COMMAND_CONFIG, NULL, variables, &why), 0);
    assert_int_equal(config.port, 8000);
}

static void test_texts_add_up(void **state) {
    Option option = { .name = "list", .type = OPTION_TEXTS };
    ConfigTexts texts = { .n = 0 };

    (void)state;
    assert_int_equal(option_parse(&option, &texts, "a", 1, NULL), 0);
    assert_int_equal(option_parse(&option, &texts, "bc", 2, NULL), 0);
    assert_int_equal(texts.n, 2);
    assert_string_equal(texts.items[1], "bc");
    option_clear(&option, &texts);
    assert_null(texts.items);
}

static void test_nearest_name(void **state) {
    static const char *const cases[][2] = {
        { "kv_memroy", "kv_memory" },
        { "KV-MEMORY", "kv_memory" },
        { "prt", "port" },
        { "max-num-seq", "max_num_seqs" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_string_equal(option_nearest(cases[i][0], strlen(cases[i][0]), COMMAND_SERVE),
                            cases[i][1]);
    assert_null(option_nearest("shared", 6, COMMAND_SERVE));
    assert_null(option_nearest("", 0, COMMAND_SERVE));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_is_sound),
        cmocka_unit_test(test_every_default_is_allowed_and_printed_as_written),
        cmocka_unit_test(test_rows_of_one_field_default_by_command),
        cmocka_unit_test(test_both_ends_of_bounds),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_decimals),
        cmocka_unit_test(test_zero_is_no_budget),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_short_flags),
        cmocka_unit_test(test_help_is_asked_for),
        cmocka_unit_test(test_required),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_service_link_is_no_port),
        cmocka_unit_test(test_texts_add_up),
        cmocka_unit_test(test_nearest_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
