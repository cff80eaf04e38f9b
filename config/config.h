/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The configuration of one run: plain data, made from the one option table (config/options.h).
 * Precedence: flag, environment, file, default. Only server/ reads it; other layers get their own
 * plain structs.
 *
 * To add an option: a field here, a row in config/options.c. Flags, --help, file, environment,
 * `kvasird config` and their tests follow from the row.
 */

#include "config/options.h"
#include "util/cleanup.h"
#include "util/log.h"
#include "util/reason.h"

#include <stdbool.h>
#include <stdint.h>

/* Texts given by several flags of one name, in their order. */
typedef struct ConfigTexts {
    char **items; /* [n] */
    uint32_t n;
} ConfigTexts;

/* What a query of a prompt sees exactly, besides the cache. */
typedef enum PrefillExact {
    PREFILL_EXACT_CHUNK, /* its chunk */
    PREFILL_EXACT_PAGE,  /* its page: answers do not depend on chunking or caching */
} PrefillExact;

/* Of tool_call_parser_names, of which the first two are no family's. */
typedef enum ToolCallParser {
    TOOL_CALL_PARSER_AUTO,
    TOOL_CALL_PARSER_NONE,
    TOOL_CALL_PARSER_HERMES,
    TOOL_CALL_PARSER_LLAMA3_JSON,
    TOOL_CALL_PARSER_MISTRAL,
    TOOL_CALL_PARSER_MISTRAL_ARGS,
    TOOL_CALL_PARSER_DEEPSEEK,
    TOOL_CALL_PARSER_DEEPSEEK_V31,
    TOOL_CALL_PARSER_GRANITE,
    TOOL_CALL_PARSER_SMOLLM,
} ToolCallParser;

typedef enum ReasoningParser {
    REASONING_PARSER_AUTO,
    REASONING_PARSER_NONE,
    REASONING_PARSER_THINK,
    REASONING_PARSER_MISTRAL,
    REASONING_PARSER_GRANITE,
} ReasoningParser;

/* What the values are called; NULL behind the last. */
extern const char *const tool_call_parser_names[], *const reasoning_parser_names[];

/* What becomes of a request with parameters that nobody knows. */
typedef enum UnknownParameters {
    UNKNOWN_PARAMETERS_REFUSE,
    UNKNOWN_PARAMETERS_WARN, /* it is served as if they were not there */
} UnknownParameters;

/* How `plan` chooses formats. */
typedef enum PlanMethod {
    PLAN_METHOD_AUTO, /* the least damage by the best that is known */
    PLAN_METHOD_PAPER,
    PLAN_METHOD_RATEQUANT,
    PLAN_METHOD_UNIFORM,
} PlanMethod;

/* Which norms of a profile method paper goes by. */
typedef enum PlanNorm {
    PLAN_NORM_FROBENIUS,
    PLAN_NORM_SPECTRAL,
} PlanNorm;

typedef enum ConfigOriginKind {
    CONFIG_FROM_DEFAULT,
    CONFIG_FROM_FILE,
    CONFIG_FROM_ENVIRONMENT,
    CONFIG_FROM_FLAG,
} ConfigOriginKind;

typedef struct ConfigOrigin {
    ConfigOriginKind kind;
    uint32_t line; /* in the file, from 1 */
} ConfigOrigin;

/* Where to read from. All borrowed for as long as the Config lives. */
typedef struct ConfigInput {
    unsigned command;        /* COMMAND_X: decides which options exist */
    int argc;                /* what follows the command's name */
    const char *const *argv; /* [argc] */
    const char *const *environ;
} ConfigInput;

/* Texts are owned, and NULL where the row says what no value means. Fields follow the table. */
typedef struct Config {
    ConfigInput input;
    ConfigOrigin *origins; /* [n_option_rows], owned */

    /* model */
    char *model;
    char *served_model_name;
    char *chat_template;
    uint32_t max_model_len;
    uint64_t chat_template_timeout_ms;
    uint64_t chat_template_output_bytes_max;
    uint32_t chat_template_workers;
    ToolCallParser tool_call_parser;
    ReasoningParser reasoning_parser;
    uint64_t max_grammar_bytes, grammar_timeout_ms, grammar_memory_bytes, grammar_cache_bytes;

    /* memory */
    uint64_t kv_memory_bytes;
    uint64_t kv_tokens;
    char *kv;
    char *profile;
    uint32_t profile_seconds;
    bool prefix_caching;
    PrefillExact prefill_exact;

    /* batching */
    uint32_t max_num_seqs;
    uint32_t max_batched_tokens;
    uint32_t steps_in_flight;
    uint32_t max_waiting_requests;
    uint64_t max_waiting_tokens;
    char *device;
    uint64_t gpu_memory_bytes;
    uint32_t n_threads;

    /* http */
    char *host;
    uint32_t port;
    uint32_t max_connections;
    uint32_t max_client_connections;
    uint64_t max_header_bytes;
    uint64_t max_body_bytes;
    uint64_t max_requests_memory_bytes;
    uint64_t max_client_memory_bytes;
    uint64_t max_request_memory_bytes;
    uint64_t header_timeout_ms;
    uint64_t request_timeout_ms;
    uint64_t idle_timeout_ms;
    uint64_t write_timeout_ms;
    uint64_t answer_timeout_ms;
    uint64_t stream_buffer_bytes_max;
    uint64_t drain_timeout_ms;
    uint32_t max_choices;
    uint32_t max_prompts;
    uint32_t max_stops;
    UnknownParameters unknown_parameters;
    char *allowed_origins;
    char *access_log;

    /* process */
    LogLevel log_level;
    char *state_dir;
    char *config;

    /* one command */
    PlanMethod method;
    PlanNorm norm;
    char *menu;
    char *norms_path;
    uint64_t budget_millionths;
    uint64_t bits_millionths;
    bool wider_values;
    char *html_path;
    ConfigTexts kv_specs;
    char *reference;
    char *text_path;
    uint32_t window;
    char *input_path;
    char *output_path;
    char *json_path;
    bool json;
    bool example;
    bool special;
    bool ignore_eos;
    uint32_t chunk;
    uint32_t max_tokens;
    uint32_t prompt_tokens;
    bool quick;
    bool full;
    bool all_matrices;
} Config;

#define CONFIG_NULL \
    { .origins = NULL }

void config_deinit(Config *config);
CLEANUP_DEINIT_DEFINE(Config, config_deinit);

/* Reads everything. 0; CONFIG_E_HELP if a flag asks for help; -EINVAL, -ENOMEM or a file's -errno
 * with the words in `why`. `config` is CONFIG_NULL. */
enum {
    _CONFIG_E_SUCCESS,
    CONFIG_E_HELP,
};
int config_load(Config *config, const ConfigInput *input, Reason *why);
/* Whether one argument that is no flag may name the command's model. */
bool config_takes_argument(unsigned command);

/* Reads everything again for a running process. `fresh` (CONFIG_NULL) becomes `running` with the
 * new values of the reloadable options; `n_left` counts the others that differ, which wait for a
 * restart, each also a warning in the log. On an error `fresh` stays empty and nothing is to be
 * changed. */
int config_reload(Config *fresh, const Config *running, uint32_t *n_left, Reason *why);

/* "flag --port", "environment KVASIR_PORT", "kvasird.json:7", "default"; returns `text`. */
const char *config_origin_text(const Config *config, const Option *option, char *text, size_t size);
