/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where values come from, and which wins. Layers are applied from weak to strong, each over the
 * last: default, file, environment, flag. A first round without the file finds out which file.
 * Everything is checked, also what a stronger layer overrides: a bad line is found today, not on
 * the day when the flag goes away. No state; runs on the thread of main.
 */
#include "config/config.h"

#include "config/config_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VARIABLE_PREFIX "KVASIR_"

void config_deinit(Config *config) {
    for (uint32_t i = 0; i < n_option_rows; i++)
        option_clear(&option_table[i], config);
    free(config->origins);
    *config = (Config)CONFIG_NULL;
}

/* Rows of this command come last: rows of others may share a field and default differently. */
static int apply_defaults(Config *config, Reason *why) {
    for (uint32_t i = 0; i < 2 * n_option_rows; i++) {
        const Option *option = &option_table[i % n_option_rows];
        bool own = option->commands & config->input.command, own_turn = i >= n_option_rows;
        const char *text = option->fallback;
        int r = text && own == own_turn ? option_parse(option, config, text, strlen(text), why) : 0;

        if (r)
            return reason_prefix(why, r, "default of %s: ", option->name);
    }
    return 0;
}

static int set(Config *config, const Option *option, ConfigOriginKind kind, const char *text,
               Reason *why) {
    char value[OPTION_NAME_BYTES_MAX], bounds[256];
    int r = option_parse(option, config, text, strlen(text), why);

    if (r)
        return r;
    if (option->refuses_zero && strcmp(option_format(option, config, value), "0") == 0)
        return reason_set(why, -EINVAL, "\"%.64s\" is nothing; leave it out, or give %s", text,
                          option_bounds(option, bounds, sizeof(bounds)));
    config->origins[option - option_table] = (ConfigOrigin){ .kind = kind };
    return 0;
}

/* Kubernetes gives every pod variables for each service, named after it: a service "kvasir" makes
 * KVASIR_PORT=tcp://10.0.0.1:8000, KVASIR_PORT_8000_TCP=..., KVASIR_SERVICE_HOST=... . */
static bool is_service_link(const char *variable, const char *value) {
    return strncmp(variable, "KVASIR_SERVICE_", 15) == 0 ||
           strncmp(variable, "KVASIR_PORT_", 12) == 0 ||
           (strncmp(variable, "KVASIR_PORT=", 12) == 0 && strncmp(value, "tcp://", 6) == 0);
}

static const Option *option_of_variable(const char *variable, size_t n) {
    char name[OPTION_NAME_BYTES_MAX];

    for (uint32_t i = 0; i < n_option_rows; i++)
        if (option_table[i].commands & COMMAND_SERVE &&
            strlen(option_variable(&option_table[i], name)) == n && memcmp(name, variable, n) == 0)
            return &option_table[i];
    return NULL;
}

/* An empty variable counts as not set, as compose files leave them. */
static int apply_environment(Config *config, const char *const *environ_, Reason *why) {
    for (; environ_ && *environ_; environ_++) {
        const char *variable = *environ_;
        const char *equals = strchr(variable, '=');
        const Option *option;
        int r;

        if (!equals || !equals[1] || is_service_link(variable, equals + 1))
            continue;
        option = option_of_variable(variable, (size_t)(equals - variable));
        r = option ? set(config, option, CONFIG_FROM_ENVIRONMENT, equals + 1, why) : 0;
        if (r)
            return reason_prefix(why, r, "environment %.*s: ", (int)(equals - variable), variable);
    }
    return 0;
}

/* Other programs may own a variable of this prefix, so an unknown one is no error; but a misspelt
 * option should not go unnoticed. */
static void warn_of_unknown_variables(const char *const *environ_) {
    const size_t prefix = strlen(VARIABLE_PREFIX);

    for (; environ_ && *environ_; environ_++) {
        const char *variable = *environ_;
        size_t n = strcspn(variable, "=");
        const char *near;

        if (strncmp(variable, VARIABLE_PREFIX, prefix) != 0 || option_of_variable(variable, n) ||
            is_service_link(variable, variable + n))
            continue;
        near = option_nearest(variable + prefix, n - prefix, COMMAND_SERVE);
        if (near)
            log_line(LOG_LEVEL_WARNING, "an environment variable names no option",
                     "variable=%.*s nearest_option=%s", (int)n, variable, near);
    }
}

typedef struct Flag {
    const Option *option;
    const char *name; /* [n], without dashes */
    size_t n;
    const char *value; /* after '='; NULL: none there */
    bool negated;      /* --no-x */
} Flag;

static int unknown_flag(const char *text, const Flag *flag, unsigned command, Reason *why) {
    const char *near = option_nearest(flag->name, flag->n, command);
    const Option *option = near ? option_find(near, strlen(near), command) : NULL;
    char name[OPTION_NAME_BYTES_MAX];

    if (option)
        return reason_set(why, -EINVAL, "unknown option %.64s; did you mean %s?", text,
                          option_flag(option, name));
    if (option_find(flag->name, flag->n, COMMAND_ALL))
        return reason_set(why, -EINVAL, "option %.64s is not one of this command's; see --help",
                          text);
    return reason_set(why, -EINVAL, "unknown option %.64s; see --help", text);
}

/* 0, CONFIG_E_HELP or -EINVAL. */
static int read_flag(Flag *flag, const char *text, unsigned command, Reason *why) {
    if (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0)
        return CONFIG_E_HELP;
    if (text[0] != '-' || !text[1])
        return reason_set(why, -EINVAL, "unexpected argument \"%.64s\"; options begin with --",
                          text);
    if (text[1] != '-') {
        for (uint32_t i = 0; i < n_option_rows && !flag->option; i++)
            if (option_table[i].letter == text[1] && option_table[i].commands & command)
                flag->option = &option_table[i];
        if (!flag->option)
            return reason_set(why, -EINVAL, "unknown option -%c; see --help", text[1]);
        flag->value = text[2] ? text + 2 : NULL;
        return 0;
    }
    flag->name = text + 2;
    flag->n = strcspn(flag->name, "=");
    if (flag->name[flag->n])
        flag->value = flag->name + flag->n + 1;
    flag->option = option_find(flag->name, flag->n, command);
    if (!flag->option && strncmp(flag->name, "no-", 3) == 0) {
        flag->option = option_find(flag->name + 3, flag->n - 3, command);
        flag->negated = flag->option && flag->option->type == OPTION_BOOL;
        if (!flag->negated)
            flag->option = NULL;
    }
    return flag->option ? 0 : unknown_flag(text, flag, command, why);
}

static int apply_flag(Config *config, const Flag *flag, const char *text, Reason *why) {
    const Option *option = flag->option;
    char name[OPTION_NAME_BYTES_MAX];
    int r;

    if (flag->negated && flag->value)
        return reason_set(why, -EINVAL, "%.64s: --no-%s takes no value", text, option->name);
    r = set(config, option, CONFIG_FROM_FLAG, flag->negated ? "false" : flag->value, why);
    if (r)
        return reason_prefix(why, r, "flag %s: ", option_flag(option, name));
    return 0;
}

bool config_takes_argument(unsigned command) {
    return !(command & COMMAND_CONFIG) && option_find("model", strlen("model"), command);
}

/* A model without its flag. `first` is the argument that was one already, or NULL. */
static int apply_argument(Config *config, const char *text, const char *first, Reason *why) {
    const Option *option = option_find("model", strlen("model"), config->input.command);
    int r;

    if (first)
        return reason_set(why, -EINVAL,
                          "unexpected argument \"%.64s\"; the model is \"%.64s\" already, and "
                          "options begin with --",
                          text, first);
    if (config->origins[option - option_table].kind == CONFIG_FROM_FLAG)
        return reason_set(why, -EINVAL,
                          "the model is given twice: as \"%.64s\" and by --model \"%.64s\"", text,
                          config->model);
    r = set(config, option, CONFIG_FROM_FLAG, text, why);
    return r ? reason_prefix(why, r, "the model ") : 0;
}

static int apply_flags(Config *config, const ConfigInput *input, Reason *why) {
    const char *argument = NULL;

    for (int i = 0; i < input->argc; i++) {
        const char *text = input->argv[i];
        Flag flag = { .option = NULL };
        char name[OPTION_NAME_BYTES_MAX];
        int r;

        if (text[0] != '-' && config_takes_argument(input->command)) {
            r = apply_argument(config, text, argument, why);
            if (r)
                return r;
            argument = text;
            continue;
        }
        r = read_flag(&flag, text, input->command, why);
        if (r)
            return r;
        if (!flag.value && flag.option->type == OPTION_BOOL)
            flag.value = flag.negated ? NULL : "true";
        else if (!flag.value && i + 1 < input->argc && strncmp(input->argv[i + 1], "--", 2) != 0)
            flag.value = input->argv[++i];
        else if (!flag.value)
            return reason_set(why, -EINVAL, "flag %s needs a value",
                              option_flag(flag.option, name));
        if (argument && strcmp(flag.option->name, "model") == 0)
            return reason_set(why, -EINVAL,
                              "the model is given twice: as \"%.64s\" and by --model \"%.64s\"",
                              argument, flag.value);
        r = apply_flag(config, &flag, text, why);
        if (r)
            return r;
    }
    return 0;
}

static int check_required(const Config *config, Reason *why) {
    for (uint32_t i = 0; i < n_option_rows; i++) {
        const Option *option = &option_table[i];
        char flag[OPTION_NAME_BYTES_MAX], variable[OPTION_NAME_BYTES_MAX];
        char text[OPTION_NAME_BYTES_MAX];

        if (!(option->required & config->input.command) || option_format(option, config, text))
            continue;
        if (option->commands & COMMAND_SERVE)
            return reason_set(
                why, -EINVAL, "no %s is given: pass %s, set %s, or name it in a config file",
                option->name, option_flag(option, flag), option_variable(option, variable));
        return reason_set(why, -EINVAL, "no %s is given: pass %s", option->name,
                          option_flag(option, flag));
    }
    return 0;
}

/* All layers once; `path` NULL: without a file. `config` is CONFIG_NULL. */
static int apply_layers(Config *config, const ConfigInput *input, const char *path, Reason *why) {
    int r;

    config->input = *input;
    config->origins = calloc(n_option_rows, sizeof(*config->origins));
    if (!config->origins)
        return reason_set(why, -ENOMEM, "out of memory");
    r = apply_defaults(config, why);
    if (!r && path)
        r = config_file_apply(config, path, why);
    if (!r)
        r = apply_environment(config, input->environ, why);
    if (!r)
        r = apply_flags(config, input, why);
    return r;
}

static int load(Config *config, const ConfigInput *input, Reason *why) {
    CLEANUP(free) char *path = NULL;
    int r;

    r = apply_layers(config, input, NULL, why);
    if (!r && config->config) {
        path = TAKE(config->config);
        config_deinit(config);
        r = apply_layers(config, input, path, why);
    }
    if (!r)
        r = check_required(config, why);
    if (r)
        config_deinit(config);
    return r;
}

int config_load(Config *config, const ConfigInput *input, Reason *why) {
    int r = load(config, input, why);

    if (!r) {
        log_set_level(config->log_level);
        warn_of_unknown_variables(input->environ);
    }
    return r;
}

/* The value of `option` moves from `from` to `to`. */
static int copy_value(const Option *option, Config *to, const Config *from, Reason *why) {
    char text[OPTION_NAME_BYTES_MAX];
    const char *value = option_format(option, from, text);

    to->origins[option - option_table] = from->origins[option - option_table];
    if (value)
        return option_parse(option, to, value, strlen(value), why);
    option_clear(option, to);
    return 0;
}

int config_reload(Config *fresh, const Config *running, uint32_t *n_left, Reason *why) {
    int r = load(fresh, &running->input, why);

    *n_left = 0;
    for (uint32_t i = 0; i < n_option_rows && !r; i++) {
        const Option *option = &option_table[i];

        if (option->reloadable || option_equal(option, fresh, running))
            continue;
        log_line(LOG_LEVEL_WARNING, "an option was changed that waits for a restart", "option=%s",
                 option->name);
        (*n_left)++;
        r = copy_value(option, fresh, running, why);
    }
    if (r)
        config_deinit(fresh);
    return r;
}

const char *config_origin_text(const Config *config, const Option *option, char *text,
                               size_t size) {
    const ConfigOrigin *origin = &config->origins[option - option_table];
    char name[OPTION_NAME_BYTES_MAX];

    switch (origin->kind) {
    case CONFIG_FROM_DEFAULT:
        snprintf(text, size, "default");
        break;
    case CONFIG_FROM_FILE:
        snprintf(text, size, "%s:%" PRIu32, config->config, origin->line);
        break;
    case CONFIG_FROM_ENVIRONMENT:
        snprintf(text, size, "environment %s", option_variable(option, name));
        break;
    case CONFIG_FROM_FLAG:
        snprintf(text, size, "flag %s", option_flag(option, name));
        break;
    }
    return text;
}
