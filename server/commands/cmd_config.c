/* SPDX-License-Identifier: Apache-2.0 */
/* `kvasird config`: what `serve` would run with, and where each value came from. */
#include "config/config.h"
#include "config/help.h"
#include "server/commands/commands.h"
#include "util/json_writer.h"
#include "util/utf8.h"

#include <errno.h>
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

/* 0; -EILSEQ for a path that is not UTF-8, which JSON cannot hold. */
static int put_value(const Config *config, const Option *option, JsonWriter *writer) {
    char text[OPTION_NAME_BYTES_MAX];
    const char *value = option_format(option, config, text);
    const void *field = (const char *)config + option->offset;

    if (value && !utf8_is_valid(value, strlen(value)))
        return -EILSEQ;
    if (!value)
        json_put_null(writer, "value");
    else if (option->type == OPTION_BOOL)
        json_put_bool(writer, "value", *(const bool *)field);
    else if (option->type == OPTION_U32)
        json_put_u64(writer, "value", *(const uint32_t *)field);
    else if (option->type == OPTION_U64 || option->type == OPTION_BYTES)
        json_put_u64(writer, "value", *(const uint64_t *)field);
    else
        json_put_text(writer, "value", value);
    return 0;
}

/* {"port": {"value": 8000, "from": "default"}, ...} */
static int print_json(const Config *config) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    JsonWriter writer = { .out = &text, .indent = 2 };

    json_begin_object(&writer, NULL);
    for (uint32_t i = 0; i < n_option_rows; i++) {
        const Option *option = &option_table[i];
        char buffer[ORIGIN_BYTES_MAX];
        const char *origin;

        if (!is_shown(option))
            continue;
        origin = config_origin_text(config, option, buffer, sizeof(buffer));
        json_begin_object(&writer, option->name);
        if (put_value(config, option, &writer) || !utf8_is_valid(origin, strlen(origin))) {
            fprintf(stderr, "kvasird: %s cannot be shown as JSON\n", option->name);
            return 1;
        }
        json_put_text(&writer, "from", origin);
        json_end_object(&writer);
    }
    json_end_object(&writer);
    puts(buffer_text(&text));
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
