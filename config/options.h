/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The one option table. A row makes a flag (--kv-memory), a key of the config file (kv_memory), an
 * environment variable (KVASIR_KV_MEMORY), an entry of --help and a line of `kvasird config`.
 *
 * Options of `serve` may stand in the file and the environment, for whatever command runs; the
 * others are flags only. Two rows may share a name if no command has both.
 */

#include "util/reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One bit a command; a row names the commands that take it. */
enum {
    COMMAND_SERVE = 1u << 0,
    COMMAND_CONFIG = 1u << 1,
    COMMAND_TOKENIZE = 1u << 2,
    COMMAND_DETOKENIZE = 1u << 3,
    COMMAND_CHAT_TEMPLATE = 1u << 4,
    COMMAND_LOGITS = 1u << 5,
    COMMAND_GENERATE = 1u << 6,
    COMMAND_BENCH = 1u << 7,
    COMMAND_PROFILE = 1u << 8,
    COMMAND_EVAL = 1u << 9,
    COMMAND_PLAN = 1u << 10,
};
#define COMMAND_ALL (~0u)

typedef enum OptionType {
    OPTION_TEXT,     /* char * */
    OPTION_PATH,     /* char * */
    OPTION_TEXTS,    /* ConfigTexts: each flag adds one; flags only */
    OPTION_BOOL,     /* bool; flags --x and --no-x */
    OPTION_U32,      /* uint32_t */
    OPTION_U64,      /* uint64_t */
    OPTION_BYTES,    /* uint64_t, written 8GiB, 512M, 4096 */
    OPTION_DURATION, /* uint64_t milliseconds, written 500ms, 30s, 5m, 1h */
    OPTION_DECIMAL,  /* uint64_t millionths, written 2.75 */
    OPTION_CHOICE,   /* an enum that counts from 0 */
} OptionType;

/* What a text names, to be looked at before anything is loaded. */
typedef enum OptionFile {
    OPTION_FILE_NONE,
    OPTION_FILE_INPUT,  /* a regular file that is read */
    OPTION_FILE_OUTPUT, /* a file that is written: util/output_file.h */
    OPTION_FILE_PLAN,   /* a KV format, which may be plan:FILE */
} OptionFile;

typedef enum OptionTopic {
    TOPIC_MODEL,
    TOPIC_MEMORY,
    TOPIC_BATCHING,
    TOPIC_HTTP,
    TOPIC_PROCESS,
    TOPIC_COMMAND, /* what one command reads, writes and does */
    N_TOPICS,
} OptionTopic;

typedef struct Option {
    const char *name;         /* lower case, words joined by '_' */
    size_t offset;            /* of its field in Config */
    const char *fallback;     /* default, written as a person would; NULL: no value */
    const char *unset;        /* what no value (NULL, or 0 for numbers) means; NULL: not allowed */
    const char *metavar;      /* NULL: by type */
    const char *help;         /* sentences, no final full stop; bounds and default are added */
    const char *const *names; /* of OPTION_CHOICE, NULL-terminated */
    uint64_t min, max;        /* of numbers; `unset` allows 0 besides */
    OptionType type;
    OptionTopic topic;
    OptionFile file;
    unsigned commands; /* COMMAND_X that take it */
    unsigned required; /* those of them that cannot run without */
    char letter;       /* short flag; 0: none */
    bool reloadable;   /* SIGHUP applies it */
    bool refuses_zero; /* 0 is "no value" in a file, where every option may stand; whoever writes it
                          in a flag or a variable meant something else */
} Option;

extern const Option option_table[];
extern const uint32_t n_option_rows;

/* The row of this name among those of `commands`; '-' and '_' count as the same. NULL: none. */
const Option *option_find(const char *name, size_t n, unsigned commands);
/* The name most like a mistyped one; NULL if none is close. */
const char *option_nearest(const char *name, size_t n, unsigned commands);

#define OPTION_NAME_BYTES_MAX 64
/* "--kv-memory"; "KVASIR_KV_MEMORY"; both return `text` [OPTION_NAME_BYTES_MAX]. */
const char *option_flag(const Option *option, char *text);
const char *option_variable(const Option *option, char *text);

/* Sets the field of `config` (a Config) from text of `n` bytes. -EINVAL: what is wrong with it and
 * what is allowed, without naming the option; -ENOMEM. */
int option_parse(const Option *option, void *config, const char *text, size_t n, Reason *why);
/* The value as option_parse takes it, exactly; NULL if it is unset. Lives until the next call with
 * the same `text` [64]. */
const char *option_format(const Option *option, const void *config, char *text);
bool option_equal(const Option *option, const void *a, const void *b);
/* "1KiB to 1GiB", "error, warning, info or debug"; empty if anything goes. Returns `text`. */
const char *option_bounds(const Option *option, char *text, size_t size);
/* Frees what the field owns. */
void option_clear(const Option *option, void *config);
