/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comments are overwritten with spaces, so that the JSON parser sees the lines of the file. A tree
 * does not say on which line a key stood; once the text has been accepted, a scan for the strings
 * at depth one that a colon follows is enough to know. No state; runs before threads do.
 */
#include "config/config_file.h"

#include "config/options.h"
#include "util/buffer.h"
#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define FILE_BYTES_MAX ((size_t)1 << 20)

static int read_all(Buffer *text, const char *path, Reason *why) {
    CLEANUP(fclose) FILE *file = fopen(path, "re");

    if (!file)
        return reason_set(why, -errno, "%s: %s", path, strerror(errno));
    while (!feof(file)) {
        char *room = buffer_reserve(text, 65536);

        if (!room)
            return reason_set(why, -ENOMEM, "%s: out of memory", path);
        text->size += fread(room, 1, 65536, file);
        if (ferror(file))
            return reason_set(why, -errno, "%s: %s", path, strerror(errno));
        if (text->size > FILE_BYTES_MAX)
            return reason_set(why, -EINVAL, "%s: larger than the %zu bytes a config file may have",
                              path, FILE_BYTES_MAX);
    }
    return 0;
}

static size_t skip_string(const char *text, size_t size, size_t i) {
    for (i++; i < size && text[i] != '"'; i++)
        if (text[i] == '\\')
            i++;
    return i < size ? i + 1 : size;
}

static uint32_t line_of(const char *text, size_t at) {
    uint32_t line = 1;

    for (size_t i = 0; i < at; i++)
        line += text[i] == '\n';
    return line;
}

/* Overwrites the comment that begins at i, if one does; returns where it ends. */
static size_t blank_comment(char *text, size_t size, size_t i, bool *unclosed) {
    const char *end;
    size_t stop = size;

    if (text[i] == '/' && i + 1 < size && text[i + 1] == '*') {
        end = memmem(text + i + 2, size - i - 2, "*/", 2);
        *unclosed = !end;
        if (end)
            stop = (size_t)(end - text) + 2;
    } else if (text[i] == '#' || (text[i] == '/' && i + 1 < size && text[i + 1] == '/')) {
        end = memchr(text + i, '\n', size - i);
        if (end)
            stop = (size_t)(end - text);
    } else {
        return i;
    }
    for (; i < stop; i++)
        if (text[i] != '\n')
            text[i] = ' ';
    return stop;
}

static int blank_comments(char *text, size_t size, const char *path, Reason *why) {
    bool unclosed = false;

    for (size_t i = 0; i < size;) {
        size_t next =
            text[i] == '"' ? skip_string(text, size, i) : blank_comment(text, size, i, &unclosed);

        if (unclosed)
            return reason_set(why, -EINVAL, "%s:%" PRIu32 ": a comment begins here and never ends",
                              path, line_of(text, i));
        i = next > i ? next : i + 1;
    }
    return 0;
}

/* How a value would be written as a flag: the content of a string, else its JSON. NULL: no scalar,
 * or of a type that this option does not have. */
static const char *value_text(const Option *option, const json_t *value, size_t *n) {
    const char *text = NULL;
    bool textual =
        option->type == OPTION_TEXT || option->type == OPTION_PATH || option->type == OPTION_CHOICE;
    bool has_units = option->type == OPTION_BYTES || option->type == OPTION_DURATION;

    if (json_is_string(value) && (textual || has_units)) {
        *n = json_string_length(value);
        return json_string_value(value);
    }
    if (json_is_number(value) && !textual && option->type != OPTION_BOOL &&
        !strpbrk(json_number_text(value), ".eE"))
        text = json_number_text(value);
    else if (json_is_boolean(value) && option->type == OPTION_BOOL)
        text = json_is_true(value) ? "true" : "false";
    *n = text ? strlen(text) : 0;
    return text;
}

static const char *type_expected(OptionType type) {
    switch (type) {
    case OPTION_BOOL:
        return "true or false";
    case OPTION_U32:
    case OPTION_U64:
        return "a whole number";
    case OPTION_BYTES:
        return "a number of bytes, or a text such as \"8GiB\"";
    case OPTION_DURATION:
        return "a text such as \"30s\"";
    default:
        return "a text";
    }
}

static int set_option(Config *config, const Option *option, const json_t *value, Reason *why) {
    CLEANUP(buffer_deinit) Buffer found = BUFFER_NULL;
    char bounds[256];
    size_t n = 0;
    const char *text = value_text(option, value, &n);

    if (text)
        return option_parse(option, config, text, n, why);
    json_write(value, &found);
    option_bounds(option, bounds, sizeof(bounds));
    return reason_set(why, -EINVAL, "expected %s, found %.64s%s%s", type_expected(option->type),
                      buffer_text(&found), *bounds ? "; allowed: " : "", bounds);
}

static int apply_key(Config *config, const json_t *root, const json_t *key, uint32_t line,
                     Reason *why) {
    const char *name = json_string_value(key);
    size_t n = json_string_length(key);
    const Option *option = option_find(name, n, COMMAND_SERVE);
    const char *near = option_nearest(name, n, COMMAND_SERVE);
    const json_t *value = json_object_getn(root, name, n);
    ConfigOrigin *origin;
    char found[80];
    int r;

    if (!option)
        return reason_set(why, -EINVAL, "%s is no option%s%s%s",
                          json_describe(key, found, sizeof(found)), near ? "; did you mean " : "",
                          near ? near : "", near ? "?" : "");
    origin = &config->origins[option - option_table];
    if (origin->kind == CONFIG_FROM_FILE)
        return reason_set(why, -EINVAL, "\"%s\" is given a second time; the first is on line %u",
                          option->name, origin->line);
    if (strcmp(option->name, "config") == 0)
        return reason_set(why, -EINVAL, "a config file cannot name another one");
    if (!json_is_null(value)) {
        r = set_option(config, option, value, why);
        if (r)
            return reason_prefix(why, r, "%s: ", option->name);
    }
    *origin = (ConfigOrigin){ .kind = CONFIG_FROM_FILE, .line = line };
    return 0;
}

/* `at`: where the key's opening quote is; `end`: behind the closing one. */
static int apply_key_at(Config *config, const json_t *root, const char *text, size_t at, size_t end,
                        Reason *why) {
    CLEANUP(json_unref) json_t *key = NULL;
    int r;

    r = json_parse(&key, text + at, end - at, JSON_DECODE_ANY, why);
    if (r)
        return r;
    return apply_key(config, root, key, line_of(text, at), why);
}

/* `text` is that of an object, and valid JSON. */
static int apply_keys(Config *config, const json_t *root, const char *text, size_t size,
                      const char *path, Reason *why) {
    uint32_t depth = 0;
    bool expect_key = false;

    for (size_t i = 0; i < size; i++) {
        size_t end;
        int r;

        if (text[i] == '{' || text[i] == '[')
            depth++;
        else if (text[i] == '}' || text[i] == ']')
            depth--;
        if (depth == 1 && (text[i] == '{' || text[i] == ','))
            expect_key = true;
        if (text[i] != '"')
            continue;
        end = skip_string(text, size, i);
        if (depth == 1 && expect_key) {
            expect_key = false;
            r = apply_key_at(config, root, text, i, end, why);
            if (r)
                return reason_prefix(why, r, "%s:%" PRIu32 ": ", path, line_of(text, i));
        }
        i = end - 1;
    }
    return 0;
}

int config_file_apply(Config *config, const char *path, Reason *why) {
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    CLEANUP(json_unref) json_t *root = NULL;
    JsonError error;
    int r;

    r = read_all(&text, path, why);
    if (!r)
        r = blank_comments(text.data, text.size, path, why);
    if (r)
        return r;
    r = json_parse_located(&root, buffer_text(&text), text.size, 0, NULL, &error);
    if (r == -EINVAL)
        return reason_set(why, r, "%s:%zu: not valid JSON, column %zu: %s", path, error.line,
                          error.column, error.problem);
    if (r)
        return reason_set(why, r, "%s: out of memory", path);
    if (!json_is_object(root))
        return reason_set(why, -EINVAL, "%s:1: expected an object, {\"option\": value, ...}", path);
    return apply_keys(config, root, text.data, text.size, path, why);
}
