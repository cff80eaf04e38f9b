/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table, and finding rows in it. Order within a topic is the order of --help. Defaults are
 * text, read by the same parser as a flag; a test reads each of them.
 */
#include "config/options.h"

#include "config/config.h"
#include "util/nearest.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)
#define SECOND UINT64_C(1000)
#define HOUR (3600 * SECOND)
#define WHOLE UINT64_C(1000000) /* of decimals */

/* Commands that load weights; commands that run without a server. */
#define RUNS_MODEL                                                                         \
    (COMMAND_SERVE | COMMAND_LOGITS | COMMAND_GENERATE | COMMAND_BENCH | COMMAND_PROFILE | \
     COMMAND_EVAL)
#define READS_TOKENIZER (COMMAND_TOKENIZE | COMMAND_DETOKENIZE | COMMAND_CHAT_TEMPLATE)
#define IS_SERVER (COMMAND_SERVE | COMMAND_CONFIG)

/* A row's type and field in one word each; the wrong C type for the field does not compile. */
#define FIELD(_type, _c_type, _field)                                                            \
    .type = (_type),                                                                             \
    .offset =                                                                                    \
        offsetof(Config, _field) +                                                               \
        0 * sizeof(                                                                              \
                char[__builtin_types_compatible_p(__typeof__(((Config *)NULL)->_field), _c_type) \
                         ? 1                                                                     \
                         : -1])
#define TEXT(_field) FIELD(OPTION_TEXT, char *, _field)
#define TEXTS(_field) FIELD(OPTION_TEXTS, ConfigTexts, _field)
#define PATH(_field) FIELD(OPTION_PATH, char *, _field)
#define BOOL(_field) FIELD(OPTION_BOOL, bool, _field)
#define U32(_field) FIELD(OPTION_U32, uint32_t, _field)
#define U64(_field) FIELD(OPTION_U64, uint64_t, _field)
#define BYTES(_field) FIELD(OPTION_BYTES, uint64_t, _field)
#define DURATION(_field) FIELD(OPTION_DURATION, uint64_t, _field)
#define DECIMAL(_field) FIELD(OPTION_DECIMAL, uint64_t, _field)
#define CHOICE(_c_type, _field) FIELD(OPTION_CHOICE, _c_type, _field)

static const char *const prefill_exact_names[] = { "chunk", "page", NULL };
static const char *const unknown_parameters_names[] = { "refuse", "warn", NULL };
const char *const tool_call_parser_names[] = {
    "auto",     "none",         "hermes",  "llama3_json", "mistral", "mistral_args",
    "deepseek", "deepseek_v31", "granite", "smollm",      NULL,
};
const char *const reasoning_parser_names[] = {
    "auto", "none", "think", "mistral", "granite", NULL
};
static const char *const method_names[] = { "auto", "paper", "ratequant", "uniform", NULL };
static const char *const norm_names[] = { "frobenius", "spectral", NULL };
static const char *const log_level_names[] = { "error", "warning", "info", "debug", NULL };

const Option option_table[] = {
    /* model */
    { .name = "model",
      PATH(model),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER | RUNS_MODEL | READS_TOKENIZER | COMMAND_PLAN,
      .required = RUNS_MODEL | READS_TOKENIZER,
      .unset = "must be given",
      .help = "A .gguf file, or a directory in Hugging Face layout (config.json, tokenizer.json, "
              "*.safetensors); on the command line also without the flag" },
    { .name = "served_model_name",
      TEXT(served_model_name),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .metavar = "NAME",
      .unset = "the last part of the model's path",
      .help = "What clients call the model, in requests, answers and metrics" },
    { .name = "max_model_len",
      U32(max_model_len),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER | COMMAND_PLAN,
      .metavar = "TOKENS",
      .min = 1,
      .max = 1u << 30,
      .fallback = "0",
      .unset = "what the model was made for",
      .help = "The most tokens, prompt and answer together, that one request may have" },
    { .name = "chat_template",
      PATH(chat_template),
      .file = OPTION_FILE_INPUT,
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER | COMMAND_CHAT_TEMPLATE,
      .unset = "the model's own",
      .help = "A Jinja file to use instead of the model's chat template" },
    { .name = "chat_template_timeout",
      DURATION(chat_template_timeout_ms),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER | COMMAND_CHAT_TEMPLATE,
      .min = 10,
      .max = 60 * SECOND,
      .fallback = "2s",
      .help = "The longest that a template may take over one request" },
    { .name = "chat_template_output",
      BYTES(chat_template_output_bytes_max),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER | COMMAND_CHAT_TEMPLATE,
      .min = KIB,
      .max = GIB,
      .fallback = "16MiB",
      .help = "The most text that a template may make" },
    { .name = "chat_template_workers",
      U32(chat_template_workers),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 64,
      .fallback = "2",
      .help = "Processes that render chats, each some 25 MiB; further chats wait for one of them" },
    { .name = "tool_call_parser",
      CHOICE(ToolCallParser, tool_call_parser),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .names = tool_call_parser_names,
      .fallback = "auto",
      .help = "How the model writes calls of tools: the form of a family of models; auto is what "
              "its chat template shows, and with none calls are not looked for" },
    { .name = "reasoning_parser",
      CHOICE(ReasoningParser, reasoning_parser),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .names = reasoning_parser_names,
      .fallback = "auto",
      .help = "How the model marks what it thinks before it answers: <think>, [THINK], or what "
              "Granite writes; auto is what its chat template shows, and with none reasoning stays "
              "in the content" },

    { .name = "max_grammar",
      BYTES(max_grammar_bytes),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .min = 64,
      .max = 16 * MIB,
      .fallback = "128KiB",
      .help = "The longest JSON schema, regular expression, choice or grammar that a request may "
              "give its answer" },
    { .name = "grammar_timeout",
      DURATION(grammar_timeout_ms),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .min = 10,
      .max = 60 * SECOND,
      .fallback = "10s",
      .help = "The longest that compiling one of them may take" },
    { .name = "grammar_memory",
      BYTES(grammar_memory_bytes),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .min = 16 * MIB,
      .max = 64 * GIB,
      .fallback = "512MiB",
      .help = "The most memory that compiling one of them may take, in a process of its own" },
    { .name = "grammar_cache",
      BYTES(grammar_cache_bytes),
      .topic = TOPIC_MODEL,
      .commands = IS_SERVER,
      .min = MIB,
      .max = 64 * GIB,
      .fallback = "64MiB",
      .help = "Memory for compiled ones that nobody uses now; part of max_requests_memory" },

    /* memory */
    { .name = "kv_memory",
      BYTES(kv_memory_bytes),
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | COMMAND_PLAN,
      .min = MIB,
      .max = 64 * TIB,
      .fallback = "0",
      .unset = "enough for kv_tokens",
      .refuses_zero = true,
      .help = "Memory for the keys and values of all requests, with their metadata; taken at "
              "start, and never more" },
    { .name = "kv_tokens",
      U64(kv_tokens),
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | COMMAND_PLAN,
      .metavar = "TOKENS",
      .min = 64,
      .max = UINT64_C(1) << 40,
      .fallback = "0",
      .unset = "max_model_len times max_num_seqs, or what of that fits kv_memory, or a part of the "
               "device's memory where that is not given either",
      .refuses_zero = true,
      .help = "Tokens that the cache must hold, in kv_memory where that is given: if they do not "
              "fit, the start ends and says what is missing" },
    { .name = "kv",
      TEXT(kv),
      .file = OPTION_FILE_PLAN,
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | COMMAND_PLAN,
      .metavar = "SPEC",
      .fallback = "auto",
      .help =
          "How keys and values are stored: f16, bf16, a pair like k4v2 (each side 16, 8, 6, 5, "
          "4, 3 or 2 bits), plan:FILE with a pair for each layer, or auto: f16 if all that has to "
          "fit does, else the formats that do least damage. kv_tokens must fit, at any width, and "
          "so must max_model_len times max_num_seqs where both are given with kv_memory; where "
          "nobody asks for them, no format below 4 bits is taken to make room. Chosen at the "
          "start and never changed while the server runs, by SIGHUP neither" },
    { .name = "kv",
      TEXT(kv),
      .file = OPTION_FILE_PLAN,
      .topic = TOPIC_MEMORY,
      .commands = COMMAND_LOGITS | COMMAND_GENERATE | COMMAND_BENCH,
      .metavar = "SPEC",
      .fallback = "f16",
      .help = "How keys and values are stored: f16, bf16, a pair like k4v2 (each side 16, 8, 6, 5, "
              "4, 3 or 2 bits), or plan:FILE with a pair for each layer" },
    { .name = "profile",
      PATH(profile),
      .file = OPTION_FILE_INPUT,
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | COMMAND_LOGITS | COMMAND_GENERATE | COMMAND_EVAL | COMMAND_PLAN,
      .unset = "one that lies in state_dir or comes with kvasird, or is made at first start",
      .help = "What `kvasird profile` measured of the model; keys are rounded by it, and kv auto "
              "chooses formats by it" },
    { .name = "profile_seconds",
      U32(profile_seconds),
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | COMMAND_LOGITS | COMMAND_GENERATE | COMMAND_EVAL | COMMAND_PROFILE,
      .metavar = "SECONDS",
      .min = 1,
      .max = 86400,
      .fallback = "60",
      .help =
          "The longest that making a profile may take; what it cuts off is measured at the next "
          "start" },

    { .name = "prefix_caching",
      BOOL(prefix_caching),
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | COMMAND_PLAN,
      .fallback = "true",
      .help = "Keep full pages of what was computed, and share them between requests that begin "
              "alike" },
    { .name = "prefill_exact",
      CHOICE(PrefillExact, prefill_exact),
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER,
      .names = prefill_exact_names,
      .fallback = "chunk",
      .help =
          "What a token of a prompt sees exactly where the cache is quantized: its whole chunk, "
          "or only its page. With page, answers do not depend on chunking or on what was "
          "cached; prompts take longer" },

    /* batching */
    { .name = "max_num_seqs",
      U32(max_num_seqs),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER | COMMAND_PLAN,
      .metavar = "N",
      .min = 1,
      .max = 65536,
      .fallback = "0",
      .unset = "64, or as many as have their tails in a quarter of the cache's memory",
      .help = "Sequences that run at once; more of them wait, and clients take turns. Each has a "
              "tail of up to 64 tokens in 16 bits, which is part of the cache" },
    { .name = "max_batched_tokens",
      U32(max_batched_tokens),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER | COMMAND_PLAN,
      .metavar = "TOKENS",
      .min = 1,
      .max = 1u << 20,
      .fallback = "256",
      .help = "Most tokens of one step: one for each running sequence, the rest for prompts, fewer "
              "deep in long ones. More is faster for prompts and slower between two tokens of an "
              "answer" },
    { .name = "steps_in_flight",
      U32(steps_in_flight),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 2,
      .fallback = "0",
      .unset = "2 where the device computes by itself, 1 on the CPU",
      .help = "With 2, a step is handed to the device before the one before it is looked at: the "
              "device need not wait for text and stop strings, and what has ended or been "
              "cancelled is noticed a step later. Answers are the same" },
    { .name = "max_waiting_requests",
      U32(max_waiting_requests),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 1u << 24,
      .fallback = "8192",
      .help =
          "Sequences that wait to run, each choice of a request being one; a request that brings "
          "more is told to come back later" },
    { .name = "max_waiting_tokens",
      U64(max_waiting_tokens),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER,
      .metavar = "TOKENS",
      .min = 1,
      .max = UINT64_C(1) << 40,
      .fallback = "0",
      .unset = "16 times what the cache holds",
      .help = "Prompt tokens of the sequences that wait; beyond it the same" },
    { .name = "device",
      TEXT(device),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER | RUNS_MODEL | COMMAND_PLAN,
      .metavar = "NAME",
      .fallback = "auto",
      .help = "What computes: cpu; cuda, or cuda:1 for the second GPU; auto is a GPU if there is "
              "one that can be used" },
    { .name = "gpu_memory",
      BYTES(gpu_memory_bytes),
      .topic = TOPIC_MEMORY,
      .commands = IS_SERVER | RUNS_MODEL | COMMAND_PLAN,
      .min = MIB,
      .max = 64 * TIB,
      .fallback = "0",
      .unset = "all that is free",
      .refuses_zero = true,
      .help =
          "The most that weights, scratch and cache may take of the GPU's memory, all together; "
          "what its driver takes, some hundred MiB, comes on top. Where kv_memory is not given "
          "the cache has a part of what is left of it. Not for device cpu" },
    { .name = "threads",
      U32(n_threads),
      .topic = TOPIC_BATCHING,
      .commands = IS_SERVER | RUNS_MODEL,
      .metavar = "N",
      .min = 1,
      .max = 1024,
      .fallback = "0",
      .unset = "one for each core it may use",
      .help = "Threads that compute" },

    /* http */
    { .name = "host",
      TEXT(host),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "ADDRESS",
      .fallback = "127.0.0.1",
      .help = "Address to listen on; 0.0.0.0 or :: for every interface" },
    { .name = "port",
      U32(port),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 1,
      .max = 65535,
      .fallback = "8000",
      .unset = "any free one",
      .help = "Port to listen on" },
    { .name = "max_connections",
      U32(max_connections),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 1u << 20,
      .fallback = "4096",
      .help = "Connections at once; those beyond are answered 503 and closed" },
    { .name = "max_client_connections",
      U32(max_client_connections),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 1u << 20,
      .fallback = "0",
      .unset = "seven eighths of max_connections",
      .help = "Connections of one client at once; those beyond are answered 503 and closed" },
    { .name = "max_header_bytes",
      BYTES(max_header_bytes),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = KIB,
      .max = 16 * MIB,
      .fallback = "64KiB",
      .help = "The most that a request's line and headers may take; beyond is a 431" },
    { .name = "max_body_bytes",
      BYTES(max_body_bytes),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = KIB,
      .max = 4 * GIB,
      .fallback = "32MiB",
      .help = "The largest body of a request; beyond is a 413" },
    { .name = "max_requests_memory",
      BYTES(max_requests_memory_bytes),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = KIB,
      .max = 64 * TIB,
      .fallback = "1GiB",
      .help = "The most memory that all requests may take together, with what is made of them "
              "and answers that wait; beyond is a 503" },
    { .name = "max_client_memory",
      BYTES(max_client_memory_bytes),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = KIB,
      .max = 64 * TIB,
      .fallback = "0",
      .unset = "half of max_requests_memory",
      .help = "What of that the requests of one client (an IPv4 address, or 64 bits of an IPv6 "
              "one) may take together; beyond is a 429" },
    { .name = "max_request_memory",
      BYTES(max_request_memory_bytes),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = KIB,
      .max = 64 * TIB,
      .fallback = "0",
      .unset = "10 MiB and 5 times its body",
      .help = "The most memory that one request may take, with what is made of it; beyond is a "
              "413" },
    { .name = "header_timeout",
      DURATION(header_timeout_ms),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 100,
      .max = HOUR,
      .fallback = "10s",
      .help = "From a request's first byte to the end of its headers; then a 408" },
    { .name = "request_timeout",
      DURATION(request_timeout_ms),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 100,
      .max = 24 * HOUR,
      .fallback = "1m",
      .help = "From a request's first byte to the end of its body; then a 408" },
    { .name = "idle_timeout",
      DURATION(idle_timeout_ms),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 100,
      .max = 24 * HOUR,
      .fallback = "75s",
      .help = "How long a connection may stay open between requests" },
    { .name = "write_timeout",
      DURATION(write_timeout_ms),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 100,
      .max = 24 * HOUR,
      .fallback = "30s",
      .help = "How long a client may take no byte of an answer that waits for it; then its "
              "request is cancelled" },
    { .name = "answer_timeout",
      DURATION(answer_timeout_ms),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 100,
      .max = 24 * HOUR,
      .fallback = "0",
      .unset = "as long as it takes",
      .help = "From a request's arrival to the end of its answer; then its work is stopped and a "
              "503 or an error event says so" },
    { .name = "stream_buffer_bytes",
      BYTES(stream_buffer_bytes_max),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 4 * KIB,
      .max = GIB,
      .fallback = "1MiB",
      .help = "How much of a stream may wait for a slow reader; beyond, its request is "
              "cancelled" },
    { .name = "drain_timeout",
      DURATION(drain_timeout_ms),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .min = 100,
      .max = 24 * HOUR,
      .fallback = "30s",
      .help = "On SIGTERM: how long requests in flight may take to finish before they are "
              "cancelled" },
    { .name = "max_choices",
      U32(max_choices),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 1024,
      .fallback = "16",
      .help = "The largest `n`, and `best_of`, of a request" },
    { .name = "max_prompts",
      U32(max_prompts),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 65536,
      .fallback = "256",
      .help = "Prompts that one completion request may bring" },
    { .name = "max_stops",
      U32(max_stops),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "N",
      .min = 1,
      .max = 1024,
      .fallback = "16",
      .help = "Stop strings, and likewise stop tokens, that one request may bring" },
    { .name = "unknown_parameters",
      CHOICE(UnknownParameters, unknown_parameters),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .names = unknown_parameters_names,
      .fallback = "refuse",
      .help = "What becomes of a request with a parameter that this server does not know: a 400 "
              "that names it, or an answer as if it were not there, with a warning in the log" },
    { .name = "allowed_origins",
      TEXT(allowed_origins),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "ORIGINS",
      .unset = "none",
      .help = "Web pages whose scripts may use the server (CORS): origins like "
              "https://chat.example.com, separated by commas, or * for any" },
    { .name = "access_log",
      TEXT(access_log),
      .topic = TOPIC_HTTP,
      .commands = IS_SERVER,
      .metavar = "FILE",
      .fallback = "off",
      .help = "Where to write a line of JSON about each request that was answered: a file, which "
              "SIGHUP opens again, - for standard error, or off" },

    /* process */
    { .name = "log_level",
      CHOICE(LogLevel, log_level),
      .topic = TOPIC_PROCESS,
      .commands = COMMAND_ALL,
      .names = log_level_names,
      .fallback = "info",
      .reloadable = true,
      .help = "How much to write to standard error" },
    { .name = "state_dir",
      PATH(state_dir),
      .topic = TOPIC_PROCESS,
      .commands = IS_SERVER | COMMAND_LOGITS | COMMAND_GENERATE | COMMAND_EVAL | COMMAND_PROFILE |
                  COMMAND_PLAN,
      .unset = "$STATE_DIRECTORY, else kvasir in $XDG_STATE_HOME or ~/.local/state",
      .help = "Where the daemon keeps what it has measured of a model" },
    { .name = "config",
      PATH(config),
      .topic = TOPIC_PROCESS,
      .commands = COMMAND_ALL,
      .unset = "no file",
      .help = "A JSON file of options, with // and # comments; see config/kvasird.example.json" },

    /* one command */
    { .name = "method",
      CHOICE(PlanMethod, method),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .names = method_names,
      .fallback = "auto",
      .help = "How kv auto chooses: auto, exactly the least damage by the best that the profile "
              "has (damage measured layer by layer, else distortion, else norms, else what formats "
              "typically do); paper, the allocator of arXiv 2502.15075 as its authors have it; "
              "ratequant, reverse water-filling by fitted laws (arXiv 2605.06675); uniform, one "
              "pair for all layers" },
    { .name = "menu",
      TEXT(menu),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .metavar = "WIDTHS",
      .unset = "16,8,6,5,4,3,2; 16,8,6,4,3,2 for method paper; 8,6,4,3,2 where only --norms is "
               "given",
      .help = "Bits that kv auto may choose, separated by commas" },
    { .name = "bits",
      DECIMAL(bits_millionths),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .metavar = "BITS",
      .min = WHOLE,
      .max = 16 * WHOLE,
      .fallback = "0",
      .unset = "as many as memory and tokens allow",
      .refuses_zero = true,
      .help = "Plan for so many bits a sealed element in the mean, metadata included" },
    { .name = "budget",
      DECIMAL(budget_millionths),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .metavar = "BITS",
      .min = WHOLE,
      .max = 16 * WHOLE,
      .fallback = "0",
      .unset = "as many as memory and tokens allow",
      .refuses_zero = true,
      .help = "Mean bits that method paper has to spend, counted as it counts, without metadata" },
    { .name = "norms",
      PATH(norms_path),
      .file = OPTION_FILE_INPUT,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .unset = "the profile's",
      .help =
          "Norms of W_K and W_V as the paper's repository has them, JSON {\"w_k\": [...], "
          "\"w_v\": [...]}; with --method paper and --budget no model is needed, and only one that "
          "the command line gives is looked at" },
    { .name = "norm",
      CHOICE(PlanNorm, norm),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .names = norm_names,
      .fallback = "frobenius",
      .help = "Which of the profile's norms method paper goes by" },
    { .name = "wider_values",
      BOOL(wider_values),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .fallback = "false",
      .help = "Let V have more bits than K wherever the figures say so; otherwise only damage that "
              "was measured can" },
    { .name = "output",
      PATH(output_path),
      .file = OPTION_FILE_OUTPUT,
      .topic = TOPIC_COMMAND,
      .letter = 'o',
      .commands = COMMAND_PLAN,
      .unset = "none",
      .help = "Write the plan to this file, too, for --kv plan:FILE; - is the standard output" },
    { .name = "html",
      PATH(html_path),
      .file = OPTION_FILE_OUTPUT,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PLAN,
      .unset = "none",
      .help = "Write a page with pictures of the plan to this file" },
    { .name = "kv",
      TEXTS(kv_specs),
      .file = OPTION_FILE_PLAN,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_EVAL,
      .metavar = "SPEC",
      .unset = "k4v4",
      .help = "A format to measure, as for serve; may be given several times" },
    { .name = "reference",
      TEXT(reference),
      .file = OPTION_FILE_PLAN,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_EVAL,
      .metavar = "SPEC",
      .fallback = "f16",
      .help = "The cache that all others are compared with, as for serve" },
    { .name = "text",
      PATH(text_path),
      .file = OPTION_FILE_INPUT,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_EVAL | COMMAND_PROFILE,
      .required = COMMAND_EVAL,
      .unset = "a passage built into the program",
      .help = "UTF-8 text to run the model over; CR LF counts as LF" },
    { .name = "window",
      U32(window),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_EVAL,
      .metavar = "TOKENS",
      .min = 2,
      .max = 1u << 20,
      .fallback = "2048",
      .help = "Tokens of one window; windows know nothing of each other, and begin with BOS "
              "where the model's texts do" },
    { .name = "max_tokens",
      U32(max_tokens),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_EVAL,
      .metavar = "N",
      .min = 1,
      .max = 1u << 30,
      .fallback = "0",
      .unset = "the whole text",
      .help = "Read no more tokens than this" },
    { .name = "quick",
      BOOL(quick),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_EVAL,
      .fallback = "false",
      .help = "Read the first 8,192 tokens only: a first look, some minutes on a processor" },
    { .name = "full",
      BOOL(full),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PROFILE,
      .fallback = "false",
      .help = "Measure as well what each format costs in each layer and side, which plans are made "
              "from: 4, 3 and 2 bits by what they change in the model's predictions, the others by "
              "what they change in the layer. Takes long; interrupted (SIGINT), it goes on when "
              "called again. --profile-seconds does not bound it" },
    { .name = "quick",
      BOOL(quick),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PROFILE,
      .fallback = "false",
      .help = "The same from 1,024 tokens, with 2 bits alone measured by predictions: a tenth of "
              "the time" },
    { .name = "max_tokens",
      U32(max_tokens),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PROFILE,
      .metavar = "N",
      .min = 128,
      .max = 1u << 20,
      .fallback = "0",
      .unset = "4,096 with --full, 1,024 with --quick",
      .help = "Measure costs on no more tokens than this; twice as many take twice as long and "
              "bring errors down by a third" },
    { .name = "all_matrices",
      BOOL(all_matrices),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_PROFILE,
      .fallback = "false",
      .help = "Print the norms of every matrix of every layer, too" },
    { .name = "output",
      PATH(output_path),
      .topic = TOPIC_COMMAND,
      .letter = 'o',
      .commands = COMMAND_PROFILE,
      .unset = "in state_dir, under the model's identity",
      .help = "The profile to write; - is the standard output" },
    { .name = "special",
      BOOL(special),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_TOKENIZE,
      .fallback = "true",
      .help = "Add the special tokens that the model puts around a text" },
    { .name = "input",
      PATH(input_path),
      .file = OPTION_FILE_INPUT,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_LOGITS | COMMAND_GENERATE,
      .required = COMMAND_LOGITS | COMMAND_GENERATE,
      .unset = "must be given",
      .help = "A JSON file, {\"input_ids\": [[...], ...]}: token ids, one array a prompt" },
    { .name = "output",
      PATH(output_path),
      .file = OPTION_FILE_OUTPUT,
      .topic = TOPIC_COMMAND,
      .letter = 'o',
      .commands = COMMAND_LOGITS,
      .required = COMMAND_LOGITS,
      .unset = "must be given",
      .help = "A safetensors file to write: logits.N, f32 [tokens, vocabulary], for each prompt. "
              "- is the standard output" },
    { .name = "chunk",
      U32(chunk),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_LOGITS | COMMAND_GENERATE,
      .metavar = "TOKENS",
      .min = 1,
      .max = 1u << 20,
      .fallback = "0",
      .unset = "all at once",
      .help = "Feed so many tokens of a prompt a step" },
    { .name = "max_tokens",
      U32(max_tokens),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_GENERATE,
      .metavar = "N",
      .min = 1,
      .max = 1u << 30,
      .fallback = "128",
      .help = "Tokens to generate for each prompt" },
    { .name = "ignore_eos",
      BOOL(ignore_eos),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_GENERATE,
      .fallback = "false",
      .help = "Go on past the model's end-of-sequence token" },
    { .name = "prompt_tokens",
      U32(prompt_tokens),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_BENCH,
      .metavar = "TOKENS",
      .min = 1,
      .max = 1u << 20,
      .fallback = "2000",
      .help =
          "Length of the prompt that is measured, with the cache of --kv and with an f16 one; at "
          "most what the model was made for" },
    { .name = "json",
      PATH(json_path),
      .file = OPTION_FILE_OUTPUT,
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_BENCH | COMMAND_EVAL | COMMAND_PROFILE,
      .unset = "none",
      .help = "Write the figures to this file, too, as JSON; - is the standard output" },
    { .name = "json",
      BOOL(json),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_CONFIG | COMMAND_PLAN,
      .fallback = "false",
      .help = "Print JSON" },
    { .name = "example",
      BOOL(example),
      .topic = TOPIC_COMMAND,
      .commands = COMMAND_CONFIG,
      .fallback = "false",
      .help = "Print a config file that gives every option its default, explained" },
};
const uint32_t n_option_rows = sizeof(option_table) / sizeof(*option_table);

static char plain_char(char c) {
    return c == '-' ? '_' : c;
}

static bool name_equal(const char *name, const char *text, size_t n) {
    if (strlen(name) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] != plain_char(text[i]))
            return false;
    return true;
}

const Option *option_find(const char *name, size_t n, unsigned commands) {
    for (uint32_t i = 0; i < n_option_rows; i++)
        if ((option_table[i].commands & commands) && name_equal(option_table[i].name, name, n))
            return &option_table[i];
    return NULL;
}

const char *option_nearest(const char *name, size_t n, unsigned commands) {
    Nearest nearest = nearest_begin(name, n);

    for (uint32_t i = 0; i < n_option_rows; i++)
        if (option_table[i].commands & commands)
            nearest_offer(&nearest, option_table[i].name);
    return nearest.name;
}

const char *option_flag(const Option *option, char *text) {
    char *p;

    snprintf(text, OPTION_NAME_BYTES_MAX, "--%s", option->name);
    for (p = text; *p; p++)
        if (*p == '_')
            *p = '-';
    return text;
}

const char *option_variable(const Option *option, char *text) {
    char *p;

    snprintf(text, OPTION_NAME_BYTES_MAX, "KVASIR_%s", option->name);
    for (p = text; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return text;
}
