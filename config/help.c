/* SPDX-License-Identifier: Apache-2.0 */
#include "config/help.h"

#include "config/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define WIDTH_MIN 40
#define WIDTH_MAX 100
#define WIDTH_DEFAULT 80

static const char *const topic_titles[N_TOPICS] = {
    [TOPIC_MODEL] = "Model", [TOPIC_MEMORY] = "Memory",   [TOPIC_BATCHING] = "Batching",
    [TOPIC_HTTP] = "HTTP",   [TOPIC_PROCESS] = "Process", [TOPIC_COMMAND] = "This command",
};

static const char *const type_metavars[] = {
    [OPTION_TEXT] = "TEXT",      [OPTION_PATH] = "PATH",     [OPTION_TEXTS] = "TEXT",
    [OPTION_BOOL] = "",          [OPTION_U32] = "NUMBER",    [OPTION_U64] = "NUMBER",
    [OPTION_BYTES] = "BYTES",    [OPTION_DURATION] = "TIME", [OPTION_CHOICE] = "NAME",
    [OPTION_DECIMAL] = "NUMBER",
};

uint32_t help_width(FILE *file) {
    struct winsize size = { .ws_col = 0 };
    const char *columns = getenv("COLUMNS");
    long width = columns ? strtol(columns, NULL, 10) : 0;

    if (width <= 0 && ioctl(fileno(file), TIOCGWINSZ, &size) == 0)
        width = size.ws_col;
    if (width <= 0)
        width = WIDTH_DEFAULT;
    if (width > WIDTH_MAX)
        return WIDTH_MAX;
    return width < WIDTH_MIN ? WIDTH_MIN : (uint32_t)width;
}

void help_fill(FILE *file, const char *text, uint32_t column, const char *prefix, uint32_t width) {
    uint32_t indent = (uint32_t)strlen(prefix);
    bool first = true;

    if (column)
        fprintf(file, "%*s", column < indent ? (int)(indent - column) : 0, "");
    else
        fputs(prefix, file);
    if (column < indent)
        column = indent;
    while (*text) {
        uint32_t n = (uint32_t)strcspn(text, " ");

        if (!first && column + 1 + n > width) {
            fprintf(file, "\n%s", prefix);
            column = indent;
            first = true;
        }
        fprintf(file, "%s%.*s", first ? "" : " ", (int)n, text);
        column += n + !first;
        first = false;
        text += n + (text[n] == ' ');
    }
    fputc('\n', file);
}

const char *help_topic_title(OptionTopic topic) {
    return topic_titles[topic];
}

const char *help_describe(const Option *option, unsigned command, char *text, size_t size) {
    char bounds[256];
    const char *fallback = option->fallback;
    bool required = option->required & command;

    option_bounds(option, bounds, sizeof(bounds));
    if (option->type == OPTION_BOOL)
        *bounds = 0; /* its flags say it already */
    if (!fallback || (option->unset && strcmp(fallback, "0") == 0))
        fallback = option->unset;
    snprintf(text, size, "%s.%s%s%s %s%s.%s", option->help, *bounds ? " Allowed: " : "", bounds,
             *bounds ? "." : "", required ? "Required" : "Default: ", required ? "" : fallback,
             option->reloadable ? " SIGHUP applies a change in the file." : "");
    return text;
}

static void print_head(FILE *file, const Option *option) {
    char flag[OPTION_NAME_BYTES_MAX];
    const char *metavar = option->metavar ? option->metavar : type_metavars[option->type];

    option_flag(option, flag);
    if (option->letter)
        fprintf(file, "  -%c %s, %s %s\n", option->letter, metavar, flag, metavar);
    else if (option->type == OPTION_BOOL)
        fprintf(file, "  %s, --no-%s\n", flag, flag + 2);
    else
        fprintf(file, "  %s %s\n", flag, metavar);
}

void help_options(FILE *file, unsigned command) {
    uint32_t width = help_width(file);

    for (uint32_t topic = 0; topic < N_TOPICS; topic++) {
        bool titled = false;
        char text[1024];

        for (uint32_t i = 0; i < n_option_rows; i++) {
            if (option_table[i].topic != topic || !(option_table[i].commands & command))
                continue;
            if (!titled)
                fprintf(file, "\n%s:\n", topic_titles[topic]);
            titled = true;
            print_head(file, &option_table[i]);
            help_fill(file, help_describe(&option_table[i], command, text, sizeof(text)), 0,
                      "      ", width);
        }
    }
}
