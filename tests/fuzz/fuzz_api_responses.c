/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON body of /v1/responses, as a chat; and what is wrong with a chat in its words. */
#include "tests/fuzz/fuzz.h"

#include "server/api/api_params.h"
#include "server/api/api_responses_input.h"
#include "server/api/api_responses_translate.h"
#include "util/json.h"

#include <errno.h>
#include <string.h>

/* A chat is made of messages; those of the assistant come from items that are there. */
static void check_chat(const ApiParams *params) {
    size_t n_items = json_array_size(params->input), last = 0, i;
    const json_t *message;

    assert(json_array_size(params->messages));
    json_array_foreach(params->messages, i, message) {
        size_t item = api_responses_find_item(params->instructions, params->input, i, SIZE_MAX);

        assert(json_is_string(json_object_get(message, "role")));
        assert(item == SIZE_MAX || (item < n_items && item >= last));
        last = item == SIZE_MAX ? last : item;
    }
    assert(api_responses_find_item(params->instructions, params->input, i, SIZE_MAX) == SIZE_MAX);
}

static void read_params(const json_t *body) {
    static const GenerationDefaults defaults;
    Account account;
    const ApiParamsContext context = {
        .endpoint = API_RESPONSES,
        .limits = { .choices_max = 16, .prompts_max = 4, .stops_max = 4 },
        .n_vocab = 100,
        .defaults = &defaults,
        .has_grammar = true,
        .translate = api_responses_translate,
        .account = &account,
    };
    ApiParams params = API_PARAMS_NULL;
    ApiError error = API_ERROR_NULL;
    int r;

    account_init(&account, NULL, UINT64_MAX, "limit");
    r = api_params_read(&params, body, &context, &error);
    if (r) {
        CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;

        api_responses_name_places(&params, &error);
        assert(error.status >= 400 && error.why.text[0]);
        assert(!params.translated || strncmp(error.param, "messages", strlen("messages")) != 0);
        api_error_write(&answer, &error);
        assert(answer.size);
    } else {
        check_chat(&params);
    }
    api_params_deinit(&params);
    account_deinit(&account);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(json_unref) json_t *body = NULL;
    Reason why = REASON_NULL;

    if (json_parse(&body, (const char *)data, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES,
                   &why)) {
        assert(why.text[0]);
        return 0;
    }
    read_params(body);
    return 0;
}
