/* SPDX-License-Identifier: Apache-2.0 */
#include "config/file_check.h"

#include "util/mapped_file.h"
#include "util/output_file.h"

#include <string.h>

#define ORIGIN_BYTES_MAX 512
#define PLAN_PREFIX "plan:"

static int check_input(const char *path, Reason *why) {
    CLEANUP(mapped_file_close) MappedFile file = MAPPED_FILE_NULL;

    return mapped_file_open(&file, path, why);
}

static int check_spec(const char *spec, Reason *why) {
    size_t n = strlen(PLAN_PREFIX);

    return strncmp(spec, PLAN_PREFIX, n) == 0 ? check_input(spec + n, why) : 0;
}

static int check_specs(const ConfigTexts *specs, Reason *why) {
    int r = 0;

    for (uint32_t i = 0; !r && i < specs->n; i++)
        r = check_spec(specs->items[i], why);
    return r;
}

static int check_value(const Config *config, const Option *option, Reason *why) {
    const void *field = (const char *)config + option->offset;
    const char *text;

    if (option->type == OPTION_TEXTS)
        return check_specs(field, why);
    text = *(char *const *)field;
    if (!text)
        return 0;
    switch (option->file) {
    case OPTION_FILE_NONE:
        break;
    case OPTION_FILE_INPUT:
        return check_input(text, why);
    case OPTION_FILE_OUTPUT:
        return output_file_check(text, why);
    case OPTION_FILE_PLAN:
        return check_spec(text, why);
    }
    return 0;
}

/* "flag --text: ", "environment KVASIR_PROFILE: ", "kvasird.json:7: profile: ". */
static int blame(const Config *config, const Option *option, int r, Reason *why) {
    bool in_file = config->origins[option - option_table].kind == CONFIG_FROM_FILE;
    char origin[ORIGIN_BYTES_MAX];

    config_origin_text(config, option, origin, sizeof(origin));
    return reason_prefix(why, r, "%s%s%s: ", origin, in_file ? ": " : "",
                         in_file ? option->name : "");
}

int file_check_all(const Config *config, Reason *why) {
    for (uint32_t i = 0; i < n_option_rows; i++) {
        const Option *option = &option_table[i];
        int r = 0;

        if (option->file != OPTION_FILE_NONE && option->commands & config->input.command)
            r = check_value(config, option, why);
        if (r)
            return blame(config, option, r, why);
    }
    return 0;
}
