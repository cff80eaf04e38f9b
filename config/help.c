/* SPDX-License-Identifier: Apache-2.0 */
#include "config/help.h"

#include "config/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define WIDTH_MIN 40
#define WIDTH_MAX 100
#define WIDTH_DEFAULT 80
#define INDENT 6

static const char *const topic_titles[N_TOPICS] = {
    [TOPIC_MODEL] = "Model", [TOPIC_MEMORY] = "Memory",   [TOPIC_BATCHING] = "Batching",
    [TOPIC_HTTP] = "HTTP",   [TOPIC_PROCESS] = "Process", [TOPIC_COMMAND] = "This command",
};

static const char *const type_metavars[] = {
    [OPTION_TEXT] = "TEXT",   [OPTION_PATH] = "PATH",     [OPTION_TEXTS] = "TEXT",
    [OPTION_BOOL] = "",       [OPTION_U32] = "NUMBER",    [OPTION_U64] = "NUMBER",
    [OPTION_BYTES] = "BYTES", [OPTION_DURATION] = "TIME", [OPTION_CHOICE] = "NAME",
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

void help_fill(FILE *file, const char *text, uint32_t column, uint32_t indent, uint32_t width) {
    bool first = true;

    fprintf(file, "%*s", column < indent ? (int)(indent - column) : 0, "");
    if (column < indent)
        column = indent;
    while (*text) {
        uint32_t n = (uint32_t)strcspn(text, " ");

        if (!first && column + 1 + n > width) {
            fprintf(file, "\n%*s", (int)indent, "");
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

static void print_option(FILE *file, const Option *option, unsigned command, uint32_t width) {
    char bounds[256], text[1024];
    const char *fallback = option->fallback ? option->fallback : "none";
    bool required = option->required & command;
    bool zero = option->fallback && strcmp(option->fallback, "0") == 0;

    option_bounds(option, bounds, sizeof(bounds));
    if (required)
        fallback = "";
    else if (option->unset && (zero || !option->fallback))
        fallback = option->unset;
    print_head(file, option);
    snprintf(text, sizeof(text), "%s.%s%s%s %s%s.%s", option->help,
             *bounds && option->type != OPTION_BOOL ? " Allowed: " : "",
             option->type != OPTION_BOOL ? bounds : "",
             *bounds && option->type != OPTION_BOOL ? "." : "",
             required ? "Required" : "Default: ", fallback,
             option->reloadable ? " SIGHUP applies a change in the file." : "");
    help_fill(file, text, 0, INDENT, width);
}

void help_options(FILE *file, unsigned command) {
    uint32_t width = help_width(file);

    for (uint32_t topic = 0; topic < N_TOPICS; topic++) {
        bool titled = false;

        for (uint32_t i = 0; i < n_options; i++) {
            if (options[i].topic != topic || !(options[i].commands & command))
                continue;
            if (!titled)
                fprintf(file, "\n%s:\n", topic_titles[topic]);
            titled = true;
            print_option(file, &options[i], command, width);
        }
    }
}
