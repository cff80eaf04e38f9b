/* SPDX-License-Identifier: Apache-2.0 */
/* `kvasird config`: what `serve` would run with, and where each value came from. */
#include "config/config.h"
#include "config/help.h"
#include "server/commands.h"
#include "util/json.h"

#include <stdio.h>
#include <string.h>

#define ORIGIN_BYTES_MAX 512
#define EXAMPLE_COLUMNS 100

static bool is_shown(const Option *option) {
    return option->commands & COMMAND_SERVE;
}

static uint32_t widest_name(void) {
    uint32_t widest = 0;

    for (uint32_t i = 0; i < n_option_rows; i++)
        if (is_shown(&option_table[i]) && strlen(option_table[i].name) > widest)
            widest = (uint32_t)strlen(option_table[i].name);
    return widest;
}

static void print_table(const Config *config) {
    int width = (int)widest_name();

    for (uint32_t i = 0; i < n_option_rows; i++) {
        const Option *option = &option_table[i];
        char text[OPTION_NAME_BYTES_MAX], origin[ORIGIN_BYTES_MAX];
        const char *value = option_format(option, config, text);

        if (!is_shown(option))
            continue;
        if (!value || (option->unset && strcmp(value, "0") == 0))
            printf("%-*s  %s (%s)", width, option->name, value ? value : "none", option->unset);
        else
            printf("%-*s  %s", width, option->name, value);
        printf("  [%s]\n", config_origin_text(config, option, origin, sizeof(origin)));
    }
}

static json_t *value_json(const Config *config, const Option *option) {
    char text[OPTION_NAME_BYTES_MAX];
    const char *value = option_format(option, config, text);
    const void *field = (const char *)config + option->offset;

    if (!value)
        return json_null();
    switch (option->type) {
    case OPTION_BOOL:
        return json_boolean(*(const bool *)field);
    case OPTION_U32:
        return json_integer(*(const uint32_t *)field);
    case OPTION_U64:
    case OPTION_BYTES:
        return json_integer((json_int_t) * (const uint64_t *)field);
    default:
        /* A path need not be UTF-8; then it cannot be shown in JSON. */
        return json_string(value);
    }
}

/* {"port": {"value": 8000, "from": "default"}, ...} */
static int print_json(const Config *config) {
    CLEANUP(json_unref) json_t *root = json_object();

    for (uint32_t i = 0; i < n_option_rows; i++) {
        char origin[ORIGIN_BYTES_MAX];

        if (!is_shown(&option_table[i]))
            continue;
        config_origin_text(config, &option_table[i], origin, sizeof(origin));
        if (json_object_set_new(root, option_table[i].name,
                                json_pack("{s:o?, s:s}", "value",
                                          value_json(config, &option_table[i]), "from", origin))) {
            fprintf(stderr, "kvasird: %s cannot be shown as JSON\n", option_table[i].name);
            return 1;
        }
    }
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}

/* null: no value. Numbers with a unit are texts. */
static void print_example_value(const Option *option) {
    const char *text = option->fallback;
    bool bare = option->type == OPTION_BOOL || option->type == OPTION_U32 ||
                option->type == OPTION_U64 || !text || strcmp(text, "0") == 0;

    printf("  \"%s\": %s%s%s", option->name, bare ? "" : "\"", text ? text : "null",
           bare ? "" : "\"");
}

/* Defaults hold nothing that JSON would have to escape; a test reads the file. */
static void print_example(void) {
    const char *separator = "";

    printf("// Options of kvasird: every one of them, at its default. A file needs only those that "
           "differ.\n// Made by `kvasird config --example`.\n{\n");
    for (uint32_t topic = 0; topic < N_TOPICS; topic++) {
        bool titled = false;

        for (uint32_t i = 0; i < n_option_rows; i++) {
            char text[1024];

            if (option_table[i].topic != topic || !is_shown(&option_table[i]) ||
                strcmp(option_table[i].name, "config") == 0)
                continue;
            printf("%s", separator);
            if (!titled)
                printf("%s  // ---- %s\n\n", *separator ? "\n" : "", help_topic_title(topic));
            help_describe(&option_table[i], COMMAND_SERVE, text, sizeof(text));
            help_fill(stdout, text, 0, "  // ", EXAMPLE_COLUMNS);
            print_example_value(&option_table[i]);
            separator = ",\n";
            titled = true;
        }
    }
    printf("\n}\n");
}

int cmd_config(const Config *config) {
    int r = 0;

    if (config->example)
        print_example();
    else if (config->json)
        r = print_json(config);
    else
        print_table(config);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "kvasird: standard output: cannot be written\n");
        return 1;
    }
    return r;
}
