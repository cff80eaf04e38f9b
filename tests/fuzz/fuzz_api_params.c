/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON body of a request, at each endpoint, parsed as strictly as the server does. */
#include "tests/fuzz/fuzz.h"

#include "server/api/api_chat_check.h"
#include "server/api/api_params.h"
#include "util/json.h"

static void read_params(const json_t *body, unsigned endpoint) {
    static const GenerationDefaults defaults;
    const ApiParamsContext context = {
        .endpoint = endpoint,
        .limits = { .choices_max = 16, .prompts_max = 4, .stops_max = 4 },
        .n_vocab = 100,
        .defaults = &defaults,
    };
    CLEANUP(api_params_deinit) ApiParams params = API_PARAMS_NULL;
    CLEANUP(buffer_deinit) Buffer answer = BUFFER_NULL;
    ApiError error = API_ERROR_NULL;

    if (api_params_read(&params, body, &context, &error)) {
        assert(error.status >= 400 && error.why.text[0]);
        api_error_write(&answer, &error);
        assert(answer.size);
        return;
    }
    assert(params.n >= 1 && params.n <= context.limits.choices_max);
    if (api_chat_check(params.messages, &error))
        assert(error.status == 400 && error.why.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    CLEANUP(json_unref) json_t *body = NULL;
    Reason why = REASON_NULL;

    if (json_parse(&body, (const char *)data, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES,
                   &why)) {
        assert(why.text[0]);
        return 0;
    }
    read_params(body, API_COMPLETIONS);
    read_params(body, API_CHAT);
    read_params(body, API_TOKENIZE);
    read_params(body, API_DETOKENIZE);
    return 0;
}
