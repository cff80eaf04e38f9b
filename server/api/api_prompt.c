/* SPDX-License-Identifier: Apache-2.0 */
#include "server/api/api_prompt.h"

#include "server/api/api_chat_check.h"
#include "util/json.h"
#include "util/json_writer.h"

#include <errno.h>
#include <string.h>

#define PATH_BYTES_MAX 96

void api_prompts_deinit(ApiPrompts *prompts) {
    for (uint32_t i = 0; i < prompts->n; i++) {
        token_ids_deinit(&prompts->items[i].ids);
        buffer_deinit(&prompts->items[i].text);
    }
    free(prompts->items);
    account_release(prompts->account, prompts->n * sizeof(*prompts->items));
    *prompts = (ApiPrompts)API_PROMPTS_NULL;
}

static int allocate(ApiPrompts *prompts, size_t n, const ApiPromptContext *context,
                    ApiError *error) {
    if (account_charge(context->account, n * sizeof(*prompts->items)))
        return api_fail_memory(error);
    prompts->account = context->account;
    prompts->n = (uint32_t)n;
    prompts->items = calloc(n, sizeof(*prompts->items));
    if (!prompts->items) {
        account_release(context->account, n * sizeof(*prompts->items));
        *prompts = (ApiPrompts)API_PROMPTS_NULL;
        return api_fail_memory(error);
    }
    for (size_t i = 0; i < n; i++)
        prompts->items[i].ids.account = prompts->items[i].text.account = context->account;
    return 0;
}

EncodeOptions api_encode_options(const ApiPromptContext *context, bool add_special) {
    return (EncodeOptions){
        .add_special = add_special,
        .parse_special = true,
        .ids_max = context->ids_max,
        .account = context->account,
    };
}

int api_refuse_text(ApiError *error, const char *name, const ApiPromptContext *context, int r) {
    switch (r) {
    case -ENOMEM:
    case -ECANCELED: /* nobody reads the answer */
        return api_fail_memory(error);
    case -E2BIG:
        return api_fail(error, 400, name, "context_length_exceeded",
                        "The text of `%s` has more than %zu tokens, which is all that this model "
                        "can take of one request here; shorten it.",
                        name, context->ids_max);
    default:
        return api_refuse(error, name, "The text of `%s` cannot be tokenized: %s.", name,
                          r == -EILSEQ ? "it is not UTF-8"
                                       : "it has a word of megabytes, or is too involved");
    }
}

static int encode(ApiPrompt *prompt, const char *name, bool add_special,
                  const ApiPromptContext *context, ApiError *error) {
    EncodeOptions options = api_encode_options(context, add_special);
    int r = buffer_failed(&prompt->text)
                ? -ENOMEM
                : tokenizer_encode(context->tokenizer, buffer_text(&prompt->text),
                                   prompt->text.size, &options, &prompt->ids);

    if (r)
        return api_refuse_text(error, name, context, r);
    if (!prompt->ids.n)
        return api_refuse(error, name, "`%s` is empty: it has no tokens.", name);
    return 0;
}

/* completions */

int api_read_ids(TokenIds *ids, const char *name, const json_t *array, uint32_t n_vocab,
                 ApiError *error) {
    char found[64];
    size_t i;
    const json_t *item;

    if (token_ids_reserve(ids, json_array_size(array)))
        return api_fail_memory(error);
    json_array_foreach(array, i, item) {
        int64_t id;

        if (!json_as_i64(item, 0, (int64_t)n_vocab - 1, &id))
            return api_refuse(error, name,
                              "`%s` holds %s, which is no token id of this model (0 to %u).", name,
                              json_describe(item, found, sizeof(found)), n_vocab - 1);
        token_ids_push(ids, (uint32_t)id);
    }
    return 0;
}

static int take_text(ApiPrompt *prompt, const char *name, const json_t *value, bool add_special,
                     const ApiPromptContext *context, ApiError *error) {
    buffer_append(&prompt->text, json_string_value(value), json_string_length(value));
    return encode(prompt, name, add_special, context, error);
}

static int take_ids(ApiPrompt *prompt, const char *name, const json_t *value,
                    const ApiParams *params, const ApiPromptContext *context, ApiError *error) {
    int r = api_read_ids(&prompt->ids, name, value, context->n_vocab, error);

    if (r)
        return r;
    if (!prompt->ids.n)
        return api_refuse(error, name, "`%s` is empty: it has no tokens.", name);
    if (!params->echo)
        return 0;
    r = tokenizer_decode(context->tokenizer, prompt->ids.ids, prompt->ids.n,
                         params->skip_special_tokens, &prompt->text);
    return r == -ENOMEM || buffer_failed(&prompt->text) ? api_fail_memory(error) : 0;
}

static int take_one(ApiPrompt *prompt, const char *name, const json_t *value,
                    const ApiParams *params, const ApiPromptContext *context, ApiError *error) {
    char found[64];

    if (json_is_string(value))
        return take_text(prompt, name, value, params->add_special_tokens != 0, context, error);
    if (json_is_array(value))
        return take_ids(prompt, name, value, params, context, error);
    return api_refuse(error, name, "`%s` must be a string or an array of token ids; it is %s.",
                      name, json_describe(value, found, sizeof(found)));
}

int api_prompts_of_completion(ApiPrompts *prompts, const ApiParams *params,
                              const ApiPromptContext *context, ApiError *error) {
    const json_t *prompt = params->prompt, *first = json_array_get(prompt, 0), *item;
    bool is_list = json_is_string(first) || json_is_array(first);
    size_t n = is_list ? json_array_size(prompt) : 1, i;
    int r;

    if (!prompt)
        return api_refuse(error, "prompt", "`prompt` is missing.");
    if (n > context->prompts_max)
        return api_refuse(error, "prompt",
                          "`prompt` holds %zu prompts; at most %u are allowed (option "
                          "max_prompts).",
                          n, context->prompts_max);
    r = allocate(prompts, n, context, error);
    if (r)
        return r;
    if (!is_list)
        return take_one(&prompts->items[0], "prompt", prompt, params, context, error);
    json_array_foreach(prompt, i, item) {
        char name[PATH_BYTES_MAX];

        snprintf(name, sizeof(name), "prompt[%zu]", i);
        r = take_one(&prompts->items[i], name, item, params, context, error);
        if (r)
            return r;
    }
    return 0;
}

/* chat */

/* A member behind others; nothing for a value that is absent. */
static void put_member(Buffer *out, const char *key, const json_t *value) {
    if (!value)
        return;
    buffer_printf(out, ",\"%s\":", key);
    json_write(value, out);
}

/* What the request says to the template, as it was written. */
static int make_request(Buffer *out, const ApiParams *params, bool tells_tools, ApiError *error) {
    bool add_prompt = params->add_generation_prompt < 0 ? !params->continue_final_message
                                                        : params->add_generation_prompt;

    buffer_printf(out, "{\"add_generation_prompt\":%s,\"continue_final_message\":%s",
                  add_prompt ? "true" : "false", params->continue_final_message ? "true" : "false");
    if (tells_tools)
        buffer_append_text(out, ",\"tell_tools\":true");
    put_member(out, "messages", params->messages);
    put_member(out, "tools", params->tools);
    put_member(out, "documents", params->documents);
    put_member(out, "kwargs", params->template_kwargs);
    put_member(out, "reasoning_effort", params->reasoning_effort);
    buffer_append_char(out, '}');
    return buffer_failed(out) ? api_fail_memory(error) : 0;
}

/* A message's fault; the words begin with its place in backquotes. */
static int refuse_message(const Reason *why, ApiError *error) {
    char name[PATH_BYTES_MAX];
    size_t size = why->text[0] == '`' ? strcspn(why->text + 1, "`") : 0;

    snprintf(name, sizeof(name), "%.*s", (int)size, why->text + 1);
    return api_refuse(error, size ? name : "messages", "%s", why->text);
}

static int render(Buffer *out, const Buffer *request, const ApiPromptContext *context,
                  ApiError *error) {
    Reason why = REASON_NULL;

    switch (chat_template_render(context->chat_template, request->data, request->size,
                                 context->account, out, &why)) {
    case 0:
        return 0;
    case CHAT_TEMPLATE_E_MESSAGE:
        return refuse_message(&why, error);
    case CHAT_TEMPLATE_E_RAISED:
        return api_refuse(error, "messages", "The model's chat template refused: %s", why.text);
    case CHAT_TEMPLATE_E_LIMIT:
        return api_refuse(error, "messages", "The model's chat template was stopped: %s", why.text);
    case -EINVAL:
        return api_refuse(error, "messages", "The chat template cannot be given this: %s",
                          why.text);
    case -ENOMEM:
        return api_fail_memory(error);
    case -ECANCELED:
        return api_fail(error, 503, NULL, NULL, "Nobody waits for this request any more.");
    default:
        return api_fail(error, 500, NULL, NULL, "The chat template could not be run: %s", why.text);
    }
}

int api_prompts_of_chat(ApiPrompts *prompts, const ApiParams *params,
                        const ApiPromptContext *context, ApiError *error) {
    CLEANUP(buffer_deinit) Buffer request = { .account = context->account };
    int r = api_chat_check(params->messages, error);

    if (!r && !context->chat_template)
        r = api_refuse(error, "messages",
                       "This model has no chat template; use /v1/completions, or start the "
                       "server with the option chat_template.");
    if (!r)
        r = make_request(&request, params, context->tells_tools, error);
    if (!r)
        r = allocate(prompts, 1, context, error);
    if (!r)
        r = render(&prompts->items[0].text, &request, context, error);
    buffer_deinit(&request);
    return r ? r
             : encode(&prompts->items[0], "messages", params->add_special_tokens > 0, context,
                      error);
}
