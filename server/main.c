/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: finds the subcommand, reads its configuration, runs it. Exit status: 0 done, 1
 * the command failed, 2 it was not understood.
 */
#include "config/config.h"
#include "config/file_check.h"
#include "config/help.h"
#include "server/commands/commands.h"
#include "util/allocator.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

extern char **environ;

#define EXIT_USAGE 2

typedef struct Command {
    const char *name;
    unsigned bit; /* its options in the table */
    int (*run)(const Config *config);
    const char *summary;
    const char *description; /* sentences below the usage line; NULL: the summary says all */
} Command;

static const Command commands[] = {
    { "serve", COMMAND_SERVE, cmd_serve, "answer OpenAI API requests over HTTP",
      "Listens at once, loads the model, then serves it until SIGTERM, which finishes what is in "
      "flight." },
    { "logits", COMMAND_LOGITS, cmd_logits, "compute logits of token ids",
      "Runs every prompt through the model, teacher forced, and writes the logits of all its "
      "tokens." },
    { "generate", COMMAND_GENERATE, cmd_generate, "continue token ids, greedily",
      "Prints {\"ids\": [...]}, one line for each prompt: what follows it, with the "
      "end-of-sequence "
      "token if that came." },
    { "plan", COMMAND_PLAN, cmd_plan, "choose the formats of serve's KV cache, and print its bytes",
      "Chooses a format for the keys and the values of every layer as serve does, for memory and "
      "tokens or for a mean of --bits, and prints the cache's bytes by purpose, the tokens that "
      "fit, and the damage that is expected. Reads the model's shape and its profile, not its "
      "weights." },
    { "profile", COMMAND_PROFILE, cmd_profile, "measure what keys are rounded by",
      "Runs the model over a text and writes the second moments of its queries and the norms of "
      "its weights. serve does this by itself at first start. With --full or --quick it also "
      "measures what each format costs in each layer, for keys and for values." },
    { "eval", COMMAND_EVAL, cmd_eval, "measure what a KV format costs in quality",
      "Runs the model over a text, teacher forced in chunks of one page, with an f16 cache, a "
      "bf16 cache and each --kv, and compares with the first: perplexity, KL divergence, agreement "
      "of the most likely token, bytes." },
    { "bench", COMMAND_BENCH, cmd_bench, "measure speed against what the machine can do",
      "Measures decoding, prompts, grammars, and attention over each KV format, and prints beside "
      "each what the machine's memory bandwidth or its matrix library sets as the floor. Figures "
      "are "
      "medians of several repetitions; let nothing else run meanwhile." },
    { "chat-template", COMMAND_CHAT_TEMPLATE, cmd_chat_template,
      "turn chat requests into prompts, a JSON object a line",
      "Reads {\"messages\", \"tools\", \"add_generation_prompt\", \"kwargs\"} lines from standard "
      "input and writes a {\"text\"} or {\"error\"} line for each. Messages are put into the form "
      "that the template reads, as the server does, but with \"as_written\": true. Needs only the "
      "tokenizer's files." },
    { "tokenize", COMMAND_TOKENIZE, cmd_tokenize, "turn texts into token ids, a JSON object a line",
      "Reads {\"text\"} lines from standard input and writes an {\"ids\"} or {\"error\"} line for "
      "each. Needs only the tokenizer's files." },
    { "detokenize", COMMAND_DETOKENIZE, cmd_detokenize,
      "turn token ids into texts, a JSON object a line",
      "Reads {\"ids\"} lines from standard input and writes a {\"text\"} or {\"error\"} line for "
      "each, special tokens included. Needs only the tokenizer's files." },
    { "config", COMMAND_CONFIG, cmd_config, "print every option's value and where it came from",
      "Takes all options of serve, reads file and environment as serve would, and prints what "
      "that comes to." },
};
#define N_COMMANDS (sizeof(commands) / sizeof(*commands))

static const char precedence_text[] =
    "Each option of serve is also a key of the config file (kv_memory for --kv-memory) and an "
    "environment variable (KVASIR_KV_MEMORY). A flag wins over the environment, that over the "
    "file, that over the default. `kvasird config` shows the outcome.";

static void print_commands(FILE *file) {
    uint32_t width = help_width(file);

    for (size_t i = 0; i < N_COMMANDS; i++) {
        fprintf(file, "  %-15s", commands[i].name);
        help_fill(file, commands[i].summary, 17, "                  ", width);
    }
}

static void print_help(void) {
    printf("kvasird " KVASIR_VERSION ": an LLM inference server\n\n"
           "Usage: kvasird COMMAND [options]\n"
           "       kvasird help COMMAND\n"
           "       kvasird version [--verbose]\n\nCommands:\n");
    print_commands(stdout);
    putchar('\n');
    help_fill(stdout, precedence_text, 0, "", help_width(stdout));
}

static void print_command_help(const Command *command) {
    const char *text = command->description ? command->description : command->summary;

    printf("Usage: kvasird %s [options]%s\n\n", command->name,
           config_takes_argument(command->bit) ? " [MODEL]" : "");
    help_fill(stdout, text, 0, "", help_width(stdout));
    help_options(stdout, command->bit);
}

static const Command *command_find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int fail_unknown_command(const char *name) {
    fprintf(stderr, "kvasird: \"%.64s\" is no command; there are:\n", name);
    print_commands(stderr);
    return EXIT_USAGE;
}

static int help(int argc, char **argv) {
    const Command *command;

    if (argc < 1) {
        print_help();
        return 0;
    }
    command = command_find(argv[0]);
    if (!command)
        return fail_unknown_command(argv[0]);
    print_command_help(command);
    return 0;
}

static int version(int argc, char **argv) {
    bool verbose = argc && strcmp(argv[0], "--verbose") == 0;

    if (argc > verbose) {
        fprintf(stderr, "kvasird version: unexpected argument \"%.64s\"; it takes --verbose\n",
                argv[verbose]);
        return EXIT_USAGE;
    }
    printf("kvasird " KVASIR_VERSION "\n");
    if (verbose)
        printf("allocator %s\n", allocator_name());
    return 0;
}

static int run(const Command *command, int argc, char **argv) {
    CLEANUP(config_deinit) Config config = CONFIG_NULL;
    ConfigInput input = { .command = command->bit,
                          .argc = argc,
                          .argv = (const char *const *)argv,
                          .environ = (const char *const *)environ };
    Reason why = REASON_NULL;
    int r = config_load(&config, &input, &why);

    if (r == CONFIG_E_HELP) {
        print_command_help(command);
        return 0;
    }
    if (r) {
        fprintf(stderr, "kvasird %s: %s\n", command->name, why.text);
        return EXIT_USAGE;
    }
    if (command->bit != COMMAND_CONFIG && file_check_all(&config, &why)) {
        fprintf(stderr, "kvasird %s: %s\n", command->name, why.text);
        reason_log_origin(&why);
        return 1;
    }
    return command->run(&config);
}

static bool is_one_of(const char *text, const char *a, const char *b) {
    return strcmp(text, a) == 0 || strcmp(text, b) == 0;
}

int main(int argc, char **argv) {
    const Command *command;

    if (argc < 2) {
        fprintf(stderr, "Usage: kvasird COMMAND [options]; kvasird --help lists the commands\n");
        return EXIT_USAGE;
    }
    if (is_one_of(argv[1], "--help", "-h") || strcmp(argv[1], "help") == 0)
        return help(argc - 2, argv + 2);
    if (is_one_of(argv[1], "--version", "-V") || strcmp(argv[1], "version") == 0)
        return version(argc - 2, argv + 2);
    if (argv[1][0] == '-') {
        fprintf(stderr, "kvasird: name a command before its options; kvasird --help lists them\n");
        return EXIT_USAGE;
    }
    command = command_find(argv[1]);
    if (!command)
        return fail_unknown_command(argv[1]);
    return run(command, argc - 2, argv + 2);
}
