/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One value: from text to the field of Config and back. Pure but for the memory of texts. Errors
 * quote the text and say what is allowed; which option it was, and where, the caller knows.
 */
#include "config/config.h"
#include "config/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct Unit {
    const char *name;
    uint64_t factor;
} Unit;

/* Printing takes the first unit that divides the value; the rest are for reading. */
static const Unit byte_units[] = {
    { "TiB", UINT64_C(1) << 40 },
    { "GiB", UINT64_C(1) << 30 },
    { "MiB", UINT64_C(1) << 20 },
    { "KiB", UINT64_C(1) << 10 },
    { "", 1 },
    { "B", 1 },
    { "T", UINT64_C(1) << 40 },
    { "G", UINT64_C(1) << 30 },
    { "M", UINT64_C(1) << 20 },
    { "K", UINT64_C(1) << 10 },
    { "TB", UINT64_C(1000000000000) },
    { "GB", 1000000000 },
    { "MB", 1000000 },
    { "KB", 1000 },
    { NULL, 0 },
};

static const Unit duration_units[] = {
    { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 }, { NULL, 0 },
};

#define DECIMALS 6
#define DECIMAL_UNIT 1000000

static const Unit decimal_units[] = { { "", DECIMAL_UNIT }, { NULL, 0 } };

static void *field_of(const Option *option, void *config) {
    return (char *)config + option->offset;
}

static const void *field_in(const Option *option, const void *config) {
    return (const char *)config + option->offset;
}

static uint64_t number_of(const Option *option, const void *config) {
    const void *field = field_in(option, config);

    if (option->type == OPTION_U32 || option->type == OPTION_CHOICE)
        return *(const uint32_t *)field;
    return *(const uint64_t *)field;
}

static void set_number(const Option *option, void *config, uint64_t value) {
    void *field = field_of(option, config);

    if (option->type == OPTION_U32 || option->type == OPTION_CHOICE)
        *(uint32_t *)field = (uint32_t)value;
    else
        *(uint64_t *)field = value;
}

/* Value in the largest unit that gives a whole number, from a Unit list in falling order. */
static void print_units(const Unit *units, uint64_t value, char *text, size_t size) {
    while (units->factor > 1 && (value % units->factor || !value))
        units++;
    snprintf(text, size, "%" PRIu64 "%s", value / units->factor, units->name);
}

/* Millionths, without zeros at the end. */
static void print_decimal(uint64_t value, char *text, size_t size) {
    uint64_t unit = DECIMAL_UNIT;
    int n_digits = DECIMALS;

    while (n_digits && value % 10 == 0) {
        value /= 10;
        unit /= 10;
        n_digits--;
    }
    if (n_digits)
        snprintf(text, size, "%" PRIu64 ".%0*" PRIu64, value / unit, n_digits, value % unit);
    else
        snprintf(text, size, "%" PRIu64, value);
}

static void print_number(const Option *option, uint64_t value, char *text, size_t size) {
    if (option->type == OPTION_DECIMAL)
        print_decimal(value, text, size);
    else if (option->type == OPTION_BYTES)
        print_units(byte_units, value, text, size);
    else if (option->type == OPTION_DURATION && value)
        print_units(duration_units, value, text, size);
    else
        snprintf(text, size, "%" PRIu64, value);
}

static void print_names(const char *const *names, char *text, size_t size) {
    size_t n = 0;

    for (uint32_t i = 0; names[i] && n < size; i++) {
        const char *between = i == 0 ? "" : names[i + 1] ? ", " : " or ";

        n += (size_t)snprintf(text + n, size - n, "%s%s", between, names[i]);
    }
}

const char *option_bounds(const Option *option, char *text, size_t size) {
    char min[64], max[64];

    *text = 0;
    switch (option->type) {
    case OPTION_TEXT:
    case OPTION_PATH:
    case OPTION_TEXTS:
        break;
    case OPTION_BOOL:
        snprintf(text, size, "true or false");
        break;
    case OPTION_CHOICE:
        print_names(option->names, text, size);
        break;
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_BYTES:
    case OPTION_DURATION:
    case OPTION_DECIMAL:
        print_number(option, option->min, min, sizeof(min));
        print_number(option, option->max, max, sizeof(max));
        snprintf(text, size, "%s to %s", min, max);
        if (option->unset && !option->refuses_zero)
            snprintf(text + strlen(text), size - strlen(text), ", or 0 (%s)", option->unset);
        break;
    }
    return text;
}

static int fail(const Option *option, const char *text, size_t n, const char *what, Reason *why) {
    char bounds[256];
    int shown = n < 64 ? (int)n : 64;

    option_bounds(option, bounds, sizeof(bounds));
    return reason_set(why, -EINVAL, "\"%.*s\"%s %s; allowed: %s", shown, text, n > 64 ? "..." : "",
                      what, bounds);
}

enum {
    _NUMBER_E_SUCCESS,
    NUMBER_E_MALFORMED,
    NUMBER_E_RANGE, /* more than 64 bits */
};

/* Digits, and if `units`: a fraction of up to 9 digits and a unit. 1.5GiB must come out whole. */
static int parse_number(const char *text, size_t n, const Unit *units, uint64_t *out) {
    uint64_t value = 0, scale = 1;
    bool fraction = false;
    size_t i;
    __extension__ unsigned __int128 product;

    for (i = 0; i < n; i++) {
        if (text[i] == '.' && units && !fraction && i > 0) {
            fraction = true;
            continue;
        }
        if (text[i] < '0' || text[i] > '9')
            break;
        if (fraction && scale == 1000000000)
            return NUMBER_E_MALFORMED;
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
            return NUMBER_E_RANGE;
        scale *= fraction ? 10 : 1;
    }
    if (i == 0 || text[i - 1] == '.' || (!units && i < n))
        return NUMBER_E_MALFORMED;
    if (!units) {
        *out = value;
        return 0;
    }
    while (i < n && text[i] == ' ')
        i++;
    while (units->name &&
           (strlen(units->name) != n - i || strncasecmp(units->name, text + i, n - i) != 0))
        units++;
    /* Zero is the same in every unit, and the way to say "no value". */
    product = value;
    if (units->name)
        product *= units->factor;
    else if (value || i < n)
        return NUMBER_E_MALFORMED;
    if (product % scale)
        return NUMBER_E_MALFORMED;
    product /= scale;
    if (product > UINT64_MAX)
        return NUMBER_E_RANGE;
    *out = (uint64_t)product;
    return 0;
}

static int set_parsed_number(const Option *option, void *config, const char *text, size_t n,
                             Reason *why) {
    const Unit *units = NULL;
    const char *kind = "is not a whole number";
    uint64_t value = 0;
    int r;

    if (option->type == OPTION_BYTES) {
        units = byte_units;
        kind = "is not a number of bytes such as 8GiB, 512M or 4096";
    } else if (option->type == OPTION_DURATION) {
        units = duration_units;
        kind = "is not a time such as 500ms, 30s, 5m or 1h";
    } else if (option->type == OPTION_DECIMAL) {
        units = decimal_units;
        kind = "is not a number such as 3 or 2.75, with at most 6 decimals";
    }
    r = parse_number(text, n, units, &value);
    if (r == NUMBER_E_MALFORMED)
        return fail(option, text, n, kind, why);
    if (r == NUMBER_E_RANGE || value > option->max ||
        (value < option->min && !(value == 0 && option->unset)))
        return fail(option, text, n, "is out of bounds", why);
    set_number(option, config, value);
    return 0;
}

static int set_bool(const Option *option, void *config, const char *text, size_t n, Reason *why) {
    static const struct {
        const char *name;
        bool value;
    } words[] = { { "true", true }, { "false", false }, { "1", true },  { "0", false },
                  { "yes", true },  { "no", false },    { "on", true }, { "off", false } };

    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
        if (strlen(words[i].name) == n && memcmp(words[i].name, text, n) == 0) {
            *(bool *)field_of(option, config) = words[i].value;
            return 0;
        }
    return fail(option, text, n, "is neither true nor false", why);
}

static int set_choice(const Option *option, void *config, const char *text, size_t n, Reason *why) {
    for (uint32_t i = 0; option->names[i]; i++)
        if (strlen(option->names[i]) == n && memcmp(option->names[i], text, n) == 0) {
            set_number(option, config, i);
            return 0;
        }
    return fail(option, text, n, "is not one of the choices", why);
}

static int add_text(const Option *option, void *config, char *copy) {
    ConfigTexts *texts = field_of(option, config);
    char **items = reallocarray(texts->items, texts->n + 1, sizeof(*items));

    if (!items)
        return -ENOMEM;
    texts->items = items;
    texts->items[texts->n++] = copy;
    return 0;
}

static int set_text(const Option *option, void *config, const char *text, size_t n, Reason *why) {
    CLEANUP(free) char *copy = NULL;
    char **field;

    if (n == 0)
        return reason_set(why, -EINVAL, "is empty");
    if (memchr(text, 0, n))
        return reason_set(why, -EINVAL, "holds a NUL character");
    copy = strndup(text, n);
    if (!copy || (option->type == OPTION_TEXTS && add_text(option, config, copy)))
        return reason_set(why, -ENOMEM, "out of memory");
    if (option->type == OPTION_TEXTS) {
        copy = NULL; /* the list has it */
        return 0;
    }
    field = field_of(option, config);
    free(*field);
    *field = TAKE(copy);
    return 0;
}

int option_parse(const Option *option, void *config, const char *text, size_t n, Reason *why) {
    switch (option->type) {
    case OPTION_TEXT:
    case OPTION_PATH:
    case OPTION_TEXTS:
        return set_text(option, config, text, n, why);
    case OPTION_BOOL:
        return set_bool(option, config, text, n, why);
    case OPTION_CHOICE:
        return set_choice(option, config, text, n, why);
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_BYTES:
    case OPTION_DURATION:
    case OPTION_DECIMAL:
        return set_parsed_number(option, config, text, n, why);
    }
    return -EINVAL;
}

const char *option_format(const Option *option, const void *config, char *text) {
    const void *field = field_in(option, config);

    switch (option->type) {
    case OPTION_TEXT:
    case OPTION_PATH:
        return *(char *const *)field;
    case OPTION_TEXTS:
        return NULL;
    case OPTION_BOOL:
        return *(const bool *)field ? "true" : "false";
    case OPTION_CHOICE:
        return option->names[number_of(option, config)];
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_BYTES:
    case OPTION_DURATION:
    case OPTION_DECIMAL:
        print_number(option, number_of(option, config), text, OPTION_NAME_BYTES_MAX);
        return text;
    }
    return NULL;
}

bool option_equal(const Option *option, const void *a, const void *b) {
    char text_a[OPTION_NAME_BYTES_MAX], text_b[OPTION_NAME_BYTES_MAX];
    const char *value_a = option_format(option, a, text_a);
    const char *value_b = option_format(option, b, text_b);

    return value_a && value_b ? strcmp(value_a, value_b) == 0 : value_a == value_b;
}

void option_clear(const Option *option, void *config) {
    if (option->type == OPTION_TEXT || option->type == OPTION_PATH) {
        char **field = field_of(option, config);

        free(*field);
        *field = NULL;
    } else if (option->type == OPTION_TEXTS) {
        ConfigTexts *texts = field_of(option, config);

        for (uint32_t i = 0; i < texts->n; i++)
            free(texts->items[i]);
        free(texts->items);
        *texts = (ConfigTexts){ .n = 0 };
    }
}
