/* SPDX-License-Identifier: Apache-2.0 */
/* A body of Anthropic's messages, parsed as strictly as the server does, as a chat: nothing that it
 * says is lost on the way. */
#include "tests/fuzz/fuzz.h"

#include "server/api/api_messages.h"
#include "server/api/api_messages_input.h"
#include "util/json.h"

#include <string.h>

#define PLENTY ((uint64_t)1 << 30)

/* What a conversation holds. */
typedef struct Counts {
    size_t n_calls, n_results, n_text_bytes;
} Counts;

static size_t text_bytes(const json_t *content) {
    size_t i, n = json_string_length(content);
    const json_t *part;

    json_array_foreach(content, i, part)
        n += json_string_length(json_object_get(part, "text"));
    return n;
}

static Counts count_sent(const json_t *body) {
    Counts counts = { .n_text_bytes = text_bytes(json_object_get(body, "system")) };
    size_t i, j;
    const json_t *message, *block;

    json_array_foreach(json_object_get(body, "messages"), i, message) {
        const json_t *content = json_object_get(message, "content");

        counts.n_text_bytes += text_bytes(content);
        json_array_foreach(content, j, block) {
            const json_t *type = json_object_get(block, "type");

            counts.n_calls += json_string_is(type, "tool_use");
            counts.n_results += json_string_is(type, "tool_result");
        }
    }
    return counts;
}

static void check_call(const json_t *call) {
    CLEANUP(json_unref) json_t *input = NULL;
    const json_t *function = json_object_get(call, "function");
    const json_t *arguments = json_object_get(function, "arguments");

    assert(json_is_string(json_object_get(call, "id")));
    assert(json_is_string(json_object_get(function, "name")));
    assert(!json_parse(&input, json_string_value(arguments), json_string_length(arguments),
                       JSON_REJECT_DUPLICATES, NULL));
    assert(json_is_object(input));
}

static Counts count_told(const json_t *messages) {
    Counts counts = { .n_calls = 0 };
    size_t i, j;
    const json_t *message, *call;

    json_array_foreach(messages, i, message) {
        const json_t *content = json_object_get(message, "content");

        assert(json_is_string(content) || json_is_array(content) || json_is_null(content));
        if (json_string_is(json_object_get(message, "role"), "tool")) {
            counts.n_results++;
            continue;
        }
        counts.n_text_bytes += text_bytes(content);
        json_array_foreach(json_object_get(message, "tool_calls"), j, call) {
            check_call(call);
            counts.n_calls++;
        }
    }
    return counts;
}

static void check_chat(const ApiParams *params, const json_t *body) {
    Counts sent = count_sent(body), told = count_told(params->messages);

    assert(json_array_size(params->messages));
    assert(sent.n_calls == told.n_calls && sent.n_results == told.n_results);
    assert(sent.n_text_bytes == told.n_text_bytes);
    assert(json_array_size(json_object_get(body, "tools")) == json_array_size(params->tools));
}

static void check_error(const ApiParams *params, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;
    CLEANUP(json_unref) json_t *tree = NULL;

    assert(error->status >= 400 && error->why.text[0]);
    api_messages_name_places(params, error);
    api_messages_put_error(&answer, error);
    assert(!json_parse(&tree, buffer_text(&answer), answer.size, 0, NULL));
    assert(json_string_is(json_object_get(tree, "type"), "error"));
}

/* `limit` bytes may be used meanwhile. */
static void read_params(const json_t *body, unsigned endpoint, uint64_t limit) {
    static const GenerationDefaults defaults;
    Account account;
    const ApiParamsContext context = {
        .endpoint = endpoint,
        .limits = { .choices_max = 16, .prompts_max = 4, .stops_max = 4 },
        .n_vocab = 100,
        .defaults = &defaults,
        .has_grammar = true,
        .translate =
            endpoint == API_MESSAGES ? api_messages_translate : api_messages_translate_counted,
        .account = &account,
    };
    ApiParams params = API_PARAMS_NULL;
    ApiError error = API_ERROR_NULL;

    account_init(&account, NULL, limit, "max_request_memory");
    if (api_params_read(&params, body, &context, &error))
        check_error(&params, &error);
    else
        check_chat(&params, body);
    api_params_deinit(&params);
    account_deinit(&account); /* all was released */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(json_unref) json_t *body = NULL;

    if (json_parse(&body, (const char *)data, size, JSON_REJECT_DUPLICATES, NULL))
        return 0;
    read_params(body, API_MESSAGES, PLENTY);
    read_params(body, API_COUNT_TOKENS, PLENTY);
    read_params(body, API_MESSAGES, size);
    return 0;
}
