/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvasird tokenize` and `kvasird detokenize`: {"text"} lines to {"ids"} lines and back. They need
 * only the files of the tokenizer.
 */
#include "server/commands/commands.h"
#include "server/commands/line_command.h"
#include "text/tokenizer.h"

#include <errno.h>
#include <stdio.h>

typedef struct TokenizeCommand {
    Tokenizer *tokenizer;
    bool add_special;
} TokenizeCommand;

static int answer_tokenize(void *ctx, const json_t *request, JsonWriter *writer, Reason *why) {
    const TokenizeCommand *command = ctx;
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    EncodeOptions options;
    const char *text;
    size_t size;
    int r = json_required(json_get_text(request, "text", &text, &size, why), "text", why);

    if (r)
        return r;
    options = (EncodeOptions){ .add_special = command->add_special, .parse_special = true };
    r = tokenizer_encode(command->tokenizer, text, size, &options, &ids);
    if (r)
        return r;
    json_begin_array(writer, "ids");
    for (size_t i = 0; i < ids.n; i++)
        json_put_u64(writer, NULL, ids.ids[i]);
    json_end_array(writer);
    return 0;
}

static int read_ids(const TokenizeCommand *command, const json_t *request, TokenIds *ids,
                    Reason *why) {
    const json_t *array, *value;
    uint32_t size = tokenizer_size(command->tokenizer);
    int64_t id;
    char found[64];
    size_t i;
    int r = json_required(json_get_array(request, "ids", &array, why), "ids", why);

    if (r)
        return r;
    if (token_ids_reserve(ids, json_array_size(array)))
        return -ENOMEM;
    json_array_foreach(array, i, value) {
        if (!json_as_i64(value, 0, (int64_t)size - 1, &id))
            return reason_set(why, -EINVAL, "ids[%zu]: expected a token id in 0..%u, found %s", i,
                              size - 1, json_describe(value, found, sizeof(found)));
        token_ids_push(ids, (uint32_t)id);
    }
    return 0;
}

static int answer_detokenize(void *ctx, const json_t *request, JsonWriter *writer, Reason *why) {
    const TokenizeCommand *command = ctx;
    CLEANUP(token_ids_deinit) TokenIds ids = TOKEN_IDS_NULL;
    CLEANUP(buffer_deinit) Buffer text = BUFFER_NULL;
    int r = read_ids(command, request, &ids, why);

    if (!r)
        r = tokenizer_decode(command->tokenizer, ids.ids, ids.n, false, &text);
    if (!r)
        json_put_string(writer, "text", buffer_text(&text), text.size);
    return r;
}

static int run(const Config *config, LineCommand command) {
    CLEANUP(tokenizer_free) Tokenizer *tokenizer = NULL;
    TokenizeCommand ctx = { .add_special = config->special };
    Reason why = REASON_NULL;

    if (tokenizer_open(&tokenizer, config->model, &why)) {
        fprintf(stderr, "kvasird %s: %s\n", command.name, why.text);
        reason_log_origin(&why);
        return 1;
    }
    ctx.tokenizer = tokenizer;
    command.ctx = &ctx;
    return line_command_run(&command);
}

int cmd_tokenize(const Config *config) {
    return run(config, (LineCommand){ .name = "tokenize", .answer = answer_tokenize });
}

int cmd_detokenize(const Config *config) {
    return run(config, (LineCommand){ .name = "detokenize", .answer = answer_detokenize });
}
